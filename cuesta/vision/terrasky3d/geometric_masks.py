"""Geometric masks: the depth that other views confirm, as 8-bit PNGs of 0 and 255.

A source view agrees with a pixel if it lands near where it came from, at nearly the same depth, on a
surface turned the same way: 2 px, 1 %, 10 degrees, the fusion rule of TerraSky3D's depth (APD-MVS). We
keep what two sources agree on that also look alike there, since what is behind a person, a pole or an edge is
confirmed by all who see past it. The rule of the paper itself, `terrasky3d`, takes one, if the agreeing
ones are good on average: the sum of exp(-(e_px + 200 e_d + 10 e_angle)) above 0.3 of their number, with
the angle in radians. A mask remembers what it was made from, and is made again when that changes; one
from elsewhere stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from cuesta.data.files import atomic_file, sha256_of
from cuesta.errors import UserError
from cuesta.ops.consistency import Consistency, consistency
from cuesta.ops.numba_support import num_threads
from cuesta.ops.patch_match import NO_MATCH, patch_match_costs
from cuesta.vision.terrasky3d.dense_maps import DenseScene, DepthView, read_mask
from cuesta.vision.terrasky3d.fusion_kernels import mark_agreeing
from cuesta.vision.terrasky3d.source_views import Sources
from cuesta.vision.terrasky3d.stages import OnProgress, fingerprint, ignore_stages
from cuesta.vision.terrasky3d.stereo import planes_of

_AT_A_TIME = 3
_VERSION = 2  # of what the same inputs make
_TAG = "cuesta geometric mask"


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Say when a source view agrees with a pixel, and how many must.

    Limits are in pixels, relative depth and degrees; the angle counts where both views have normals.
    `count` keeps what `min_views` sources agree on in which the pixel's patch costs at most `max_cost` as
    in `cuesta.ops.patch_match` (2: whatever it looks like; a view without normals is not looked at);
    `terrasky3d` what one does, if the mean score of those that agree is above `min_score`. Each view is
    compared with up to `num_sources` others.
    """

    rule: Literal["count", "terrasky3d"] = "count"
    max_pixels: float = 2.0
    max_depth: float = 0.01
    max_angle: float = 10.0
    max_cost: float = 0.7
    min_views: int = 2
    min_score: float = 0.3
    num_sources: int = 10

    def __post_init__(self) -> None:
        for name in (
            "max_pixels",
            "max_depth",
            "max_angle",
            "max_cost",
            "min_views",
            "num_sources",
        ):
            if not getattr(self, name) > 0:
                flag = name.replace("_", "-")
                raise UserError(f"masks.{flag} must be above 0, got {getattr(self, name)}")

    @property
    def looks(self) -> bool:
        """Return whether photographs are compared."""
        return self.rule == "count" and self.max_cost < NO_MATCH


class Agreement(NamedTuple):
    """Hold where a source agrees with a view, and by how much it is off everywhere."""

    agrees: Bool[Tensor, "Y X"]
    errors: Consistency


class _Found(NamedTuple):
    """Hold how maps and photographs of views are read, and the hashes of files so far."""

    read: Callable[[str], DepthView]
    grey: Callable[[DepthView], Tensor]
    prints: dict[Path, str]


class MaskCoverage(NamedTuple):
    """Count the pixels of a view, those with depth, those the mask keeps, and the sources asked."""

    name: str
    num_pixels: int
    num_depth: int
    num_kept: int
    num_sources: int
    is_foreign: bool


def agreement(this: DepthView, other: DepthView, settings: MaskSettings) -> Agreement:
    """Return where `other` agrees with `this`; normals are compared if both have them."""
    matrix = this.other_from_this(other)
    if this.normals is None or other.normals is None:
        errors = consistency(this.depth, other.depth, matrix)
    else:
        errors = consistency(
            this.depth,
            other.depth,
            matrix,
            normal=this.normals,
            other_normal=other.normals,
            rotation=this.rotation_to(other),
        )
    agrees = torch.empty(this.depth.shape, dtype=torch.bool)
    angle = torch.empty(0, 0) if errors.angle is None else errors.angle
    limits = (settings.max_pixels, settings.max_depth, settings.max_angle)
    num_threads()
    mark_agreeing(
        errors.pixel_error.numpy(),
        errors.depth_error.numpy(),
        angle.numpy(),
        limits,
        agrees.numpy(),
    )
    return Agreement(agrees, errors)


def geometric_mask(
    this: DepthView,
    others: Iterator[DepthView] | list[DepthView],
    settings: MaskSettings,
    grey: Callable[[DepthView], UInt8[Tensor, "Y X"]],
) -> Bool[Tensor, "Y X"]:
    """Return which pixels with depth the other views confirm, by the rule of the settings.

    `grey` returns the photograph of a view, at the size of its maps.
    """
    if settings.rule == "terrasky3d":
        return _confirmed_on_average(this, others, settings)
    votes = _Votes(this, settings, grey)
    for other in others:
        votes.add(other, agreement(votes.undecided, other, settings).agrees)
    return votes.are_enough()


def _confirmed_on_average(
    this: DepthView, others: Iterator[DepthView] | list[DepthView], settings: MaskSettings
) -> Bool[Tensor, "Y X"]:
    count, score = torch.zeros(this.depth.shape), torch.zeros(this.depth.shape)
    for other in others:
        agrees, errors = agreement(this, other, settings)
        miss = errors.pixel_error + 200 * errors.depth_error
        if errors.angle is not None:
            miss = miss + 10 * errors.angle.deg2rad()
        score += torch.where(agrees, (-miss).exp(), 0.0)
        count += agrees
    return (count >= 1) & (score > settings.min_score * count)


