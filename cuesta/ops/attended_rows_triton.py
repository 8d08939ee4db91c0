"""What the Triton bodies of `jagged_attention` and `gdpa` share: how rows are cut into tiles, which
tiles a tile meets, and how a tile is loaded and stored.

A program owns a tile of one row, of queries or of keys, in one head, and walks the tiles of the
other kind that the band lets it meet: first those that nothing cuts, without a mask, then those at
an edge of the band or the end of the row. Tiles are dealt to programs on the device, those of most
work first, and their number is bounded on the host, so that the host never waits; programs beyond
the last tile end at once. Where a tile lies is int64; places within it, added to that, are int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from cuesta.ops.attended_rows import NO_LIMIT, Band, lengths_of
from cuesta.ops.triton_support import rows_of

LONG = 64  # queries or keys a row on average, beyond which tiles of more are worth it
DEFAULT_MEMORY = 227 * 1024  # bytes of shared memory for tensors on no GPU: Hopper's


class Blocks(NamedTuple):
    """Say how many rows a program owns and how many it meets at a time, and how it is launched."""

    own: int
    met: int
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int]:
        """Return what Triton takes as options of a launch."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


# By the columns of both products, at most, for short and for long rows. Hopper multiplies 64 rows a
# warpgroup of 4 warps; 128 share what is met. float32 needs registers for operands: it owns 32.
_FORWARD = {
    128: (Blocks(64, 64, 4, 3), Blocks(128, 64, 4, 3)),
    256: (Blocks(64, 64, 4, 3), Blocks(128, 128, 8, 2)),
    512: (Blocks(64, 32, 4, 2), Blocks(128, 64, 8, 2)),
}
_BACKWARD = {
    128: (Blocks(64, 64, 4, 2), Blocks(128, 64, 8, 2)),
    256: (Blocks(64, 64, 4, 2), Blocks(128, 64, 8, 2)),
    512: (Blocks(64, 32, 8, 2), Blocks(64, 32, 8, 2)),
}
_FLOAT32 = {
    128: (Blocks(32, 32, 8, 2), Blocks(32, 32, 8, 2)),
    256: (Blocks(32, 16, 8, 2), Blocks(32, 16, 8, 2)),
    512: (Blocks(32, 16, 8, 2), Blocks(32, 16, 8, 2)),
}


class Shape(NamedTuple):
    """Say what kernels are compiled for. Triton 3.6 takes the fields as plain numbers, which `tl.zeros`
    refuses and `tl.full` does not.
    """

    heads: int
    dim: int  # of queries and keys
    value_dim: int
    columns: int  # powers of two, from 16 on, that hold the dims
    value_columns: int
    is_banded: bool
    aligns_last: bool
    is_cut: bool  # rows end at `longest`, and the band does not limit the softmax
    block_q: int
    block_k: int
    bias_heads: int  # of biases: 1, or one for each head


