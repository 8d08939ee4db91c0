"""Depth and normal maps of images as files: PFM, COLMAP's .bin, HDF5 and 16-bit PNG.

```
.pfm    MVSNet and Middlebury: float32, rows from the bottom up           depth, normals
.bin    COLMAP's dense workspace: float32, one plane a channel            depth, normals
.h5     MegaDepth and TerraSky3D: one dataset, "depth"                    depth
.png    uint16 steps of `unit` metres                                     depth
```

In memory a map is float32 [Y, X] or [Y, X, 3]; depth is z in metres and 0 where there is none. All
but .png keep every bit. Maps come from strangers: sizes are bounded and compared with the file's
before memory is taken, and an .h5 that points outside itself is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cuesta.data.files import atomic_file
from cuesta.errors import UserError

Map = NDArray[np.float32]
MOST_PIXELS = 1 << 28
MILLIMETRE = 0.001
_MOST_HEADER = 128  # bytes


def read_map(path: str | Path, *, unit: float = MILLIMETRE) -> Map:
    """Return the map in a file, [Y, X] or [Y, X, 3], in the format that its suffix names.

    `unit` is how many metres a step of a .png is. Raises `UserError` naming the file where it is
    missing, not of its format, cut short or too large.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "depth.pfm"
    >>> write_map(path, np.array([[1.5, 0.0]], np.float32))
    >>> read_map(path).tolist()
    [[1.5, 0.0]]
    """
    path = Path(path)
    read = _format_of(path).read
    try:
        return read(path, unit)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name another") from None
    except (OSError, KeyError, ValueError, UnidentifiedImageError) as error:
        reason = str(error).splitlines()[0].strip("'\"")
        raise UserError(f"{path}: no whole {path.suffix} map ({reason}); write it again") from error


def write_map(path: str | Path, values: Map, *, unit: float = MILLIMETRE) -> None:
    """Write a map in the format that the suffix of `path` names, atomically.

    A .png rounds to the nearest step of `unit` metres. Raises `ValueError` where the format cannot
    hold the values, `UserError` where the file cannot be written.
    """
    path = Path(path)
    form = _format_of(path)
    has_channels = values.ndim == 3 and values.shape[2] == 3 and form.takes_normals
    if values.dtype != np.float32 or not (values.ndim == 2 or has_channels) or not values.size:
        kinds = "[Y, X] or [Y, X, 3]" if form.takes_normals else "[Y, X]"
        raise ValueError(
            f"{path.suffix} holds float32 maps {kinds}, not empty, "
            f"got {values.dtype} {list(values.shape)}"
        )
    with atomic_file(path) as temporary:
        form.write(temporary, values, unit)


class _Format(NamedTuple):
    read: Callable[[Path, float], Map]
    write: Callable[[Path, Map, float], None]
    takes_normals: bool


def _format_of(path: Path) -> _Format:
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(
            f"{path}: no format of maps is called {path.suffix!r}; use {', '.join(_FORMATS)}"
        )
    return form


def _read_pfm(path: Path, _: float) -> Map:
    with open(path, "rb") as file:
        head = file.read(_MOST_HEADER)
        found = re.match(rb"(P[Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+.\deE]{1,20})\s", head)
        if found is None:
            raise ValueError("its header is not that of a PFM")
        shape = (int(found[3]), int(found[2]), 3 if found[1] == b"PF" else 1)
        order = "<f4" if float(found[4]) < 0 else ">f4"
        return _squeezed(_read_floats(path, found.end(), shape, order)[::-1])


def _write_pfm(path: Path, values: Map, _: float) -> None:
    kind = "PF" if values.ndim == 3 else "Pf"
    with open(path, "wb") as file:
        file.write(f"{kind}\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode())
        file.write(values[::-1].astype("<f4").tobytes())


def _read_colmap(path: Path, _: float) -> Map:
    with open(path, "rb") as file:
        found = re.match(rb"(\d{1,9})&(\d{1,9})&([13])&", file.read(_MOST_HEADER))
    if found is None:
        raise ValueError("its header is not that of a COLMAP map")
    width, height, channels = (int(number) for number in found.groups())
    planes = _read_floats(path, found.end(), (channels, height, width), "<f4")
    return _squeezed(planes.transpose(1, 2, 0))


def _write_colmap(path: Path, values: Map, _: float) -> None:
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    with open(path, "wb") as file:
        file.write(f"{values.shape[1]}&{values.shape[0]}&{planes.shape[0]}&".encode())
        file.write(planes.astype("<f4").tobytes())


def _read_h5(path: Path, _: float) -> Map:
    with h5py.File(path, "r") as file:
        if not isinstance(file.get("depth", getlink=True), h5py.HardLink):
            raise ValueError("it has no dataset 'depth' of its own")
        depth = file["depth"]
        if not isinstance(depth, h5py.Dataset) or depth.is_virtual or depth.external:
            raise ValueError("its 'depth' is no plain dataset")
        if depth.ndim != 2 or depth.dtype.kind not in "fiu":
            raise ValueError(
                f"its 'depth' is {depth.dtype} {list(depth.shape)}, not numbers [Y, X]"
            )
        _check_size(depth.shape)
        return depth[...].astype(np.float32, copy=False)


def _write_h5(path: Path, values: Map, _: float) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("depth", data=values, compression="gzip", shuffle=True)


def _read_png(path: Path, unit: float) -> Map:
    with Image.open(path, formats=["PNG"]) as image:
        _check_size(image.size)
        if not image.mode.startswith("I"):
            raise ValueError(f"it holds {image.mode}, not one channel of 16 bits")
        return (np.asarray(image).astype(np.float64) * unit).astype(np.float32)


def _write_png(path: Path, values: Map, unit: float) -> None:
    steps = np.rint(values.astype(np.float64) / unit)
    if not ((steps >= 0) & (steps <= 0xFFFF)).all():
        raise ValueError(
            f"a .png holds depths from 0 to {0xFFFF * unit:g} in steps of {unit:g}, "
            f"got {np.min(values):g} to {np.max(values):g}; take another unit or format"
        )
    Image.fromarray(steps.astype(np.uint16)).save(path, format="PNG")


_FORMATS: dict[str, _Format] = {
    ".pfm": _Format(_read_pfm, _write_pfm, takes_normals=True),
    ".bin": _Format(_read_colmap, _write_colmap, takes_normals=True),
    ".h5": _Format(_read_h5, _write_h5, takes_normals=False),
    ".png": _Format(_read_png, _write_png, takes_normals=False),
}


def _read_floats(path: Path, begin: int, shape: tuple[int, int, int], order: str) -> Map:
    _check_size(shape)
    expected, held = 4 * shape[0] * shape[1] * shape[2], path.stat().st_size - begin
    if held != expected:
        raise ValueError(f"{held} bytes follow its header, {expected} should")
    values = np.fromfile(path, order, offset=begin)
    return values.reshape(shape).astype(np.float32, copy=False)


def _check_size(shape: tuple[int, ...]) -> None:
    if not 0 < np.prod(shape, dtype=object) <= 3 * MOST_PIXELS:
        raise ValueError(
            f"a size of {' x '.join(map(str, shape))} is not between 1 and 2^28 pixels"
        )


def _squeezed(values: Map) -> Map:
    return np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)
