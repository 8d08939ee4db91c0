"""Matrices that belong to the rows of a ragged tensor: where each begins when they lie flat, one
after another, and how their parts are dealt to threads and to programs of a GPU.

A row of length l has a matrix [l, D], [D, K] or, for scores and gaps in time, the square [l, l],
row-major. Squares as a ragged tensor are rows of l * l values; l is then called the side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from cuesta.ragged import Ragged, offsets_from_lengths

LENGTH = -1  # as a size of a matrix: the length of its row


def square_offsets(offsets: Int64[Tensor, " B+1"]) -> Int64[Tensor, " B+1"]:
    """Return where each row's square begins.

    >>> square_offsets(torch.tensor([0, 2, 2, 5])).tolist()
    [0, 4, 4, 13]
    """
    return offsets_from_lengths(offsets.diff().square())


def side_offsets(scores: Ragged, name: str = "scores") -> Int64[Tensor, " B+1"]:
    """Return the offsets of rows as long as the sides of flat squares.

    Raises `ValueError` naming the row whose number of values is no square; on an accelerator, where
    reading the numbers would wait for the device, such a row counts as the largest square in it.

    >>> side_offsets(Ragged.from_lengths(torch.ones(13), [4, 0, 9])).tolist()
    [0, 2, 2, 5]
    """
    if scores.values.dim() != 1:
        raise ValueError(
            f"{name} must hold flat squares, [P] values, got {tuple(scores.values.shape)}"
        )
    lengths = scores.lengths()
    sides = lengths.double().sqrt().long()  # exact for squares below 2**52
    if can_read(lengths) and not torch.equal(sides.square(), lengths):
        row = int((sides.square() != lengths).nonzero()[0])
        raise ValueError(
            f"each row of {name} must be a square, but row {row} has {int(lengths[row])} values"
        )
    return offsets_from_lengths(sides)


def count_scores(
    squares: Int64[Tensor, " B+1"], num_scores: int | None, name: str = "num_scores"
) -> int:
    """Return how many numbers all squares hold: `num_scores` where it is given, else read.

    Raises `ValueError` where what is given is wrong, which goes unnoticed on an accelerator.
    """
    if num_scores is None:
        return int(squares[-1])
    if can_read(squares) and int(squares[-1]) != num_scores:
        raise ValueError(
            f"{name} must be the sum of the squares, {int(squares[-1])}, got {num_scores}"
        )
    return num_scores


def can_read(tensor: Tensor) -> bool:
    """Return whether the numbers of `tensor` may be looked at: there are some, and here."""
    return tensor.device.type == "cpu" and has_numbers(tensor)


def has_numbers(tensor: Tensor) -> bool:
    """Return whether `tensor` has numbers, which it lacks where a program is traced."""
    is_traced = isinstance(tensor, FakeTensor) or torch.compiler.is_compiling()
    return tensor.device.type != "meta" and not is_traced


def check_floats(**tensors: Tensor) -> None:
    """Raise `ValueError` naming the argument unless all are floating point, of one dtype, on one
    device.
    """
    names, (first, *_) = list(tensors), tensors.values()
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.dtype is not first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{names[0]} and {name} must be of one dtype on one device, got {first.dtype} on "
                f"{first.device} and {tensor.dtype} on {tensor.device}"
            )


def matrix_starts(offsets: Int64[Tensor, " B+1"], rows: int, columns: int) -> Int64[Tensor, " B"]:
    """Return where each row's matrix of `rows` x `columns` begins, one or both of them LENGTH.

    >>> matrix_starts(torch.tensor([0, 2, 2, 5]), LENGTH, 10).tolist()
    [0, 20, 20]
    """
    if rows == LENGTH and columns == LENGTH:
        return square_offsets(offsets)[:-1]
    if rows == LENGTH or columns == LENGTH:
        return offsets[:-1] * (columns if rows == LENGTH else rows)
    return torch.arange(offsets.numel() - 1, device=offsets.device) * (rows * columns)


class Deal(NamedTuple):
    """Say which parts each task of a parallel loop takes.

    Task t takes parts first_parts[t] up to first_parts[t + 1]; row b's parts are parts[b] up to
    parts[b + 1], and the first part of task t is in row first_rows[t].
    """

    parts: NDArray[np.int64]  # [B + 1]
    first_rows: NDArray[np.int64]
    first_parts: NDArray[np.int64]


def deal(num_parts: NDArray[np.int64], work: NDArray[np.int64] | int, num_tasks: int) -> Deal:
    """Deal the parts of each row, each of as much `work` (1 at least) as its row says, evenly.

    >>> deal(np.array([2, 0, 3]), np.array([10, 10, 20]), 2)[1:]
    (array([0, 2]), array([0, 3, 5]))
    """
    num_rows = num_parts.size
    parts, ends = np.zeros(num_rows + 1, np.int64), np.zeros(num_rows + 1, np.int64)
    np.cumsum(num_parts, out=parts[1:])
    np.cumsum(num_parts * work, out=ends[1:])
    goals = ends[-1] * np.arange(num_tasks + 1) // num_tasks
    rows = np.searchsorted(ends[1:], goals, side="right")  # B for the last goal
    work = np.append(np.broadcast_to(np.asarray(work, np.int64), num_rows), 1)
    first_parts = parts[rows] + -(-(goals - ends[rows]) // work[rows])
    return Deal(parts, rows[:-1], first_parts)


def tile_offsets(offsets: Int64[Tensor, " B+1"], size: int) -> Int64[Tensor, " B+1"]:
    """Return the first tile of each row when rows are cut into tiles of `size`, on the device.

    At most num_values // size + B there are, so that nobody need wait to learn how many.
    """
    return offsets_from_lengths((offsets.diff() + size - 1) // size)


def most_lines(num_rows: int, num_scores: int) -> int:
    """Return how many lines `num_rows` squares of `num_scores` numbers may have: most where all are
    equal.
    """
    return math.isqrt(num_rows * num_scores)
