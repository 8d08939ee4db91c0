"""Ragged: what constructors refuse, and the laws of its methods."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuesta.ragged import Ragged
from tests.laws import permuted, raggeds, row_lengths, seeds


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 2], "must start at 0, got 1"),
        ([0, 2, 1, 3], "row 1 runs from 2 to 1"),
        ([0, 2], "must end at the number of values, 3, but the last row ends at 2"),
        ([], "at least one number"),
    ],
)
def test_bad_offsets_are_named(offsets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ragged(torch.zeros(3), torch.tensor(offsets, dtype=torch.int64))


def test_bad_dtypes_and_lengths_are_named() -> None:
    with pytest.raises(ValueError, match=r"int64 tensor, got torch.int32"):
        Ragged(torch.zeros(3), torch.tensor([0, 3], dtype=torch.int32))
    with pytest.raises(ValueError, match="row 1 has -1"):
        Ragged.from_lengths(torch.zeros(3), [4, -1])
    with pytest.raises(ValueError, match="row 0 claims 4 values of a padded length 2"):
        Ragged.from_padded(torch.zeros(1, 2), torch.tensor([4]))


@given(ragged=raggeds())
def test_padding_and_unpadding_changes_nothing(ragged: Ragged) -> None:
    back = Ragged.from_padded(ragged.to_padded(padding=9.0), ragged.lengths())
    assert torch.equal(back.values, ragged.values)
    assert torch.equal(back.offsets, ragged.offsets)


@given(ragged=raggeds(), longest=st.integers(0, 20))
def test_padding_to_a_length_keeps_the_front_of_each_row(ragged: Ragged, longest: int) -> None:
    padded = ragged.to_padded(longest=longest, padding=7.0)
    assert padded.shape[:2] == (ragged.num_rows, longest)
    for b in range(ragged.num_rows):
        row = ragged.row(b)[:longest]
        assert torch.equal(padded[b, : len(row)], row)
        assert bool((padded[b, len(row) :] == 7.0).all())


@given(ragged=raggeds(), seed=seeds)
def test_selecting_a_permutation_and_its_inverse_changes_nothing(ragged: Ragged, seed: int) -> None:
    order = permuted(ragged.num_rows, seed)
    back = ragged.select_rows(order).select_rows(order.argsort())
    assert torch.equal(back.values, ragged.values)
    assert torch.equal(back.offsets, ragged.offsets)


@given(first=raggeds(dims=(3,)), second=raggeds(dims=(3,)))
def test_cat_keeps_every_row(first: Ragged, second: Ragged) -> None:
    both = Ragged.cat([first, second])
    rows = [*map(first.row, range(len(first))), *map(second.row, range(len(second)))]
    assert len(both) == len(rows)
    for b, row in enumerate(rows):
        assert torch.equal(both.row(b), row)


@given(lengths=row_lengths())
def test_row_ids_say_where_each_value_is(lengths: list[int]) -> None:
    ragged = Ragged.from_lengths(torch.zeros(sum(lengths)), lengths)
    assert ragged.row_ids().tolist() == [b for b, n in enumerate(lengths) for _ in range(n)]
    assert ragged.lengths().tolist() == lengths


def test_ragged_crosses_torch_compile() -> None:
    def double(ragged: Ragged) -> Ragged:
        return ragged.with_values(ragged.values * 2)

    ragged = Ragged.from_lengths(torch.ones(3), [1, 2])
    compiled = torch.compile(double, backend="eager", fullgraph=True)
    assert compiled(ragged).values.tolist() == [2.0, 2.0, 2.0]
