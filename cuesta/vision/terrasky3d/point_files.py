"""Points on their way from fusion to a file, more than memory holds: a spool on disk, merged by voxels,
written as PLY or LAS piece by piece.

A .ply is what `cuesta.data.clouds.write_cloud` writes: positions as double, normals, colours, and as
intensity in how many views a point was seen. A .las has steps of 0.1 mm, colours and that intensity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import laspy
import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from cuesta.data.clouds import LAS_STEP_M, Cloud
from cuesta.data.files import atomic_file
from cuesta.errors import UserError

POSITION, NORMAL, COLOR = ("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue")
POINT = np.dtype(
    [
        *((name, "<f8") for name in POSITION),
        *((name, "<f4") for name in NORMAL),
        *((name, "u1") for name in COLOR),
        ("intensity", "<f4"),
    ]
)
_PIECE = 1 << 20  # points
_BYTES_TO_MERGE = 200  # a point: its copy, its key and what sorting them takes
_MOST_CELLS = 1 << 21  # along an axis, so that three numbers of a cell fit into int64
_CELL = 10  # of footprints: the cubes that tell how much surface there is
_SAMPLE = 40_000  # points
_PLY_TYPES = {"f8": "double", "f4": "float", "u1": "uchar"}

Points = NDArray[np.void]


class CloudFacts(NamedTuple):
    """Hold how many points a cloud has, how dense it is, and what it looks like.

    `footprint` is the median width of a pixel on the surface, in the unit of the scene; `density` counts
    points a square of that unit, over the faces of the cubes of ten such widths that hold points, about
    the area of the surface; `num_views[k]` counts the points that k views saw; `sample` has some points.
    """

    num_points: int
    footprint: float
    density: float
    num_views: NDArray[np.int64]
    sample: Cloud


def write_spool(path: Path, pieces: Iterable[Points]) -> None:
    """Write pieces of points one after the other, atomically."""
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        for piece in pieces:
            file.write(np.ascontiguousarray(piece).tobytes())


def open_spool(path: Path) -> Points:
    """Return the points of a spool, mapped from disk."""
    if path.stat().st_size == 0:
        return np.empty(0, POINT)
    return np.memmap(path, POINT, mode="r")


def pieces_of(points: Points) -> Iterator[Points]:
    """Yield the points in pieces that fit into memory."""
    for start in range(0, len(points), _PIECE):
        yield points[start : start + _PIECE]


def write_points(path: Path, points: Points) -> None:
    """Write points as .ply or .las, by the suffix, atomically and piece by piece.

    Raises `UserError` for another suffix, a .las that is wider than its steps reach, and where the
    file cannot be written.
    """
    write = writer_of(path)
    with atomic_file(path) as temporary:
        write(temporary, points)


def writer_of(path: Path) -> Callable[[Path, Points], None]:
    """Return what writes points in the format of the suffix. Raises `UserError` for another one."""
    found = {".ply": _write_ply, ".las": _write_las}.get(path.suffix.lower())
    if found is None:
        raise UserError(f"{path}: a fused cloud is written as .ply or .las, not {path.suffix!r}")
    return found


def merge_voxels(points: Points, edge: float, *, memory: int) -> Iterator[Points]:
    """Yield one point a cube of this edge: the mean by number of views, and the largest such number.

    Cubes are dealt to as many parts as `memory`, in bytes, needs; each part reads all points. Raises
    `UserError` where the cloud is more than 2 million cubes wide.
    """
    low, high = bounds_of(points)
    if float((high - low).max()) / edge >= _MOST_CELLS:
        raise UserError(
            f"points.voxel {edge:g} is too small for a cloud {float((high - low).max()):g} wide; "
            f"take {float((high - low).max()) / _MOST_CELLS * 2:.2g} or more"
        )
    num_parts = max(1, -(-len(points) * _BYTES_TO_MERGE // memory))
    for part in range(num_parts):
        found, keys = [], []
        for piece in pieces_of(points):
            key = cells_of(positions_of(piece), low, edge)
            mine = key % num_parts == part
            found.append(piece[mine])
            keys.append(key[mine])
        yield _merged(np.concatenate(found), np.concatenate(keys))


def bounds_of(points: Points) -> tuple[Float64[np.ndarray, 3], Float64[np.ndarray, 3]]:
    """Return the least and the largest of each coordinate."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for piece in pieces_of(points):
        positions = positions_of(piece)
        low = np.minimum(low, positions.min(0))
        high = np.maximum(high, positions.max(0))
    return low, high


