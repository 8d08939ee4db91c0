"""Standardise: the statistics of all rows seen, however they were cut into batches."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cuesta.rec.baselines.inputs import CLIP, Standardise


@given(cuts=st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_statistics_are_those_of_all_rows_however_cut(cuts: list[int]) -> None:
    rows = torch.randn(sum(cuts), 3) * torch.tensor([1.0, 1e-3, 1e3]) + 5
    standardise = Standardise(3)
    for batch in rows.split(cuts):
        standardise(batch)
    torch.testing.assert_close(standardise.mean, rows.double().mean(0))
    if len(rows) > 1:
        torch.testing.assert_close(standardise.variance, rows.double().var(0, correction=0))


def test_outliers_are_clipped_and_evaluation_learns_nothing() -> None:
    standardise = Standardise(1)
    standardise(torch.randn(1000, 1))
    before = standardise.mean.clone()
    out = standardise.eval()(torch.tensor([[1e6], [-1e6]]))
    assert out.flatten().tolist() == [CLIP, -CLIP]
    assert torch.equal(standardise.mean, before)


def test_a_constant_column_becomes_zero() -> None:
    assert Standardise(1)(torch.full((5, 1), 3.0)).abs().max() == 0
