"""The ragged rows that `cuesta bench jagged_attention` and `cuesta bench gdpa` attend over.

Lengths follow the law of Meta's benches, whose "sparsity" is in truth the density, the mean length
over the longest; or an exponential law, as histories of users do. All numbers come from fixed
seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cuesta.ragged import Ragged, offsets_from_lengths

DTYPES = (torch.float32, torch.bfloat16)
SMALL_ROWS, SMALL_LONGEST, SMALL_KEYS = 8, 150, 40


def lengths_by_density(
    density: float, longest: int, num_rows: int, generator: torch.Generator
) -> Int64[Tensor, " B"]:
    """Return lengths of mean density * longest: all the longest for density 1; from 0.5 on uniform
    on [(2 * density - 1) * longest, longest), below on [1, 2 * density * longest).
    """
    if density >= 1:
        return torch.full((num_rows,), longest)
    low, high = (int((2 * density - 1) * longest), longest)
    if density < 0.5:
        low, high = 1, int(2 * density * longest)
    return torch.randint(low, high, (num_rows,), generator=generator)


def exponential_lengths(
    mean: float, longest: int, num_rows: int, generator: torch.Generator
) -> Int64[Tensor, " B"]:
    """Return lengths by an exponential law of this mean, rounded and cut to 1 .. `longest`."""
    drawn = torch.empty(num_rows).exponential_(1 / mean, generator=generator)
    return drawn.round().clamp(1, longest).long()


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
    """Hold packed queries [Tq, H, D], keys and values [T, H, D], and a gradient of the output."""

    q: Ragged
    k: Ragged
    v: Ragged
    grad: Float[Tensor, "Tq H D"]
    longest: int  # what rows of queries are padded to
    longest_key: int

    def to(self, dtype: torch.dtype) -> Inputs:
        """Return the same numbers in another dtype."""
        q, k, v = (x.with_values(x.values.to(dtype)) for x in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v, grad=self.grad.to(dtype))

    def cut(self) -> Inputs:
        """Return the same rows, padded to the longest of them only."""
        longest, longest_key = (int(x.lengths().max()) for x in (self.q, self.k))
        return replace(self, longest=longest, longest_key=longest_key)

    @property
    def num_pairs(self) -> int:
        """Return how many pairs of a query and a key the rows have."""
        return int((self.q.lengths() * self.k.lengths()).sum())

    @property
    def num_products(self) -> int:
        """Return the FLOPs of forward's two matrix products, true lengths only."""
        return 4 * self.q.values[0].numel() * self.num_pairs

    @property
    def padded_bytes(self) -> int:
        """Return the bytes of the queries, padded."""
        values = self.q.values
        return self.q.num_rows * self.longest * values[0].numel() * values.itemsize

    @property
    def scores_bytes(self) -> int:
        """Return the bytes of all scores [B, H, L, L] between padded rows."""
        squares = self.q.num_rows * self.longest * self.longest_key
        return squares * self.q.values.shape[1] * self.q.values.itemsize


@final
@dataclass(frozen=True, kw_only=True)
class AttentionCase:
    """Describe rows of queries that attend to the keys of their row.

    Lengths follow `density`, or an exponential law of this `mean`. Keys stand beside queries, one
    each, or are `num_keys` in every row. Everything is N(0, 1), keys times `key_scale`.
    """

    num_rows: int
    longest: int
    dtype: torch.dtype
    density: float | None = None
    mean: float | None = None
    num_heads: int = 4
    dim: int = 64
    num_keys: int | None = None
    key_scale: float = 1.0
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Return the case in the words of the table."""
        law = f"mean {self.mean:g}, exponential" if self.mean else f"density {self.density:g}"
        keys = f", {self.num_keys} keys a row" if self.num_keys else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"B {self.num_rows}, H {self.num_heads}, d {self.dim}, longest {self.longest}, "
            f"{law}{keys}, {dtype}"
        )

    def small(self) -> AttentionCase:
        """Return the same case in a size that a float64 reference can follow."""
        return replace(
            self,
            num_rows=min(self.num_rows, SMALL_ROWS),
            longest=min(self.longest, SMALL_LONGEST),
            num_keys=self.num_keys and min(self.num_keys, SMALL_KEYS),
        )

    def full(self) -> AttentionCase:
        """Return the same case with all rows as long as the longest."""
        return replace(self, density=1.0, mean=None)

    def lengths(self) -> Int64[Tensor, " B"]:
        """Return the numbers of queries."""
        generator = torch.Generator().manual_seed(0)
        if self.mean is not None:
            return exponential_lengths(self.mean, self.longest, self.num_rows, generator)
        assert self.density is not None
        return lengths_by_density(self.density, self.longest, self.num_rows, generator)

    def inputs(self) -> Inputs:
        """Return the numbers, made on the device of the case."""
        lengths = self.lengths()
        key_lengths = torch.full_like(lengths, self.num_keys) if self.num_keys else lengths
        generator = torch.Generator(self.device).manual_seed(1)
        queries = keys = offsets_from_lengths(lengths).to(self.device)
        if self.num_keys:
            keys = offsets_from_lengths(key_lengths).to(self.device)

        def draw(count: Tensor, scale: float = 1.0) -> Tensor:
            shape = (int(count.sum()), self.num_heads, self.dim)
            drawn = torch.randn(shape, generator=generator, device=self.device)
            return drawn.mul_(scale).to(self.dtype)

        return Inputs(
            q=Ragged(draw(lengths), queries),
            k=Ragged(draw(key_lengths, self.key_scale), keys),
            v=Ragged(draw(key_lengths), keys),
            grad=draw(lengths),
            longest=self.longest,
            longest_key=self.num_keys or self.longest,
        )
