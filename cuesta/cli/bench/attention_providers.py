"""Who attends in `cuesta bench jagged_attention`: ours, and what people use on ragged rows.

Padding is free for those that take padded tensors as they are ("padded SDPA"), and part of the work
for those that begin with packed rows ("+ copies", FBGEMM, dense unfused). Without a key mask,
queries see the padding of their row too: a different answer, at the full speed of the dense kernel.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask

from cuesta.cli.bench.attention_cases import Inputs
from cuesta.cli.bench.attention_trials import Footprint, Provider, Work, padded
from cuesta.cli.bench.harness import OURS
from cuesta.cli.bench.peers import FBGEMM


def ours(inputs: Inputs) -> Work:
    """Attend on packed rows with our op."""
    from cuesta.ops import jagged_attention

    leaves = packed_leaves(inputs)
    rows = (inputs.q, inputs.k, inputs.v)

    def run() -> Tensor:
        q, k, v = (own.with_values(leaf) for own, leaf in zip(rows, leaves, strict=True))
        return jagged_attention(q, k, v).values

    return Work(leaves, inputs.grad, run)


def padded_sdpa(inputs: Inputs) -> Work:
    """Attend with torch's flash kernel on padded rows, the padding included."""
    leaves = padded_leaves(inputs)
    return Work(leaves, _padded_grad(inputs), lambda: _flash(*leaves))


def fitted_sdpa(inputs: Inputs) -> Work:
    """Attend as `padded_sdpa`, on rows padded to the longest of the batch only."""
    return padded_sdpa(inputs.cut())


def masked_sdpa(inputs: Inputs) -> Work:
    """Attend as `padded_sdpa`, with a mask that hides the padding."""
    leaves = padded_leaves(inputs)
    is_there = inputs.k.mask(inputs.longest_key)[:, None, None]  # [B, 1, 1, L]
    return Work(leaves, _padded_grad(inputs), lambda: _flash(*leaves, mask=is_there))


def copied_sdpa(inputs: Inputs) -> Work:
    """Attend as `padded_sdpa`, from packed rows to packed rows with torch's copies."""
    pad, unpad = copies(inputs)
    leaves = packed_leaves(inputs)
    return Work(leaves, inputs.grad, lambda: unpad(_flash(*(pad(leaf) for leaf in leaves))))


def dense_unfused(inputs: Inputs) -> Work:
    """Attend by the formula: pad, multiply, mask, softmax, multiply."""
    pad, _ = copies(inputs)
    leaves = packed_leaves(inputs)
    scale = leaves[0].shape[2] ** -0.5
    is_there = inputs.k.mask(inputs.longest_key)[:, None, None]  # [B, 1, 1, L]
    mask = leaves[0].new_zeros(()).where(is_there, -torch.inf).detach()

    def run() -> Tensor:
        q, k, v = (pad(leaf) for leaf in leaves)
        return ((q * scale) @ k.transpose(2, 3)).add_(mask).softmax(3) @ v

    return Work(leaves, _padded_grad(inputs), run)


def looped_sdpa(inputs: Inputs) -> Work:
    """Attend row by row with torch's op on views; outputs are packed again."""
    leaves = packed_leaves(inputs)
    lengths = [length for length in inputs.q.lengths().tolist() if length]

    def run() -> Tensor:
        rows = zip(*(leaf.split(lengths) for leaf in leaves), strict=True)
        return torch.cat(
            [
                F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in row))[0]
                .transpose(0, 1)
                for row in rows
            ]
        )  # fmt: skip

    return Work(leaves, inputs.grad, run)


def nested_sdpa(inputs: Inputs) -> Work:
    """Attend with torch's op on its jagged nested tensors."""
    leaves = packed_leaves(inputs)
    offsets, shortest = inputs.q.offsets, int(inputs.q.lengths().min())

    def run() -> Tensor:
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(
                leaf, offsets, min_seqlen=shortest, max_seqlen=inputs.longest
            ).transpose(1, 2)
            for leaf in leaves
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).values()

    return Work(leaves, inputs.grad, run)


