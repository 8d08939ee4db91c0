"""What `jagged_attention` and `gdpa` share: which keys a query may see, the checks of their
arguments, and their FLOPs.

A mask is a band around the diagonal of each row's block of scores. Where a row has fewer queries
than keys, its last query stands beside its last key (its first beside its first, when rows run from
the newest to the oldest), so that queries may be the newest part of a history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cuesta.ops.squares import can_read, has_numbers
from cuesta.ragged import Ragged

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_HEAD_DIM = 256
NO_LIMIT = 2**31 - 1


class Band(NamedTuple):
    """Say which keys a query at position p sees: those from p - before to p + after.

    Query i of a row stands at i, or at i + keys - queries if `aligns_last`.
    """

    before: int
    after: int
    aligns_last: bool


@final
@dataclass(frozen=True, kw_only=True)
class Mask:
    """Say which keys a query may see; by default all of its row.

    `causal` hides what is newer than the query; rows run from the oldest to the newest unless
    `newest_first`. `window` hides what is more than so many places away on either side.

    >>> Mask(causal=True, window=2).band()
    Band(before=2, after=0, aligns_last=True)
    """

    causal: bool = False
    newest_first: bool = False
    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 0:
            raise ValueError(f"window must not be negative, got {self.window}")

    def band(self) -> Band:
        """Return the band that this mask leaves."""
        width = NO_LIMIT if self.window is None else self.window
        before = 0 if self.causal and self.newest_first else width
        after = 0 if self.causal and not self.newest_first else width
        return Band(before, after, not self.newest_first)


class Context(Protocol):
    """What autograd keeps of a call: tensors, and the numbers that follow them."""

    saved_tensors: tuple[Tensor | None, ...]
    settings: list[int | float]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


def check_rows(q: Ragged, k: Ragged, v: Ragged) -> None:
    """Raise `ValueError` unless q [Tq, H, D], k [T, H, D] and v [T, H, C] have as many rows, heads,
    one dtype and device, and k and v the same rows.
    """
    if q.num_rows != k.num_rows:
        raise ValueError(
            f"q has {q.num_rows} rows and k has {k.num_rows}: "
            f"row {min(q.num_rows, k.num_rows)} is in one of them only"
        )
    check_heads(q.values, k, v)


def check_heads(q: Float[Tensor, "_ H D"], k: Ragged, v: Ragged) -> None:
    """Raise `ValueError` unless shapes, heads, dtypes and devices of q, k and v go together, and k
    and v have the same rows.
    """
    parts = (("q", q, "Tq, H, D"), ("k", k.values, "T, H, D"), ("v", v.values, "T, H, C"))
    for name, tensor, shape in parts:
        if tensor.dim() != 3:
            raise ValueError(f"{name} must hold [{shape}] values, got {tuple(tensor.shape)}")
        if tensor.dtype not in FLOATS:
            raise ValueError(
                f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}"
            )
        if tensor.dtype is not q.dtype or tensor.device != q.device:
            raise ValueError(
                f"q, k and v must be of one dtype on one device: q is {q.dtype} on {q.device}, "
                f"{name} is {tensor.dtype} on {tensor.device}"
            )
        if tensor.shape[1] != q.shape[1]:
            raise ValueError(
                f"q has {q.shape[1]} heads, {name} has {tensor.shape[1]}; they must be equal"
            )
        if not 1 <= tensor.shape[2] <= MAX_HEAD_DIM:
            raise ValueError(
                f"the head dimension of {name} must be 1 to {MAX_HEAD_DIM}, got {tensor.shape[2]}"
            )
    if k.values.shape[2] != q.shape[2]:
        raise ValueError(
            f"q has head dimension {q.shape[2]}, k has {k.values.shape[2]}; they must be equal"
        )
    _check_same_rows(k, v)


def _check_same_rows(k: Ragged, v: Ragged) -> None:
    if k.num_rows != v.num_rows:
        raise ValueError(f"k has {k.num_rows} rows and v has {v.num_rows}; they must be equal")
    if can_read(k.offsets) and k.offsets is not v.offsets and not torch.equal(k.offsets, v.offsets):
        ours, theirs = k.lengths(), v.lengths()
        row = int((ours != theirs).nonzero()[0])
        raise ValueError(
            f"row {row} has {int(ours[row])} keys (k) but {int(theirs[row])} values (v)"
        )
    if k.values.shape[0] != v.values.shape[0]:  # what may be known of a GPU's rows
        raise ValueError(
            f"k holds {k.values.shape[0]} keys and v {v.values.shape[0]} values; they must be equal"
        )


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in float32, or wider if they are."""
    return tuple(each.to(torch.promote_types(each.dtype, torch.float32)) for each in tensors)


def lengths_of(
    q_offsets: Int64[Tensor, " B+1"] | None, offsets: Int64[Tensor, " B+1"], num_queries: int
) -> tuple[Int64[Tensor, " B"], Int64[Tensor, " B"]]:
    """Return how many queries and keys each row has; without `q_offsets` all queries are every
    row's.
    """
    keys = offsets.diff()
    return (torch.full_like(keys, num_queries) if q_offsets is None else q_offsets.diff()), keys


def pair_offsets(queries: Int64[Tensor, " B"], keys: Int64[Tensor, " B"]) -> Int64[Tensor, " B+1"]:
    """Return where each row's block of queries x keys begins when blocks lie one after another."""
    return torch.nn.functional.pad((queries * keys).cumsum(0), (1, 0))


def count_flops(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor | None, offsets: Tensor, band: Band,
    *, longest: int = 0, is_backward: bool = False,
) -> int:  # fmt: skip
    """Return the FLOPs of the matrix products, true lengths only: forward two; backward five, the
    scores anew and two for each of the forward's.
    """
    of_width, of_value_width = (3, 2) if is_backward else (1, 1)
    width = of_width * q.shape[2] + of_value_width * v.shape[2]
    num_pairs = _count_pairs(q_offsets, offsets, q.shape[0], k.shape[0], band, longest)
    return 2 * q.shape[1] * width * num_pairs


def _count_pairs(
    q_offsets: Tensor | None,
    offsets: Tensor,
    num_queries: int,
    num_keys: int,
    band: Band,
    longest: int,
) -> int:
    """Return how many pairs of a query and a key are multiplied: those within the band or, in
    Meta's semantics, all up to `longest` of either.

    Offsets without numbers, as when a program is traced, count as rows of equal length of which
    every pair is.
    """
    if not has_numbers(offsets):
        rows = max(offsets.shape[0] - 1, 1)
        return num_queries * num_keys // (1 if q_offsets is None else rows)
    queries, keys = lengths_of(q_offsets, offsets, num_queries)
    if longest:
        return int((queries.clamp(max=longest) * keys.clamp(max=longest)).sum())
    starts = torch.repeat_interleave(queries.cumsum(0) - queries, queries)
    place = torch.arange(starts.numel(), device=starts.device) - starts  # [Tq] of its row
    num = torch.repeat_interleave(keys, queries)
    if band.aligns_last:
        place = place + torch.repeat_interleave(keys - queries, queries)
    first = (place - band.before).clamp(min=0)
    return int((torch.minimum(place + band.after + 1, num) - first).clamp(min=0).sum())
