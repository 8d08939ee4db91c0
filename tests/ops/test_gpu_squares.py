"""The Triton bodies of the feature-interaction family: products, softmax and elementwise ops of ragged
rows and of flat squares of scores, and their layouts.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cuesta.ops import (
    array_jagged_bmm_jagged_out,
    dense_jagged_cat_jagged_out,
    force_body,
    jagged2_softmax,
    jagged_dense_bmm,
    jagged_jagged_bmm,
    jagged_jagged_bmm_jagged_out,
    jagged_self_subtraction_jagged_out,
    jagged_softmax,
)
from cuesta.ragged import Ragged
from tests.ops.gpu_rungs import (
    DTYPES,
    differentiated,
    ragged,
    random,
    runs,
    tells_nothing_of_fusion,
    with_dtypes,
)
from tests.twins import assert_twins

pytestmark = tells_nothing_of_fusion

SIDES = [[3, 0, 40, 1], [17, 17, 17], [0, 0], []]


@runs
@with_dtypes(("lengths", "widths", "dtype"), SIDES, [(40, 70), (21, 5)])
def test_jagged_bmm_is_a_twin(
    lengths: list[int], widths: tuple[int, int], dtype: torch.dtype
) -> None:
    x, y = (ragged(lengths, width, dtype) for width in widths)
    scores, dense = squares(lengths, dtype), random(len(lengths), *widths).to(dtype)

    def assert_twin(run: Callable[[Tensor, Tensor], Tensor], *operands: Tensor) -> None:
        with force_body("reference"):
            shape = run(*operands).shape
        slope = random(*shape, seed=1).to(dtype)
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


def squares(sides: list[int], dtype: torch.dtype) -> Ragged:
    """Return flat squares of scores."""
    flat = ragged([side**2 for side in sides], 1, dtype)
    return flat.with_values(flat.values.flatten())
