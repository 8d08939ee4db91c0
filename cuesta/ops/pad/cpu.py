"""Numba bodies of pad and unpad: one parallel copy of whole rows, blind to what the bits mean."""

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
        out[row, :kept] = values[offsets[row] : offsets[row] + kept]
        out[row, kept:] = fill


@kernel
def _unpad(padded, offsets, out):
    longest = padded.shape[1]
    for row in numba.prange(padded.shape[0]):
        kept = min(offsets[row + 1] - offsets[row], longest)
        out[offsets[row] : offsets[row] + kept] = padded[row, :kept]
        out[offsets[row] + kept : offsets[row + 1]] = 0
