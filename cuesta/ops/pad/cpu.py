"""Numba bodies of pad and unpad: one parallel copy of whole rows, blind to what the bits mean.

Loops over elements: an assignment of slices takes Numba twice as long to compile.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.numba_support import kernel, num_threads

_RAW = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pad(values: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    out = values.new_empty(offsets.numel() - 1, longest, values.shape[1])
    num_threads()
    fill = _raw(torch.tensor([padding], dtype=values.dtype))[0]
    _pad(_raw(values), offsets.numpy(), _raw(out), fill)
    return out


def unpad(padded: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    out = padded.new_empty(num_values, padded.shape[2])
    num_threads()
    _unpad(_raw(padded), offsets.numpy(), _raw(out))
    return out


def _raw(tensor: Tensor) -> np.ndarray:
    return tensor.detach().view(_RAW[tensor.dtype.itemsize]).numpy()


@kernel
def _pad(values, offsets, out, fill):
    longest = out.shape[1]
    for row in numba.prange(out.shape[0]):
        kept = min(offsets[row + 1] - offsets[row], longest)
        for place in range(kept):
            for column in range(out.shape[2]):
                out[row, place, column] = values[offsets[row] + place, column]
        for place in range(kept, longest):
            for column in range(out.shape[2]):
                out[row, place, column] = fill


@kernel
def _unpad(padded, offsets, out):
    longest = padded.shape[1]
    for row in numba.prange(padded.shape[0]):
        kept = min(offsets[row + 1] - offsets[row], longest)
        for place in range(kept):
            for column in range(out.shape[1]):
                out[offsets[row] + place, column] = padded[row, place, column]
        for place in range(offsets[row] + kept, offsets[row + 1]):
            for column in range(out.shape[1]):
                out[place, column] = 0
