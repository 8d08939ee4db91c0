"""The Triton bodies of `jagged_attention`, its forms with shared queries, and `gdpa`."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cuesta.ops import (
    Mask,
    force_body,
    gdpa,
    jagged_attention,
    jagged_dense_attention,
    seed_attention,
)
from cuesta.ops.gdpa.activations import FORMULAS, Activation
from cuesta.ragged import Ragged
from tests.ops.gpu_rungs import (
    ATTENDED,
    DTYPES,
    HAS_GPU,
    LONG,
    Lengths,
    attended,
    differentiated,
    random,
    runs,
    tells_nothing_of_fusion,
    with_dtypes,
)
from tests.twins import assert_twins

pytestmark = tells_nothing_of_fusion

NOTHING = [([], []), ([0, 0], [0, 0]), ([2, 1], [0, 0]), ([0, 0], [2, 1])]
MASKS = [
    Mask(),
    Mask(causal=True),
    Mask(causal=True, newest_first=True),
    Mask(window=3),
    Mask(causal=True, window=40),
]


@runs
@with_dtypes(("mask", "meta_longest", "dtype"), MASKS, [None, 40])
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
@with_dtypes(
    ("attended_shape", "mask", "dtype"),
    [
        *((lengths, (1, 4, 4)) for lengths in NOTHING),
        (LONG, (1, 16, 64)),
        (LONG, (1, 20, 70)),
        (([3, 40], [2, 50]), (1, 200, 256)),
    ],
    [Mask(), Mask(causal=True)],
)
def test_attention_of_any_shape_is_a_twin(
    attended_shape: tuple[Lengths, tuple[int, int, int]], mask: Mask, dtype: torch.dtype
) -> None:
    lengths, shape = attended_shape
    q, k, v, slope = attended(lengths, shape, dtype)

    @differentiated
    def run(ours: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        ragged = q.with_values(ours), k.with_values(keys), v.with_values(values)
        return jagged_attention(*ragged, mask=mask, scale=-0.3).values

    assert_twins(run, q.values, k.values, v.values, slope, body="gpu")


@runs
@with_dtypes(("lengths", "num_seeds", "dtype"), [[4, 0, 90, 1, 2], [0, 0], []], [5, 70])
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
    q, k, v, slope = attended(([3, 0, 9], [4, 2, 7]), (16, 8, 4), dtype)  # a number a head

    @differentiated
    def run(null: Tensor) -> Tensor:
        ragged = [each.with_values(each.values.to(null.dtype)) for each in (q, k, v)]
        return jagged_attention(*ragged, null=null).values

    assert_twins(run, random(16, seed=5).to(dtype), slope, body="gpu")


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
@with_dtypes(
    ("case", "dtype"),
    [
        *((name, ATTENDED, MASKS[i % len(MASKS)]) for i, name in enumerate(FORMULAS)),
        *(("gelu_approx", lengths, Mask(causal=True)) for lengths in [LONG, *NOTHING]),
    ],
)
def test_gdpa_attention_is_a_twin(
    case: tuple[Activation, Lengths, Mask], dtype: torch.dtype
) -> None:
    activation, lengths, mask = case
    q, k, v, slope = attended(lengths, (2, 20, 16), dtype)

    @differentiated
    def run(ours: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        ragged = q.with_values(ours), k.with_values(keys), v.with_values(values)
        return gdpa(*ragged, activation=activation, mask=mask, scale=0.3).values

    assert_twins(run, q.values, k.values, v.values, slope, body="gpu")


@runs
@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -1e9])
@pytest.mark.parametrize("meta_longest", [None, 100])
def test_where_every_bias_is_very_low_a_query_gets_the_mean_of_its_values(
    meta_longest: int | None, low: float
) -> None:
    q, k, v, slope = attended(([3, 70], [4, 90]), (1, 20, 12), torch.float32)
    bias = random(1, 12 + 70 * 90)
    bias[:, 4:8] = bias[:, 12:102] = low  # of queries 1 and 3

    def run(*inputs: Tensor) -> Tensor:
        rows = (own.with_values(x) for own, x in zip((q, k, v), inputs[:3], strict=True))
        return jagged_attention(*rows, bias=inputs[3], meta_longest=meta_longest).values

    inputs = (q.values, k.values, v.values, bias)
    assert_twins(run, *inputs, body="gpu")
    with force_body("gpu"):
        gradients = differentiated(run)(*inputs, slope)[1:]
    assert all(each.isfinite().all() for each in gradients)
