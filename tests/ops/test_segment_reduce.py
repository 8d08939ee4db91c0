"""segment_reduce: twins of the reference forward and backward, and the laws of ragged rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuesta.ops import force_body, segment_reduce
from cuesta.ragged import Ragged
from tests.laws import permuted, raggeds, seeds
from tests.twins import assert_twins, with_gradients

HOWS = ("sum", "mean", "max")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def make(lengths: list[int], dim: int, dtype: torch.dtype) -> Ragged:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(sum(lengths), dim, generator=generator).to(dtype)
    return Ragged.from_lengths(values, lengths)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("lengths", [[3, 0, 40, 1], [0, 0], [], [300]], ids=str)
def test_bodies_are_twins(how: str, lengths: list[int], dtype: torch.dtype) -> None:
    ragged = make(lengths, 21, dtype)

    def run(values: torch.Tensor) -> torch.Tensor:
        return segment_reduce(Ragged(values, ragged.offsets), how)

    assert_twins(with_gradients(run, [0]), ragged.values)


@given(ragged=raggeds(), how=st.sampled_from(HOWS), seed=seeds)
def test_permuting_rows_permutes_the_result(ragged: Ragged, how: str, seed: int) -> None:
    order = permuted(ragged.num_rows, seed)
    assert torch.equal(
        segment_reduce(ragged.select_rows(order), how), segment_reduce(ragged, how)[order]
    )


@given(ragged=raggeds(), how=st.sampled_from(HOWS))
def test_concatenating_rows_concatenates_results(ragged: Ragged, how: str) -> None:
    twice = segment_reduce(Ragged.cat([ragged, ragged]), how)
    once = segment_reduce(ragged, how)
    assert torch.equal(twice, torch.cat([once, once]))


@given(ragged=raggeds(), how=st.sampled_from(HOWS))
def test_the_number_of_threads_changes_no_bit(ragged: Ragged, how: str) -> None:
    torch.set_num_threads(1)
    alone = segment_reduce(ragged, how)
    torch.set_num_threads(2)
    assert torch.equal(segment_reduce(ragged, how), alone)


@pytest.mark.parametrize("how", HOWS)
def test_gradients_pass_gradcheck(how: str) -> None:
    ragged = make([2, 0, 3], 3, torch.float64)
    torch.autograd.gradcheck(
        lambda v: segment_reduce(Ragged(v, ragged.offsets), how), ragged.values.requires_grad_()
    )


def test_max_sends_its_gradient_to_the_first_of_equals_and_keeps_nan() -> None:
    values = torch.tensor([[1.0], [5.0], [5.0], [float("nan")]], requires_grad=True)
    for body in ("reference", "cpu"):
        with force_body(body):
            out = segment_reduce(Ragged.from_lengths(values, [3, 1]), "max")
        assert out[0] == 5.0
        assert out[1].isnan()
        (grad,) = torch.autograd.grad(out.sum(), values)
        assert grad.flatten().tolist() == [0.0, 1.0, 0.0, 1.0]


def test_trailing_shape_is_kept() -> None:
    ragged = Ragged.from_lengths(torch.randn(4, 2, 3), [1, 3])
    assert segment_reduce(ragged, "mean").shape == (2, 2, 3)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="'median'"):
        segment_reduce(make([1], 1, torch.float32), "median")
    with pytest.raises(ValueError, match=r"floating point, got torch\.int64"):
        segment_reduce(Ragged.from_lengths(torch.tensor([1]), [1]))
