"""Fusion: depth maps that confirm one another become one cloud, each surface point once.

Views are taken by name. A pixel that its geometric and semantic masks keep becomes a point, unless a
point of an earlier view already covers it: the mean, over the view and the sources that agree, of where
each sees the surface, of its colour and of its normal. The pixels of the sources that
went in are covered by it, so that finer views still add what a coarse one has no pixels for; optionally
points within a voxel become one (streaming, in parts that fit into memory). What only one view saw is in
no point. Depth maps come one by one, through a cache of as many as the memory allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, UInt8
from numpy.typing import NDArray

from cuesta.data.scenes.scene import read_about, write_manifest
from cuesta.errors import UserError
from cuesta.ops.numba_support import num_threads
from cuesta.vision.terrasky3d.dense_maps import DenseScene, DepthView, open_dense, read_mask
from cuesta.vision.terrasky3d.fusion_kernels import add_view, collect_points, normals_of
from cuesta.vision.terrasky3d.geometric_masks import (
    Agreement,
    MaskCoverage,
    MaskSettings,
    agreement,
    write_geometric_masks,
)
from cuesta.vision.terrasky3d.point_files import (
    COLOR,
    NORMAL,
    POINT,
    POSITION,
    CloudFacts,
    Points,
    describe,
    merge_voxels,
    open_spool,
    write_points,
    write_spool,
    writer_of,
)
from cuesta.vision.terrasky3d.source_views import Sources, source_views
from cuesta.vision.terrasky3d.stages import OnProgress, ignore_stages

MEMORY = 4 << 30  # bytes, unless told otherwise
NUM_BINS = 40  # of the histograms of errors
_PROGRAM_BYTES = 600 << 20  # torch, Numba, pycolmap and their code
_WORK_BYTES = 160  # a pixel: sums, errors and points of the view at hand
_VIEW_BYTES = 20  # a pixel of a view in the cache: depth, normals, colours, mask
_NUM_FOOTPRINTS = 512  # taken of each view
_STRIDE = 4  # errors are counted at every fourth pixel across and down


@dataclass(frozen=True, kw_only=True)
class PointSettings:
    """Say whether points are merged: within cubes of edge `voxel`, in the unit of the scene, or of
    `voxel_footprints` times the median width of a pixel on the surface. 0 merges none.
    """

    voxel: float = 0.0
    voxel_footprints: float = 0.0

    def check(self) -> None:
        """Refuse edges that are no lengths, and two of them; flags set one after the other."""
        if not (self.voxel >= 0 and self.voxel_footprints >= 0):
            raise UserError("points.voxel and points.voxel-footprints must be 0 or above")
        if self.voxel > 0 and self.voxel_footprints > 0:
            raise UserError(
                "points.voxel and points.voxel-footprints both size the voxel; give one"
            )


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """Settle a fusion: which depth counts, and whether points are merged."""

    name: str = "fuse"
    masks: MaskSettings = field(default_factory=MaskSettings)
    points: PointSettings = field(default_factory=PointSettings)


class ViewFusion(NamedTuple):
    """Count what a view gave: pixels that its masks keep, those already covered, points made of it."""

    name: str
    num_kept: int
    num_covered: int
    num_points: int


@dataclass(eq=False)
class Residuals:
    """Count errors of agreeing pairs of views, at every 16th pixel that is fused, by `NUM_BINS` even bins up to the
    limits of the masks; and how many pixels were compared.
    """

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    depths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    num_compared: int = 0

    def add(self, found: Agreement, settings: MaskSettings) -> None:
        """Count the errors of one pair."""
        agrees = found.agrees[::_STRIDE, ::_STRIDE].numpy()
        for counts, errors, most in (
            (self.pixels, found.errors.pixel_error, settings.max_pixels),
            (self.depths, found.errors.depth_error, settings.max_depth),
        ):
            share = errors[::_STRIDE, ::_STRIDE].numpy()[agrees].astype(np.float64) / most
            places = np.minimum((share * NUM_BINS).astype(np.int64), NUM_BINS - 1)
            counts += np.bincount(places, minlength=NUM_BINS)
        errors = found.errors.pixel_error[::_STRIDE, ::_STRIDE]
        self.num_compared += int(np.isfinite(errors.numpy()).sum())


class FusedCloud(NamedTuple):
    """Hold what was fused: the cloud's file and facts, what masks and views gave, how well they agree.

    `voxel` is the edge of the cubes that points were merged in, 0 for none.
    """

    dense: DenseScene
    path: Path
    facts: CloudFacts
    coverage: list[MaskCoverage]
    views: list[ViewFusion]
    residuals: Residuals
    voxel: float
    seconds: float


class _Sums(NamedTuple):
    """Sum over the sources of a view what each sees of its pixels: where they lie as (u z, v z, z), their
    normals, their colours, and how many sources see them.
    """

    positions: Float32[np.ndarray, "Y X 3"]
    normals: Float32[np.ndarray, "Y X 3"]
    colors: Float32[np.ndarray, "Y X 3"]
    counts: Int32[np.ndarray, "Y X"]


class _View(NamedTuple):
    maps: DepthView
    normals: Float32[np.ndarray, "Y X 3"]  # given, or of the depth map
    colors: UInt8[np.ndarray, "Y X 3"]
    keep: Bool[np.ndarray, "Y X"]


def fuse(
    path: str | Path,
    out: str | Path | None = None,
    settings: FusionSettings | None = None,
    *,
    memory: int = MEMORY,
    normal_map: Callable[[str], Path | None] | None = None,
    on_progress: OnProgress = ignore_stages,
) -> FusedCloud:
    """Write the cloud of a scene, by default fused.ply in its folder, and the masks that are missing.

    `memory` bounds what the whole program takes, in bytes; `normal_map` is as in `open_dense`. Masks
    that are done are not made again. Call `renew_manifest` when all is written. Raises `UserError`
    where the scene, a map, the memory or the disk does not allow it, or no two views agree; a cloud
    that was there then stays.
    """
    begin = time.perf_counter()
    settings = settings or FusionSettings()
    settings.points.check()
    dense = open_dense(path, normal_map)
    out = dense.scene.root / "fused.ply" if out is None else Path(out)
    writer_of(out)
    num_cached = views_in_memory(dense, memory)
    read = lru_cache(maxsize=num_cached)(dense.read)
    sources = source_views(dense, settings.masks.num_sources, read=read)
    coverage = write_geometric_masks(
        dense, settings.masks, sources, read=read, on_progress=on_progress
    )
    read.cache_clear()
    fusion = _Fusion(dense, settings, sources, num_cached)
    spool = dense.scene.work / "fusion" / "points"
    merged = spool.with_name("merged")
    try:
        write_spool(spool, fusion.pieces(on_progress))
        points, voxel = open_spool(spool), fusion.voxel()
        if not len(points):
            raise UserError(_nothing_fused(dense, settings, coverage))
        if voxel > 0:
            write_spool(merged, merge_voxels(points, voxel, memory=memory))
            points = open_spool(merged)
        write_points(out, points)
        facts = describe(points, fusion.footprint())
    finally:
        spool.unlink(missing_ok=True)
        merged.unlink(missing_ok=True)
    seconds = time.perf_counter() - begin
    return FusedCloud(dense, out, facts, coverage, fusion.views, fusion.residuals, voxel, seconds)


def renew_manifest(dense: DenseScene) -> None:
    """List the files of a scene anew, masks and cloud among them."""
    write_manifest(dense.scene, read_about(dense.scene))


class _Fusion:
    """Fuse view after view; hold which pixels are covered, and what the report tells."""

    def __init__(
        self, dense: DenseScene, settings: FusionSettings, sources: Sources, num_cached: int
    ) -> None:
        self.views: list[ViewFusion] = []
        self.residuals = Residuals()
        self._dense, self._settings, self._sources = dense, settings, sources
        self._footprints: list[NDArray[np.float64]] = []
        self._covered: dict[str, NDArray[np.uint8]] = {}  # by image, a bit a pixel
        self._load = lru_cache(maxsize=num_cached)(self._loaded)

    def pieces(self, on_progress: OnProgress) -> Iterator[Points]:
        """Yield the points of each view."""
        names = self._dense.views.names
        for done, name in enumerate(names):
            on_progress("fuse", done, len(names))
            yield self._fused(name)
        on_progress("fuse", len(names), len(names))

    def footprint(self) -> float:
        """Return the median width of a pixel on the surface where points are."""
        return float(np.median(np.concatenate(self._footprints))) if self._footprints else 0.0

    def voxel(self) -> float:
        """Return the edge of the cubes that merge points, 0 for none."""
        points = self._settings.points
        return points.voxel or points.voxel_footprints * self.footprint()

    def _fused(self, name: str) -> Points:
        view = self._load(name)
        shape = view.colors.shape[:2]
        keep = read_mask(self._dense.scene.geometric_mask(name), shape) & view.keep
        keep &= view.maps.depth.numpy() > 0
        active = keep & ~self._bits(name, shape)
        positions, normals, colors = np.zeros((3, *shape, 3), np.float32)
        sums = _Sums(positions, normals, colors, np.zeros(shape, np.int32))
        depth = torch.where(torch.from_numpy(active), view.maps.depth, 0.0)
        view = view._replace(maps=view.maps._replace(depth=depth))
        for other in self._sources[name]:
            self._add(view, other, sums)
        is_point = sums.counts > 0
        points = _points_of(view, is_point, sums)
        self._note(view, is_point)
        self.views.append(
            ViewFusion(name, int(keep.sum()), int((keep & ~active).sum()), len(points))
        )
        return points

    def _add(
        self,
        view: _View,
        name: str,
        sums: tuple[
            NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]
        ],
    ) -> None:
        """Add what a source sees of the pixels with depth to the sums, and cover its pixels."""
        other = self._load(name)
        found = agreement(view.maps, other.maps, self._settings.masks)
        self.residuals.add(found, self._settings.masks)
        covered = self._bits(name, other.colors.shape[:2]).view(np.uint8)
        num_threads()
        add_view(
            found.agrees.numpy(),
            view.maps.depth.numpy(),
            (other.maps.depth.numpy(), other.normals, other.colors, other.keep),
            (
                view.maps.other_from_this(other.maps).numpy(),
                other.maps.other_from_this(view.maps).numpy(),
                other.maps.rotation_to(view.maps).contiguous().numpy(),
            ),
            covered,
            sums,
        )
        self._covered[name] = np.packbits(covered)

    def _bits(self, name: str, shape: tuple[int, ...]) -> Bool[np.ndarray, "Y X"]:
        """Return which pixels of an image are covered."""
        bits = self._covered.get(name)
        if bits is None:
            return np.zeros(shape, bool)
        return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).view(bool)

    def _note(self, view: _View, is_point: Bool[np.ndarray, "Y X"]) -> None:
        """Keep the widths of some of the pixels that became points."""
        depth = view.maps.depth.numpy()[is_point].astype(np.float64)
        chosen = depth[:: max(len(depth) // _NUM_FOOTPRINTS, 1)]
        if len(chosen):
            self._footprints.append(chosen / float(view.maps.matrix[0, 0]))

    def _loaded(self, name: str) -> _View:
        maps = self._dense.read(name)
        shape = (maps.depth.shape[0], maps.depth.shape[1])
        normals = depth_normals(maps) if maps.normals is None else maps.normals.numpy()
        return _View(maps, normals, self._dense.colors(name, shape), self._dense.keep(name, shape))


def depth_normals(view: DepthView) -> Float32[np.ndarray, "Y X 3"]:
    """Return the unit normals of a depth map, towards the camera; 0 where there is no slope."""
    depth = view.depth.numpy()
    normals = np.empty((*depth.shape, 3), np.float32)
    (focal_x, _, centre_x), (_, focal_y, centre_y), _ = view.matrix.tolist()
    num_threads()
    normals_of(depth, focal_x, focal_y, centre_x, centre_y, normals)
    return normals


def _points_of(
    view: _View,
    is_point: Bool[np.ndarray, "Y X"],
    sums: _Sums,
) -> Points:
    """Return the means of the view and its sources where there is a point, in the world."""
    count = int(is_point.sum())
    positions, normals = np.empty((count, 3)), np.empty((count, 3), np.float32)
    colors, num_views = np.empty((count, 3), np.uint8), np.empty(count, np.float32)
    world_from_cam = view.maps.cam_from_world.inverse()
    turned = world_from_cam.rotation @ torch.linalg.inv(view.maps.matrix)
    collect_points(
        is_point,
        (view.maps.depth.numpy(), view.normals, view.colors),
        sums,
        torch.cat([turned, world_from_cam.translation[:, None]], 1).numpy(),
        world_from_cam.rotation.contiguous().numpy(),
        (positions, normals, colors, num_views),
    )
    points = np.empty(count, POINT)
    for k in range(3):
        points[POSITION[k]], points[NORMAL[k]] = positions[:, k], normals[:, k]
        points[COLOR[k]] = colors[:, k]
    points["intensity"] = num_views
    return points


def views_in_memory(dense: DenseScene, memory: int) -> int:
    """Return how many views the memory holds at a time. Raises `UserError` where it is below two."""
    cameras = [dense.views.camera(name) for name in dense.views.names]
    sizes = [camera.width * camera.height for camera in cameras]
    largest = max(sizes)
    fixed = _PROGRAM_BYTES + _WORK_BYTES * largest + sum(sizes) // 8
    num_cached = (memory - fixed) // (_VIEW_BYTES * largest)
    if num_cached < 2:
        need = fixed + 2 * _VIEW_BYTES * largest
        camera = max(cameras, key=lambda camera: camera.width * camera.height)
        raise UserError(
            f"a memory of {memory / 2**30:.2g} GiB is too small for images of {camera.width} x "
            f"{camera.height}; fusing them takes {need / 2**30:.2g} GiB"
        )
    return min(num_cached, len(dense.views))


def _nothing_fused(
    dense: DenseScene, settings: FusionSettings, coverage: list[MaskCoverage]
) -> str:
    """Return why there is no point, and what to do."""
    root, masks = dense.scene.root, settings.masks
    if not any(item.num_sources for item in coverage):
        return f"{root}: no two images with depth show the same place; nothing can be fused"
    if not any(item.num_kept for item in coverage):
        return (
            f"{root}: nothing is consistent: no pixel of {len(coverage)} depth maps is confirmed by "
            f"{masks.min_views} others within {masks.max_pixels:g} px and {masks.max_depth:.1%}; "
            "check the poses, or loosen masks.max-pixels and masks.max-depth"
        )
    return f"{root}: nothing is fused: the masks leave no pixel that two views agree on; check them"