def jagged_unfused(inputs: Inputs) -> Work:
    """Attend by our three jagged ops, head by head, with all scores in memory but no padding."""
    from cuesta.ops import (
        array_jagged_bmm_jagged_out,
        jagged2_softmax,
        jagged_jagged_bmm_jagged_out,
    )

    leaves = packed_leaves(inputs)
    scale = leaves[0].shape[2] ** -0.5
    num_scores = inputs.num_pairs

    def head(number: int) -> Tensor:
        q, k, v = (inputs.q.with_values(leaf[:, number]) for leaf in leaves)
        scaled = q.with_values(q.values * scale)
        scores = jagged_jagged_bmm_jagged_out(scaled, k, num_scores=num_scores)
        return array_jagged_bmm_jagged_out(jagged2_softmax(scores), v).values

    def run() -> Tensor:
        return torch.stack([head(number) for number in range(leaves[0].shape[1])], 1)

    return Work(leaves, inputs.grad, run)


def flex_attention(inputs: Inputs) -> Work:
    """Attend with torch's compiled FlexAttention on the packed rows, where a mask of blocks knows
    which row a position belongs to.
    """
    from torch.nn.attention.flex_attention import flex_attention as flex

    torch.compiler.reset()  # shapes are compiled in; those of other cases need not be kept
    leaves, blocks = packed_leaves(inputs), _blocks_of_rows(inputs.q.row_ids())
    compiled = torch.compile(flex, dynamic=False)

    def run() -> Tensor:
        # On a CPU it refuses what may want a gradient, even where none is kept.
        mine = leaves if torch.is_grad_enabled() else [leaf.detach() for leaf in leaves]
        q, k, v = (leaf.transpose(0, 1)[None] for leaf in mine)
        return compiled(q, k, v, block_mask=blocks)[0].transpose(0, 1)

    return Work(leaves, inputs.grad, run)


