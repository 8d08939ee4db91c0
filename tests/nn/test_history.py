"""Ragged softmax and target attention: torch's padded forms as oracles, and the laws of rows."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cuesta.nn import TargetAttention, ragged_softmax
from cuesta.ragged import Ragged
from tests.laws import permuted, raggeds, seeds


@given(ragged=raggeds(dims=(4,)), has_null=st.booleans())
def test_softmax_equals_the_padded_one(ragged: Ragged, has_null: bool) -> None:
    null = torch.randn(4) if has_null else None
    weights = ragged_softmax(ragged, null)
    padded = ragged.to_padded(padding=-torch.inf)
    if null is not None:
        padded = torch.cat([padded, null.expand(ragged.num_rows, 1, 4)], 1)
    expected = padded.softmax(1)[:, : int(ragged.lengths().max()) if len(ragged) else 0]
    torch.testing.assert_close(weights, Ragged.from_padded(expected, ragged.lengths()).values)


def test_softmax_gradient_passes_gradcheck_in_float64_scores() -> None:
    ragged = Ragged.from_lengths(torch.randn(6, 2), [3, 0, 1, 2])
    values, null = ragged.values.requires_grad_(), torch.randn(2, requires_grad=True)
    out = ragged_softmax(ragged.with_values(values), null)
    cotangent = torch.randn(6, 2)
    gradients = torch.autograd.grad(out, (values, null), cotangent)
    padded = torch.cat([ragged.to_padded(padding=-torch.inf), null.expand(4, 1, 2)], 1)
    oracle = Ragged.from_padded(padded.softmax(1)[:, :-1], ragged.lengths()).values
    for ours, theirs in zip(
        gradients, torch.autograd.grad(oracle, (values, null), cotangent), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@given(events=raggeds(dims=(6,)), seed=seeds)
def test_permuting_rows_permutes_pooled_histories(events: Ragged, seed: int) -> None:
    torch.manual_seed(seed)
    attention = TargetAttention(6, num_heads=2, head_dim=3)
    target = torch.randn(len(events), 6)
    values, age = torch.randn(len(events.values), 2), torch.rand(len(events.values))
    order = permuted(len(events), seed)
    where = events.with_values(torch.arange(len(values))).select_rows(order).values
    there = attention(target[order], events.select_rows(order), values[where], age[where])
    torch.testing.assert_close(there, attention(target, events, values, age)[order])


def test_older_events_count_less_and_an_empty_history_counts_nothing() -> None:
    attention = TargetAttention(3, num_heads=1, head_dim=2)
    events = Ragged.from_lengths(torch.ones(2, 3), [2, 0])
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    age = torch.tensor([5.0, 0.0])
    pooled = attention(torch.ones(2, 3), events, values, age).detach()
    assert pooled[0, 0] < pooled[0, 1]
    assert float(pooled[0].sum()) < 1
    assert pooled[1].tolist() == [0.0, 0.0]
