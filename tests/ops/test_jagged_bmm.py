"""jagged_bmm: twins forward and backward, each product's formula, the laws of rows, and attention
put together from scores, softmax and sums.
"""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cuesta.ops import (
    array_jagged_bmm_jagged_out,
    jagged2_softmax,
    jagged_dense_bmm,
    jagged_jagged_bmm,
    jagged_jagged_bmm_jagged_out,
)
from cuesta.ragged import Ragged
from tests.laws import permuted, row_lengths, seeds
from tests.twins import assert_twins, with_gradients

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LENGTHS = ([3, 0, 40, 1], [0, 0], [], [300])
WIDTHS = [(16, 32), (21, 5), (130, 97), (1, 130), (0, 3), (3, 0)]  # D, K


class Case:
    """Hold the operands of all four products for rows of some lengths."""

    def __init__(
        self, lengths: list[int], widths: tuple[int, int], dtype: torch.dtype, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        dim, width = widths
        self.x = Ragged.from_lengths(random(sum(lengths), dim), lengths)
        self.y = self.x.with_values(random(sum(lengths), dim))
        self.z = self.x.with_values(random(sum(lengths), width))
        self.dense = random(len(lengths), dim, width)
        squares = [length**2 for length in lengths]
        self.scores = Ragged.from_lengths(random(sum(squares)), squares)

    def products(self) -> dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]]:
        """Return each product as a function of two tensors, and the two."""
        x, y, z, scores = (each.with_values for each in (self.x, self.y, self.z, self.scores))
        return {
            "jagged_dense": (
                lambda a, b: jagged_dense_bmm(x(a), b).values,
                self.x.values,
                self.dense,
            ),
            "jagged_jagged": (
                lambda a, b: jagged_jagged_bmm(x(a), z(b)),
                self.x.values,
                self.z.values,
            ),
            "scores": (
                lambda a, b: jagged_jagged_bmm_jagged_out(x(a), y(b)).values,
                self.x.values,
                self.y.values,
            ),
            "sums": (
                lambda a, b: array_jagged_bmm_jagged_out(scores(a), x(b)).values,
                self.scores.values,
                self.x.values,
            ),
        }


NAMES = pytest.mark.parametrize("name", ["jagged_dense", "jagged_jagged", "scores", "sums"])


@NAMES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_bodies_are_twins(
    lengths: list[int], widths: tuple[int, int], dtype: torch.dtype, name: str
) -> None:
    run, *operands = Case(lengths, widths, dtype).products()[name]
    assert_twins(with_gradients(run, [0, 1]), *operands)


def test_the_sums_of_a_very_long_row_are_no_worse_than_those_of_torch() -> None:
    run, *operands = Case([3000], (16, 21), torch.float32).products()["jagged_jagged"]
    assert_twins(with_gradients(run, [0, 1]), *operands)


def test_each_product_is_that_of_its_rows_matrices() -> None:
    case = Case([3, 0, 2], (4, 5), torch.float64)
    there = [jagged_dense_bmm(case.x, case.dense).row(i) for i in range(3)]
    out = jagged_jagged_bmm(case.x, case.z)
    scores = jagged_jagged_bmm_jagged_out(case.x, case.y)
    sums = array_jagged_bmm_jagged_out(case.scores, case.x)
    assert scores.lengths().tolist() == [9, 0, 4]
    for i in range(3):
        x, y, z = case.x.row(i), case.y.row(i), case.z.row(i)
        block = case.scores.row(i).view(len(x), len(x))
        torch.testing.assert_close(there[i], torch.einsum("id,dk->ik", x, case.dense[i]))
        torch.testing.assert_close(out[i], torch.einsum("id,ik->dk", x, z))
        torch.testing.assert_close(scores.row(i), torch.einsum("id,jd->ij", x, y).flatten())
        torch.testing.assert_close(sums.row(i), torch.einsum("ij,jd->id", block, x))


@NAMES
def test_gradients_and_their_gradients_pass_gradcheck(name: str) -> None:
    run, *operands = Case([2, 0, 3], (3, 2), torch.float64).products()[name]
    leaves = [each.requires_grad_() for each in operands]
    torch.autograd.gradcheck(run, leaves)
    torch.autograd.gradgradcheck(run, leaves)


@given(lengths=row_lengths(), widths=st.sampled_from(WIDTHS), seed=seeds)
def test_permuting_rows_permutes_the_result(
    lengths: list[int], widths: tuple[int, int], seed: int
) -> None:
    case, order = Case(lengths, widths, torch.float32, seed), permuted(len(lengths), seed)
    x, y, z, scores = (r.select_rows(order) for r in (case.x, case.y, case.z, case.scores))

    def assert_permuted(actual: Ragged, of: Ragged) -> None:
        assert torch.equal(actual.values, of.select_rows(order).values)
        assert torch.equal(actual.lengths(), of.lengths()[order])

    assert torch.equal(jagged_jagged_bmm(x, z), jagged_jagged_bmm(case.x, case.z)[order])
    assert_permuted(jagged_dense_bmm(x, case.dense[order]), jagged_dense_bmm(case.x, case.dense))
    assert_permuted(
        jagged_jagged_bmm_jagged_out(x, y), jagged_jagged_bmm_jagged_out(case.x, case.y)
    )
    assert_permuted(
        array_jagged_bmm_jagged_out(scores, x), array_jagged_bmm_jagged_out(case.scores, case.x)
    )


