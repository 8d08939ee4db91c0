"""PCD files, the Point Cloud Library's format, version 0.7: a header of words and a table of points.

Reads DATA ascii, binary and binary_compressed, writes binary. A compressed body is the columns one
after another, in Lehmann's LZF: literals and copies of what was already written.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numba
import numpy as np

MOST_POINTS = 1 << 28
_MOST_LINE = 1 << 16  # bytes
_WORDS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS")
_SIZES = {"F": ("4", "8"), "U": ("1", "2", "4", "8"), "I": ("1", "2", "4", "8")}


class _Field(NamedTuple):
    name: str
    dtype: np.dtype
    repeat: int


def read_pcd(path: Path) -> np.ndarray:
    """Return the table of a file, a structured array [P] with a field for each of FIELDS.

    Padding, called `_`, is left out. Raises `ValueError` for what is no PCD, cut short or too large.
    """
    with open(path, "rb") as file:
        header = _read_header(file)
        fields, count = _layout(header)
        room = path.stat().st_size - file.tell()
        kind = " ".join(header["DATA"])
        if kind not in _READERS:
            raise ValueError(f"its DATA is {kind!r}, not {', '.join(_READERS)}")
        columns = _READERS[kind](file, fields, count, room)
    kept = [place for place, field in enumerate(fields) if field.name != "_"]
    dtype = [(fields[place].name, columns[place].dtype, columns[place].shape[1:]) for place in kept]
    table = np.empty(count, dtype)
    for place in kept:
        table[fields[place].name] = columns[place]
    return table


def write_pcd(path: Path, table: np.ndarray) -> None:
    """Write a structured array [P] as DATA binary."""
    dtype = table.dtype
    names = dtype.names or ()
    columns = [dtype[name] for name in names]
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(names)}",
        f"SIZE {' '.join(str(column.itemsize) for column in columns)}",
        f"TYPE {' '.join(column.kind.upper() for column in columns)}",
        f"COUNT {' '.join('1' for _ in columns)}",
        f"WIDTH {len(table)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(table)}",
        "DATA binary",
    ]
    with open(path, "wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        file.write(table.tobytes())


def _read_header(file: BinaryIO) -> dict[str, list[str]]:
    """Return the words of each line by the line's first; the file then stands at the points."""
    header: dict[str, list[str]] = {}
    while "DATA" not in header:
        line = file.readline(_MOST_LINE)
        if not line.endswith(b"\n"):
            raise ValueError("its header has no end")
        words = line.decode("utf-8").split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in (*_WORDS, "DATA"):
            raise ValueError(f"its header is not that of a PCD, it says {words[0]!r}")
        header[words[0]] = words[1:]
    return header


def _layout(header: dict[str, list[str]]) -> tuple[list[_Field], int]:
    """Return the fields of a point and the count of points."""
    names, kinds, sizes = (header.get(word, []) for word in ("FIELDS", "TYPE", "SIZE"))
    repeats = header.get("COUNT", ["1"] * len(names))
    if not len(names) == len(kinds) == len(sizes) == len(repeats):
        raise ValueError("its FIELDS, TYPE, SIZE and COUNT differ in length")
    fields = []
    for name, kind, size, repeat in zip(names, kinds, sizes, repeats, strict=True):
        if size not in _SIZES.get(kind, ()) or re.fullmatch("[1-9][0-9]{0,3}", repeat) is None:
            raise ValueError(f"its field {name} is of TYPE {kind}, SIZE {size} and COUNT {repeat}")
        fields.append(_Field(name, np.dtype(f"<{kind.lower()}{size}"), int(repeat)))
    if not fields:
        raise ValueError("its header has no FIELDS")
    width, height = (header.get(word, ["none"]) for word in ("WIDTH", "HEIGHT"))
    found = re.fullmatch("([0-9]{1,18}) ([0-9]{1,18})", " ".join(width + height))
    if found is None:
        raise ValueError(f"its WIDTH is {' '.join(width)}, its HEIGHT {' '.join(height)}")
    count = int(found[1]) * int(found[2])
    if count > MOST_POINTS:
        raise ValueError(f"it promises {count} points, more than it can hold")
    if header.get("POINTS", [str(count)]) != [str(count)]:
        raise ValueError(f"WIDTH times HEIGHT is {count}, POINTS {' '.join(header['POINTS'])}")
    return fields, count


def _read_ascii(file: BinaryIO, fields: list[_Field], count: int, room: int) -> list[np.ndarray]:
    if count > room:
        raise ValueError(f"{room} bytes of points, {count} points are promised")
    dtype = _point(fields)
    table = np.empty(0, dtype)
    if count:
        table = np.loadtxt(file, dtype, comments=None, ndmin=1)
    if len(table) != count:
        raise ValueError(f"{len(table)} lines of points, {count} are promised")
    return [table[f"f{place}"] for place in range(len(fields))]


def _read_binary(file: BinaryIO, fields: list[_Field], count: int, room: int) -> list[np.ndarray]:
    dtype = _point(fields)
    if room < count * dtype.itemsize:
        raise ValueError(f"{room} bytes of points, {count * dtype.itemsize} are promised")
    table = np.fromfile(file, dtype, count)
    return [table[f"f{place}"] for place in range(len(fields))]


def _read_packed(file: BinaryIO, fields: list[_Field], count: int, room: int) -> list[np.ndarray]:
    due = count * _point(fields).itemsize
    packed_size, size = struct.unpack("<II", file.read(8).ljust(8, b"\0"))
    if size != due or packed_size > room - 8:
        raise ValueError(
            f"{packed_size} of {room - 8} bytes should unpack to {size}, {count} points need {due}"
        )
    data = np.empty(size, np.uint8)
    if _unpack(np.frombuffer(file.read(packed_size), np.uint8), data) != size:
        raise ValueError("its compressed points are broken")
    columns, start = [], 0
    for field in fields:
        stop = start + field.dtype.itemsize * field.repeat * count
        shape = (count,) if field.repeat == 1 else (count, field.repeat)
        columns.append(data[start:stop].view(field.dtype).reshape(shape))
        start = stop
    return columns


_READERS = {"ascii": _read_ascii, "binary": _read_binary, "binary_compressed": _read_packed}


def _point(fields: list[_Field]) -> np.dtype:
    """Return the dtype of a point, with fields f0, f1 ...: names may occur twice."""
    shapes = [() if field.repeat == 1 else (field.repeat,) for field in fields]
    return np.dtype([(f"f{i}", field.dtype, shapes[i]) for i, field in enumerate(fields)])


@numba.njit(cache=True, nogil=True)
def _unpack(packed, data):  # type: ignore[no-untyped-def]
    """Unpack LZF into `data` and return how many bytes it was; -1 where the packing is broken."""
    read, written = 0, 0
    while read < len(packed):
        control = int(packed[read])
        read += 1
        if control < 32:
            length = control + 1
            if read + length > len(packed) or written + length > len(data):
                return -1
            data[written : written + length] = packed[read : read + length]
            read += length
        else:
            length = control >> 5
            if read + (2 if length == 7 else 1) > len(packed):
                return -1
            if length == 7:
                length += int(packed[read])
                read += 1
            begin = written - ((control & 31) << 8) - int(packed[read]) - 1
            read += 1
            length += 2
            if begin < 0 or written + length > len(data):
                return -1
            for place in range(length):
                data[written + place] = data[begin + place]
        written += length
    return written
