"""The specification of the layout ops: copy each square into the corner of its padded one, and back;
put one number before each row, and take it off.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor


def pad_squares(scores: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    out = scores.new_full((offsets.numel() - 1, longest, longest), padding)
    for row, (part, side) in enumerate(_squares(offsets)):
        kept = min(side, longest)
        out[row, :kept, :kept] = scores[part].view(side, side)[:kept, :kept]
    return out


def unpad_squares(padded: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    out = padded.new_zeros(num_scores)
    for row, (part, side) in enumerate(_squares(offsets)):
        kept = min(side, padded.shape[1])
        out[part].view(side, side)[:kept, :kept] = padded[row, :kept, :kept]
    return out


def dense_jagged_cat(dense: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    out = values.new_empty(values.shape[0] + dense.shape[0])
    for row, begin, end in _rows(offsets):
        out[begin + row] = dense[row]
        out[begin + row + 1 : end + row + 1] = values[begin:end]
    return out


def dense_jagged_split(joined: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    num_rows = offsets.numel() - 1
    dense, values = joined.new_empty(num_rows), joined.new_empty(joined.shape[0] - num_rows)
    for row, begin, end in _rows(offsets):
        dense[row] = joined[begin + row]
        values[begin:end] = joined[begin + row + 1 : end + row + 1]
    return dense, values


def _rows(offsets: Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield each row's number, begin and end."""
    begins, ends = offsets[:-1].tolist(), offsets[1:].tolist()
    return zip(range(len(begins)), begins, ends, strict=True)


def _squares(offsets: Tensor) -> Iterator[tuple[slice, int]]:
    """Yield where each square lies, and its side."""
    begin = 0
    for side in offsets.diff().tolist():
        yield slice(begin, begin + side * side), side
        begin += side * side
