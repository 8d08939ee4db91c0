"""gdpa: twins forward and backward of every activation, the feed-forward network that it is, and
the laws of rows.
"""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional as F

from cuesta.ops import Mask, force_body, gdpa
from cuesta.ops.gdpa import ACTIVATIONS, Activation
from cuesta.ragged import Ragged
from tests.laws import permuted, row_lengths, seeds
from tests.twins import assert_twins, with_gradients

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
QUERIES, KEYS = [3, 0, 40, 1, 70, 64, 17, 5, 0], [3, 4, 40, 1, 170, 30, 130, 0, 0]
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.usefixtures("engine")
def test_bodies_are_twins(activation: Activation, dtype: torch.dtype) -> None:
    for widths, mask in (((2, 32, 48), Mask()), ((1, 21, 5), Mask(window=3))):

        def run(q: Tensor, k: Tensor, v: Tensor, mask: Mask = mask) -> Tensor:
            parts = rows(q, QUERIES), rows(k, KEYS), rows(v, KEYS)
            return gdpa(*parts, activation=activation, mask=mask, scale=0.3).values

        values = make(QUERIES, KEYS, widths, dtype)
        assert_twins(with_gradients(run, [0, 1, 2]), *values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_reference_of_16_bits_rounds_no_score(dtype: torch.dtype) -> None:
    q, k, _ = make([50], [1], (2, 16, 16), dtype)
    outs = []
    for each in (q, k), (q.float(), k.float()):
        ours, keys = rows(each[0], [50]), rows(each[1], [1])
        with force_body("reference"):
            ones = keys.with_values(torch.ones_like(keys.values))
            outs.append(gdpa(ours, keys, ones, activation="relu_squared").values)
    assert torch.equal(outs[0], outs[1].to(dtype))


@pytest.mark.parametrize("body", ["reference", "cpu"])
def test_it_is_a_two_layer_network_personalised_to_each_row(body: str) -> None:
    lengths, hidden = [5, 0, 60], 24
    first, second = random(3, 16, hidden, seed=1), random(3, hidden, 16, seed=2)
    events = rows(random(65, 16), lengths)
    keys = rows(first.transpose(1, 2).reshape(-1, 1, 16), [hidden] * 3)
    values = keys.with_values(second.reshape(-1, 1, 16))
    with force_body(body):
        out = gdpa(events.with_values(events.values[:, None]), keys, values, activation="gelu")
    for row in range(3):
        expected = F.gelu(events.row(row) @ first[row]) @ second[row]
        torch.testing.assert_close(out.row(row)[:, 0], expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mask", [Mask(), Mask(window=1), Mask(causal=True)], ids=str)
def test_gradients_pass_gradcheck(mask: Mask, activation: Activation) -> None:
    queries, keys = [2, 0, 3, 1], [4, 2, 0, 3]
    values = make(queries, keys, (2, 3, 4), torch.float64)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = rows(q, queries), rows(k, keys), rows(v, keys)
        return gdpa(*parts, activation=activation, mask=mask, scale=0.5).values

    torch.autograd.gradcheck(run, [each.requires_grad_() for each in values])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_keys_of_zeros_change_nothing(activation: Activation) -> None:
    q, k, v = make([7], [5], (1, 16, 16), torch.float32)
    padded = [torch.cat([each, torch.zeros(4, 1, 16)]) for each in (k, v)]
    out = gdpa(rows(q, [7]), rows(k, [5]), rows(v, [5]), activation=activation)
    wide = gdpa(rows(q, [7]), *(rows(each, [9]) for each in padded), activation=activation)
    torch.testing.assert_close(wide.values, out.values)


def test_the_scale_follows_the_activation() -> None:
    q, k, v = (rows(each, [6]) for each in make([6], [6], (1, 16, 16), torch.float32))
    plain = gdpa(q, k, v, activation="silu").values
    torch.testing.assert_close(gdpa(q, k, v, activation="silu", scale=0.25).values, 0.25 * plain)


@given(lengths=row_lengths(), seed=seeds)
def test_permuting_rows_permutes_the_result(lengths: list[int], seed: int) -> None:
    order = permuted(len(lengths), seed)
    parts = [rows(each, lengths) for each in make(lengths, lengths, (2, 16, 16), torch.float32)]
    expected = gdpa(*parts).select_rows(order)
    actual = gdpa(*(part.select_rows(order) for part in parts))
    assert torch.equal(actual.values, expected.values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    values = make(QUERIES, KEYS, (2, 32, 32), dtype)
    run = with_gradients(
        lambda q, k, v: gdpa(rows(q, QUERIES), rows(k, KEYS), rows(v, KEYS)).values, [0, 1, 2]
    )
    torch.set_num_threads(1)
    alone = run(*values)
    torch.set_num_threads(2)
    shared = [run(*values)]
    for num_tasks in (5, 16):
        with patch("cuesta.ops.attended_rows_cpu.num_threads", return_value=num_tasks):
            shared.append(run(*values))
    for other in shared:
        assert all(torch.equal(a, b) for a, b in zip(other, alone, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("engine")
def test_nan_stays_in_its_row(dtype: torch.dtype) -> None:
    lengths = [20, 30]
    values = make(lengths, lengths, (1, 16, 16), dtype)
    run = with_gradients(
        lambda q, k, v: gdpa(*(rows(each, lengths) for each in (q, k, v))).values, [0, 1, 2]
    )
    clean = run(*values)
    values[1][3, 0, 2] = torch.nan
    for before, after in zip(clean, run(*values), strict=True):
        assert bool(after[:20].isnan().any())
        assert torch.equal(after[20:], before[20:])


def test_mistakes_are_named() -> None:
    q, k, v = make([2, 1], [2, 1], (2, 16, 16), torch.float32)
    good = rows(q, [2, 1]), rows(k, [2, 1]), rows(v, [2, 1])
    with pytest.raises(ValueError, match=r"activation must be one of raw, gelu, .*'softmax'"):
        gdpa(*good, activation="softmax")
    with pytest.raises(ValueError, match=r"q has 3 rows and k has 2: row 2 is in one of them"):
        gdpa(rows(q, [1, 1, 1]), *good[1:])
    with pytest.raises(ValueError, match=r"row 0 has 2 keys \(k\) but 1 values \(v\)"):
        gdpa(*good[:2], rows(v, [1, 2]))
    for flat in (q.flatten(1), q[:, None]):
        with pytest.raises(ValueError, match=r"q must hold \[Tq, H, D\] values, got \(3, "):
            gdpa(rows(flat, [2, 1]), *good[1:])
    with pytest.raises(ValueError, match=r"q must be float16, .* got torch\.float8_e5m2"):
        gdpa(*(rows(each.to(torch.float8_e5m2), [2, 1]) for each in (q, k, v)))
