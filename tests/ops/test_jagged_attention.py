"""jagged_attention and its kin: twins forward and backward, torch's own attention, the published
formulas, and the laws of rows.
"""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cuesta.ops import (
    Mask,
    force_body,
    jagged_attention,
    jagged_dense_attention,
    seed_attention,
)
from cuesta.ragged import Ragged
from tests.laws import permuted, row_lengths, seeds
from tests.twins import assert_twins, with_gradients

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
QUERIES, KEYS = [3, 0, 40, 1, 70, 64, 17, 5, 0], [3, 4, 40, 1, 170, 30, 130, 0, 0]
WIDTHS = [(2, 64, 64), (1, 21, 5), (3, 32, 48), (1, 16, 130), (1, 256, 256)]  # heads, D, C
MASKS = {
    "every key": Mask(),
    "causal": Mask(causal=True),
    "newest first": Mask(causal=True, newest_first=True),
    "window": Mask(window=5),
    "causal window": Mask(causal=True, window=40),
}
rows = Ragged.from_lengths


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make(
    queries: list[int], keys: list[int], widths: tuple[int, int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    heads, width, value_width = widths
    q = random(sum(queries), heads, width, dtype=dtype, seed=1)
    k = random(sum(keys), heads, width, dtype=dtype, seed=2)
    return q, k, random(sum(keys), heads, value_width, dtype=dtype, seed=3)


def attend(
    queries: list[int] = QUERIES, keys: list[int] = KEYS, **settings: object
) -> Callable[..., Tensor]:
    """Return attention as a function of values alone: q, k, v, then bias and null if wanted."""

    def run(q: Tensor, k: Tensor, v: Tensor, *more: Tensor) -> Tensor:
        extra = dict(zip(("bias", "null"), more, strict=False))
        key_rows = rows(k, keys)
        value_rows = key_rows.with_values(v)
        return jagged_attention(rows(q, queries), key_rows, value_rows, **settings, **extra).values

    return run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.usefixtures("engine")
def test_bodies_are_twins(widths: tuple[int, int, int], mask: str, dtype: torch.dtype) -> None:
    values = make(QUERIES, KEYS, widths, dtype)
    assert_twins(with_gradients(attend(mask=MASKS[mask]), [0, 1, 2]), *values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("longest", [20, 64, 200])
@pytest.mark.parametrize("mask", ["every key", "causal", "newest first"])
@pytest.mark.usefixtures("engine")
def test_bodies_are_twins_in_metas_semantics(mask: str, longest: int, dtype: torch.dtype) -> None:
    values = make(QUERIES, KEYS, (2, 32, 32), dtype)
    run = attend(mask=MASKS[mask], meta_longest=longest, scale=0.2)
    assert_twins(with_gradients(run, [0, 1, 2]), *values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias_heads", [1, 8])
@pytest.mark.parametrize("settings", [{}, {"mask": Mask(window=9)}, {"meta_longest": 50}], ids=str)
@pytest.mark.usefixtures("engine")
def test_bodies_are_twins_with_a_bias_and_a_null(
    settings: dict[str, object], bias_heads: int, dtype: torch.dtype
) -> None:
    num_pairs = sum(a * b for a, b in zip(QUERIES, KEYS, strict=True))
    bias, null = random(bias_heads, num_pairs, dtype=dtype), random(8, dtype=dtype)
    values = make(QUERIES, KEYS, (8, 16, 24), dtype)
    assert_twins(with_gradients(attend(**settings), [0, 1, 2, 3, 4]), *values, bias, null)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_seeds", [1, 20, 70])
@pytest.mark.usefixtures("engine")
def test_bodies_of_seed_attention_are_twins(num_seeds: int, dtype: torch.dtype) -> None:
    _, k, v = make(QUERIES, KEYS, (8, 32, 20), dtype)

    def run(q: Tensor, k: Tensor, v: Tensor, null: Tensor) -> Tensor:
        return seed_attention(q, rows(k, KEYS), rows(v, KEYS), null=null)

    q, null = random(num_seeds, 8, 32, dtype=dtype), random(8, dtype=dtype)
    assert_twins(with_gradients(run, [0, 1, 2, 3]), q, k, v, null)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("engine")
def test_bodies_of_jagged_dense_attention_are_twins(dtype: torch.dtype) -> None:
    _, k, v = make(QUERIES, KEYS, (2, 32, 20), dtype)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return jagged_dense_attention(q, rows(k, KEYS), rows(v, KEYS), bias=bias, scale=1.0)

    q, bias = random(9, 7, 2, 32, dtype=dtype) * 0.2, random(9, 171, 7, dtype=dtype)
    assert_twins(with_gradients(run, [0, 1, 2, 3]), q, k, v, bias)


@pytest.mark.parametrize("lengths", [[], [0, 0], [700]], ids=["no rows", "empty rows", "one row"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("engine")
def test_no_rows_empty_rows_and_one_row_that_holds_everything(
    lengths: list[int], dtype: torch.dtype
) -> None:
    values = make(lengths, lengths, (1, 32, 32), dtype)
    assert_twins(with_gradients(attend(lengths, lengths), [0, 1, 2]), *values)
    _, k, v = values
    pooled = seed_attention(random(4, 1, 32, dtype=dtype), rows(k, lengths), rows(v, lengths))
    assert pooled.shape == (len(lengths), 4, 1, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_reference_of_16_bits_rounds_no_score(dtype: torch.dtype) -> None:
    values = make([5], [7], (2, 16, 24), dtype)
    rest = (torch.tensor([0, 5]), torch.tensor([0, 7]), None, None, *Mask().band(), 0.25, 0)
    with force_body("reference"):
        _, narrow = torch.ops.cuesta.jagged_attention(*values, *rest)
        _, wide = torch.ops.cuesta.jagged_attention(*(each.float() for each in values), *rest)
    assert torch.equal(narrow, wide)


@pytest.mark.parametrize("body", ["reference", "cpu"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_standard_semantics_are_torchs(is_causal: bool, body: str) -> None:
    lengths = [5, 0, 90, 1]
    q, k, v = make(lengths, lengths, (2, 16, 16), torch.float32)
    with force_body(body):
        out = rows(attend(lengths, lengths, mask=Mask(causal=is_causal))(q, k, v), lengths)
    for row, parts in enumerate(zip(*(each.split(lengths) for each in (q, k, v)), strict=True)):
        if lengths[row]:
            heads_first = (part.transpose(0, 1)[None] for part in parts)
            theirs = F.scaled_dot_product_attention(*heads_first, is_causal=is_causal)
            torch.testing.assert_close(out.row(row), theirs[0].transpose(0, 1))


@pytest.mark.parametrize("body", ["reference", "cpu"])
@pytest.mark.parametrize("is_masked", [False, True])
def test_metas_semantics_are_the_published_formulas(is_masked: bool, body: str) -> None:
    """O = (softmax(Q K^T) / N * mask) V without a scale, keys j >= i kept; dS = P' (dP - N D)."""
    longest, length = 50, 37
    values = make([length], [length], (1, 16, 16), torch.float32)
    leaves = [each.requires_grad_() for each in values]
    q, k, v = (each[:, 0].double() for each in values)
    grad = random(length, 16, seed=4).double()
    kept = torch.ones(length, length).triu() if is_masked else torch.ones(length, length)
    softmax = torch.softmax(q @ k.T, 1) / longest
    expected = (softmax * kept) @ v
    delta = (expected * grad).sum(1, keepdim=True)
    moved = (grad @ v.T) * kept
    slopes = softmax * (moved - longest * delta)
    gradients = slopes @ k, slopes.T @ q, (softmax * kept).T @ grad
    mask = Mask(causal=is_masked, newest_first=True)
    with force_body(body):
        out = attend([length], [length], mask=mask, meta_longest=longest)(*leaves)
        ours = torch.autograd.grad(out, leaves, grad.float()[:, None])
    torch.testing.assert_close(out[:, 0], expected.float())
    for mine, theirs in zip(ours, gradients, strict=True):
        torch.testing.assert_close(mine[:, 0], theirs.float())


@pytest.mark.parametrize("body", ["reference", "cpu"])
def test_metas_rows_end_at_the_longest(body: str) -> None:
    q, k, v = make([30], [40], (1, 16, 16), torch.float32)
    with force_body(body):
        out = attend([30], [40], meta_longest=12)(q, k, v)
        first = attend([12], [12], meta_longest=12)(q[:12], k[:12], v[:12])
    assert torch.equal(out[:12], first)
    assert out[12:].count_nonzero() == 0


@pytest.mark.parametrize("body", ["reference", "cpu"])
def test_fewer_queries_are_the_newest_of_their_row(body: str) -> None:
    q, k, v = make([9], [9], (1, 16, 16), torch.float32)
    mask = Mask(causal=True, window=3)
    with force_body(body):
        whole = attend([9], [9], mask=mask)(q, k, v)
        last = attend([4], [9], mask=mask)(q[5:], k, v)
    torch.testing.assert_close(last, whole[5:])


def test_a_query_that_sees_no_key_gives_zeros_and_moves_nothing() -> None:
    q, k, v = (each.requires_grad_() for each in make([6, 2], [3, 0], (1, 16, 16), torch.float32))
    for body in ("reference", "cpu"):
        with force_body(body):
            out = attend([6, 2], [3, 0], mask=Mask(causal=True))(q, k, v)
            grads = torch.autograd.grad(out.sum(), (q, k, v))
        assert out[[0, 1, 2, 6, 7]].count_nonzero() == 0
        assert grads[0][[0, 1, 2, 6, 7]].count_nonzero() == 0
        assert all(bool(grad.isfinite().all()) for grad in grads)


def test_a_null_takes_its_share_of_the_softmax() -> None:
    q, k, v = make([3], [5], (1, 16, 16), torch.float64)
    out = attend([3], [5])(q, k, v, None, torch.tensor([0.3], dtype=torch.float64))
    scores = torch.cat([q[:, 0] @ k[:, 0].T / 4, torch.full((3, 1), 0.3)], 1)
    torch.testing.assert_close(out[:, 0], torch.softmax(scores, 1)[:, :5] @ v[:, 0])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask": Mask(causal=True, window=1)},
        {"meta_longest": 3, "mask": Mask(causal=True, newest_first=True)},
    ],
    ids=str,
)
def test_gradients_pass_gradcheck(settings: dict[str, object]) -> None:
    queries, keys = [2, 0, 3, 1], [4, 2, 0, 3]
    values = make(queries, keys, (2, 3, 4), torch.float64)
    more = random(2, 11, dtype=torch.float64), random(2, dtype=torch.float64)
    leaves = [each.requires_grad_() for each in (*values, *more)]
    torch.autograd.gradcheck(attend(queries, keys, **settings), leaves)


def test_gradients_of_dense_queries_pass_gradcheck() -> None:
    _, k, v = make([], [4, 0, 3], (2, 3, 4), torch.float64)
    shared, own = random(2, 2, 3, dtype=torch.float64), random(3, 2, 2, 3, dtype=torch.float64)
    bias = random(3, 5, 2, dtype=torch.float64)
    leaves = [each.requires_grad_() for each in (shared, own, k, v, bias)]

    def run(shared: Tensor, own: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        key_rows, value_rows = rows(k, [4, 0, 3]), rows(v, [4, 0, 3])
        pooled = seed_attention(shared, key_rows, value_rows)
        return pooled + jagged_dense_attention(own, key_rows, value_rows, bias=bias)

    torch.autograd.gradcheck(run, leaves)


@given(lengths=row_lengths(), seed=seeds, is_causal=st.booleans())
def test_permuting_rows_permutes_the_result(lengths: list[int], seed: int, is_causal: bool) -> None:
    order = permuted(len(lengths), seed)
    parts = [rows(each, lengths) for each in make(lengths, lengths, (2, 16, 16), torch.float32)]
    mask = Mask(causal=is_causal)
    expected = jagged_attention(*parts, mask=mask).select_rows(order)
    actual = jagged_attention(*(part.select_rows(order) for part in parts), mask=mask)
    assert torch.equal(actual.values, expected.values)


@given(lengths=row_lengths(), seed=seeds)
def test_permuting_keys_changes_only_rounding(lengths: list[int], seed: int) -> None:
    q, k, v = make(lengths, lengths, (1, 16, 16), torch.float64)
    begins = torch.tensor([0, *lengths]).cumsum(0)[:-1].tolist()
    order = torch.cat(
        [torch.zeros(0, dtype=torch.int64)]
        + [permuted(n, seed) + begin for n, begin in zip(lengths, begins, strict=True)]
    )
    run = attend(lengths, lengths)
    torch.testing.assert_close(run(q, k[order], v[order]), run(q, k, v))


@given(lengths=row_lengths())
def test_equal_scores_give_the_mean(lengths: list[int]) -> None:
    _, k, v = make(lengths, lengths, (1, 16, 16), torch.float32)
    values = rows(v, lengths)
    out = jagged_attention(values.with_values(torch.zeros_like(k)), values.with_values(k), values)
    for row in range(len(lengths)):
        if lengths[row]:
            mean = values.row(row).mean(0).expand(lengths[row], 1, 16)
            torch.testing.assert_close(out.row(row), mean)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    values = make(QUERIES, KEYS, (2, 32, 32), dtype)
    shared = random(5, 2, 32, dtype=dtype)

    def pool(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return seed_attention(q, rows(k, KEYS), rows(v, KEYS))

    for run, inputs in ((attend(), values), (pool, (shared, *values[1:]))):
        both = with_gradients(run, [0, 1, 2])
        torch.set_num_threads(1)
        alone = both(*inputs)
        torch.set_num_threads(2)
        shared = [both(*inputs)]
        for num_tasks in (5, 16):
            with patch("cuesta.ops.attended_rows_cpu.num_threads", return_value=num_tasks):
                shared.append(both(*inputs))
        for other in shared:
            assert all(torch.equal(a, b) for a, b in zip(other, alone, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.usefixtures("engine")
def test_parts_of_a_joint_projection_are_as_good_as_copies(axis: int, dtype: torch.dtype) -> None:
    lengths = [5, 0, 9, 40]
    parts = random(54, 2, 16, 3, dtype=dtype).movedim(-1, axis).contiguous().unbind(axis)
    run = with_gradients(attend(lengths, lengths), [0, 1, 2])
    copies = [each.contiguous() for each in parts]
    for ours, expected in zip(run(*parts), run(*copies), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("engine")
def test_nan_stays_in_its_row(dtype: torch.dtype) -> None:
    lengths = [20, 30]
    values = make(lengths, lengths, (1, 16, 16), dtype)
    run = with_gradients(attend(lengths, lengths), [0, 1, 2])
    clean = run(*values)
    values[1][3, 0, 2] = torch.nan
    for before, after in zip(clean, run(*values), strict=True):
        assert bool(after[:20].isnan().all())
        assert torch.equal(after[20:], before[20:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lowest", ["finite", "infinite"])
@pytest.mark.usefixtures("engine")
def test_bodies_are_twins_where_every_key_of_a_query_has_the_lowest_bias(
    lowest: str, dtype: torch.dtype
) -> None:
    bias, is_low = padding_bias(lowest, dtype)
    q, k, v = make([5, 3], [40, 7], (2, 16, 24), dtype)
    run = attend([5, 3], [40, 7])
    assert_twins(run, q, k, v, bias)
    out = run(q, k, v, bias)
    cotangent = random(*out.shape, seed=7).to(dtype).masked_fill_(is_low[:, None, None], 0.0)

    def gradients(*inputs: Tensor) -> list[Tensor]:  # of what is not padding
        leaves = [each.detach().requires_grad_() for each in inputs]
        return list(torch.autograd.grad(run(*leaves), leaves, cotangent.to(leaves[0].dtype)))

    assert_twins(gradients, q, k, v, bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("body", ["reference", "cpu"])
@pytest.mark.usefixtures("engine")
def test_lowest_biases_give_torchs_mean_and_infinite_ones_zeros(
    body: str, dtype: torch.dtype
) -> None:
    values = make([5, 3], [40, 7], (2, 16, 24), dtype)
    v = values[2]
    mean = torch.cat([v[:40].mean(0).expand(5, 2, 24), v[40:].mean(0).expand(3, 2, 24)])
    for lowest, expected in (("finite", mean), ("infinite", torch.zeros_like(mean))):
        bias, is_low = padding_bias(lowest, dtype)
        with force_body(body):
            out = attend([5, 3], [40, 7])(*values, bias)
        torch.testing.assert_close(out[is_low], expected[is_low])


def padding_bias(lowest: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return biases of 5 x 40 and 3 x 7 pairs, the lowest for all keys of two queries and for some
    of the others, and which queries those two are.
    """
    number = torch.finfo(dtype).min if lowest == "finite" else -torch.inf
    blocks = random(5, 40, dtype=dtype), random(3, 7, dtype=dtype, seed=1)
    blocks[0][1] = blocks[1][2] = blocks[0][3, 30:] = blocks[1][0, :5] = number
    is_low = torch.zeros(8, dtype=torch.bool)
    is_low[1] = is_low[7] = True
    return torch.cat([each.flatten() for each in blocks])[None], is_low


def test_mistakes_are_named() -> None:
    q, k, v = make([2, 1], [2, 1], (2, 16, 16), torch.float32)
    good = rows(q, [2, 1]), rows(k, [2, 1]), rows(v, [2, 1])
    with pytest.raises(ValueError, match=r"q has 3 rows and k has 2: row 2 is in one of them"):
        jagged_attention(rows(q, [1, 1, 1]), *good[1:])
    with pytest.raises(ValueError, match=r"row 0 has 2 keys \(k\) but 1 values \(v\)"):
        jagged_attention(*good[:2], rows(v, [1, 2]))
    with pytest.raises(ValueError, match=r"k has 2 rows and v has 3"):
        jagged_attention(*good[:2], rows(v, [1, 1, 1]))
    wide = rows(random(3, 2, 300), [2, 1])
    with pytest.raises(ValueError, match=r"head dimension of q must be 1 to 256, got 300"):
        jagged_attention(wide, wide, wide)
    with pytest.raises(ValueError, match=r"q has head dimension 16, k has 8"):
        jagged_attention(good[0], rows(k[:, :, :8], [2, 1]), good[2])
    with pytest.raises(ValueError, match=r"q is torch\.float32 on cpu, v is torch\.float16 on cpu"):
        jagged_attention(*good[:2], rows(v.half(), [2, 1]))
    with pytest.raises(
        ValueError, match=r"q is torch\.float32 on cpu, k is torch\.float32 on meta"
    ):
        jagged_attention(good[0], *(each.to("meta") for each in good[1:]))
    with pytest.raises(ValueError, match=r"q has 2 heads, k has 1; they must be equal"):
        jagged_attention(good[0], rows(k[:, :1], [2, 1]), good[2])
    with pytest.raises(ValueError, match=r"k must hold \[T, H, D\] values, got \(3, 32\)"):
        jagged_attention(good[0], rows(k.flatten(1), [2, 1]), good[2])
    for flat in (q.flatten(1), q[:, None]):
        with pytest.raises(ValueError, match=r"q must hold \[Tq, H, D\] values, got \(3, "):
            jagged_attention(rows(flat, [2, 1]), *good[1:])
    for dtype in (torch.int64, torch.float8_e4m3fn):
        with pytest.raises(ValueError, match=rf"q must be float16, bfloat16, .* got {dtype}"):
            jagged_attention(*(rows(each.to(dtype), [2, 1]) for each in (q, k, v)))
    on_meta = [rows(each, [2, 1]).to("meta") for each in (q, k, v)]
    longer = on_meta[2].with_values(torch.ones(4, 2, 16, device="meta"))  # of the same offsets
    with pytest.raises(ValueError, match=r"k holds 3 keys and v 4 values; they must be equal"):
        jagged_attention(*on_meta[:2], longer)
    with pytest.raises(ValueError, match=r"bias must be .* on cpu, got \(1, 5\) .* on meta"):
        jagged_attention(*good, bias=torch.zeros(1, 5, device="meta"))
    with pytest.raises(ValueError, match=r"bias must be .* got \(1, 5\) in torch\.float16 on cpu"):
        jagged_attention(*good, bias=torch.zeros(1, 5).half())
    with pytest.raises(ValueError, match=r"bias must hold a number for each of the rows' 5 pairs"):
        jagged_attention(*good, bias=torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"bias must be \[1 or 2, P\] in torch\.float32 on cpu"):
        jagged_attention(*good, bias=torch.zeros(3, 5))
    for null in (torch.zeros(3), torch.zeros(2).long(), torch.zeros(2, device="meta")):
        with (
            patch("cuesta.ops.jagged_attention.body", side_effect=AssertionError("it ran")),
            pytest.raises(ValueError, match=r"null must be \[2\] in float16, .* on cpu, got"),
        ):
            jagged_attention(*good, null=null)
    with pytest.raises(ValueError, match=r"meta_longest must be at least 1, got 0"):
        jagged_attention(*good, meta_longest=0)
    with pytest.raises(ValueError, match=r"window must not be negative, got -1"):
        Mask(window=-1)
    with pytest.raises(ValueError, match=r"offsets must never fall, but row 1 runs from 3 to 2"):
        Ragged(q, torch.tensor([0, 3, 2, 3]))
    with pytest.raises(ValueError, match=r"offsets must end at the number of values, 3"):
        Ragged(q, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"seeds must be \[K, H, D\], got \(2, 16\)"):
        seed_attention(torch.zeros(2, 16), *good[1:])
    with pytest.raises(ValueError, match=r"q must be \[B, K, H, D\] with the 2 rows of k"):
        jagged_dense_attention(torch.zeros(3, 1, 2, 16), *good[1:])
    dense = torch.zeros(2, 1, 2, 16)
    with pytest.raises(ValueError, match=r"row 0 has 2 keys, but bias is for at most 1"):
        jagged_dense_attention(dense, *good[1:], bias=torch.zeros(2, 1, 1))
    for bias in (torch.zeros(()), torch.zeros(2, 2), torch.zeros(2, 2, 1, device="meta")):
        with pytest.raises(ValueError, match=r"bias must be \[2, L, 1\] in torch\.float32 on cpu"):
            jagged_dense_attention(dense, *good[1:], bias=bias)