class _Votes:
    """Count the views that agree with a view and look alike, pixel by pixel, until they are enough.

    A few are looked at at a time: they share the weights of the view's patches, which take as long as the
    patch of one of them.
    """

    def __init__(
        self, this: DepthView, settings: MaskSettings, grey: Callable[[DepthView], Tensor]
    ) -> None:
        self.undecided = this  # with depth only where views are still to be found
        self._settings, self._grey = settings, grey
        self._planes = None
        if settings.looks and this.normals is not None:
            self._planes = planes_of(this.depth, this.normals, this.matrix)
        self._count = torch.zeros(this.depth.shape, dtype=torch.int32)
        self._waiting: list[tuple[DepthView, Tensor]] = []

    def add(self, other: DepthView, agrees: Bool[Tensor, "Y X"]) -> None:
        """Count where `other` agrees, if it also looks alike there."""
        self._waiting.append((other, agrees))
        if len(self._waiting) == _AT_A_TIME:
            self._look()

    def are_enough(self) -> Bool[Tensor, "Y X"]:
        """Return where there were as many as there must be."""
        if self._waiting:
            self._look()
        return self._count >= self._settings.min_views

    def _look(self) -> None:
        others, agree = zip(*self._waiting, strict=True)
        votes = torch.stack(agree)
        if self._planes is not None:
            votes &= self._count < self._settings.min_views
            matrices = [self.undecided.other_from_this(other).float() for other in others]
            costs = patch_match_costs(
                self._grey(self.undecided), [self._grey(other) for other in others],
                torch.stack(matrices), self._planes, wanted=votes,
            )  # fmt: skip
            votes &= costs <= self._settings.max_cost
        self._count += votes.sum(0, dtype=torch.int32)
        self._waiting = []
        is_open = self._count < self._settings.min_views
        depth = torch.where(is_open, self.undecided.depth, 0.0)
        self.undecided = self.undecided._replace(depth=depth)


def write_geometric_masks(
    dense: DenseScene,
    settings: MaskSettings,
    sources: Sources,
    *,
    read: Callable[[str], DepthView],
    on_progress: OnProgress = ignore_stages,
) -> list[MaskCoverage]:
    """Write the mask of every view, and return what each keeps.

    `read` returns the maps of a view, from a cache or `dense.read`. What is there and made from the same
    files, poses and settings is not made again, nor is a mask that is not ours. Raises `UserError`
    naming a depth map, mask or disk that does not allow it; masks that are done stay.
    """
    prints: dict[Path, str] = {}
    grey = lru_cache(maxsize=settings.num_sources + 1)(
        lambda name, shape: torch.from_numpy(dense.grey(name, shape))
    )
    found = _Found(read, lambda view: grey(view.name, tuple(view.depth.shape)), prints)
    coverage = []
    for done, name in enumerate(dense.views.names):
        on_progress("masks", done, len(dense.views))
        coverage.append(_written(dense, settings, name, sources[name], found))
    on_progress("masks", len(dense.views), len(dense.views))
    return coverage


def _written(
    dense: DenseScene,
    settings: MaskSettings,
    name: str,
    sources: tuple[str, ...],
    found: _Found,
) -> MaskCoverage:
    """Return what the mask of a view keeps, after writing it where it is not as it would be made."""
    read = found.read
    this, path = read(name), dense.scene.geometric_mask(name)
    height, width = this.depth.shape
    mark = _mark_of(dense, settings, name, sorted(sources), found.prints)
    tag = _tag_of(path)
    if tag is None or tag == mark:
        mask = read_mask(path, (height, width))
    else:
        mask = geometric_mask(this, map(read, sources), settings, found.grey).numpy()
        about = PngInfo()
        about.add_text(_TAG, mark)
        with atomic_file(path) as temporary:
            Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(temporary, pnginfo=about)
    return MaskCoverage(
        name=name,
        num_pixels=mask.size,
        num_depth=int((this.depth > 0).sum()),
        num_kept=int((mask & (this.depth > 0).numpy()).sum()),
        num_sources=len(sources),
        is_foreign=tag is None,
    )


def _tag_of(path: Path) -> str | None:
    """Return what the mask in a file was made from: nothing known where it is not ours or not there.

    An empty text stands for a mask that is not there, None for one from elsewhere.
    """
    if not path.exists():
        return ""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            tag = image.info.get(_TAG)
    except (OSError, ValueError):
        return None
    return tag if isinstance(tag, str) else None


def _mark_of(
    dense: DenseScene,
    settings: MaskSettings,
    name: str,
    sources: list[str],
    prints: dict[Path, str],
) -> str:
    """Return a fingerprint of all that decides a mask: settings, maps, photographs, cameras and poses.

    Photographs count where they are looked at: if the view has normals. Raises `UserError` naming one that is missing.
    """
    looks = settings.looks and dense.normal_map(name) is not None
    parts = []
    for image in (name, *sources):
        camera, pose = dense.views.camera(image), dense.views.pose(image)
        photo = dense.scene.frame(image) if looks else None
        if photo is not None and not photo.is_file():
            raise UserError(f"{photo}: no such file; bring the photograph back")
        files = (dense.scene.depth_map(image), dense.normal_map(image), photo)
        hashes = [None if file is None else _hash_of(file, prints) for file in files]
        parts.append([image, hashes, camera.params.tolist(), pose.matrix().tolist()])
    return fingerprint([_VERSION, asdict(settings), parts])


def _hash_of(path: Path, prints: dict[Path, str]) -> str:
    """Return the SHA-256 of a file, hashed once a run."""
    if path not in prints:
        prints[path] = sha256_of(path)
    return prints[path]
