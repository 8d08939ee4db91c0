"""Softmax attention on ragged rows: queries of a row see the keys of the same row, without padding
and without a matrix of scores in memory.

Jagged Flash Attention (Xu et al., RecSys 2024, arXiv 2409.15373) in its three forms: ragged queries
(`jagged_attention`), one set of queries for all rows, as in pooling by seeds (`seed_attention`),
and a set of queries a row (`jagged_dense_attention`). Forward keeps the log-sum-exp of each
query's scores in float32, backward computes the scores anew. Results have the same bits for any
number of threads.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cuesta.ops.attended_rows import (
    FLOATS,
    Band,
    Context,
    Mask,
    check_heads,
    check_rows,
    count_flops,
    pair_offsets,
)
from cuesta.ops.bodies import body
from cuesta.ops.flops import flop_formula
from cuesta.ops.pad import unpad
from cuesta.ops.squares import can_read
from cuesta.ragged import Ragged, offsets_from_lengths

__all__ = ["Mask", "jagged_attention", "jagged_dense_attention", "seed_attention"]

_EVERY_KEY = Mask()


def jagged_attention(
    q: Ragged,
    k: Ragged,
    v: Ragged,
    *,
    mask: Mask = _EVERY_KEY,
    bias: Float[Tensor, "_ P"] | None = None,
    null: Float[Tensor, " H"] | None = None,
    scale: float | None = None,
    meta_longest: int | None = None,
) -> Ragged:
    """Return for each query the mean of its row's values, weighted by the softmax of its scores.

    ```
    row 0: queries q0 q1     keys k0 k1 k2     out 0 = sum over j of softmax_j(s . q0 kj) vj
    row 1: queries q2        no keys           out 2 = 0
    row 2: no queries        keys k3           nothing
    ```

    q holds [Tq, H, D], k [T, H, D] and v [T, H, C] values, D and C up to 256, in one dtype, float16,
    bfloat16, float32 or float64, that the result [Tq, H, C] has; sums are float32 or wider. Rows of
    q and k correspond; k and v have the same rows. Differentiable in all tensors.

    *Standard semantics*: out = softmax(scale * Q K^T + bias, over the keys that `mask` leaves) V
    with scale 1 / sqrt(D); a query that sees no key gives zeros. `bias`, of q's dtype, is [1 or H,
    P]: each row's queries x keys block, query by query, blocks one after another. A bias of -inf
    hides a key; where all keys of a query have the lowest finite one of float32 or bfloat16, it
    gives their mean, with gradients too large as in torch's flash attention, for its log-sum-exp
    has lost their number. `null`, a score a head in any of the dtypes, joins the softmax's sum
    without a value, so that a query may attend to nothing.

    *Meta's semantics*, those of the published kernels, where `meta_longest` is their N:
    scale 1, softmax over all keys of the row, then division by N, then `mask` without normalising
    anew (theirs is `Mask(causal=True, newest_first=True)`). Queries and keys beyond the first N of
    a row are left out; such queries give zeros.

    Raises `ValueError` naming the argument, the row and the rule where shapes, rows, dtypes or
    devices do not go together. Of what is on a GPU the numbers of offsets go unchecked, since
    reading them would wait for it: that k and v have the same rows, not just as many, and that bias
    has a number for each pair. Source: the paper, section 2; Dao, 2023, arXiv 2307.08691.

    >>> q = Ragged.from_lengths(torch.ones(3, 1, 4), [2, 1])
    >>> v = Ragged.from_lengths(torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1), [2, 1])
    >>> jagged_attention(q, q, v, mask=Mask(causal=True)).values.flatten().tolist()
    [1.0, 2.0, 5.0]
    """
    check_rows(q, k, v)
    pairs = None
    if bias is not None:
        heads = q.values.shape[1]
        is_shaped = bias.dim() == 2 and bias.shape[0] in (1, heads)
        _check_bias(bias, q.values, f"[1 or {heads}, P]", is_shaped=is_shaped)
        pairs = pair_offsets(q.lengths(), k.lengths())
        if can_read(pairs) and int(pairs[-1]) != bias.shape[1]:
            raise ValueError(
                f"bias must hold a number for each of the rows' {int(pairs[-1])} pairs of a query "
                f"and a key, got {bias.shape[1]}"
            )
    if meta_longest is not None and meta_longest < 1:
        raise ValueError(f"meta_longest must be at least 1, got {meta_longest}")
    if scale is None:
        scale = 1.0 if meta_longest else q.values.shape[2] ** -0.5
    out = _attend(
        q.values, k, v, q.offsets, bias, pairs,
        mask.band(), scale, longest=meta_longest or 0, null=null,
    )  # fmt: skip
    return Ragged(out, q.offsets)


def seed_attention(
    seeds: Float[Tensor, "K H D"],
    k: Ragged,
    v: Ragged,
    *,
    null: Float[Tensor, " H"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B K H C"]:
    """Return for each row what each of K queries, the same for all rows, attends to.

    seeds [K, H, D], k [T, H, D] and v [T, H, C] values as in `jagged_attention`; rows without keys
    give zeros. The gradient of the seeds is summed over the rows in their order. Raises `ValueError`
    as `jagged_attention` does. Source: pooling by multi-head attention of Lee et al., 2019, arXiv
    1810.00825, equation 11.

    >>> rows = Ragged.from_lengths(torch.ones(3, 1, 2), [3, 0])
    >>> seed_attention(torch.zeros(1, 1, 2), rows, rows).tolist()
    [[[[1.0, 1.0]]], [[[0.0, 0.0]]]]
    """
    if seeds.dim() != 3:
        raise ValueError(f"seeds must be [K, H, D], got {tuple(seeds.shape)}")
    check_heads(seeds, k, v)
    scale = seeds.shape[2] ** -0.5 if scale is None else scale
    out = _attend(seeds, k, v, None, None, None, _EVERY_KEY.band(), scale, longest=0, null=null)
    return out.unflatten(0, (k.num_rows, seeds.shape[0]))


def jagged_dense_attention(
    q: Float[Tensor, "B K H D"],
    k: Ragged,
    v: Ragged,
    *,
    bias: Float[Tensor, "B L K"] | None = None,
    null: Float[Tensor, " H"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B K H C"]:
    """Return for each row what each of its own K queries attends to: a softmax along the ragged
    axis.

    q [B, K, H, D], k [T, H, D] and v [T, H, C] values as in `jagged_attention`; bias[b, j], of q's
    dtype, is added to the scores of row b's key j in every head, L being at least the longest row.
    The published jagged_dense_flash_attention is this with one head and `scale=1`. Rows without
    keys give zeros. Raises `ValueError` as `jagged_attention` does, and naming a row longer than L,
    except on a GPU, where the biases that it lacks count as zeros. Source: Xu et al., RecSys 2024,
    arXiv 2409.15373, section 2.

    >>> rows = Ragged.from_lengths(torch.ones(3, 1, 2), [3, 0])
    >>> jagged_dense_attention(torch.zeros(2, 1, 1, 2), rows, rows).flatten().tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    if q.dim() != 4 or q.shape[0] != k.num_rows:
        raise ValueError(
            f"q must be [B, K, H, D] with the {k.num_rows} rows of k, got {tuple(q.shape)}"
        )
    num_rows, num_queries = q.shape[:2]
    q_offsets = torch.arange(num_rows + 1, device=q.device) * num_queries
    queries = Ragged(q.flatten(0, 1), q_offsets)
    check_rows(queries, k, v)
    flat = pairs = None
    if bias is not None:
        is_shaped = bias.dim() == 3 and (bias.shape[0], bias.shape[2]) == (num_rows, num_queries)
        _check_bias(bias, q, f"[{num_rows}, L, {num_queries}]", is_shaped=is_shaped)
        flat, pairs = _flat_bias(bias, k), k.offsets * num_queries
    scale = q.shape[3] ** -0.5 if scale is None else scale
    band = _EVERY_KEY.band()
    out = _attend(queries.values, k, v, q_offsets, flat, pairs, band, scale, longest=0, null=null)
    return out.unflatten(0, (num_rows, num_queries))


