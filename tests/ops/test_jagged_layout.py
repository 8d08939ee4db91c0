"""The layout ops: twins of the reference, exact copies there and back; and how parts of rows are
dealt to tasks.
"""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cuesta.ops import dense_jagged_cat_jagged_out, jagged2_to_padded_dense
from cuesta.ops.squares import deal, most_lines, side_offsets, square_offsets, tile_offsets
from cuesta.ragged import Ragged, offsets_from_lengths
from tests.laws import permuted, row_lengths, seeds
from tests.twins import assert_twins, with_gradients

DTYPE = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool], ids=str
)
LENGTHS = pytest.mark.parametrize("lengths", [[3, 0, 40, 1], [0, 0], [], [120]], ids=str)


def rows(lengths: list[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    return Ragged.from_lengths(torch.randn(sum(lengths), generator=generator).to(dtype), lengths)


def squares(sides: list[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Ragged:
    return rows([side**2 for side in sides], dtype, seed)


@DTYPE
@LENGTHS
@pytest.mark.parametrize("longest", [None, 0, 2, 50])
def test_bodies_of_padding_are_twins(
    lengths: list[int], longest: int | None, dtype: torch.dtype
) -> None:
    scores = squares(lengths, dtype)

    def run(values: Tensor) -> Tensor:
        return jagged2_to_padded_dense(scores.with_values(values), longest=longest, padding=1.0)

    assert_twins(with_gradients(run, [0]) if dtype.is_floating_point else run, scores.values)


@DTYPE
@LENGTHS
def test_bodies_of_cat_are_twins(lengths: list[int], dtype: torch.dtype) -> None:
    x, dense = rows(lengths, dtype), rows([len(lengths)], dtype, seed=1).values

    def run(dense: Tensor, values: Tensor) -> Tensor:
        return dense_jagged_cat_jagged_out(dense, x.with_values(values)).values

    is_floating = dtype.is_floating_point
    assert_twins(with_gradients(run, [0, 1]) if is_floating else run, dense, x.values)


def test_gradients_and_their_gradients_pass_gradcheck() -> None:
    scores, x = squares([2, 0, 3], torch.float64), rows([2, 0, 3], torch.float64)
    dense = rows([3], torch.float64, seed=1).values.requires_grad_()
    for run, *leaves in (
        (lambda v: jagged2_to_padded_dense(scores.with_values(v), longest=2), scores.values),
        (lambda d, v: dense_jagged_cat_jagged_out(d, x.with_values(v)).values, dense, x.values),
    ):
        leaves = [leaf.requires_grad_() for leaf in leaves]
        torch.autograd.gradcheck(run, leaves)
        torch.autograd.gradgradcheck(run, leaves)


@given(sides=row_lengths(), longest=st.integers(0, 20), seed=seeds)
def test_padding_is_that_of_lines_padded_row_by_row(
    sides: list[int], longest: int, seed: int
) -> None:
    scores = squares(sides, seed=seed)
    out = jagged2_to_padded_dense(scores, longest=longest, padding=7.0)
    for i, side in enumerate(sides):
        lines = Ragged.from_lengths(scores.row(i), [side] * side)
        kept = min(side, longest)
        assert torch.equal(out[i, :kept], lines.to_padded(longest=longest, padding=7.0)[:kept])
        assert bool((out[i, kept:] == 7.0).all())


@given(lengths=row_lengths(), seed=seeds)
def test_cat_puts_one_number_before_each_row(lengths: list[int], seed: int) -> None:
    x, dense = rows(lengths, seed=seed), rows([len(lengths)], seed=seed + 1).values
    out = dense_jagged_cat_jagged_out(dense, x)
    assert out.lengths().tolist() == [length + 1 for length in lengths]
    for i in range(len(lengths)):
        assert torch.equal(out.row(i), torch.cat([dense[i : i + 1], x.row(i)]))


@given(lengths=row_lengths(), seed=seeds)
def test_permuting_rows_permutes_the_result(lengths: list[int], seed: int) -> None:
    order = permuted(len(lengths), seed)
    x, scores, dense = rows(lengths), squares(lengths), rows([len(lengths)], seed=seed).values
    joined = dense_jagged_cat_jagged_out(dense[order], x.select_rows(order))
    expected = dense_jagged_cat_jagged_out(dense, x).select_rows(order)
    assert torch.equal(joined.values, expected.values)
    padded = jagged2_to_padded_dense(scores.select_rows(order))
    assert torch.equal(padded, jagged2_to_padded_dense(scores)[order])


@pytest.mark.parametrize("lengths", [[3, 0, 40, 1, 90], [120]], ids=str)
def test_the_number_of_threads_changes_no_bit(lengths: list[int]) -> None:
    x, scores, dense = rows(lengths), squares(lengths), rows([len(lengths)], seed=1).values

    def every(values: Tensor, numbers: Tensor, dense: Tensor) -> Tensor:
        padded = jagged2_to_padded_dense(scores.with_values(numbers))
        joined = dense_jagged_cat_jagged_out(dense, x.with_values(values))
        return torch.cat([padded.flatten(), joined.values])

    both = with_gradients(every, [0, 1, 2])
    torch.set_num_threads(1)
    alone = both(x.values, scores.values, dense)
    torch.set_num_threads(2)
    shared = [both(x.values, scores.values, dense)]
    for num_tasks in (5, 16):
        with patch("cuesta.ops.jagged_layout.cpu.num_threads", return_value=num_tasks):
            shared.append(both(x.values, scores.values, dense))
    for other in shared:
        assert all(torch.equal(a, b) for a, b in zip(other, alone, strict=True))


def test_strided_inputs_and_expanded_gradients_are_understood() -> None:
    x, scores = rows([3, 2]), squares([3, 2])
    twice = torch.stack([x.values, x.values], 1)[:, 1].requires_grad_()
    dense = torch.zeros(1).requires_grad_()
    out = dense_jagged_cat_jagged_out(dense.expand(2), x.with_values(twice)).values
    assert torch.equal(out, dense_jagged_cat_jagged_out(torch.zeros(2), x).values)
    grads = torch.autograd.grad(out.sum(), [dense, twice])
    assert [grad.tolist() for grad in grads] == [[2], [1] * 5]
    numbers = torch.stack([scores.values, scores.values], 1)[:, 1].requires_grad_()
    padded = jagged2_to_padded_dense(scores.with_values(numbers), longest=2)
    assert torch.equal(padded, jagged2_to_padded_dense(scores, longest=2))
    (grad,) = torch.autograd.grad(padded.sum(), numbers)
    assert grad.tolist() == [1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="longest must not be negative, got -1"):
        jagged2_to_padded_dense(squares([2]), longest=-1)
    with pytest.raises(ValueError, match="scores must be a square, but row 1 has 2 values"):
        jagged2_to_padded_dense(rows([1, 2]))
    with pytest.raises(ValueError, match=r"dense be \[2\], .* got \(3,\) and \(3,\)"):
        dense_jagged_cat_jagged_out(torch.ones(3), rows([1, 2]))
    with pytest.raises(ValueError, match=r"of one dtype .*float64 on cpu and torch\.float32"):
        dense_jagged_cat_jagged_out(torch.ones(2).double(), rows([1, 2]))


@settings(max_examples=200)
@given(lengths=row_lengths(), work=st.integers(1, 50), num_tasks=st.integers(1, 9))
def test_every_part_is_dealt_once_to_tasks_of_even_work(
    lengths: list[int], work: int, num_tasks: int
) -> None:
    num_parts = np.array(lengths, np.int64)
    each = work + num_parts % 3
    dealt = deal(num_parts, each, num_tasks)
    row_of_part = np.repeat(np.arange(len(lengths)), lengths)
    assert dealt.parts.tolist() == [0, *num_parts.cumsum()]
    assert (dealt.first_parts[0], dealt.first_parts[-1]) == (0, num_parts.sum())
    share = (num_parts * each).sum() / num_tasks
    for task, (first, last) in enumerate(
        zip(dealt.first_parts[:-1], dealt.first_parts[1:], strict=True)
    ):
        assert first <= last
        if first < last:
            row = dealt.first_rows[task]
            assert row <= row_of_part[first]
            assert dealt.parts[row + 1] >= first  # no task walks there from far away
            assert each[row_of_part[first:last]].sum() <= share + each.max()


@given(sides=row_lengths())
def test_sides_squares_and_tiles_go_together(sides: list[int]) -> None:
    offsets = offsets_from_lengths(torch.tensor(sides, dtype=torch.int64))
    flat = squares(sides)
    assert torch.equal(square_offsets(offsets), flat.offsets)
    assert torch.equal(side_offsets(flat), offsets)
    tiles = tile_offsets(offsets, 5)
    assert tiles.diff().tolist() == [-(-side // 5) for side in sides]
    num_lines = most_lines(len(sides), flat.values.numel())
    assert sum(sides) <= num_lines
    assert int(tiles[-1]) <= num_lines // 5 + len(sides)


def test_the_side_of_a_large_square_is_exact() -> None:
    sides = torch.tensor([2**20, 2**20 - 1, 3 * 2**18 + 1])
    assert torch.equal(side_offsets(without_memory(sides.square())).diff(), sides)
    with pytest.raises(ValueError, match="row 1 has 1099509530626 values"):
        side_offsets(without_memory(sides.square() + torch.tensor([0, 1, 0])))


def without_memory(lengths: Tensor) -> Ragged:
    """Return rows of the same number everywhere."""
    return Ragged.from_lengths(torch.zeros(1).expand(int(lengths.sum())), lengths)
