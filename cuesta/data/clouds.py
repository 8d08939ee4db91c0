"""Point clouds as files: PLY, PCD, LAS and LAZ, and the scans of KITTI.

```
.ply         binary, positions as double                 colours, normals, intensity
.pcd         binary, positions as double                 colours, normals, intensity
.las .laz    steps of 0.1 mm                             colours, whole intensities
.bin         KITTI's Velodyne: float32 x y z reflectance            intensity
```

.ply and .pcd keep every bit. Clouds come from strangers: counts are bounded and compared with the
file's size before memory is taken.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import laspy
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from plyfile import PlyData, PlyElement, PlyParseError

from cuesta.data.files import atomic_file
from cuesta.data.pcd import MOST_POINTS, read_pcd, write_pcd
from cuesta.errors import UserError

LAS_STEP_M = 1e-4
_LAS_OFFSET = 1_000_000_000  # steps: offsets are multiples of 100 km, so that what is read stays
_LAS_CHUNK = 1 << 20  # points
_MOST_HEADER = 1 << 16  # bytes
_NORMALS = ("nx", "ny", "nz")
_COLORS = ("red", "green", "blue")


@final
@dataclass(frozen=True, eq=False)
class Cloud:
    """Hold P points in metres, with what was measured of each: colours, unit normals, intensity.

    Intensity is in the unit of its source. Raises `ValueError` for another dtype or shape, and for
    positions that are not finite.

    >>> Cloud(np.zeros((2, 3)), colors=np.full((2, 3), 255, np.uint8)).colors[0].tolist()
    [255, 255, 255]
    """

    positions: Float64[np.ndarray, "P 3"]
    colors: UInt8[np.ndarray, "P 3"] | None = None
    normals: Float32[np.ndarray, "P 3"] | None = None
    intensity: Float32[np.ndarray, " P"] | None = None

    def __post_init__(self) -> None:
        count = len(self.positions)
        due = {
            "positions": (self.positions, np.float64, (count, 3)),
            "colors": (self.colors, np.uint8, (count, 3)),
            "normals": (self.normals, np.float32, (count, 3)),
            "intensity": (self.intensity, np.float32, (count,)),
        }
        for name, (values, dtype, shape) in due.items():
            if values is not None and (values.dtype != dtype or values.shape != shape):
                raise ValueError(
                    f"{name} should be {np.dtype(dtype)} {list(shape)}, "
                    f"got {values.dtype} {list(values.shape)}"
                )
        broken = ~np.isfinite(self.positions).all(1)
        if broken.any():
            raise ValueError(f"the position of point {int(broken.argmax())} is not finite")

    def __len__(self) -> int:
        return len(self.positions)


def read_cloud(path: str | Path) -> Cloud:
    """Return the cloud in a file, in the format that its suffix names.

    Points of a .pcd that are NaN, where an organised cloud has no measurement, are left out. A .las
    whose intensities are all 0 has none; its colours are brought to 8 bits. Raises `UserError`
    naming the file where it is missing, not of its format, cut short or too large.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "cloud.ply"
    >>> write_cloud(path, Cloud(np.array([[1.0, 2.0, 1 / 3]])))
    >>> read_cloud(path).positions[0, 2] == 1 / 3
    np.True_
    """
    path = Path(path)
    read = _format_of(path).read
    try:
        return read(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name another") from None
    except UserError:
        raise
    except (OSError, ValueError, struct.error, PlyParseError, laspy.errors.LaspyException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: no whole {path.suffix} cloud ({reason}); write it again"
        ) from error


def write_cloud(path: str | Path, cloud: Cloud) -> None:
    """Write a cloud in the format that the suffix of `path` names, atomically.

    A .las or .laz rounds positions to the nearest 0.1 mm, a .bin to float32. Raises `ValueError`
    where the format cannot hold what the cloud has, `UserError` where the file cannot be written.
    """
    path = Path(path)
    form = _format_of(path)
    for name in ("colors", "normals", "intensity"):
        if getattr(cloud, name) is not None and name not in form.holds:
            raise ValueError(f"a {path.suffix} holds no {name}; write a .ply or leave them out")
    with atomic_file(path) as temporary:
        form.write(temporary, cloud)


class _Format(NamedTuple):
    read: Callable[[Path], Cloud]
    write: Callable[[Path, Cloud], None]
    holds: tuple[str, ...]


def _format_of(path: Path) -> _Format:
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(
            f"{path}: no format of clouds is called {path.suffix!r}; use {', '.join(_FORMATS)}"
        )
    if path.suffix.lower() == ".laz" and not laspy.LazBackend.detect_available():
        raise UserError(f"{path}: .laz needs the package lazrs; pip install lazrs, or use .las")
    return form


def _read_ply(path: Path) -> Cloud:
    with open(path, "rb") as file:
        head = file.read(_MOST_HEADER)
    for name, digits in re.findall(rb"^element +(\w+) +(\d+)", head, re.MULTILINE):
        _check_count(int(digits), path.stat().st_size, name.decode())
    ply = PlyData.read(path)
    if "vertex" not in ply:
        raise ValueError("it has no element 'vertex'")
    table = ply["vertex"].data
    colors = _columns(table, _COLORS)
    if colors is not None and colors.dtype != np.uint8:
        raise ValueError(f"its colours are {colors.dtype}, not uint8")
    return _cloud(table, colors=colors, normals=_columns(table, _NORMALS))


def _write_ply(path: Path, cloud: Cloud) -> None:
    fields = _fields(cloud, _NORMALS)
    if cloud.colors is not None:
        fields |= dict(zip(_COLORS, cloud.colors.T, strict=True))
    vertices = PlyElement.describe(_table(fields, len(cloud)), "vertex")
    PlyData([vertices], byte_order="<").write(path)


def _read_pcd(path: Path) -> Cloud:
    table = read_pcd(path)
    positions = _columns(table, ("x", "y", "z"))
    if positions is not None:
        table = table[~np.isnan(positions.astype(np.float64)).any(1)]
    packed = next((name for name in ("rgb", "rgba") if name in (table.dtype.names or ())), None)
    colors = None
    if packed is not None:
        if table.dtype[packed].itemsize != 4 or table.dtype[packed].shape:
            raise ValueError(f"its {packed} should be 4 bytes a point")
        blue_first = np.ascontiguousarray(table[packed]).view(np.uint8).reshape(-1, 4)
        colors = blue_first[:, 2::-1]
    return _cloud(table, colors=colors, normals=_columns(table, _PCD_NORMALS))


def _write_pcd(path: Path, cloud: Cloud) -> None:
    fields = _fields(cloud, _PCD_NORMALS)
    if cloud.colors is not None:
        packed = np.zeros((len(cloud), 4), np.uint8)
        packed[:, 2::-1] = cloud.colors
        fields["rgb"] = packed.view(np.float32)[:, 0]
    write_pcd(path, _table(fields, len(cloud)))


def _read_las(path: Path) -> Cloud:
    with laspy.open(path) as file:
        header = file.header
        count, is_packed = header.point_count, header.are_points_compressed
        size, held = count * header.point_format.size, path.stat().st_size
        if not is_packed and size > held - header.offset_to_point_data:
            raise ValueError(f"{held} bytes, where {count} points alone have {size}")
        _check_count(count, MOST_POINTS, "point")
        try:
            parts = list(file.chunk_iterator(_LAS_CHUNK))  # memory for what is there, not promised
        except RuntimeError as error:  # of lazrs
            raise ValueError(str(error)) from error
    positions = _las_columns(parts, ("X", "Y", "Z")) * header.scales + header.offsets
    colors = None
    if set(_COLORS) <= set(header.point_format.dimension_names):
        wide = _las_columns(parts, _COLORS).astype(np.uint16)
        is_wide = len(wide) > 0 and wide.max() > 255  # many files hold 8 bits in the 16
        colors = (wide >> 8 if is_wide else wide).astype(np.uint8)
    intensity = _las_columns(parts, ("intensity",))[:, 0].astype(np.float32)
    return Cloud(positions, colors=colors, intensity=intensity if intensity.any() else None)


def _las_columns(
    parts: list[laspy.point.record.PackedPointRecord], names: tuple[str, ...]
) -> np.ndarray:
    """Return whole numbers of all parts as columns of float64, which holds them."""
    return np.concatenate(
        [np.empty((0, len(names))), *(np.stack([part[n] for n in names], 1) for part in parts)]
    )


def _write_las(path: Path, cloud: Cloud) -> None:
    header = laspy.LasHeader(version="1.2", point_format=0 if cloud.colors is None else 2)
    with np.errstate(over="ignore", invalid="ignore"):  # what is too far is refused below
        steps = np.rint(cloud.positions / LAS_STEP_M)
        middle = (steps.min(0) + steps.max(0)) / 2 if len(cloud) else np.zeros(3)
        offset = np.rint(middle / _LAS_OFFSET) * _LAS_OFFSET
        steps -= offset
    if not (np.abs(steps) <= np.iinfo(np.int32).max).all():
        raise ValueError("a .las holds no more than 300 km in steps of 0.1 mm; write a .ply")
    header.scales, header.offsets = np.full(3, LAS_STEP_M), offset * LAS_STEP_M
    las = laspy.LasData(header)
    las.X, las.Y, las.Z = steps.astype(np.int32).T
    if cloud.intensity is not None:
        is_whole = (cloud.intensity >= 0) & (cloud.intensity <= 0xFFFF)
        if not (is_whole & (cloud.intensity == np.rint(cloud.intensity))).all():
            raise ValueError("a .las holds intensities 0, 1 ... 65535; scale them, or write a .ply")
        las.intensity = cloud.intensity.astype(np.uint16)
    if cloud.colors is not None:
        las.red, las.green, las.blue = cloud.colors.astype(np.uint16).T * 257
    las.write(path)


def _read_kitti(path: Path) -> Cloud:
    size = path.stat().st_size
    if size % 16:
        raise ValueError(f"its {size} bytes are not 16 a point")
    _check_count(size // 16, MOST_POINTS, "point")
    values = np.fromfile(path, "<f4").reshape(-1, 4)
    return Cloud(values[:, :3].astype(np.float64), intensity=values[:, 3].copy())


def _write_kitti(path: Path, cloud: Cloud) -> None:
    most = np.finfo(np.float32).max
    if not (np.abs(cloud.positions) <= most).all():
        raise ValueError(f"a .bin holds positions up to {most:.2g}; write a .ply")
    values = np.zeros((len(cloud), 4), "<f4")
    values[:, :3] = cloud.positions
    if cloud.intensity is not None:
        values[:, 3] = cloud.intensity
    values.tofile(path)


_PCD_NORMALS = ("normal_x", "normal_y", "normal_z")
_FORMATS: dict[str, _Format] = {
    ".ply": _Format(_read_ply, _write_ply, ("colors", "normals", "intensity")),
    ".pcd": _Format(_read_pcd, _write_pcd, ("colors", "normals", "intensity")),
    ".las": _Format(_read_las, _write_las, ("colors", "intensity")),
    ".laz": _Format(_read_las, _write_las, ("colors", "intensity")),
    ".bin": _Format(_read_kitti, _write_kitti, ("intensity",)),
}


def _check_count(count: int, most: int, name: str) -> None:
    if count > min(most, MOST_POINTS):
        raise ValueError(f"it promises {count} of {name}, more than it can hold")


def _columns(table: np.ndarray, names: tuple[str, ...]) -> np.ndarray | None:
    """Return fields of a table as columns [P, 3]; None where one is missing."""
    if not set(names) <= set(table.dtype.names or ()):
        return None
    if any(table.dtype[name].shape or table.dtype[name].hasobject for name in names):
        raise ValueError(f"its {', '.join(names)} are not one number each")
    return np.stack([table[name] for name in names], 1)


def _cloud(table: np.ndarray, *, colors: np.ndarray | None, normals: np.ndarray | None) -> Cloud:
    """Return the cloud whose positions and intensity are fields of a table."""
    positions = _columns(table, ("x", "y", "z"))
    if positions is None:
        raise ValueError("it has no x, y and z")
    names = ("intensity", "scalar_Intensity", "scalar_intensity")
    found = (_columns(table, (name,)) for name in names)
    intensity = next((column[:, 0] for column in found if column is not None), None)
    return Cloud(
        np.ascontiguousarray(positions, np.float64),
        colors=None if colors is None else np.ascontiguousarray(colors),
        normals=None if normals is None else np.ascontiguousarray(normals, np.float32),
        intensity=None if intensity is None else np.ascontiguousarray(intensity, np.float32),
    )


def _fields(cloud: Cloud, normals: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the columns of a cloud by name, all but the colours."""
    fields = dict(zip("xyz", cloud.positions.T, strict=True))
    if cloud.normals is not None:
        fields |= dict(zip(normals, cloud.normals.T, strict=True))
    if cloud.intensity is not None:
        fields["intensity"] = cloud.intensity
    return fields


def _table(fields: dict[str, np.ndarray], count: int) -> np.ndarray:
    table = np.empty(count, [(name, column.dtype) for name, column in fields.items()])
    for name, column in fields.items():
        table[name] = column
    return table
