"""dot_interaction: twins forward and backward, its formula, and that rows are apart from each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cuesta.ops import dot_interaction
from tests.laws import permuted, seeds
from tests.twins import assert_twins, with_gradients

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(3, 26, 64), (5, 1, 21), (2, 40, 3), (4, 16, 100), (0, 4, 8), (3, 0, 5)]  # B, F, D


def make(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sparse = torch.randn(shape, generator=generator).to(dtype)
    return torch.randn(shape[0], shape[2], generator=generator).to(dtype), sparse


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bodies_are_twins(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    assert_twins(with_gradients(dot_interaction, [0, 1]), *make(shape, dtype))


def test_every_pair_is_taken_once_behind_the_dense_vector() -> None:
    dense, sparse = make((2, 3, 4), torch.float64)
    vectors = [dense, *sparse.unbind(1)]
    pairs = [(vectors[i] * vectors[j]).sum(1) for i in range(4) for j in range(i)]
    expected = torch.cat([dense, torch.stack(pairs, 1)], 1)
    torch.testing.assert_close(dot_interaction(dense, sparse), expected)


def test_gradients_pass_gradcheck() -> None:
    dense, sparse = make((2, 3, 4), torch.float64)
    torch.autograd.gradcheck(dot_interaction, (dense.requires_grad_(), sparse.requires_grad_()))


@given(
    num_rows=st.integers(0, 9), num_sparse=st.integers(0, 20), dim=st.integers(1, 40), seed=seeds
)
def test_permuting_rows_permutes_the_result(
    num_rows: int, num_sparse: int, dim: int, seed: int
) -> None:
    dense, sparse = make((num_rows, num_sparse, dim))
    order = permuted(num_rows, seed)
    expected = dot_interaction(dense, sparse)[order]
    assert torch.equal(dot_interaction(dense[order], sparse[order]), expected)


def test_the_number_of_threads_changes_no_bit() -> None:
    inputs = make((50, 26, 21))
    run = with_gradients(dot_interaction, [0, 1])
    torch.set_num_threads(1)
    alone = run(*inputs)
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(run(*inputs), alone, strict=True))


def test_mistakes_are_named() -> None:
    dense, sparse = make((2, 3, 4))
    with pytest.raises(ValueError, match=r"got shapes \(2, 4\) and \(2, 12\)"):
        dot_interaction(dense, sparse.flatten(1))
    with pytest.raises(ValueError, match=r"torch\.float32 and torch\.float16"):
        dot_interaction(dense, sparse.half())
