"""The specification of pad and unpad: copy each row to the front of its padded row, and back."""

from __future__ import annotations

from torch import Tensor

from cuesta.ragged import Ragged


def pad(values: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    return Ragged(values, offsets).to_padded(padding=padding, longest=longest)


def unpad(padded: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    values = padded.new_zeros(num_values, padded.shape[2])
    longest = padded.shape[1]
    for row, (begin, end) in enumerate(
        zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ):
        kept = min(end - begin, longest)
        values[begin : begin + kept] = padded[row, :kept]
    return values
