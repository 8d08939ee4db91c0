"""pad and unpad: twins of the reference, inverses and each other's gradients."""

import pytest
import torch
from hypothesis import given

from cuesta.ops import pad, unpad
from cuesta.ragged import Ragged
from tests.laws import raggeds
from tests.twins import assert_twins, with_gradients


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool], ids=str
)
@pytest.mark.parametrize("longest", [None, 2, 50])
@pytest.mark.parametrize("lengths", [[3, 0, 40, 1], [0, 0], [], [300]], ids=str)
def test_bodies_are_twins(lengths: list[int], longest: int | None, dtype: torch.dtype) -> None:
    values = torch.randn(sum(lengths), 5).to(dtype)
    ragged = Ragged.from_lengths(values, lengths)

    def there(values: torch.Tensor) -> torch.Tensor:
        return pad(Ragged(values, ragged.offsets), longest=longest, padding=1.0)

    def back(values: torch.Tensor) -> torch.Tensor:
        return unpad(there(values), ragged.offsets).values

    for run in (there, back):
        assert_twins(with_gradients(run, [0]) if dtype.is_floating_point else run, values)


@given(ragged=raggeds())
def test_unpad_inverts_pad(ragged: Ragged) -> None:
    back = unpad(pad(ragged), ragged.offsets)
    assert torch.equal(back.values, ragged.values)
    assert torch.equal(back.offsets, ragged.offsets)


def test_gradients_pass_gradcheck() -> None:
    values = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 2, 2, 5])
    torch.autograd.gradcheck(lambda v: pad(Ragged(v, offsets), longest=2), values)
    padded = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda p: unpad(p, offsets).values, padded)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="longest must not be negative, got -1"):
        pad(Ragged.from_lengths(torch.ones(2), [2]), longest=-1)
    with pytest.raises(ValueError, match="describe 2 rows, padded has 3"):
        unpad(torch.ones(3, 2), torch.tensor([0, 1, 2]))
    offsets, padded = torch.tensor([0, 2, 3]), torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert unpad(padded, offsets, num_values=3).values.tolist() == [1.0, 2.0, 3.0]
    for num_values in (2, 4):
        with pytest.raises(
            ValueError, match=f"must end at the number of values, {num_values}, but"
        ):
            unpad(padded, offsets, num_values=num_values)
    with pytest.raises(ValueError, match="offsets must never fall, but row 1 runs from 5 to 3"):
        unpad(padded, torch.tensor([0, 5, 3]))