@NAMES
@pytest.mark.parametrize("lengths", [[3, 0, 140, 1, 200], [300]], ids=str)
def test_the_number_of_threads_changes_no_bit(lengths: list[int], name: str) -> None:
    run, *operands = Case(lengths, (21, 5), torch.float32).products()[name]
    both = with_gradients(run, [0, 1])
    torch.set_num_threads(1)
    alone = both(*operands)
    torch.set_num_threads(2)
    shared = [both(*operands)]
    for num_tasks in (5, 16):
        with patch("cuesta.ops.jagged_bmm.cpu.num_threads", return_value=num_tasks):
            shared.append(both(*operands))
    for other in shared:
        assert all(torch.equal(a, b) for a, b in zip(other, alone, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@given(lengths=row_lengths(), dim=st.sampled_from([3, 16]), seed=seeds)
def test_scores_softmax_and_sums_are_the_attention_of_torch(
    dtype: torch.dtype, lengths: list[int], dim: int, seed: int
) -> None:
    case = Case(lengths, (dim, dim), dtype, seed)
    leaves = [each.values.requires_grad_() for each in (case.x, case.y, case.z)]
    scores = jagged_jagged_bmm_jagged_out(case.x, case.y)
    ours = array_jagged_bmm_jagged_out(jagged2_softmax(scores), case.z).values
    q, k, v = (each.split(lengths) for each in leaves)
    rows = [
        F.scaled_dot_product_attention(q[i][None], k[i][None], v[i][None], scale=1.0)[0]
        for i, length in enumerate(lengths)
        if length
    ]
    theirs = torch.cat([leaves[2][:0], *rows])
    slope = case.z.values.detach().cos()
    gradients = [
        torch.autograd.grad(out, leaves, slope, allow_unused=True) for out in (ours, theirs)
    ]
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other)


def test_strided_operands_and_an_expanded_gradient_are_understood() -> None:
    case = Case([3, 2], (4, 4), torch.float32)
    strided = case.x.with_values(case.x.values.T.contiguous().T)
    every_second = torch.stack([case.scores.values, case.scores.values], 1)[:, 1]
    assert not every_second.is_contiguous()
    assert torch.equal(
        array_jagged_bmm_jagged_out(case.scores.with_values(every_second), strided).values,
        array_jagged_bmm_jagged_out(case.scores, case.x).values,
    )
    leaf = strided.values.requires_grad_()
    jagged_dense_bmm(
        case.x.with_values(leaf), case.dense.mT.contiguous().mT
    ).values.sum().backward()
    expected = case.dense.sum(2).repeat_interleave(case.x.lengths(), 0)
    torch.testing.assert_close(leaf.grad, expected)


def test_flops_count_the_true_lengths() -> None:
    case = Case([3, 0, 2], (4, 5), torch.float32)
    for name, pairs in {"jagged_dense": 5 * 4 * 5, "jagged_jagged": 5 * 4 * 5}.items():
        assert flops(case, name) == [2 * pairs, 6 * pairs]
    for name in ("scores", "sums"):
        assert flops(case, name) == [2 * 13 * 4, 6 * 13 * 4]


def flops(case: Case, name: str) -> list[int]:
    """Return the FLOPs of a product, and of it and its gradients."""
    counts = []
    for run in (lambda f, *a: f(*a), lambda f, *a: with_gradients(f, [0, 1])(*a)):
        with FlopCounterMode(display=False) as counter:
            run(*case.products()[name])
        counts.append(counter.get_total_flops())
    return counts


def test_mistakes_are_named() -> None:
    case, other = Case([2, 1], (3, 4), torch.float32), Case([1, 2], (3, 4), torch.float32)
    flat = Ragged.from_lengths(torch.ones(3), [2, 1])
    with pytest.raises(ValueError, match=r"x must hold \[T, D\] values, got \(3,\)"):
        jagged_dense_bmm(flat, case.dense)
    with pytest.raises(ValueError, match=r"dense must be \[2, 3, K\] .* got \(1, 3, 4\)"):
        jagged_dense_bmm(case.x, case.dense[:1])
    with pytest.raises(ValueError, match=r"x must be floating point, got torch\.int64"):
        jagged_dense_bmm(case.x.with_values(case.x.values.long()), case.dense)
    with pytest.raises(ValueError, match=r"x and dense must be of one dtype .*float32.*float16"):
        jagged_dense_bmm(case.x, case.dense.half())
    with pytest.raises(ValueError, match="row 0 has 2 values in x and 1 in y"):
        jagged_jagged_bmm(case.x, other.z)
    with pytest.raises(ValueError, match="same rows, got 2 and 1"):
        jagged_jagged_bmm(case.x, Ragged.from_lengths(case.z.values, [3]))
    with pytest.raises(ValueError, match="x and y must have one width, got 3 and 4"):
        jagged_jagged_bmm_jagged_out(case.x, case.z)
    with pytest.raises(ValueError, match="num_scores must be the sum of the squares, 5, got 4"):
        jagged_jagged_bmm_jagged_out(case.x, case.y, num_scores=4)
    with pytest.raises(ValueError, match="row 0 of scores must have 1, got 4"):
        array_jagged_bmm_jagged_out(case.scores, other.x)
    with pytest.raises(ValueError, match=r"in the 2 rows of x, got \(3, 3\) in 2 rows"):
        array_jagged_bmm_jagged_out(case.x, case.x)