def positions_of(points: Points) -> Float64[np.ndarray, "P 3"]:
    """Return the positions of points as columns."""
    return np.stack([points[name] for name in POSITION], 1)


def cells_of(
    positions: Float64[np.ndarray, "P 3"], low: Float64[np.ndarray, 3], edge: float
) -> NDArray[np.int64]:
    """Return a number for the cube of this edge that each position is in, counted from `low`."""
    x, y, z = np.floor((positions - low) / edge).astype(np.int64).T
    return (x * _MOST_CELLS + y) * _MOST_CELLS + z


def describe(points: Points, footprint: float) -> CloudFacts:
    """Return the facts of a cloud whose pixels are `footprint` wide on the surface."""
    edge, (low, _) = _CELL * footprint, bounds_of(points)
    num_views, cells = np.zeros(1, np.int64), np.empty(0, np.int64)
    for piece in pieces_of(points):
        cells = np.union1d(cells, cells_of(positions_of(piece), low, edge))
        counts = np.bincount(piece["intensity"].astype(np.int64), minlength=len(num_views))
        counts[: len(num_views)] += num_views
        num_views = counts
    density = len(points) / (len(cells) * edge**2)
    return CloudFacts(len(points), footprint, density, num_views, sample_cloud(points, _SAMPLE))


def sample_cloud(points: Points, most: int) -> Cloud:
    """Return up to `most` of the points, evenly taken, as a cloud."""
    chosen = points[:: -(-len(points) // most) or 1]
    return Cloud(
        positions_of(chosen),
        colors=np.stack([chosen[name] for name in COLOR], 1),
        normals=np.stack([chosen[name] for name in NORMAL], 1),
        intensity=np.array(chosen["intensity"]),
    )


def _merged(points: Points, keys: NDArray[np.int64]) -> Points:
    order = np.argsort(keys, kind="stable")
    points, keys = points[order], keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1)) if len(keys) else np.empty(0, int)
    merged = np.empty(len(starts), POINT)
    if not len(starts):
        return merged
    weight = points["intensity"].astype(np.float64)
    total = np.add.reduceat(weight, starts)
    for name in POINT.names or ():
        mean = np.add.reduceat(points[name] * weight, starts) / total
        merged[name] = np.rint(mean) if POINT[name].kind == "u" else mean
    merged["intensity"] = np.maximum.reduceat(points["intensity"], starts)
    length = np.sqrt(sum(np.square(merged[name], dtype=np.float64) for name in NORMAL))
    for name in NORMAL:
        merged[name] /= np.maximum(length, np.finfo(np.float32).tiny)
    return merged


def _write_ply(path: Path, points: Points) -> None:
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += ["comment intensity is the number of views that saw a point"]
    lines += [f"element vertex {len(points)}"]
    for name in POINT.names or ():
        kind = POINT[name].str[1:]
        lines += [f"property {_PLY_TYPES[kind]} {name}"]
    with open(path, "wb") as file:
        file.write(("\n".join([*lines, "end_header"]) + "\n").encode())
        for piece in pieces_of(points):
            file.write(np.ascontiguousarray(piece).tobytes())


def _write_las(path: Path, points: Points) -> None:
    low, high = bounds_of(points)
    middle = np.rint((low + high) / 2)
    if float((high - low).max()) / 2 + 1 > LAS_STEP_M * np.iinfo(np.int32).max:
        raise UserError("a .las holds no more than 400 km in steps of 0.1 mm; write a .ply")
    header = laspy.LasHeader(version="1.2", point_format=2)
    header.scales, header.offsets = np.full(3, LAS_STEP_M), middle
    with laspy.open(path, mode="w", header=header) as file:
        for piece in pieces_of(points):
            record = laspy.ScaleAwarePointRecord.zeros(len(piece), header=header)
            steps = np.rint((positions_of(piece) - middle) / LAS_STEP_M).astype(np.int32)
            record.X, record.Y, record.Z = steps.T
            record.intensity = piece["intensity"].astype(np.uint16)
            for name in COLOR:
                record[name] = piece[name].astype(np.uint16) * 257
            file.write_points(record)
