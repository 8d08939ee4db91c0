"""The Triton bodies on three rungs: the interpreter, compilation, and a GPU where there is one.

Where there is a GPU, `pytest tests/ops/test_gpu_bodies.py` runs the twins on it. Everywhere they
also run in Triton's interpreter, in a process of its own since Triton reads TRITON_INTERPRET when
imported; float32 and float16 alone, since the interpreter is silently wrong on bfloat16.
Compilation needs no GPU.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cuesta.ops import (
    SGD,
    Adagrad,
    Lookup,
    Mask,
    PartialRowwiseAdam,
    RowwiseAdagrad,
    TableLayout,
    TableOptimizer,
    TableState,
    array_jagged_bmm_jagged_out,
    dense_jagged_cat_jagged_out,
    dot_interaction,
    embedding_bag,
    embedding_rows,
    embedding_update,
    force_body,
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
    pad,
    seed_attention,
    segment_reduce,
    unpad,
)
from cuesta.ops.gdpa.activations import FORMULAS, Activation
from cuesta.ragged import Ragged
from tests.twins import assert_twins

pytest.importorskip("triton", reason="Triton is for Linux")
import triton
import triton.language as tl

from cuesta.ops import attended_rows_triton
from cuesta.ops.embedding_update import gpu, reference
from tests.ops import triton_aot

random_bits = gpu.random_bits

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_GPU = torch.cuda.is_available() and not IS_INTERPRETED
DEVICE = "cuda" if HAS_GPU else "cpu"
DTYPES = (torch.float32, torch.float16, *([torch.bfloat16] if HAS_GPU else []))

runs = pytest.mark.skipif(
    not (IS_INTERPRETED or HAS_GPU),
    reason="no GPU; the interpreter runs this in a process of its own",
)
compiles = pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter compiles nothing")
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset")

ALIGNED = TableLayout(
    rows=(7, 300), dims=(16, 64), features=(0, 1, 1), poolings=("sum", "mean", "sum")
)
MIXED = TableLayout(rows=(7, 300), dims=(5, 21), features=(1, 0), poolings=("mean", "sum"))
SAME = TableLayout(rows=(7, 300), dims=(21, 21), features=(1, 0), poolings=("sum", "sum"))
LAYOUTS = pytest.mark.parametrize("layout", [ALIGNED, MIXED], ids=["aligned", "mixed"])
KINDS = (SGD, Adagrad, RowwiseAdagrad, PartialRowwiseAdam)
LENGTHS = [3, 0, 260, 1]  # an empty row, and one of several runs

SIDES = [[3, 0, 40, 1], [17, 17, 17], [0, 0], []]

Lengths = tuple[list[int], list[int]]

# Queries and keys of rows: fewer of either, none of either, several tiles of both.
ATTENDED = ([3, 0, 1, 70, 5], [4, 2, 0, 90, 1])
LONG = ([150, 3], [140, 90])  # of tiles for long rows
NOTHING = [([], []), ([0, 0], [0, 0]), ([2, 1], [0, 0]), ([0, 0], [2, 1])]
MASKS = [
    Mask(),
    Mask(causal=True),
    Mask(causal=True, newest_first=True),
    Mask(window=3),
    Mask(causal=True, window=40),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def ragged(lengths: list[int], dim: int, dtype: torch.dtype) -> Ragged:
    return Ragged.from_lengths(random(sum(lengths), dim).to(dtype), lengths)


def lookup(layout: TableLayout, num_rows: int) -> Lookup:
    """Return a weighted lookup of ids that repeat; bags are short, empty, and one is long."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 5, (len(layout.features), num_rows), generator=generator)
    lengths[:, -1:] = 0
    lengths[0, :1] = 12
    sizes = torch.tensor([layout.rows[table] for table in layout.features])
    sizes = sizes.repeat_interleave(lengths.sum(1))
    ids = (torch.rand(sizes.numel(), generator=generator) ** 3 * sizes).long()
    offsets = torch.nn.functional.pad(lengths.flatten().cumsum(0), (1, 0))
    weights = torch.rand(ids.numel(), generator=generator)
    grad = random(num_rows, layout.width)
    return Lookup(layout, ids.to(DEVICE), offsets.to(DEVICE), grad, weights.to(DEVICE))


