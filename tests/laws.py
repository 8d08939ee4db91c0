"""Hypothesis strategies for ragged shapes: no rows, empty rows, one row that holds everything."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from cuesta.ragged import Ragged, RaggedFeatures

seeds = st.integers(0, 2**31 - 1)


@st.composite
def row_lengths(draw: st.DrawFn, max_rows: int = 8, max_length: int = 12) -> list[int]:
    """Draw the lengths of 0 to `max_rows` rows; some draws put everything into one long row."""
    lengths = draw(st.lists(st.integers(0, max_length), max_size=max_rows))
    if lengths and draw(st.booleans()):
        longest = draw(st.integers(0, len(lengths) - 1))
        lengths = [0] * len(lengths)
        lengths[longest] = draw(st.integers(1, 8 * max_length))
    return lengths


@st.composite
def raggeds(
    draw: st.DrawFn,
    dtype: torch.dtype = torch.float32,
    max_rows: int = 8,
    dims: tuple[int, ...] = (1, 3, 16, 21),
) -> Ragged:
    """Draw a ragged tensor of values [T, D]."""
    lengths = draw(row_lengths(max_rows))
    generator = torch.Generator().manual_seed(draw(seeds))
    dim = draw(st.sampled_from(dims))
    values = torch.randn(sum(lengths), dim, generator=generator).to(dtype)
    return Ragged.from_lengths(values, lengths)


@st.composite
def ragged_features(
    draw: st.DrawFn, sizes: tuple[int, ...], dtype: torch.dtype = torch.int64
) -> RaggedFeatures:
    """Draw a batch with one feature per entry of `sizes`, ids below it, weights included."""
    num_rows = draw(st.integers(0, 6))
    generator = torch.Generator().manual_seed(draw(seeds))
    lengths = torch.randint(0, 7, (len(sizes), num_rows), generator=generator)
    lengths[torch.rand(lengths.shape, generator=generator) < 0.3] = 0
    features, weights = {}, {}
    for f, size in enumerate(sizes):
        count = int(lengths[f].sum())
        ids = torch.randint(0, size, (count,), generator=generator).to(dtype)
        features[f"feature{f}"] = Ragged.from_lengths(ids, lengths[f])
        weights[f"feature{f}"] = torch.randn(count, generator=generator)
    return RaggedFeatures.from_ragged(features, weights)


def permuted(num_rows: int, seed: int) -> Tensor:
    """Return a random permutation of rows."""
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
