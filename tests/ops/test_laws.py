"""A law that every op on rows keeps: concatenating batches concatenates results, and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from torch import Tensor

from cuesta.ops import (
    Mask,
    array_jagged_bmm_jagged_out,
    dense_jagged_cat_jagged_out,
    gdpa,
    jagged2_softmax,
    jagged2_to_padded_dense,
    jagged_attention,
    jagged_dense_attention,
    jagged_dense_bmm,
    jagged_dense_elementwise_add,
    jagged_dense_elementwise_mul_jagged_out,
    jagged_jagged_bmm,
    jagged_jagged_bmm_jagged_out,
    jagged_self_subtraction_jagged_out,
    jagged_softmax,
    seed_attention,
)
from cuesta.ragged import Ragged
from tests.laws import row_lengths, seeds

LONGEST, HEADS, WIDTH = 100, 2, 16  # no row that `row_lengths` draws is longer


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Batch:
    """Rows of vectors, flat squares and numbers, and what each row has besides."""

    events: Ragged  # [T, H * D]
    others: Ragged
    scores: Ragged  # flat squares
    dense: Tensor  # [B, H * D, H * D]

    @staticmethod
    def drawn(lengths: list[int], seed: int) -> Batch:
        squares = [length**2 for length in lengths]
        width, num_events = HEADS * WIDTH, sum(lengths)
        events = Ragged.from_lengths(random(num_events, width, seed=seed), lengths)
        return Batch(
            events,
            events.with_values(random(num_events, width, seed=seed + 1)),
            Ragged.from_lengths(random(sum(squares), seed=seed + 2), squares),
            random(len(lengths), width, width, seed=seed + 3),
        )

    @staticmethod
    def cat(first: Batch, second: Batch) -> Batch:
        return Batch(
            Ragged.cat([first.events, second.events]),
            Ragged.cat([first.others, second.others]),
            Ragged.cat([first.scores, second.scores]),
            torch.cat([first.dense, second.dense]),
        )

    def heads(self) -> tuple[Ragged, Ragged, Ragged]:
        """Return queries, keys and values [T, H, D]."""
        parts = (self.events, self.others, self.others)
        q, k, v = (each.with_values(each.values.unflatten(1, (HEADS, -1))) for each in parts)
        return q, k, v.with_values(v.values.flip(2))

    def padded(self) -> Tensor:
        """Return numbers of each row [B, LONGEST, H * D]."""
        return self.dense[:, :1] * random(LONGEST, 1)

    def line(self) -> Ragged:
        """Return a number an event."""
        return self.events.with_values(self.events.values[:, 0])


SEEDS, FACTOR = random(3, HEADS, WIDTH), random(LONGEST, LONGEST)

# Each result's first dimension is that of rows, of their values or of their pairs. Nulls are left
# out: torch's sigmoid rounds a number by its place in the tensor.
OPS: dict[str, Callable[[Batch], Tensor]] = {
    "attention": lambda b: jagged_attention(*b.heads(), mask=Mask(causal=True)).values,
    "attention_as_published": lambda b: jagged_attention(*b.heads(), meta_longest=9).values,
    "attention_with_a_bias": lambda b: (
        jagged_attention(*b.heads(), bias=b.scores.values[None]).values
    ),
    "seed_attention": lambda b: seed_attention(SEEDS, *b.heads()[1:]),
    "dense_attention": lambda b: jagged_dense_attention(
        b.dense[:, :3].unflatten(2, (HEADS, -1)), *b.heads()[1:], bias=b.padded()[:, :, :3]
    ),
    "gdpa": lambda b: gdpa(*b.heads(), mask=Mask(window=3)).values,
    "jagged_dense_bmm": lambda b: jagged_dense_bmm(b.events, b.dense).values,
    "jagged_jagged_bmm": lambda b: jagged_jagged_bmm(b.events, b.others),
    "scores": lambda b: jagged_jagged_bmm_jagged_out(b.events, b.others).values,
    "sums": lambda b: array_jagged_bmm_jagged_out(b.scores, b.events).values,
    "softmax": lambda b: jagged_softmax(b.events).values,
    "softmax_of_lines": lambda b: jagged2_softmax(b.scores).values,
    "add": lambda b: jagged_dense_elementwise_add(b.events, b.padded()).values,
    "mul": lambda b: jagged_dense_elementwise_mul_jagged_out(b.scores, FACTOR).values,
    "subtraction": lambda b: jagged_self_subtraction_jagged_out(b.line()).values,
    "pad_squares": lambda b: jagged2_to_padded_dense(b.scores, longest=LONGEST),
    "cat": lambda b: dense_jagged_cat_jagged_out(b.dense[:, 0, 0], b.line()).values,
}


@pytest.mark.parametrize("name", OPS)
@given(first=row_lengths(max_rows=4), second=row_lengths(max_rows=4), seed=seeds)
def test_concatenating_batches_concatenates_results_and_gradients(
    name: str, first: list[int], second: list[int], seed: int
) -> None:
    parts = [Batch.drawn(first, seed), Batch.drawn(second, seed + 10)]
    apart = [differentiated(OPS[name], part) for part in parts]
    together = differentiated(OPS[name], Batch.cat(*parts))
    for ours, *theirs in zip(together, *apart, strict=True):
        assert torch.equal(ours, torch.cat(theirs))


def differentiated(run: Callable[[Batch], Tensor], batch: Batch) -> list[Tensor]:
    """Return run's result, and the gradients of the sum of its sines for all that a row owns."""
    leaves = [each.values.clone().requires_grad_() for each in (batch.events, batch.others)]
    scores, dense = batch.scores.values.clone(), batch.dense.clone()
    leaves += [scores.requires_grad_(), dense.requires_grad_()]
    rows = (batch.events, batch.others, batch.scores)
    out = run(Batch(*(r.with_values(x) for r, x in zip(rows, leaves, strict=False)), dense))
    grads = torch.autograd.grad(out.sin().sum(), leaves, allow_unused=True)
    zeros = map(torch.zeros_like, leaves)
    return [out, *(z if g is None else g for g, z in zip(grads, zeros, strict=True))]
