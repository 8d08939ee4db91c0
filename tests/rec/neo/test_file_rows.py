"""`FileRows` against `TensorRows`: the same rows whichever way a file is read, also in views; errors are raised."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cuesta.rec.neo import direct_io, file_rows
from cuesta.rec.neo.direct_io import SECTOR, DirectFile, aligned_bytes
from cuesta.rec.neo.file_rows import FileRows
from cuesta.rec.neo.row_store import TensorRows, Values

NUM_ROWS = 300
WIDTHS = (5, 1, 5)


def unable(*_: object) -> None:
    raise OSError(errno.EINVAL, "this place cannot")


@pytest.fixture(params=["direct", "mapped"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be how a file is read; skips where the system reads no file past its cache."""
    if request.param == "mapped":
        monkeypatch.setattr("fcntl.fcntl", unable)
    return str(request.param)


def rows_in_a_file(folder: Path, way: str, weight: torch.dtype = torch.float32) -> FileRows:
    dtypes = [weight, torch.float32, torch.float32]
    store = FileRows([(NUM_ROWS, width) for width in WIDTHS], dtypes, folder)
    if way == "direct" and store._direct is None:
        pytest.skip("files in the temporary folder cannot be read past the system's cache")
    return store


def direct(file: int) -> DirectFile:
    try:
        return DirectFile(file, SECTOR)
    except OSError as error:
        pytest.skip(
            f"files in the temporary folder cannot be read past the system's cache: {error}"
        )


def some(seed: int, count: int) -> tuple[Tensor, Values, Tensor]:
    """Return rows, and lines with places for them."""
    draw = torch.Generator().manual_seed(seed)
    lines = tuple(torch.randn(count + 7, width, generator=draw) for width in WIDTHS)
    rows = torch.randperm(NUM_ROWS, generator=draw)[:count]
    return rows, lines, torch.randperm(count + 7, generator=draw)[:count]


@pytest.mark.parametrize("count", [0, 1, 20, NUM_ROWS])
def test_rows_are_those_of_tensors(
    way: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_rows, "_AT_ONCE", 16 * SECTOR)
    monkeypatch.setattr(direct_io, "IN_FLIGHT", 8)
    file = rows_in_a_file(tmp_path, way)
    memory = TensorRows([(NUM_ROWS, width) for width in WIDTHS], [torch.float32] * 3)
    for step in range(3):
        saved = some(step, count)
        for store in (file, memory):
            store.save(*saved, key=step)
        found = [tuple(torch.zeros_like(line) for line in saved[1]) for _ in range(2)]
        rows, _, places = some(10 + step, count)
        for store, lines in zip((file, memory), found, strict=True):
            store.load(rows, lines, places)
        for mine, other in zip(*found, strict=True):
            assert torch.equal(mine, other)
    for mine, other in zip(file.parts, memory.parts, strict=True):
        assert torch.equal(mine, other)
    assert list(tmp_path.iterdir()) == []


def test_views_show_what_was_moved_and_what_they_are_given_is_moved(
    way: str, tmp_path: Path
) -> None:
    store = rows_in_a_file(tmp_path, way)
    every = torch.arange(NUM_ROWS)
    for number in range(3):
        for place, part in enumerate(store.parts):
            part.fill_(10 * number + place)
        lines = tuple(torch.zeros(NUM_ROWS, width) for width in WIDTHS)
        store.load(every, lines, every)
        assert [line.unique().tolist() for line in lines] == [[10 * number + n] for n in range(3)]
        store.save(every, tuple(line + 5 for line in lines), every, key=0)
        assert [part.unique().tolist() for part in store.parts] == [
            [10 * number + n + 5] for n in range(3)
        ]


@pytest.mark.parametrize("weight", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_rounded_without_bias(
    way: str, weight: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_rows, "_AT_ONCE", 16 * SECTOR)
    store = rows_in_a_file(tmp_path, way, weight)
    ulp = 2.0**-10 if weight is torch.float16 else 2.0**-7
    every = torch.arange(NUM_ROWS)
    means = []
    for key in range(40):
        lines = tuple(torch.full((NUM_ROWS, width), 1 + ulp / 4) for width in WIDTHS)
        store.save(every, lines, every, key=key)
        assert store.parts[0].unique().tolist() == [1.0, 1 + ulp]
        means.append(float(store.parts[0].double().mean()))
        assert torch.equal(store.parts[2], lines[2])
    count = 40 * NUM_ROWS * WIDTHS[0]
    assert abs(sum(means) / 40 - (1 + ulp / 4)) < 5 * ulp * (3 / 16 / count) ** 0.5


def test_what_the_disk_cannot_give_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(bytes(4 * SECTOR))
    number = os.open(path, os.O_RDWR)
    file = direct(number)
    buffer = aligned_bytes(600, SECTOR)
    file.read(torch.arange(4), buffer[:4])
    with pytest.raises(OSError, match="Input/output error"):
        file.read(torch.arange(600), buffer)  # most lie behind the file's end
    file.read(torch.arange(4), buffer[:4])
    file.close()
    os.close(number)


def test_what_the_disk_does_not_take_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(bytes(4 * SECTOR))
    number = os.open(path, os.O_RDONLY)
    file = direct(number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write(torch.arange(4), aligned_bytes(4, SECTOR))
    file.close()
    os.close(number)
