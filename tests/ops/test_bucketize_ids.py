"""bucketize_ids: bodies agree to the bit, blocks share out all ids once, and bags keep their order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cuesta.ops import bucketize_ids, force_body
from cuesta.ragged import Ragged
from tests.laws import row_lengths

BODY = pytest.mark.parametrize("body", ["reference", "cpu"])


def batch(sizes: list[int], num_rows: int, dtype: torch.dtype = torch.int64) -> tuple[Tensor, ...]:
    """Return ids and offsets of bags of these sizes."""
    generator = torch.Generator().manual_seed(sum(sizes))
    ids = torch.randint(num_rows, (sum(sizes),), generator=generator).to(dtype)
    return ids, Ragged.from_lengths(ids, sizes).offsets


def cut(num_features: int, num_rows: int, num_blocks: int) -> Tensor:
    """Return blocks that share out the rows of every feature, the last ones short or empty."""
    each = -(-num_rows // num_blocks)
    return torch.tensor(
        [
            (feature, min(block * each, num_rows), min((block + 1) * each, num_rows))
            for block in range(num_blocks)
            for feature in range(num_features)
        ]
    )


@given(sizes=row_lengths(), num_blocks=st.integers(1, 5), wide=st.booleans())
def test_bodies_agree_to_the_bit(sizes: list[int], num_blocks: int, wide: bool) -> None:
    ids, offsets = batch(sizes * 2, 11, torch.int64 if wide else torch.int32)
    found = []
    for body in ("reference", "cpu"):
        with force_body(body):
            found.append(
                bucketize_ids(
                    ids, offsets, cut(2, 11, num_blocks), num_features=2, wants_places=True
                )
            )
    assert all(torch.equal(a, b) and a.dtype is b.dtype for a, b in zip(*found, strict=True))


@BODY
def test_a_bag_is_shared_out_in_its_order(body: str) -> None:
    sizes = [3, 0, 40, 1, 0, 7]
    ids, offsets = batch(sizes, 23)
    blocks = cut(2, 23, 4)
    with force_body(body):
        found = bucketize_ids(ids, offsets, blocks, num_features=2, wants_places=True)
    starts = torch.repeat_interleave(blocks[:, 1], found.lengths.sum(1))
    assert torch.equal(ids[found.places], found.ids + starts)
    assert torch.equal(found.places.sort().values, torch.arange(len(ids)))
    parts = found.places.split(found.lengths.flatten().tolist())
    for number, places in enumerate(parts):
        assert torch.equal(places, places.sort().values)
        bag = int(blocks[number // 3, 0]) * 3 + number % 3
        assert ((places >= offsets[bag]) & (places < offsets[bag + 1])).all()


@BODY
def test_ids_of_no_block_are_dropped_and_of_two_repeated(body: str) -> None:
    ids, offsets = torch.tensor([5, 1, 9]), torch.tensor([0, 2, 3])
    blocks = torch.tensor([[0, 0, 6], [0, 1, 2], [0, 3, 3]])
    with force_body(body):
        found = bucketize_ids(ids, offsets, blocks, num_features=1)
    assert found.ids.tolist() == [5, 1, 0]
    assert found.lengths.tolist() == [[2, 0], [1, 0], [0, 0]]
    assert found.places.numel() == 0


@BODY
def test_nothing_to_share_out(body: str) -> None:
    with force_body(body):
        none = bucketize_ids(*batch([], 5), cut(1, 5, 2), num_features=1, wants_places=True)
        nowhere = bucketize_ids(*batch([3], 5), cut(1, 5, 2)[:0], num_features=1)
    assert none.lengths.shape == (2, 0)
    assert none.ids.numel() == none.places.numel() == nowhere.ids.numel() == 0
    assert nowhere.lengths.shape == (0, 1)


def test_what_does_not_go_together_is_named() -> None:
    ids, offsets = batch([2, 1], 5)
    with pytest.raises(ValueError, match=r"ids must be 1-D int32 or int64, got torch\.float32"):
        bucketize_ids(ids.float(), offsets, cut(1, 5, 2), num_features=1)
    with pytest.raises(ValueError, match=r"F \* B \+ 1 numbers for F = 3, got 3"):
        bucketize_ids(ids, offsets, cut(1, 5, 2), num_features=3)
    with pytest.raises(ValueError, match=r"blocks must be int64 \[S, 3\], got .*int64 \(2, 2\)"):
        bucketize_ids(ids, offsets, cut(1, 5, 2)[:, :2], num_features=1)
