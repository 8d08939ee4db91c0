"""Products of matrices of which one or two sizes are the length of a ragged row: batched matrix
multiplication without padding.

The jagged feature-interaction kernels of Xu et al., RecSys 2024, arXiv 2409.15373. All four public
functions are one op, C = A B row by row, where the sizes m, n and k of [m, k] times [k, n] are
numbers or the row's length; it is its own backward. Sums are float32 or wider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from cuesta.ops.bodies import body
from cuesta.ops.flops import flop_formula
from cuesta.ops.squares import LENGTH, can_read, check_floats, count_scores, square_offsets
from cuesta.ragged import Ragged

__all__ = [
    "array_jagged_bmm_jagged_out",
    "jagged_dense_bmm",
    "jagged_jagged_bmm",
    "jagged_jagged_bmm_jagged_out",
]


def jagged_dense_bmm(x: Ragged, dense: Float[Tensor, "B D K"]) -> Ragged:
    """Return each value of row b times the matrix dense[b].

    ```
    row 0: x0 x1        x0 M0   x1 M0
    row 1:        ->                        M = dense
    row 2: x2           x2 M2
    ```

    x holds [T, D] values, the result [T, K] of the same floating dtype; sums are float32 or wider.
    Differentiable in both. Raises `ValueError` where shapes, rows, dtypes or devices do not go
    together. Source: the paper, section 2.

    >>> x = Ragged.from_lengths(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), [1, 1])
    >>> jagged_dense_bmm(x, torch.tensor([[[1.0], [1.0]], [[1.0], [-1.0]]])).values.tolist()
    [[3.0], [-1.0]]
    """
    _check_vectors(x=x)
    check_floats(x=x.values, dense=dense)
    num_values, dim = x.values.shape
    if dense.dim() != 3 or dense.shape[:2] != (x.num_rows, dim):
        raise ValueError(
            f"dense must be [{x.num_rows}, {dim}, K] for x of {x.num_rows} rows and "
            f"[T, {dim}] values, got {tuple(dense.shape)}"
        )
    width = dense.shape[2]
    out = _multiplied(x.values, dense, x.offsets, (LENGTH, width, dim), num_values * width)
    return x.with_values(out.view(num_values, width))


def jagged_jagged_bmm(x: Ragged, y: Ragged) -> Float[Tensor, "B D K"]:
    """Return for each row the sum over its positions i of the outer products of x[i] and y[i].

    ```
    row 0: x0 x1   y0 y1        x0 y0' + x1 y1'      X' Y, X and Y being the row's
    row 1:                 ->   0                    matrices [l, D] and [l, K]
    row 2: x2      y2           x2 y2'
    ```

    x holds [T, D] and y [T, K] values in the same rows and one floating dtype, which the result
    has; sums are float32 or wider, in the order of the row. Differentiable in both. Raises
    `ValueError` where shapes, rows, dtypes or devices do not go together; on a GPU, x and y of as
    many rows and values are taken to have the same rows. Source: the paper, section 2.

    >>> x = Ragged.from_lengths(torch.tensor([[1.0], [2.0], [3.0]]), [2, 1])
    >>> jagged_jagged_bmm(x, x).tolist()
    [[[5.0]], [[9.0]]]
    """
    _check_vectors(x=x, y=y)
    sizes = (x.values.shape[1], y.values.shape[1], LENGTH)
    num_out = x.num_rows * sizes[0] * sizes[1]
    out = _multiplied(x.values, y.values, x.offsets, sizes, num_out, turns_a=True)
    return out.view(x.num_rows, *sizes[:2])


def jagged_jagged_bmm_jagged_out(x: Ragged, y: Ragged, *, num_scores: int | None = None) -> Ragged:
    """Return for each row the scores of its values against each other: X Y' as a flat square.

    ```
    row 0: x0 x1   y0 y1        x0.y0 x0.y1 x1.y0 x1.y1
    row 1:                 ->
    row 2: x2      y2           x2.y2
    ```

    x and y hold [T, D] values in the same rows and one floating dtype; row b of the result has
    l * l of the same dtype, l being the length of row b. Sums are float32 or wider. `num_scores`,
    the sum of all l * l, saves a GPU from waiting where the caller knows it. Differentiable in
    both. Raises `ValueError` where shapes, rows, dtypes or devices do not go together; on a GPU, x
    and y of as many rows and values are taken to have the same rows, and `num_scores` to be right.
    Source: the paper, section 2.

    >>> x = Ragged.from_lengths(torch.tensor([[1.0], [2.0], [3.0]]), [2, 1])
    >>> jagged_jagged_bmm_jagged_out(x, x).values.tolist()
    [1.0, 2.0, 2.0, 4.0, 9.0]
    """
    _check_vectors(x=x, y=y)
    dim = x.values.shape[1]
    if y.values.shape[1] != dim:
        raise ValueError(f"x and y must have one width, got {dim} and {y.values.shape[1]}")
    squares = square_offsets(x.offsets)
    num_scores = count_scores(squares, num_scores)
    sizes = (LENGTH, LENGTH, dim)
    out = _multiplied(x.values, y.values, x.offsets, sizes, num_scores, turns_b=True)
    return Ragged(out, squares)


def array_jagged_bmm_jagged_out(scores: Ragged, x: Ragged) -> Ragged:
    """Return for each row the sums of its values weighted by each line of its scores: S X.

    ```
    row 0: s00 s01 s10 s11   x0 x1        s00 x0 + s01 x1   s10 x0 + s11 x1
    row 1:                           ->
    row 2: s22               x2           s22 x2
    ```

    scores holds flat squares, l * l values in a row, and x [T, D] values in rows of l; the result
    is as x. Of one floating dtype; sums are float32 or wider. Differentiable in both. Raises
    `ValueError` where shapes, rows, dtypes or devices do not go together; on a GPU, scores of as
    many rows as x are taken to be the squares of those. Source: the paper, section 2.

    >>> x = Ragged.from_lengths(torch.tensor([[1.0], [2.0], [3.0]]), [2, 1])
    >>> scores = Ragged.from_lengths(torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0]), [4, 1])
    >>> array_jagged_bmm_jagged_out(scores, x).values.tolist()
    [[2.0], [3.0], [6.0]]
    """
    _check_vectors(x=x)
    check_floats(scores=scores.values, x=x.values)
    _check_squares(scores, x)
    sizes = (LENGTH, x.values.shape[1], LENGTH)
    out = _multiplied(scores.values, x.values, x.offsets, sizes, x.values.numel())
    return x.with_values(out.view(x.values.shape))


def _check_vectors(**raggeds: Ragged) -> None:
    """Raise `ValueError` unless all hold [T, D] values, one dtype, in the same rows."""
    for name, ragged in raggeds.items():
        if ragged.values.dim() != 2:
            raise ValueError(f"{name} must hold [T, D] values, got {tuple(ragged.values.shape)}")
    check_floats(**{name: ragged.values for name, ragged in raggeds.items()})
    first, *others = raggeds.values()
    for other in others:
        if first.num_rows != other.num_rows:
            raise ValueError(
                f"x and y must have the same rows, got {first.num_rows} and {other.num_rows}"
            )
        ours, theirs = first.lengths(), other.lengths()
        if can_read(ours) and not torch.equal(ours, theirs):
            row = int((ours != theirs).nonzero()[0])
            raise ValueError(
                f"x and y must have the same rows, but row {row} has {int(ours[row])} values in x "
                f"and {int(theirs[row])} in y"
            )
        if first.values.shape[0] != other.values.shape[0]:  # what may be known of a GPU's rows
            raise ValueError(
                f"x and y must have the same rows, got {first.values.shape[0]} and "
                f"{other.values.shape[0]} values"
            )


def _check_squares(scores: Ragged, x: Ragged) -> None:
    if scores.values.dim() != 1 or scores.num_rows != x.num_rows:
        raise ValueError(
            f"scores must hold [P] values in the {x.num_rows} rows of x, "
            f"got {tuple(scores.values.shape)} in {scores.num_rows} rows"
        )
    given, lengths = scores.lengths(), x.lengths()
    if can_read(given) and not torch.equal(given, lengths.square()):
        row = int((given != lengths.square()).nonzero()[0])
        raise ValueError(
            f"row {row} of x has {int(lengths[row])} values, so row {row} of scores must have "
            f"{int(lengths[row]) ** 2}, got {int(given[row])}"
        )


def _multiplied(
    a: Tensor, b: Tensor, offsets: Tensor, sizes: tuple[int, int, int], num_out: int,
    *, turns_a: bool = False, turns_b: bool = False,
) -> Tensor:  # fmt: skip
    """Return the flat products of each row's [m, k] and [k, n] for sizes (m, n, k)."""
    return torch.ops.cuesta.jagged_bmm(
        a.flatten(), b.flatten(), offsets, *sizes, turns_a, turns_b, num_out
    )


