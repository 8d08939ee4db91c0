"""The elementwise ops on ragged values and squares: twins of the reference, their formulas, and the
laws of rows.
"""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from torch import Tensor

from cuesta.ops import (
    force_body,
    jagged_dense_elementwise_add,
    jagged_dense_elementwise_mul_jagged_out,
    jagged_self_subtraction_jagged_out,
)
from cuesta.ragged import Ragged
from tests.laws import permuted, row_lengths, seeds
from tests.twins import assert_twins, with_gradients

DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
LENGTHS = pytest.mark.parametrize("lengths", [[3, 0, 40, 1], [0, 0], [], [300]], ids=str)
add, mul, subtract = (
    jagged_dense_elementwise_add,
    jagged_dense_elementwise_mul_jagged_out,
    jagged_self_subtraction_jagged_out,
)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rows(
    lengths: list[int], *trailing: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Ragged:
    return Ragged.from_lengths(random(sum(lengths), *trailing, dtype=dtype, seed=seed), lengths)


def squares(sides: list[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Ragged:
    return rows([side**2 for side in sides], dtype=dtype, seed=seed)


@DTYPE
@LENGTHS
@pytest.mark.parametrize("trailing", [(), (1,), (5,), (16,), (37,), (0,)], ids=str)
def test_bodies_of_add_are_twins(
    lengths: list[int], trailing: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = rows(lengths, *trailing, dtype=dtype)
    dense = random(len(lengths), max([0, *lengths]) + 2, *trailing, dtype=dtype, seed=1)
    run = with_gradients(lambda v, d: add(x.with_values(v), d).values, [0, 1])
    assert_twins(run, x.values, dense)


@DTYPE
@LENGTHS
def test_bodies_of_mul_are_twins(lengths: list[int], dtype: torch.dtype) -> None:
    scores, longest = squares(lengths, dtype), max([0, *lengths]) + 2
    dense = random(longest, longest, dtype=dtype, seed=1)
    run = with_gradients(lambda s, d: mul(scores.with_values(s), d).values, [0, 1])
    assert_twins(run, scores.values, dense)


def test_the_gradient_of_a_factor_of_many_rows_is_a_twin() -> None:
    scores, dense = squares([3, 20, 17] * 40), random(20, 20, seed=1)
    run = with_gradients(lambda s, d: mul(scores.with_values(s), d).values, [0, 1])
    assert_twins(run, scores.values, dense)


@DTYPE
@LENGTHS
def test_bodies_of_self_subtraction_are_twins(lengths: list[int], dtype: torch.dtype) -> None:
    x = rows(lengths, dtype=dtype)
    assert_twins(with_gradients(lambda v: subtract(x.with_values(v)).values, [0]), x.values)


@DTYPE
@pytest.mark.parametrize("longest", [0, 2, 39])
def test_what_dense_lacks_counts_as_zeros_below_the_checks(
    longest: int, dtype: torch.dtype
) -> None:
    lengths = [3, 0, 40, 1]
    x, scores = rows(lengths, 5, dtype=dtype), squares(lengths, dtype)
    dense, factor = (
        random(4, longest, 5, dtype=dtype, seed=1),
        random(longest, longest, dtype=dtype),
    )
    run = torch.ops.cuesta
    add_below = with_gradients(lambda v, d: run.jagged_dense_add(v, d, x.offsets), [0, 1])
    assert_twins(add_below, x.values, dense)
    mul_below = with_gradients(lambda s, d: run.jagged_dense_mul(s, d, x.offsets), [0, 1])
    assert_twins(mul_below, scores.values, factor)


def test_each_does_what_its_formula_says() -> None:
    lengths = [3, 0, 1]
    x, times, scores = rows(lengths, 4), rows(lengths), squares(lengths)
    dense, factor = random(3, 5, 4, seed=1), random(5, 5, seed=1)
    added, multiplied, gaps = add(x, dense), mul(scores, factor), subtract(times)
    assert gaps.lengths().tolist() == [4, 0, 0]
    for i, side in enumerate(lengths):
        assert torch.equal(added.row(i), x.row(i) + dense[i, :side])
        block = scores.row(i).view(side, side) * factor[:side, :side]
        assert torch.equal(multiplied.row(i), block.flatten())
    a = times.row(0)
    assert torch.equal(
        gaps.row(0), torch.stack([a[0] - a[1], a[0] - a[2], a[1] - a[1], a[1] - a[2]])
    )


def test_gradients_and_their_gradients_pass_gradcheck() -> None:
    lengths, wide = [2, 0, 3], torch.float64
    x, times = rows(lengths, 2, dtype=wide), rows(lengths, dtype=wide)
    scores, dense, factor = squares(lengths, wide), random(3, 4, 2).double(), random(4, 4).double()
    for run, *leaves in (
        (lambda v, d: add(x.with_values(v), d).values, x.values, dense),
        (lambda s, f: mul(scores.with_values(s), f).values, scores.values, factor),
        (lambda v: subtract(times.with_values(v)).values, times.values),
    ):
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        torch.autograd.gradcheck(run, leaves)
        torch.autograd.gradgradcheck(run, leaves)


@given(lengths=row_lengths(), seed=seeds)
def test_permuting_rows_permutes_the_result(lengths: list[int], seed: int) -> None:
    order, longest = permuted(len(lengths), seed), max([0, *lengths])
    x, times, scores = rows(lengths, 5), rows(lengths), squares(lengths)
    dense, factor = random(len(lengths), longest, 5, seed=seed), random(longest, longest, seed=seed)
    pairs = [
        (add(x.select_rows(order), dense[order]), add(x, dense)),
        (mul(scores.select_rows(order), factor), mul(scores, factor)),
        (subtract(times.select_rows(order)), subtract(times)),
    ]
    for actual, of in pairs:
        assert torch.equal(actual.values, of.select_rows(order).values)
        assert torch.equal(actual.lengths(), of.lengths()[order])


@given(lengths=row_lengths(), seed=seeds)
def test_moving_all_times_changes_no_gap(lengths: list[int], seed: int) -> None:
    times = rows(lengths, seed=seed)
    times = times.with_values((times.values * 64).round())  # whole numbers, so that sums are exact
    moved = subtract(times.with_values(times.values + 1000))
    assert torch.equal(moved.values, subtract(times).values)


@pytest.mark.parametrize("lengths", [[3, 0, 40, 1, 90], [300]], ids=str)
def test_the_number_of_threads_changes_no_bit(lengths: list[int]) -> None:
    x, times, scores = rows(lengths, 5), rows(lengths), squares(lengths)
    longest = max(lengths)
    dense, factor = random(len(lengths), longest, 5, seed=1), random(longest, longest, seed=1)

    def every(v: Tensor, d: Tensor, s: Tensor, f: Tensor, t: Tensor) -> Tensor:
        outputs = (
            add(x.with_values(v), d),
            mul(scores.with_values(s), f),
            subtract(times.with_values(t)),
        )
        return torch.cat([out.values.flatten() for out in outputs])

    inputs = (x.values, dense, scores.values, factor, times.values)
    both = with_gradients(every, range(5))
    torch.set_num_threads(1)
    alone = both(*inputs)
    torch.set_num_threads(2)
    shared = [both(*inputs)]
    for num_tasks in (5, 16):
        with patch("cuesta.ops.jagged_elementwise.cpu.num_threads", return_value=num_tasks):
            shared.append(both(*inputs))
    for other in shared:
        assert all(torch.equal(a, b) for a, b in zip(other, alone, strict=True))


def test_strided_inputs_and_expanded_gradients_are_understood() -> None:
    times, scores = rows([3, 2]), squares([3, 2])
    every_second = torch.stack([scores.values, scores.values], 1)[:, 1].requires_grad_()
    factor = random(3, 3).T
    out = mul(scores.with_values(every_second), factor).values
    assert torch.equal(out, mul(scores, factor.contiguous()).values)
    (grad,) = torch.autograd.grad(out.sum(), every_second)
    assert torch.equal(grad, torch.cat([factor.flatten(), factor[:2, :2].flatten()]))
    strided = torch.stack([times.values, times.values], 1)[:, 1].requires_grad_()
    gaps = subtract(times.with_values(strided)).values
    assert torch.equal(gaps, subtract(times).values)
    (grad,) = torch.autograd.grad(gaps.sum(), strided)
    assert grad.tolist() == [2, 0, -2, 1, -1]


def test_the_gradient_of_gaps_in_16_bits_is_summed_in_32() -> None:
    times = Ragged.from_lengths(torch.zeros(301, dtype=torch.bfloat16).requires_grad_(), [301])
    slope = torch.zeros(300, 300, dtype=torch.bfloat16)
    slope[5, :257] = 1
    for body in ("reference", "cpu"):
        with force_body(body):
            gaps = subtract(times).values
            (ones,) = torch.autograd.grad(gaps.sum(), times.values, retain_graph=True)
            (grad,) = torch.autograd.grad(gaps, times.values, slope.flatten())
        assert (ones[0], ones[300]) == (300, -300)  # a sum of ones in bfloat16 stops at 256
        assert grad[5] == 257 - 1  # and 257 would be 256 before 1 is taken away


def test_the_gradient_of_the_gaps_of_a_long_row_is_a_twin() -> None:
    times = rows([900])
    run = with_gradients(lambda v: subtract(times.with_values(v)).values, [0])
    assert_twins(run, times.values)


def test_mistakes_are_named() -> None:
    x, scores = rows([2, 1], 3), squares([2, 1])
    with pytest.raises(ValueError, match="row 0 has 2 values and dense is for 1"):
        add(x, torch.ones(2, 1, 3))
    with pytest.raises(ValueError, match=r"got \(3, 3\) in 2 rows and \(2, 2\)"):
        add(x, torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"got \(3, 3\) in 2 rows and \(1, 2, 3\)"):
        add(x, torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match=r"x and dense must be of one dtype .*float32.*float16"):
        add(x, torch.ones(2, 2, 3).half())
    with pytest.raises(ValueError, match="reach as far as scores, but row 0 has 2 lines"):
        mul(scores, torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"dense must be \[L, L\], got \(2, 3\)"):
        mul(scores, torch.ones(2, 3))
    with pytest.raises(ValueError, match="scores must be a square, but row 0 has 3 values"):
        mul(rows([3]), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"x must hold \[T\] values, got \(3, 3\)"):
        subtract(x)
    with pytest.raises(ValueError, match=r"x must be floating point, got torch\.int64"):
        subtract(Ragged.from_lengths(torch.arange(3), [3]))
    with pytest.raises(ValueError, match="num_scores must be the sum of the squares, 1, got 5"):
        subtract(rows([2, 1]), num_scores=5)