def _check_bias(bias: Tensor, q: Tensor, shape: str, *, is_shaped: bool) -> None:
    if not is_shaped or bias.dtype is not q.dtype or bias.device != q.device:
        raise ValueError(
            f"bias must be {shape} in {q.dtype} on {q.device}, "
            f"got {tuple(bias.shape)} in {bias.dtype} on {bias.device}"
        )


def _flat_bias(bias: Float[Tensor, "B L K"], k: Ragged) -> Float[Tensor, "1 P"]:
    """Return the biases of each row's queries x keys block, query by query."""
    num_rows, longest, num_queries = bias.shape
    lengths = k.lengths()
    if can_read(lengths) and num_rows and int(lengths.max()) > longest:
        row = int(lengths.argmax())
        raise ValueError(
            f"row {row} has {int(lengths[row])} keys, but bias is for at most {longest}"
        )
    repeated = lengths.repeat_interleave(num_queries, output_size=num_rows * num_queries)
    blocks = bias.transpose(1, 2).reshape(num_rows * num_queries, longest)
    num_pairs = k.values.shape[0] * num_queries
    return unpad(blocks, offsets_from_lengths(repeated), num_values=num_pairs).values[None]


def _attend(
    q: Tensor,
    k: Ragged,
    v: Ragged,
    q_offsets: Tensor | None,
    bias: Tensor | None,
    pairs: Tensor | None,
    band: Band,
    scale: float,
    *,
    longest: int,
    null: Tensor | None,
) -> Tensor:
    if null is not None:
        _check_null(null, q)
    out, lse = torch.ops.cuesta.jagged_attention(
        q, k.values, v.values, q_offsets, k.offsets, bias, pairs, *band, scale, longest
    )
    if null is not None:
        out = out * torch.sigmoid(lse - null)[:, :, None].to(out.dtype)
    return out