def updated(weight: Tensor, parts: list[Lookup], optimizer: TableOptimizer) -> list[Tensor]:
    state = TableState.fresh(weight.clone(), parts[0].layout, optimizer)
    for step in (1, 2):
        embedding_update(state, parts, optimizer, step=step)
    return list(state)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", ["sum", "mean", "max"])
@pytest.mark.parametrize(("lengths", "dim"), [(LENGTHS, 21), ([2, 0, 5], 64), ([0, 0], 3), ([], 1)])
def test_segment_reduce_is_a_twin(
    lengths: list[int], dim: int, how: str, dtype: torch.dtype
) -> None:
    rows = ragged(lengths, dim, dtype)

    def run(values: Tensor, slope: Tensor) -> list[Tensor]:
        leaf = values.detach().requires_grad_()
        out = segment_reduce(rows.with_values(leaf), how)
        return [out, *torch.autograd.grad(out, leaf, slope)]

    assert_twins(run, rows.values, random(len(lengths), dim, seed=1).to(dtype), body="gpu")


@runs
def test_the_largest_value_is_nan_if_there_is_one() -> None:
    values = torch.tensor([[1.0], [float("nan")], [2.0], [-float("inf")]], device=DEVICE)
    values.requires_grad_()
    with force_body("gpu"):
        out = segment_reduce(Ragged.from_lengths(values, [3, 1]), "max")
        out.sum().backward()
    assert out[0].isnan()
    assert out[1] == -float("inf")
    assert values.grad.flatten().tolist() == [0, 1, 0, 1]


@runs
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize(("lengths", "dim"), [(LENGTHS, 21), ([0, 0], 64), ([], 1)])
@pytest.mark.parametrize("longest", [None, 2])
def test_pad_and_unpad_are_twins(
    lengths: list[int], dim: int, longest: int | None, dtype: torch.dtype
) -> None:
    rows = ragged(lengths, dim, dtype)

    def run(values: Tensor) -> list[Tensor]:
        padded = pad(rows.with_values(values), longest=longest, padding=1.0)
        return [padded, unpad(padded, rows.offsets).values]

    assert_twins(run, rows.values, body="gpu")