def _blocks_of_rows(row: Tensor, size: int = 128) -> BlockMask:
    """Return which blocks of positions share a row, and which lie in one row whole.

    torch's `create_block_mask` finds the same by way of a matrix of all positions.
    """
    count = row.numel()
    starts = torch.arange(0, count, size, device=row.device)
    first, last = row[starts], row[(starts + size - 1).clamp(max=count - 1)]
    shares = (first[:, None] <= last) & (first <= last[:, None])
    is_whole = (first == last) & (starts + size <= count)
    is_full = shares & is_whole & is_whole[:, None]

    def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
        order = blocks.int().argsort(dim=1, descending=True, stable=True)
        return blocks.sum(1).int()[None, None], order.int()[None, None]

    def is_same_row(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return row[query] == row[key]

    return BlockMask.from_kv_blocks(
        *listed(shares & ~is_full),
        *listed(is_full),
        BLOCK_SIZE=size,
        mask_mod=is_same_row,
        seq_lengths=(count, count),
    )


def fbgemm_padded(inputs: Inputs) -> Work:
    """Attend as `copied_sdpa` with FBGEMM's copies."""
    importlib.import_module("fbgemm_gpu")  # registers the ops

    leaves, offsets = packed_leaves(inputs), inputs.q.offsets
    count, num_heads, dim = leaves[0].shape
    pad, unpad = torch.ops.fbgemm.jagged_to_padded_dense, torch.ops.fbgemm.dense_to_jagged

    def run() -> Tensor:
        q, k, v = (
            pad(leaf.flatten(1), [offsets], [inputs.longest], 0.0)
            .unflatten(2, (num_heads, dim))
            .transpose(1, 2)
            for leaf in leaves
        )
        out = _flash(q, k, v).transpose(1, 2).flatten(2)
        return unpad(out, [offsets], count)[0].view(count, num_heads, dim)

    return Work(leaves, inputs.grad, run)


def fbgemm_jagged(inputs: Inputs) -> Work:
    """Attend with FBGEMM's jagged flash attention, head by head; on a CPU it keeps the scores."""
    importlib.import_module("fbgemm_gpu.sll")  # registers the ops

    leaves, offsets, longest = packed_leaves(inputs), inputs.q.offsets, inputs.longest
    scale = leaves[0].shape[2] ** -0.5
    attend = torch.ops.fbgemm.sll_jagged_flash_attention_basic

    def run() -> Tensor:
        heads = zip(*(leaf.unbind(1) for leaf in leaves), strict=True)
        outs = [
            attend(q * scale, k.contiguous(), v.contiguous(), offsets, longest) for q, k, v in heads
        ]
        return torch.stack(outs, 1) * longest  # its weights are divided by the longest

    return Work(leaves, inputs.grad, run)


def packed_leaves(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v [T, H, D] as leaves."""
    q, k, v = (x.values.detach().requires_grad_() for x in (inputs.q, inputs.k, inputs.v))
    return q, k, v


def padded_leaves(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v as padded leaves [B, H, L, D]."""
    longest = (inputs.longest, inputs.longest_key, inputs.longest_key)
    q, k, v = (
        padded(x.values, x.offsets, length).requires_grad_()
        for x, length in zip((inputs.q, inputs.k, inputs.v), longest, strict=True)
    )
    return q, k, v


def copies(inputs: Inputs) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return torch's way from packed rows [T, H, D] to padded ones [B, H, L, D], and back.

    Places are known beforehand; padded rows are a view of [B, L, H, D]. Of torch's ways these were the
    fastest: indexing by places or by a mask, and pad_sequence, take up to sixty times as long with
    backward.
    """
    lengths, longest = inputs.q.lengths(), inputs.longest
    num_rows = lengths.numel()
    within = torch.arange(inputs.q.values.shape[0], device=lengths.device)
    shift = longest * torch.arange(num_rows, device=lengths.device) - inputs.q.offsets[:-1]
    places = within + shift[inputs.q.row_ids()]

    def pad(values: Tensor) -> Tensor:
        flat = values.new_zeros(num_rows * longest, *values.shape[1:])
        return flat.index_copy_(0, places, values).unflatten(0, (num_rows, longest)).transpose(1, 2)

    def unpad(rows: Tensor) -> Tensor:
        return rows.transpose(1, 2).flatten(0, 1).index_select(0, places)

    return pad, unpad


def _padded_grad(inputs: Inputs) -> Tensor:
    return padded(inputs.grad, inputs.q.offsets, inputs.longest)


def _flash(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


CUESTA = Provider(name=OURS, prepare=ours)
PADDED = Provider(
    name="padded SDPA", prepare=padded_sdpa, footprint=Footprint(padded=4), sees_padding=True
)
FITTED = Provider(
    name="padded SDPA, to the longest row",
    prepare=fitted_sdpa,
    footprint=Footprint(padded=4, is_cut=True),
    sees_padding=True,
)
MASKED = Provider(name="padded SDPA, key mask", prepare=masked_sdpa, footprint=Footprint(padded=4))
COPIED = Provider(
    name="padded SDPA + copies",
    prepare=copied_sdpa,
    footprint=Footprint(padded=4),
    sees_padding=True,
)
DENSE = Provider(
    name="dense unfused",
    prepare=dense_unfused,
    footprint=Footprint(padded=4, scores=2),
)
LOOP = Provider(name="loop of SDPA", prepare=looped_sdpa)
NESTED = Provider(name="nested SDPA", prepare=nested_sdpa)
UNFUSED = Provider(name="jagged unfused", prepare=jagged_unfused)
FLEX = Provider(name="FlexAttention", prepare=flex_attention)
FBGEMM_PADDED = Provider(
    name="FBGEMM jagged ops + SDPA",
    prepare=fbgemm_padded,
    footprint=Footprint(padded=4),
    sees_padding=True,
    peer=FBGEMM,
)
FBGEMM_JAGGED = Provider(name="FBGEMM jagged attention", prepare=fbgemm_jagged, peer=FBGEMM)
EVERYONE = (
    CUESTA, PADDED, FITTED, MASKED, COPIED, DENSE, LOOP, NESTED, UNFUSED, FLEX, FBGEMM_PADDED,
    FBGEMM_JAGGED,
)  # fmt: skip