class Attended(NamedTuple):
    """Hold what attends to what: q [Tq, H, D], k [T, H, D], v [T, H, C] and bias [1 or H, P].

    Without `q_offsets` all queries are every row's. Rows end at `longest`, unless it is 0.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_offsets: Tensor | None
    offsets: Tensor
    band: Band
    bias: Tensor | None = None
    longest: int = 0

    @property
    def num_rows(self) -> int:
        """Return B."""
        return self.offsets.numel() - 1

    @property
    def num_out(self) -> int:
        """Return how many queries all rows have together."""
        return self.q.shape[0] * (self.num_rows if self.q_offsets is None else 1)


class Plan(NamedTuple):
    """Say what a kernel is compiled for, and whether its programs own tiles of keys or of queries."""

    shape: Shape
    owns_keys: bool
    options: dict[str, int]


class Row(NamedTuple):
    """Say where a row lies and which keys its query i sees, in a kernel: i - before to i + after."""

    q_begin: tl.tensor
    out_begin: tl.tensor  # of results
    k_begin: tl.tensor
    all_queries: tl.tensor
    all_keys: tl.tensor
    num_queries: tl.tensor  # that `longest` leaves
    num_keys: tl.tensor
    before: tl.tensor
    after: tl.tensor


class Met(NamedTuple):
    """Say which tiles a tile meets, in a kernel: whole ones, and those before and behind them of
    which some pairs are hidden.
    """

    whole_begin: tl.tensor
    num_whole: tl.tensor
    edge_begin: tl.tensor
    num_left: tl.tensor  # of the edges, before the whole ones
    num_edges: tl.tensor


def plan_of_queries(attended: Attended, *, is_backward: bool) -> Plan:
    """Return how a kernel whose programs own tiles of queries runs."""
    blocks = _blocks_for(attended, attended.num_out, is_backward=is_backward)
    return Plan(_shape_of(attended, blocks.own, blocks.met), False, blocks.options)


def plan_of_keys(attended: Attended) -> Plan:
    """Return how a kernel of backward whose programs own tiles of keys runs."""
    blocks = _blocks_for(attended, attended.k.shape[0], is_backward=True)
    return Plan(_shape_of(attended, blocks.met, blocks.own), True, blocks.options)


def launch(
    kernel: JITFunction, plan: Plan, attended: Attended,
    tensors: Sequence[Tensor | None], numbers: Sequence[int | float | str],
) -> None:  # fmt: skip
    """Run `kernel(*tensors, order, starts, *numbers, shape)`, a program a tile and head."""
    shape, owns_keys, options = plan
    lengths, others = lengths_of(attended.q_offsets, attended.offsets, attended.q.shape[0])
    total, block = attended.num_out, shape.block_q
    if owns_keys:
        lengths, others = others, lengths
        total, block = attended.k.shape[0], shape.block_k
    order, starts, bound = _schedule_of(lengths, others, total, block)
    kernel[(bound * shape.heads,)](*tensors, order, starts, *numbers, shape, **options)


def _blocks_for(attended: Attended, num_own: int, *, is_backward: bool) -> Blocks:
    """Return blocks for programs that own tiles of `num_own` queries or keys; smaller ones for
    biases, whose addresses take registers, and where the device has less shared memory than Hopper.
    """
    q, v = attended.q, attended.v
    columns = _columns(q.shape[2]) + _columns(v.shape[2])
    width = max(triton.next_power_of_2(columns), 128)
    is_long = num_own > LONG * attended.num_rows
    narrow = _BACKWARD if is_backward else _FORWARD
    blocks = (_FLOAT32 if q.element_size() == 4 else narrow)[width][is_long]
    if attended.bias is not None:
        warps = 8 if blocks.own == 128 else blocks.num_warps
        blocks = Blocks(blocks.own, min(blocks.met, 32), warps, 2)
    memory = DEFAULT_MEMORY
    if q.is_cuda:
        memory = torch.cuda.get_device_properties(q.device).shared_memory_per_block_optin
    return _fitted(blocks, columns * q.element_size(), memory, is_backward=is_backward)


def _fitted(blocks: Blocks, row_bytes: int, memory: int, *, is_backward: bool) -> Blocks:
    """Return blocks that take at most `memory` where a pair of rows of the products takes so many
    bytes: forward keeps one of the pair of its own rows, backward both.
    """
    while True:
        own = blocks.own * row_bytes // (1 if is_backward else 2)
        met = blocks.met * row_bytes * blocks.num_stages
        if own + met <= memory or blocks.own == blocks.met == 16:
            return blocks
        if blocks.num_stages > 2:
            blocks = blocks._replace(num_stages=2)
        elif blocks.own > 16 and (own >= met or blocks.met == 16):
            blocks = blocks._replace(own=blocks.own // 2)
        else:
            blocks = blocks._replace(met=blocks.met // 2)


def _shape_of(attended: Attended, block_q: int, block_k: int) -> Shape:
    q, v, bias = attended.q, attended.v, attended.bias
    before, after, aligns_last = attended.band
    heads, dim, value_dim = q.shape[1], q.shape[2], v.shape[2]
    return Shape(
        heads, dim, value_dim, _columns(dim), _columns(value_dim),
        min(before, after) < NO_LIMIT, aligns_last, attended.longest > 0, block_q, block_k,
        1 if bias is None else bias.shape[0],
    )  # fmt: skip


def _columns(dim: int) -> int:
    return max(triton.next_power_of_2(dim), 16)  # tl.dot takes 16 at least


def _schedule_of(
    lengths: Tensor, work: Tensor, total: int, block: int
) -> tuple[Tensor, Tensor, int]:
    """Return in which order [B] rows of `lengths`, `total` together, are worked on, those whose
    tiles of `block` have most `work` first; which tile each begins with [B+1]; a bound of tiles.
    """
    order = work.argsort(descending=True, stable=True)
    ends = ((lengths[order] + (block - 1)) // block).cumsum(0)
    starts = torch.nn.functional.pad(ends, (1, 0))
    return order, starts, triton.cdiv(total, block) + lengths.numel()


@triton.jit
def is_spare(starts, num_rows, shape: tl.constexpr):
    """Return whether this program lies beyond the last tile."""
    return tl.program_id(0) // shape.heads >= tl.load(starts + num_rows)


@triton.jit
def find_own(
    order, starts, q_offsets, offsets, num_rows, num_queries, before, after, longest,
    block: tl.constexpr, shape: tl.constexpr,
):  # fmt: skip
    """Return of this program's tile of `block` the head, the row's number, the `Row`, and where in
    the row it begins.
    """
    head = (tl.program_id(0) % shape.heads).to(tl.int64)
    number = tl.program_id(0) // shape.heads
    slot = rows_of(starts, number, num_rows)
    index, tile = tl.load(order + slot), (number - tl.load(starts + slot)).to(tl.int32)
    row = find_row(index, q_offsets, offsets, num_queries, before, after, longest, shape)
    return head, index, row, tile * block


@triton.jit
def find_row(
    row, q_offsets, offsets, num_queries, before, after, longest, shape: tl.constexpr
):  # fmt: skip
    """Return a `Row`; without `q_offsets` all of `num_queries` queries are its own."""
    k_begin = tl.load(offsets + row)
    all_keys = (tl.load(offsets + row + 1) - k_begin).to(tl.int32)
    if q_offsets is None:
        q_begin, out_begin, all_queries = row * 0, row * num_queries, num_queries
    else:
        q_begin = tl.load(q_offsets + row)
        out_begin, all_queries = q_begin, (tl.load(q_offsets + row + 1) - q_begin).to(tl.int32)
    num_queries, num_keys = all_queries, all_keys
    if shape.is_cut:
        num_queries, num_keys = tl.minimum(all_queries, longest), tl.minimum(all_keys, longest)
    before = tl.minimum(before, num_keys + num_queries)  # so that sums stay within int32
    after = tl.minimum(after, num_keys + num_queries)
    if shape.aligns_last:
        before, after = before - (num_keys - num_queries), after + (num_keys - num_queries)
    return Row(
        q_begin, out_begin, k_begin, all_queries, all_keys, num_queries, num_keys, before, after
    )


@triton.jit
def sees(row, i, j, shape: tl.constexpr):
    """Return which queries `i` see which keys `j`, shaped so that they broadcast."""
    is_seen = j < row.num_keys
    if shape.is_banded:
        is_seen = is_seen & (j >= i - row.before) & (j <= i + row.after)
    return is_seen


@triton.jit
def keys_met(row, first, shape: tl.constexpr):
    """Return which tiles of keys the tile of queries from `first` on meets."""
    return _tiles_met(
        first, row.num_queries, row.num_keys, row.before, row.after,
        shape.block_q, shape.block_k, shape,
    )  # fmt: skip


@triton.jit
def queries_met(row, first, shape: tl.constexpr):
    """Return which tiles of queries the tile of keys from `first` on meets."""
    return _tiles_met(
        first, row.num_keys, row.num_queries, row.after, row.before,
        shape.block_k, shape.block_q, shape,
    )  # fmt: skip


@triton.jit
def _tiles_met(
    first, num_own, length, before, after, own: tl.constexpr, met: tl.constexpr,
    shape: tl.constexpr,
):  # fmt: skip
    length = tl.where(first < num_own, length, 0)
    begin, end = length * 0, length
    whole_begin, whole_end = length * 0, length // met * met
    if shape.is_banded:
        last = tl.minimum(first + own, num_own) - 1
        whole_begin = tl.cdiv(tl.maximum(last - before, 0), met) * met
        whole_end = tl.maximum(tl.minimum(first + after + 1, length), 0) // met * met
        if not shape.is_cut:
            begin = tl.minimum(tl.maximum(first - before, 0), length) // met * met
            end = tl.minimum(tl.maximum(last + after + 1, begin), length)
        whole_begin = tl.minimum(whole_begin, tl.cdiv(end, met) * met)
        whole_end = tl.maximum(whole_begin, whole_end)
    num_left = (whole_begin - begin) // met
    num_edges = num_left + tl.cdiv(end - whole_end, met)
    return Met(whole_begin, (whole_end - whole_begin) // met, begin, num_left, num_edges)


@triton.jit
def tile_start(n, met, size: tl.constexpr, is_edge: tl.constexpr):
    """Return where the n-th whole tile of `size` that is met begins, or the n-th of the others."""
    if is_edge:
        start = met.edge_begin + (n + tl.where(n < met.num_left, 0, met.num_whole)) * size
    else:
        start = met.whole_begin + n * size
    return start


@triton.jit
def load_queries(q, row, first, head, is_edge: tl.constexpr, shape: tl.constexpr):
    """Return queries `first` on of a row, as `_load` does."""
    return _load(
        q, row.q_begin, first, row.num_queries, head, shape.heads, shape.dim,
        shape.block_q, shape.columns, is_edge,
    )  # fmt: skip


@triton.jit
def load_results(out, row, first, head, is_edge: tl.constexpr, shape: tl.constexpr):
    """Return the results of queries `first` on of a row, or their gradients, as `_load` does."""
    return _load(
        out, row.out_begin, first, row.num_queries, head, shape.heads, shape.value_dim,
        shape.block_q, shape.value_columns, is_edge,
    )  # fmt: skip


@triton.jit
def load_keys(k, row, first, head, is_edge: tl.constexpr, shape: tl.constexpr):
    """Return keys `first` on of a row, as `_load` does."""
    return _load(
        k, row.k_begin, first, row.num_keys, head, shape.heads, shape.dim,
        shape.block_k, shape.columns, is_edge,
    )  # fmt: skip


@triton.jit
def load_values(v, row, first, head, is_edge: tl.constexpr, shape: tl.constexpr):
    """Return the values of keys `first` on of a row, as `_load` does."""
    return _load(
        v, row.k_begin, first, row.num_keys, head, shape.heads, shape.value_dim,
        shape.block_k, shape.value_columns, is_edge,
    )  # fmt: skip


@triton.jit
def _load(
    rows, begin, first, length, head, heads: tl.constexpr, dim: tl.constexpr,
    size: tl.constexpr, columns: tl.constexpr, is_edge: tl.constexpr,
):  # fmt: skip
    """Return a head's vectors from `first` on, `size` of them, of a row of `length` that begins at
    `begin`; zeros beyond `dim` and, if the tile `is_edge`, beyond the row.
    """
    i, column = tl.arange(0, size), tl.arange(0, columns)
    start = rows + ((begin + first) * heads + head) * dim
    place = start + (i * (heads * dim))[:, None] + column[None, :]
    if is_edge:
        mask = (first + i < length)[:, None] & (column < dim)[None, :]
        tile = tl.load(place, mask=mask, other=0.0)
    elif columns > dim:
        tile = tl.load(place, mask=(column < dim)[None, :], other=0.0)
    else:
        tile = tl.load(place)
    return tile


@triton.jit
def store_tile(
    rows, begin, first, length, head, tile, heads: tl.constexpr, dim: tl.constexpr,
):  # fmt: skip
    """Write `tile`, a head's vectors from `first` on, to a row of `length` that begins at `begin`."""
    i, column = tl.arange(0, tile.shape[0]), tl.arange(0, tile.shape[1])
    start = rows + ((begin + first) * heads + head) * dim
    place = start + (i * (heads * dim))[:, None] + column[None, :]
    tl.store(place, tile, mask=(first + i < length)[:, None] & (column < dim)[None, :])
