"""copy_rows: bodies agree to the bit from and to every dtype, other rows stay, and chance has no bias."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cuesta.ops import copy_rows, force_body

# Reading knows the source's dtype alone, writing the target's: each once, and two of one dtype. A pair is a kernel.
PAIRS = (
    (torch.float32, torch.float32),
    (torch.float32, torch.float16),
    (torch.float32, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.float32),
)
BODY = pytest.mark.parametrize("body", ["reference", "cpu"])


def places(size: int, count: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]


@given(
    count=st.integers(0, 30),
    dim=st.sampled_from([1, 5, 16, 40]),
    dtypes=st.sampled_from(PAIRS),
    random_key=st.sampled_from([None, 0, -(2**62)]),
    apart=st.sampled_from([0, 3]),
)
def test_bodies_agree_to_the_bit_and_leave_all_else(
    count: int,
    dim: int,
    dtypes: tuple[torch.dtype, torch.dtype],
    random_key: int | None,
    apart: int,
) -> None:
    drawn = torch.randn(30, dim + apart, generator=torch.Generator().manual_seed(dim))
    source = (drawn * 3).to(dtypes[0])[:, apart:]
    found = []
    for body in ("reference", "cpu"):
        whole = torch.full((50, dim + apart), 7.0, dtype=dtypes[1])
        target = whole[:, :dim]
        with force_body(body):
            copy_rows(
                target, places(50, count, 1), source, places(30, count, 2), random_key=random_key
            )
        found.append(target)
        assert (whole[:, dim:] == 7).all()
    assert torch.equal(*found)
    is_other = torch.ones(50, dtype=torch.bool)
    is_other[places(50, count, 1)] = False
    assert (found[0][is_other] == 7).all()
    if random_key is None:
        expected = source[places(30, count, 2)].to(dtypes[1])
        assert torch.equal(found[0][places(50, count, 1)], expected)


@BODY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_chance_keeps_the_mean(body: str, dtype: torch.dtype) -> None:
    value = 1 + 2.0**-12
    target = torch.zeros(20_000, 8, dtype=dtype)
    rows = torch.arange(20_000)
    with force_body(body):
        copy_rows(target, rows, torch.full((1, 8), value), torch.zeros_like(rows), random_key=3)
    step = 2.0**-10 if dtype is torch.float16 else 2.0**-7
    chance = 2.0**-12 / step
    deviation = step * (chance * (1 - chance) / target.numel()) ** 0.5
    assert abs(float(target.double().mean()) - value) < 5 * deviation
    assert set(target.unique().tolist()) == {1.0, 1 + step}


def test_what_does_not_go_together_is_named() -> None:
    one, rows = torch.zeros(3, 2), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"matrices of one width, got \(3, 2\) and \(3, 1\)"):
        copy_rows(one, rows, one[:, :1], rows)
    with pytest.raises(ValueError, match=r"32 or 16 bits, got torch.float64"):
        copy_rows(one.double(), rows, one, rows)
    with pytest.raises(ValueError, match=r"of one length, got \(1,\) and \(2,\)"):
        copy_rows(one, rows, one, rows.repeat(2))
    with pytest.raises(
        ValueError, match=r"row of target must lie side by side, got strides \(1, 3\)"
    ):
        copy_rows(torch.zeros(2, 3).t(), rows, one, rows)
