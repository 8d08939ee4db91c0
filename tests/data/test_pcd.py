"""Every body of a PCD is read, numbers to the bit; what is cut short or no PCD is named."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuesta.data.pcd import read_pcd, write_pcd

TABLE = np.array(
    [(1.25, -7, [1, 2, 3], 1 / 3), (np.nan, 9, [4, 5, 250], 1e300)],
    [("x", "<f4"), ("ring", "<i2"), ("label", "u1", (3,)), ("time", "<f8")],
)
HEADER = """# .PCD v0.7
VERSION 0.7
FIELDS x ring _ label time
SIZE 4 2 1 1 8
TYPE F I U U F
COUNT 1 1 2 3 1
WIDTH 1
HEIGHT 2
VIEWPOINT 0 0 0 1 0 0 0
POINTS 2
DATA """


def pack(data: bytes) -> bytes:
    """Pack by LZF, greedily: copies of what was there in the last 8192 bytes, else literals."""
    packed, literals, place = bytearray(), bytearray(), 0

    def flush() -> None:
        for start in range(0, len(literals), 32):
            part = literals[start : start + 32]
            packed.extend([len(part) - 1, *part])
        literals.clear()

    while place < len(data):
        length = 0
        for size in range(min(264, len(data) - place), 2, -1):
            begin = data.rfind(data[place : place + size], max(0, place - 8192), place + size - 1)
            if begin >= 0:
                length = size
                break
        if not length:
            literals.append(data[place])
            place += 1
            continue
        flush()
        back = place - begin - 1
        short = min(length - 2, 7)
        packed.append(short << 5 | back >> 8)
        if short == 7:
            packed.append(length - 9)
        packed.append(back & 255)
        place += length
    flush()
    return bytes(packed)


def body(kind: str) -> bytes:
    """Return the points of `TABLE`, with two bytes of padding after `ring`."""
    if kind == "ascii":
        rows = ["1.25 -7 0 0 1 2 3 0.3333333333333333", "nan 9 0 0 4 5 250 1e300"]
        return ("\n".join(rows) + "\n").encode()
    if kind == "binary":
        parts = [
            struct.pack("<fh2x3B", x, ring, *label) + struct.pack("<d", time)
            for x, ring, label, time in TABLE
        ]
        return b"".join(parts)
    columns = (TABLE["x"], TABLE["ring"], np.zeros(4, np.uint8), TABLE["label"], TABLE["time"])
    data = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    packed = pack(data)
    return struct.pack("<II", len(packed), len(data)) + packed


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_every_body_is_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.pcd").write_bytes(f"{HEADER}{kind}\n".encode() + body(kind))
    table = read_pcd(tmp_path / "a.pcd")
    assert table.dtype == TABLE.dtype
    for name in TABLE.dtype.names or ():
        assert table[name].tobytes() == TABLE[name].tobytes()


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_a_body_cut_short_is_named(kind: str, tmp_path: Path) -> None:
    whole = body(kind)
    for size in range(len(whole) - (8 if kind == "ascii" else 0)):
        (tmp_path / "a.pcd").write_bytes(f"{HEADER}{kind}\n".encode() + whole[:size])
        with pytest.raises(ValueError, match=r"promised|should unpack to|columns|convert"):
            read_pcd(tmp_path / "a.pcd")


@given(
    data=st.binary(max_size=200)
    | st.binary(min_size=1, max_size=9).map(lambda one: one * 90)
    | st.integers(300, 3000).map(lambda size: np.random.default_rng(size).bytes(size) * 2)
)
def test_compressed_bytes_come_back(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "packed.pcd"
    header = f"FIELDS v\nSIZE 1\nTYPE U\nWIDTH {len(data)}\nHEIGHT 1\nDATA binary_compressed\n"
    packed = pack(data)
    path.write_bytes(header.encode() + struct.pack("<II", len(packed), len(data)) + packed)
    assert read_pcd(path)["v"].tobytes() == data


@given(packed=st.binary(max_size=40))
def test_broken_compression_never_leaves_its_bytes(
    packed: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.pcd"
    header = b"FIELDS v\nSIZE 1\nTYPE U\nWIDTH 30\nHEIGHT 1\nDATA binary_compressed\n"
    path.write_bytes(header + struct.pack("<II", len(packed), 30) + packed)
    with contextlib.suppress(ValueError):
        assert len(read_pcd(path)) == 30


@pytest.mark.parametrize(
    "packed",
    [b"\x1e" + bytes(31), b"\x05ab", b"\xe0\x15\x00", b"\x00a\x20\x01", b"\x00a\xe0\x1b", b"\xe0"],
)
def test_each_way_to_break_compression_is_named(packed: bytes, tmp_path: Path) -> None:
    header = b"FIELDS v\nSIZE 1\nTYPE U\nWIDTH 30\nHEIGHT 1\nDATA binary_compressed\n"
    (tmp_path / "a.pcd").write_bytes(header + struct.pack("<II", len(packed), 30) + packed)
    with pytest.raises(ValueError, match="its compressed points are broken"):
        read_pcd(tmp_path / "a.pcd")


def test_tables_come_back(tmp_path: Path) -> None:
    table = np.array([(1 / 3, 5)], [("x", "<f8"), ("ring", "<u2")])
    for rows in (table, table[:0]):
        write_pcd(tmp_path / "a.pcd", rows)
        again = read_pcd(tmp_path / "a.pcd")
        assert (again.dtype, again.tobytes()) == (rows.dtype, rows.tobytes())


def test_the_header_is_that_of_the_point_cloud_library(tmp_path: Path) -> None:
    table = np.zeros(3, [("x", "<f8"), ("ring", "<u2"), ("count", "<i4")])
    write_pcd(tmp_path / "a.pcd", table)
    head, rest = (tmp_path / "a.pcd").read_bytes().split(b"DATA binary\n")
    assert head.decode().splitlines()[1:] == [
        "VERSION 0.7",
        "FIELDS x ring count",
        "SIZE 8 2 4",
        "TYPE F U I",
        "COUNT 1 1 1",
        "WIDTH 3",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        "POINTS 3",
    ]
    assert rest == bytes(3 * 14)


def test_an_ascii_file_of_no_points_is_read(tmp_path: Path) -> None:
    header = HEADER.replace("WIDTH 1", "WIDTH 0").replace("POINTS 2", "POINTS 0")
    (tmp_path / "a.pcd").write_text(header + "ascii\n")
    assert len(read_pcd(tmp_path / "a.pcd")) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("VERSION", "COLOUR", "its header is not that of a PCD, it says 'COLOUR'"),
        (
            "DATA ascii\n1.25 -7 0 0 1 2 3 0.3333333333333333\nnan 9 0 0 4 5 250 1e300\n",
            "",
            "its header has no end",
        ),
        ("DATA ascii", "DATA zip", "its DATA is 'zip', not ascii, binary, binary_compressed"),
        ("SIZE 4 2 1", "SIZE 4 3 1", "its field ring is of TYPE I, SIZE 3 and COUNT 1"),
        ("TYPE F I", "TYPE F X", "its field ring is of TYPE X, SIZE 2 and COUNT 1"),
        ("TYPE F I", "TYPE F", "its FIELDS, TYPE, SIZE and COUNT differ in length"),
        ("COUNT 1 1", "COUNT 1 0", "its field ring is of TYPE I, SIZE 2 and COUNT 0"),
        ("COUNT 1 1 2", "COUNT 1 1 99999", "and COUNT 99999"),
        ("WIDTH 1\n", "WIDTH -1\n", "its WIDTH is -1, its HEIGHT 2"),
        ("HEIGHT 2\n", "", "its WIDTH is 1, its HEIGHT none"),
        ("WIDTH 1\n", "WIDTH 999999999999\n", "promises 1999999999998 points, more than it"),
        ("POINTS 2", "POINTS 3", "WIDTH times HEIGHT is 2, POINTS 3"),
        ("FIELDS x ring", "FIELDS x x", "field 'x' occurs more than once"),
        ("9 0 0 4 5 250", "9 0 0 4 5 350", "convert|range"),
    ],
)
def test_headers_that_do_not_fit_are_named(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    content = f"{HEADER}ascii\n" + body("ascii").decode()
    assert old in content
    (tmp_path / "a.pcd").write_text(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_pcd(tmp_path / "a.pcd")


def test_a_count_that_the_file_does_not_hold_takes_no_memory(tmp_path: Path) -> None:
    content = HEADER.replace("WIDTH 1", "WIDTH 100000000").replace("POINTS 2", "POINTS 200000000")
    for kind in ("ascii", "binary", "binary_compressed"):
        (tmp_path / "a.pcd").write_bytes(f"{content}{kind}\n".encode() + body(kind))
        with pytest.raises(ValueError, match=r"promised|200000000 points need 3800000000"):
            read_pcd(tmp_path / "a.pcd")