def _check_null(null: Tensor, q: Tensor) -> None:
    if null.shape != q.shape[1:2] or null.dtype not in FLOATS or null.device != q.device:
        raise ValueError(
            f"null must be [{q.shape[1]}] in float16, bfloat16, float32 or float64 on {q.device}, "
            f"got {tuple(null.shape)} in {null.dtype} on {null.device}"
        )


@torch.library.custom_op("cuesta::jagged_attention", mutates_args=())
def _jagged_attention(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor | None, offsets: Tensor,
    bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return body("jagged_attention", q).jagged_attention(
        q, k, v, q_offsets, offsets, None if bias is None else bias.contiguous(), pairs,
        before, after, aligns_last, scale, longest,
    )  # fmt: skip


@_jagged_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor | None, offsets: Tensor,
    bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    num_out = q.shape[0] if q_offsets is not None else q.shape[0] * (offsets.numel() - 1)
    out = q.new_empty(num_out, v.shape[1], v.shape[2])
    wide = torch.promote_types(q.dtype, torch.float32)
    return out, q.new_empty(num_out, v.shape[1], dtype=wide)


@torch.library.custom_op("cuesta::jagged_attention_backward", mutates_args=())
def _jagged_attention_backward(
    grad: Tensor, lse_grad: Tensor,
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    q_offsets: Tensor | None, offsets: Tensor, bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return body("jagged_attention", q).jagged_attention_backward(
        grad.contiguous(), lse_grad.contiguous(), q, k, v, out.contiguous(), lse.contiguous(),
        q_offsets, offsets, None if bias is None else bias.contiguous(), pairs,
        before, after, aligns_last, scale, longest,
    )  # fmt: skip


@_jagged_attention_backward.register_fake
def _(
    grad: Tensor, lse_grad: Tensor,
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    q_offsets: Tensor | None, offsets: Tensor, bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dbias = q.new_empty(q.shape[1], 0 if bias is None else bias.shape[1])
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dbias


_Inputs = tuple[
    Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None,
    int, int, bool, float, int,
]  # fmt: skip


def _setup(ctx: Context, inputs: _Inputs, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, q_offsets, offsets, bias, pairs, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, q_offsets, offsets, bias, pairs)


def _backward(ctx: Context, grad: Tensor, lse_grad: Tensor) -> tuple[Tensor | None, ...]:
    *_saved, bias, _ = ctx.saved_tensors
    dq, dk, dv, dbias = torch.ops.cuesta.jagged_attention_backward(
        grad, lse_grad, *ctx.saved_tensors, *ctx.settings
    )
    if bias is not None and bias.shape[0] < dbias.shape[0]:
        dbias = dbias.sum(0, keepdim=True)
    return dq, dk, dv, None, None, (None if bias is None else dbias), *(None,) * 6


_jagged_attention.register_autograd(_backward, setup_context=_setup)


@flop_formula(torch.ops.cuesta.jagged_attention, get_raw=True)
def _flops(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor | None, offsets: Tensor,
    bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int, **_: object,
) -> int:  # fmt: skip
    band = Band(before, after, aligns_last)
    return count_flops(q, k, v, q_offsets, offsets, band, longest=longest)


@flop_formula(torch.ops.cuesta.jagged_attention_backward, get_raw=True)
def _flops_backward(
    grad: Tensor, lse_grad: Tensor,
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    q_offsets: Tensor | None, offsets: Tensor, bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int, **_: object,
) -> int:  # fmt: skip
    band = Band(before, after, aligns_last)
    return count_flops(q, k, v, q_offsets, offsets, band, longest=longest, is_backward=True)
