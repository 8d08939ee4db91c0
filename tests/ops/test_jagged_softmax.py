"""jagged_softmax and jagged2_softmax: twins of the reference, torch's own softmax, the laws of rows."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cuesta.ops import force_body, jagged2_softmax, jagged_softmax
from cuesta.ragged import Ragged
from tests.laws import permuted, raggeds, row_lengths, seeds
from tests.twins import assert_twins, with_gradients

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LENGTHS = pytest.mark.parametrize("lengths", [[3, 0, 40, 1], [0, 0], [], [300]], ids=str)
TRANSPOSE = pytest.mark.parametrize("transpose", [False, True])


def values(
    lengths: list[int], width: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    numbers = 3 * torch.randn(sum(lengths), width, generator=generator)
    return Ragged.from_lengths(numbers.to(dtype), lengths)


def squares(sides: list[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Ragged:
    flat = values([side**2 for side in sides], 1, dtype, seed)
    return flat.with_values(flat.values.flatten())


@LENGTHS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 5, 16, 37, 0])
def test_bodies_of_the_softmax_of_rows_are_twins(
    lengths: list[int], width: int, dtype: torch.dtype
) -> None:
    x = values(lengths, width, dtype)
    assert_twins(with_gradients(lambda v: jagged_softmax(x.with_values(v)).values, [0]), x.values)


@LENGTHS
@TRANSPOSE
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bodies_of_the_softmax_of_squares_are_twins(
    lengths: list[int], transpose: bool, dtype: torch.dtype
) -> None:
    scores = squares(lengths, dtype)

    def run(numbers: Tensor) -> Tensor:
        return jagged2_softmax(scores.with_values(numbers), transpose=transpose).values

    assert_twins(with_gradients(run, [0]), scores.values)


def test_it_is_the_softmax_of_torch_row_by_row() -> None:
    x, scores = values([3, 0, 2], 4, torch.float64), squares([3, 0, 2], torch.float64)
    out = jagged_softmax(x)
    along, down = jagged2_softmax(scores), jagged2_softmax(scores, transpose=True)
    for i, side in enumerate([3, 0, 2]):
        block = scores.row(i).view(side, side)
        torch.testing.assert_close(out.row(i), x.row(i).softmax(0))
        torch.testing.assert_close(along.row(i).view(side, side), block.softmax(1))
        torch.testing.assert_close(down.row(i).view(side, side), block.softmax(0))


def test_gradients_pass_gradcheck() -> None:
    x, scores = values([2, 0, 3], 3, torch.float64), squares([2, 0, 3], torch.float64)
    torch.autograd.gradcheck(
        lambda v: jagged_softmax(x.with_values(v)).values, x.values.requires_grad_()
    )
    for transpose in (False, True):
        torch.autograd.gradcheck(
            lambda v, t=transpose: jagged2_softmax(scores.with_values(v), transpose=t).values,
            scores.values.requires_grad_(),
        )


@given(x=raggeds(), seed=seeds)
def test_permuting_rows_permutes_the_result(x: Ragged, seed: int) -> None:
    order = permuted(x.num_rows, seed)
    expected = jagged_softmax(x).select_rows(order)
    assert torch.equal(jagged_softmax(x.select_rows(order)).values, expected.values)


@given(sides=row_lengths(), transpose=st.booleans(), seed=seeds)
def test_permuting_squares_permutes_the_result(
    sides: list[int], transpose: bool, seed: int
) -> None:
    scores, order = squares(sides, seed=seed), permuted(len(sides), seed)
    expected = jagged2_softmax(scores, transpose=transpose).select_rows(order)
    actual = jagged2_softmax(scores.select_rows(order), transpose=transpose)
    assert torch.equal(actual.values, expected.values)


@given(sides=row_lengths(), seed=seeds)
def test_transposing_squares_exchanges_lines_and_columns(sides: list[int], seed: int) -> None:
    scores = squares(sides, seed=seed)

    def turned(ragged: Ragged) -> Ragged:
        blocks = [ragged.row(i).view(side, side).T.flatten() for i, side in enumerate(sides)]
        return ragged.with_values(torch.cat([ragged.values[:0], *blocks]))

    down = jagged2_softmax(turned(scores), transpose=True)
    torch.testing.assert_close(turned(down).values, jagged2_softmax(scores).values)


@pytest.mark.parametrize("lengths", [[3, 0, 40, 1, 90], [300]], ids=str)
def test_the_number_of_threads_changes_no_bit(lengths: list[int]) -> None:
    x, scores = values(lengths, 37), squares(lengths)

    def every(numbers: Tensor, flat: Tensor) -> Tensor:
        blocks = [jagged2_softmax(scores.with_values(flat), transpose=t) for t in (False, True)]
        rows = jagged_softmax(x.with_values(numbers))
        return torch.cat([rows.values.flatten(), *(block.values for block in blocks)])

    both = with_gradients(every, [0, 1])
    torch.set_num_threads(1)
    alone = both(x.values, scores.values)
    torch.set_num_threads(2)
    shared = [both(x.values, scores.values)]
    for num_tasks in (5, 16):
        with patch("cuesta.ops.jagged_softmax.cpu.num_threads", return_value=num_tasks):
            shared.append(both(x.values, scores.values))
    for other in shared:
        assert all(torch.equal(a, b) for a, b in zip(other, alone, strict=True))


@TRANSPOSE
def test_numbers_however_large_and_nan_stay_in_their_line(transpose: bool) -> None:
    inf, nan = float("inf"), float("nan")
    block = torch.randn(20, 20)
    block[0], block[1, 3], block[2, 18], block[3, 4], block[4] = 1e30, -inf, nan, inf, -inf
    block[5] -= 1000
    scores = Ragged.from_lengths((block.T if transpose else block).flatten(), [400])
    expected = block.softmax(1)
    for body in ("reference", "cpu"):
        with force_body(body):
            out = jagged2_softmax(scores, transpose=transpose).values.view(20, 20)
        out = out.T if transpose else out
        assert out[[0, 1, 5]].isfinite().all()
        assert out[1, 3] == 0
        torch.testing.assert_close(out, expected, equal_nan=True)


def test_a_strided_input_and_an_expanded_gradient_are_understood() -> None:
    x = values([3, 2], 4)
    strided = x.values.T.contiguous().T.requires_grad_()
    out = jagged_softmax(x.with_values(strided)).values
    assert torch.equal(out, jagged_softmax(x).values)
    (grad,) = torch.autograd.grad(out.sum(), strided)
    torch.testing.assert_close(grad, torch.zeros_like(grad))
    scores = squares([3, 2])
    every_second = torch.stack([scores.values, scores.values], 1)[:, 1]
    out = jagged2_softmax(scores.with_values(every_second)).values
    assert torch.equal(out, jagged2_softmax(scores).values)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"x must hold \[T, H\] values, got \(3,\)"):
        jagged_softmax(Ragged.from_lengths(torch.ones(3), [3]))
    with pytest.raises(ValueError, match=r"x must be floating point, got torch\.int64"):
        jagged_softmax(Ragged.from_lengths(torch.ones(3, 1).long(), [3]))
    with pytest.raises(ValueError, match=r"flat squares, \[P\] values, got \(4, 1\)"):
        jagged2_softmax(Ragged.from_lengths(torch.ones(4, 1), [4]))
    with pytest.raises(ValueError, match="scores must be a square, but row 1 has 5 values"):
        jagged2_softmax(Ragged.from_lengths(torch.ones(9), [4, 5]))