@torch.library.custom_op("cuesta::jagged_bmm", mutates_args=())
def _jagged_bmm(
    a: Tensor, b: Tensor, offsets: Tensor, m: int, n: int, k: int,
    turns_a: bool, turns_b: bool, num_out: int,
) -> Tensor:  # fmt: skip
    """Multiply; where `turns_a`, A's matrices lie as [k, m], where `turns_b`, B's as [n, k]."""
    run = body("jagged_bmm", a).jagged_bmm
    return run(a.contiguous(), b.contiguous(), offsets, m, n, k, turns_a, turns_b, num_out)


@_jagged_bmm.register_fake
def _(
    a: Tensor, b: Tensor, offsets: Tensor, m: int, n: int, k: int,
    turns_a: bool, turns_b: bool, num_out: int,
) -> Tensor:  # fmt: skip
    return a.new_empty(num_out)


class _Context(Protocol):
    """What autograd keeps of a call."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    sizes: tuple[int, int, int]
    turns: tuple[bool, bool]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _setup(
    ctx: _Context,
    inputs: tuple[Tensor, Tensor, Tensor, int, int, int, bool, bool, int],
    output: Tensor,
) -> None:
    a, b, offsets, m, n, k, turns_a, turns_b, _ = inputs
    ctx.sizes, ctx.turns = (m, n, k), (turns_a, turns_b)
    ctx.save_for_backward(a, b, offsets)


def _backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return dA = dC B' and dB = A' dC, or their transposes where A and B lie transposed."""
    a, b, offsets = ctx.saved_tensors
    (m, n, k), (turns_a, turns_b) = ctx.sizes, ctx.turns
    run = torch.ops.cuesta.jagged_bmm
    da = db = None
    if ctx.needs_input_grad[0] and turns_a:
        da = run(b, grad, offsets, k, m, n, turns_b, True, a.shape[0])
    elif ctx.needs_input_grad[0]:
        da = run(grad, b, offsets, m, k, n, False, not turns_b, a.shape[0])
    if ctx.needs_input_grad[1] and turns_b:
        db = run(grad, a, offsets, n, k, m, True, turns_a, b.shape[0])
    elif ctx.needs_input_grad[1]:
        db = run(a, grad, offsets, k, n, m, not turns_a, False, b.shape[0])
    return da, db, *(None,) * 7


_jagged_bmm.register_autograd(_backward, setup_context=_setup)


@flop_formula(torch.ops.cuesta.jagged_bmm)
def _flops(
    a: Sequence[int], b: Sequence[int], offsets: Sequence[int], m: int, n: int, k: int,
    turns_a: bool, turns_b: bool, num_out: int, **_: object,
) -> int:  # fmt: skip
    """Count a multiply and an add for each of the sum of m n k, lengths being the true ones.

    The sum of m k is how many numbers A has, that of m n, where n is a length, how many C has.
    """
    return 2 * (a[0] * n if n != LENGTH else num_out * k)
