"""row_cache: bodies agree to the bit, lines in use stay, and one set is a list ordered by worth."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuesta.ops import CacheTags, cache_find, cache_insert, force_body

BODY = pytest.mark.parametrize("body", ["reference", "cpu"])


def missed(tags: CacheTags, generator: torch.Generator, count: int, most: int) -> torch.Tensor:
    """Return rows below `most` that are not in the cache."""
    drawn = torch.randint(most, (count,), generator=generator).unique()
    return drawn[~torch.isin(drawn, tags.rows)]


@given(num_sets=st.integers(1, 5), num_ways=st.sampled_from([1, 3, 32]), count=st.integers(0, 60))
def test_bodies_agree_to_the_bit(num_sets: int, num_ways: int, count: int) -> None:
    found = []
    for body in ("reference", "cpu"):
        generator = torch.Generator().manual_seed(count)
        tags = CacheTags.empty(num_sets, num_ways)
        with force_body(body):
            for now in range(3):
                rows = missed(tags, generator, count, 200)
                worth = torch.randint(4, rows.shape, generator=generator)
                inserted = cache_insert(tags, rows, worth, now=now, oldest=now - 1)
                found.append((*inserted, *(each.clone() for each in tags)))
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@given(count=st.integers(0, 90), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_rows_are_found_and_their_lines_stamped(count: int, share: float) -> None:
    draw = torch.Generator().manual_seed(count)
    line_of = torch.randperm(40, generator=draw).int()
    line_of[torch.rand(40, generator=draw) >= share] = -1
    rows = torch.randint(40, (count,), generator=draw)
    for body in ("reference", "cpu"):
        stamps = torch.arange(40)
        with force_body(body):
            lines, missed = cache_find(line_of, stamps, rows, now=99)
        assert torch.equal(lines, line_of[rows].long())
        assert missed.tolist() == sorted({row for row in rows.tolist() if line_of[row] < 0})
        used = set(lines[lines >= 0].tolist())
        assert stamps.tolist() == [99 if line in used else line for line in range(40)]


@BODY
def test_a_row_lies_where_its_line_says_and_the_evicted_one_no_longer(body: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tags = CacheTags.empty(4, 8)
    with force_body(body):
        for now in range(20):
            before = tags.rows.clone()
            rows = missed(tags, generator, 30, 500)
            lines, evicted = cache_insert(
                tags, rows, torch.full_like(rows, now), now=now, oldest=now
            )
            found = lines >= 0
            assert lines[found].unique().numel() == int(found.sum())
            assert torch.equal(tags.rows.flatten()[lines[found]], rows[found])
            assert torch.equal(before.flatten()[lines[found]], evicted[found])
            kept = tags.rows[tags.rows >= 0]
            assert kept.unique().numel() == kept.numel()
            assert found.sum() >= min(len(rows), 8)


@BODY
def test_lines_in_use_stay(body: str) -> None:
    tags = CacheTags.empty(1, 4)
    first, second = torch.arange(3), torch.arange(10, 14)
    with force_body(body):
        cache_insert(tags, first, torch.ones_like(first), now=1, oldest=1)
        lines, _ = cache_insert(tags, second, torch.full_like(second, 9), now=2, oldest=1)
        assert lines.tolist() == [3, -1, -1, -1]
        lines, evicted = cache_insert(tags, second[1:], second[1:], now=3, oldest=3)
    assert lines.tolist() == [2, 1, 0]  # the most worthy chooses first
    assert evicted.tolist() == [2, 1, 0]


@BODY
def test_a_row_worth_less_than_all_gets_no_line(body: str) -> None:
    tags = CacheTags.empty(1, 2)
    with force_body(body):
        cache_insert(tags, torch.tensor([3, 4]), torch.tensor([5, 6]), now=1, oldest=1)
        found = cache_insert(tags, torch.tensor([8, 9]), torch.tensor([4, 5]), now=2, oldest=2)
    assert found.lines.tolist() == [-1, 1]
    assert found.evicted.tolist() == [-1, 3]


def test_rows_are_spread_over_the_sets() -> None:
    tags = CacheTags.empty(64, 32)
    rows = torch.arange(0, 1024 * 64, 64)  # all alike but for high bits
    lines, _ = cache_insert(tags, rows, torch.ones_like(rows), now=1, oldest=1)
    assert (lines >= 0).all()
    counts = (tags.rows >= 0).sum(1)
    assert counts.min() > 4  # 16 in the mean


def test_what_does_not_go_together_is_named() -> None:
    tags = CacheTags.empty(2, 2)
    with pytest.raises(ValueError, match=r"rows and worth must be of one length, got \(2,\) and"):
        cache_insert(tags, torch.arange(2), torch.arange(3), now=1, oldest=1)
    with pytest.raises(ValueError, match=r"tags must be \[sets, ways\]"):
        cache_insert(
            CacheTags(*torch.zeros(3, 4).long()), torch.arange(2), torch.arange(2), now=1, oldest=1
        )
