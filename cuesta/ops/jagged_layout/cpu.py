"""Numba bodies of the layout ops: parallel copies of lines and rows, blind to what the bits mean."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.numba_support import kernel, num_threads
from cuesta.ops.squares import deal, square_offsets

_RAW = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pad_squares(scores: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    out = scores.new_empty(offsets.numel() - 1, longest, longest)
    num_threads()
    fill = _raw(torch.tensor([padding], dtype=scores.dtype))[0]
    _pad(_raw(scores), square_offsets(offsets).numpy(), offsets.diff().numpy(), _raw(out), fill)
    return out


def unpad_squares(padded: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    out, sides = padded.new_empty(num_scores), offsets.diff().numpy()
    lines = deal(sides, sides + 1, num_threads())
    _unpad(_raw(padded), square_offsets(offsets).numpy(), sides, _raw(out), *lines)
    return out


def dense_jagged_cat(dense: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    out = values.new_empty(values.shape[0] + dense.shape[0])
    tasks = deal(offsets.diff().numpy() + 1, 1, num_threads())
    _cat(_raw(dense), _raw(values), _raw(out), *tasks)
    return out


def dense_jagged_split(joined: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    num_rows = offsets.numel() - 1
    dense, values = joined.new_empty(num_rows), joined.new_empty(joined.shape[0] - num_rows)
    tasks = deal(offsets.diff().numpy() + 1, 1, num_threads())
    _split(_raw(joined), _raw(dense), _raw(values), *tasks)
    return dense, values


def _raw(tensor: Tensor) -> np.ndarray:
    return tensor.detach().view(_RAW[tensor.dtype.itemsize]).numpy()


@kernel
def _pad(scores, squares, sides, out, fill):
    longest = out.shape[1]
    for line in numba.prange(out.shape[0] * longest):
        row, i = line // longest, line % longest
        kept = min(sides[row], longest) if i < sides[row] else 0
        begin = squares[row] + i * sides[row]
        for j in range(kept):
            out[row, i, j] = scores[begin + j]
        for j in range(kept, longest):
            out[row, i, j] = fill


@kernel
def _unpad(padded, squares, sides, out, lines, first_rows, first_lines):
    longest = padded.shape[1]
    for task in numba.prange(first_rows.size):
        row = first_rows[task]
        for line in range(first_lines[task], first_lines[task + 1]):
            while line >= lines[row + 1]:
                row += 1
            i, side = line - lines[row], sides[row]
            begin, kept = squares[row] + i * side, min(side, longest) if i < longest else 0
            for j in range(kept):
                out[begin + j] = padded[row, i, j]
            for j in range(kept, side):
                out[begin + j] = 0


@kernel
def _cat(dense, values, out, parts, first_rows, first_parts):
    for task in numba.prange(first_rows.size):
        row, place, last = first_rows[task], first_parts[task], first_parts[task + 1]
        while place < last:
            while place >= parts[row + 1]:
                row += 1
            if place == parts[row]:
                out[place] = dense[row]
                place += 1
            end = min(parts[row + 1], last)
            for i in range(place, end):
                out[i] = values[i - row - 1]
            place = end


@kernel
def _split(joined, dense, values, parts, first_rows, first_parts):
    for task in numba.prange(first_rows.size):
        row, place, last = first_rows[task], first_parts[task], first_parts[task + 1]
        while place < last:
            while place >= parts[row + 1]:
                row += 1
            if place == parts[row]:
                dense[row] = joined[place]
                place += 1
            end = min(parts[row + 1], last)
            for i in range(place, end):
                values[i - row - 1] = joined[i]
            place = end