@runs
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_rows", [0, 5])
def test_embedding_bag_is_a_twin(layout: TableLayout, num_rows: int, dtype: torch.dtype) -> None:
    part = lookup(layout, num_rows)
    weight = random(layout.storage).to(dtype)

    def run(weight: Tensor, sample: Tensor, slope: Tensor) -> list[Tensor]:
        leaf = sample.detach().requires_grad_()
        plain = embedding_bag(weight, part.ids, part.offsets, layout=layout)
        out = embedding_bag(weight, part.ids, part.offsets, layout=layout, sample_weights=leaf)
        return [plain, out, *torch.autograd.grad(out, leaf, slope)]

    assert_twins(run, weight, part.sample_weights, part.grad, body="gpu")


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64], ids=str)
def test_embedding_rows_is_a_twin(ids_dtype: torch.dtype, dtype: torch.dtype) -> None:
    for layout in (SAME, replace(ALIGNED, dims=(16, 16))):
        part = lookup(layout, 5)
        ids = part.ids.to(ids_dtype)
        weight = random(layout.storage).to(dtype)
        assert_twins(
            lambda w, i=ids, p=part: embedding_rows(w, i, p.offsets, layout=p.layout),
            weight,
            body="gpu",
        )


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 26, 64), (2, 40, 70), (2, 1, 5), (0, 2, 8), (3, 0, 5)])
def test_dot_interaction_is_a_twin(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    dense, sparse = random(shape[0], shape[2]).to(dtype), random(*shape, seed=1).to(dtype)
    slope = random(shape[0], shape[2] + shape[1] * (shape[1] + 1) // 2, seed=2).to(dtype)

    def run(dense: Tensor, sparse: Tensor, slope: Tensor) -> list[Tensor]:
        leaves = [dense.detach().requires_grad_(), sparse.detach().requires_grad_()]
        out = dot_interaction(*leaves)
        return [out, *torch.autograd.grad(out, leaves, slope)]

    assert_twins(run, dense, sparse, slope, body="gpu")


def attended(
    lengths: Lengths, shape: tuple[int, int, int], dtype: torch.dtype
) -> tuple[Ragged, Ragged, Ragged, Tensor]:
    """Return q, k, v of shape (heads, dim, value dim), and a gradient of what q attends to."""
    (queries, keys), (heads, dim, value_dim) = lengths, shape
    q = random(sum(queries), heads, dim).to(dtype)
    k = random(sum(keys), heads, dim, seed=1).to(dtype)
    v = random(sum(keys), heads, value_dim, seed=2).to(dtype)
    slope = random(sum(queries), heads, value_dim, seed=3).to(dtype)
    rows = Ragged.from_lengths(k, keys)
    return Ragged.from_lengths(q, queries), rows, rows.with_values(v), slope


def differentiated(run: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """Return a function of run's inputs and a gradient that gives run's result and gradients."""

    def both(*inputs: Tensor) -> list[Tensor]:
        leaves = [each.detach().requires_grad_() for each in inputs[:-1]]
        out = run(*leaves)
        return [out, *torch.autograd.grad(out, leaves, inputs[-1])]

    return both


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("meta_longest", [None, 40])
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_jagged_attention_is_a_twin(
    mask: Mask, meta_longest: int | None, dtype: torch.dtype
) -> None:
    q, k, v, slope = attended(ATTENDED, (2, 20, 12), dtype)
    num_pairs = int((q.lengths() * k.lengths()).sum())
    bias = random(1 if mask.causal else 2, num_pairs, seed=4).to(dtype)
    null = random(2, seed=5).to(dtype)

    @differentiated
    def run(ours: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        ragged = q.with_values(ours), k.with_values(keys), v.with_values(values)
        return jagged_attention(
            *ragged, mask=mask, bias=bias, null=null.to(ours.dtype), meta_longest=meta_longest
        ).values

    assert_twins(run, q.values, k.values, v.values, bias, slope, body="gpu")


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", [Mask(), Mask(causal=True)], ids=str)
@pytest.mark.parametrize(
    ("lengths", "shape"),
    [
        *((lengths, (1, 4, 4)) for lengths in NOTHING),
        (LONG, (1, 16, 64)),
        (LONG, (1, 20, 70)),
        (([3, 40], [2, 50]), (1, 200, 256)),
    ],
    ids=str,
)
def test_attention_of_any_shape_is_a_twin(
    lengths: Lengths, shape: tuple[int, int, int], mask: Mask, dtype: torch.dtype
) -> None:
    q, k, v, slope = attended(lengths, shape, dtype)

    @differentiated
    def run(ours: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        ragged = q.with_values(ours), k.with_values(keys), v.with_values(values)
        return jagged_attention(*ragged, mask=mask, scale=-0.3).values

    assert_twins(run, q.values, k.values, v.values, slope, body="gpu")


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_seeds", [5, 70])
@pytest.mark.parametrize("lengths", [[4, 0, 90, 1, 2], [0, 0], []], ids=str)
def test_seed_attention_is_a_twin(
    lengths: list[int], num_seeds: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("cuesta.ops.jagged_attention.gpu")
    monkeypatch.setattr(module, "CHUNK_PROGRAMS", 4)  # so that a chunk has several rows
    _, k, v, _ = attended(([], lengths), (2, 20, 12), dtype)
    seeds, null = random(num_seeds, 2, 20).to(dtype), random(2, seed=5).to(dtype)
    slope = random(len(lengths), num_seeds, 2, 12, seed=3).to(dtype)

    @differentiated
    def run(seeds: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows = k.with_values(keys), v.with_values(values)
        return seed_attention(seeds, *rows, null=null.to(seeds.dtype))

    inputs = (seeds, k.values, v.values, slope)
    assert_twins(run, *inputs, body="gpu")
    if HAS_GPU:
        with force_body("gpu"):
            once, again = run(*inputs), run(*inputs)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gradient_of_null_in_attention_is_a_twin(dtype: torch.dtype) -> None:
    q, k, v, slope = attended(([3, 0, 9], [4, 2, 7]), (32, 8, 4), dtype)  # a number a head

    @differentiated
    def run(null: Tensor) -> Tensor:
        ragged = [each.with_values(each.values.to(null.dtype)) for each in (q, k, v)]
        return jagged_attention(*ragged, null=null).values

    assert_twins(run, random(32, seed=5).to(dtype), slope, body="gpu")


@runs
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, of NaN
@pytest.mark.parametrize("op", [jagged_attention, gdpa])
def test_nan_in_one_head_or_row_stays_there_in_attention(op: Callable[..., Ragged]) -> None:
    q, k, v, slope = attended(ATTENDED, (2, 20, 12), torch.float16)

    @differentiated
    def run(ours: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return op(q.with_values(ours), k.with_values(keys), v.with_values(values)).values

    inputs = (q.values, k.values, v.values, slope)
    poisoned = [each.clone() for each in inputs]
    for each in poisoned:
        each[:, 1] = each[-1:] = float("nan")
    with force_body("gpu"):
        pairs = zip(run(*inputs), run(*poisoned), strict=True)
    assert all(torch.equal(a[:-5, 0], b[:-5, 0]) for a, b in pairs)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_jagged_dense_attention_is_a_twin(dtype: torch.dtype) -> None:
    _, k, v, _ = attended(([], [4, 0, 90, 1]), (2, 20, 12), dtype)
    q, bias = random(4, 5, 2, 20).to(dtype), random(4, 95, 5, seed=4).to(dtype)
    slope = random(4, 5, 2, 12, seed=3).to(dtype)

    @differentiated
    def run(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return jagged_dense_attention(q, k.with_values(keys), v.with_values(values), bias=bias)

    assert_twins(run, q, k.values, v.values, bias, slope, body="gpu")


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("activation", "lengths", "mask"),
    [
        *((name, ATTENDED, MASKS[i % len(MASKS)]) for i, name in enumerate(FORMULAS)),
        *(("gelu_approx", lengths, Mask(causal=True)) for lengths in [LONG, *NOTHING]),
    ],
    ids=str,
)
def test_gdpa_attention_is_a_twin(
    activation: Activation, lengths: Lengths, mask: Mask, dtype: torch.dtype
) -> None:
    q, k, v, slope = attended(lengths, (2, 20, 16), dtype)

    @differentiated
    def run(ours: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        ragged = q.with_values(ours), k.with_values(keys), v.with_values(values)
        return gdpa(*ragged, activation=activation, mask=mask, scale=0.3).values

    assert_twins(run, q.values, k.values, v.values, slope, body="gpu")


def squares(sides: list[int], dtype: torch.dtype) -> Ragged:
    """Return flat squares of scores."""
    flat = ragged([side**2 for side in sides], 1, dtype)
    return flat.with_values(flat.values.flatten())


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", [(40, 70), (21, 5)])
@pytest.mark.parametrize("lengths", SIDES, ids=str)
def test_jagged_bmm_is_a_twin(
    lengths: list[int], widths: tuple[int, int], dtype: torch.dtype
) -> None:
    x, y = (ragged(lengths, width, dtype) for width in widths)
    scores, dense = squares(lengths, dtype), random(len(lengths), *widths).to(dtype)

    def assert_twin(run: Callable[[Tensor, Tensor], Tensor], *operands: Tensor) -> None:
        slope = random(*run(*operands).shape, seed=1).to(dtype)
        assert_twins(differentiated(run), *operands, slope, body="gpu")

    assert_twin(lambda a, b: jagged_dense_bmm(x.with_values(a), b).values, x.values, dense)
    assert_twin(
        lambda a, b: jagged_jagged_bmm(x.with_values(a), y.with_values(b)), x.values, y.values
    )
    assert_twin(
        lambda a, b: jagged_jagged_bmm_jagged_out(x.with_values(a), x.with_values(b)).values,
        x.values,
        x.values.flip(1),
    )
    assert_twin(
        lambda a, b: array_jagged_bmm_jagged_out(scores.with_values(a), x.with_values(b)).values,
        scores.values,
        x.values,
    )


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", SIDES, ids=str)
def test_softmax_of_rows_and_squares_is_a_twin(lengths: list[int], dtype: torch.dtype) -> None:
    x, scores = ragged(lengths, 21, dtype), squares(lengths, dtype)
    slope = random(sum(lengths), 21, seed=1).to(dtype)
    run = differentiated(lambda v: jagged_softmax(x.with_values(v)).values)
    assert_twins(run, x.values, slope, body="gpu")
    slope = random(scores.values.numel(), seed=1).to(dtype)
    for transpose in (False, True):
        run = differentiated(
            lambda s, t=transpose: jagged2_softmax(scores.with_values(s), transpose=t).values
        )
        assert_twins(run, scores.values, slope, body="gpu")


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("longest", [50, 2])
@pytest.mark.parametrize("lengths", SIDES, ids=str)
def test_elementwise_ops_and_layouts_of_squares_are_twins(
    lengths: list[int], longest: int, dtype: torch.dtype
) -> None:
    x, scores = ragged(lengths, 5, dtype), squares(lengths, dtype)
    times, offsets = x.with_values(x.values[:, 0].contiguous()), x.offsets
    dense, factor = random(len(lengths), longest, 5).to(dtype), random(longest, longest).to(dtype)

    def run(x: Tensor, dense: Tensor, scores: Tensor, factor: Tensor, a: Tensor) -> list[Tensor]:
        leaves = [each.detach().requires_grad_() for each in (x, dense, scores, factor, a)]
        x, dense, flat, factor, a = leaves
        ops, squares = torch.ops.cuesta, flat * 2
        gaps = jagged_self_subtraction_jagged_out(times.with_values(a)).values
        padded = ops.pad_squares(squares, offsets, longest, 1.0)
        outputs = [
            ops.jagged_dense_add(x, dense, offsets),
            ops.jagged_dense_mul(squares, factor, offsets),
            gaps,
            padded,
            ops.unpad_squares(padded, offsets, flat.numel()),
            dense_jagged_cat_jagged_out(dense[:, 0, 0], times.with_values(a)).values,
        ]
        slopes = [out.detach().cos() for out in outputs]
        return [*outputs, *torch.autograd.grad(outputs, leaves, slopes)]

    assert_twins(run, x.values, dense, scores.values, factor, times.values, body="gpu")


@runs
def test_ids_outside_their_table_read_as_zeros_and_move_no_row() -> None:
    layout = TableLayout(rows=(3, 3), dims=(4, 4), features=(0, 1), poolings=("sum", "sum"))
    ids, offsets = torch.tensor([-1, 3, 1, 2**40]), torch.tensor([0, 1, 2, 3, 4])
    ids, offsets, weight = ids.to(DEVICE), offsets.to(DEVICE), random(24)
    with force_body("gpu"):
        out = embedding_bag(weight, ids, offsets, layout=layout)
        rows = embedding_rows(weight, ids, offsets, layout=layout)
        new = updated(weight, [Lookup(layout, ids, offsets, torch.ones_like(out))], SGD())[0]
    assert out.count_nonzero() == rows.count_nonzero() == 4
    assert torch.equal(rows[2], weight[16:20])
    assert (new != weight).nonzero().flatten().tolist() == [16, 17, 18, 19]


@runs
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_embedding_update_is_a_twin(
    kind: type[TableOptimizer], dtype: torch.dtype, layout: TableLayout
) -> None:
    decay = "decoupled" if kind in (Adagrad, PartialRowwiseAdam) else "l2"
    optimizer = kind(lr=0.1, weight_decay=0.01, decay=decay, stochastic_rounding=False)
    part = lookup(layout, 5)

    def run(weight: Tensor, grad: Tensor, sample: Tensor | None) -> list[Tensor]:
        return updated(weight, [part._replace(grad=grad, sample_weights=sample)], optimizer)

    weight = random(layout.storage).to(dtype)
    assert_twins(run, weight, part.grad, part.sample_weights, body="gpu")
    assert_twins(lambda w, g: run(w, g, None), weight, part.grad, body="gpu")


@runs
@pytest.mark.parametrize("num_ids", [600, *([200_000] if HAS_GPU else [])])
def test_a_row_of_many_occurrences_is_summed_by_runs_into_the_same_bits_every_time(
    num_ids: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = (torch.rand(num_ids, generator=generator) ** 8 * 300).long().to(DEVICE)
    offsets = torch.tensor([0, num_ids, num_ids], device=DEVICE)
    part = Lookup(SAME, ids, offsets, random(num_ids, 21), is_pooled=False)

    def run(weight: Tensor, grad: Tensor) -> list[Tensor]:
        return updated(weight, [part._replace(grad=grad)], RowwiseAdagrad())

    weight = random(SAME.storage)
    assert_twins(run, weight, part.grad, body="gpu")
    if HAS_GPU:
        with force_body("gpu"):
            once, again = run(weight, part.grad), run(weight, part.grad)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@triton.jit(do_not_specialize=["key", "first"])
def store_random_bits(out, key, first, SIZE: tl.constexpr):  # noqa: N803
    i = tl.arange(0, SIZE)
    tl.store(out + i, random_bits(key, first + i.to(tl.int64)).to(tl.int64))


@runs
@pytest.mark.parametrize("key", [0, 1, -1, 0x1234567890ABCDEF, -(2**63)])
@pytest.mark.parametrize("first", [0, 2**40])
def test_random_bits_are_those_of_the_reference(key: int, first: int) -> None:
    out = torch.empty(64, dtype=torch.int64, device=DEVICE)
    store_random_bits[(1,)](out, key, first, 64)
    assert torch.equal(out, reference.random_bits(key, torch.arange(64, device=DEVICE) + first))


@runs
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("size", [1.0, 2.0**-16], ids=["normal", "subnormal"])
def test_stochastic_rounding_gives_the_bits_of_the_reference(
    size: float, dtype: torch.dtype
) -> None:
    weight = (random(SAME.storage) * size).to(dtype)
    part = Lookup(
        SAME,
        torch.arange(300, device=DEVICE),
        torch.tensor([0, 300, 300], device=DEVICE),
        random(300, 21, seed=1).bfloat16().float() * size,  # lr * g is exact, and so is w - lr * g
        is_pooled=False,
    )
    results = []
    for body in ("reference", "gpu"):
        with force_body(body):
            results.append(updated(weight, [part], SGD(lr=2.0**-6))[0])
    assert not torch.equal(results[0], weight)
    assert torch.equal(*results)


@pytest.mark.skipif(IS_INTERPRETED, reason="this is the interpreter")
def test_bodies_are_twins_in_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def launch_every_kernel(dtype: torch.dtype, *, all_variants: bool) -> None:
    """Call every op and its gradient on CPU tensors, whose numbers do not matter."""
    rows = ragged([700, 0, 324], 64, dtype)
    leaf = rows.values.requires_grad_()
    for how in ("mean", "max"):
        segment_reduce(rows.with_values(leaf), how).sum().backward()
    unpad(pad(rows), rows.offsets)
    vectors = [random(5, 64).to(dtype), random(5, 26, 64).to(dtype)]
    dot_interaction(*(each.requires_grad_() for each in vectors)).sum().backward()
    part = lookup(ALIGNED, 100)
    weight = random(ALIGNED.storage).to(dtype)
    sample = part.sample_weights.requires_grad_()
    out = embedding_bag(weight, part.ids, part.offsets, layout=ALIGNED, sample_weights=sample)
    out.sum().backward()
    same = replace(ALIGNED, dims=(16, 16))
    embedding_rows(weight[: same.storage], part.ids, part.offsets, layout=same)
    for kind in KINDS if all_variants else [PartialRowwiseAdam]:
        updated(weight, [part], kind())
    if all_variants:  # rows too short for runs, no sample weights, dims of no alignment
        segment_reduce(ragged([2, 3], 21, dtype))
        plain = lookup(MIXED, 3)._replace(sample_weights=None)
        embedding_bag(weight[: MIXED.storage], plain.ids, plain.offsets, layout=MIXED)
        updated(weight[: MIXED.storage], [plain], RowwiseAdagrad(stochastic_rounding=False))
    launch_attention(dtype, all_variants=all_variants)
    launch_squares(dtype, all_variants=all_variants)


def launch_attention(dtype: torch.dtype, *, all_variants: bool) -> None:
    """Call every op of attention and its gradient, on long rows, and on what makes code differ."""
    q, k, v, _ = attended(([200], [150]), (2, 64, 64), dtype)
    q.values.requires_grad_()
    jagged_attention(q, k, v).values.sum().backward()
    seed_attention(q.values[:3], k, v).sum().backward()
    gdpa(q, k, v).values.sum().backward()
    if all_variants:  # biases, bands, rows cut, dims of no power of two, other formulas
        for dim, longest in ((128, None), (20, 40)):
            q, k, v, _ = attended(ATTENDED, (1, dim, dim), dtype)
            q.values.requires_grad_()
            bias = random(1, int((q.lengths() * k.lengths()).sum())).to(dtype)
            out = jagged_attention(q, k, v, bias=bias, mask=Mask(window=3), meta_longest=longest)
            out.values.sum().backward()
        for activation in ("gelu", "leaky_relu", "silu", "hardswish"):
            gdpa(q, k, v, activation=activation, mask=Mask(window=3)).values.sum().backward()


def launch_squares(dtype: torch.dtype, *, all_variants: bool) -> None:
    """Call every op on ragged rows and flat squares, and its gradient."""
    x, times = ragged([70, 0, 20], 64, dtype), ragged([70, 0, 20], 1, dtype)
    times = times.with_values(times.values.flatten().requires_grad_())
    x.values.requires_grad_()
    dense, factor = random(3, 70, 64).to(dtype), random(70, 70).to(dtype).requires_grad_()
    scores = jagged_jagged_bmm_jagged_out(x, x)
    masked = jagged_dense_elementwise_mul_jagged_out(scores, factor)
    outputs = [
        jagged2_softmax(masked).values,
        jagged2_to_padded_dense(masked),
        jagged_dense_elementwise_add(x, dense).values,
        jagged_self_subtraction_jagged_out(times).values,
        dense_jagged_cat_jagged_out(dense[:, 0, 0], times).values,
    ]
    if all_variants:
        outputs.append(jagged2_softmax(scores, transpose=True).values)
        outputs.append(jagged_jagged_bmm(x, jagged_dense_bmm(jagged_softmax(x), dense[:, :64])))
    sum(out.sum() for out in outputs).backward()


@compiles
@pytest.mark.parametrize(
    ("dtype", "capability"),
    [(torch.float32, 90), (torch.float16, 80), (torch.bfloat16, 80), (torch.bfloat16, 90)],
    ids=str,
)
def test_every_kernel_compiles_to_machine_code(
    dtype: torch.dtype, capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_variants = (dtype, capability) == (torch.bfloat16, 90)
    memory = {80: 163, 90: 227}[capability] * 1024  # bytes of shared memory
    monkeypatch.setattr(attended_rows_triton, "DEFAULT_MEMORY", memory)
    with force_body("gpu"), triton_aot.recorded() as launches:
        launch_every_kernel(dtype, all_variants=all_variants)
    missing = set(triton_aot.kernels()) - {triton_aot.name_of(each.kernel) for each in launches}
    assert not missing, f"no op called in launch_every_kernel launches {sorted(missing)}"
    for launch in launches:
        result = triton_aot.compiled(launch, capability)
        assert result.asm["cubin"]
        assert result.metadata.shared <= memory, launch.kernel.__name__
