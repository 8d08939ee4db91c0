"""Numba bodies of dot_interaction: one row after another, all of its vectors in the first cache.

Both ways are small matrix products, sixteen columns of four results in registers at a time. Forward
multiplies the row's vectors, laid out as columns, with themselves, so that no product needs a sum
across lanes; backward multiplies the symmetric matrix of slopes with the vectors.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.lanes import WIDTH, at, load, load_upto, spread, store_upto, zeros
from cuesta.ops.numba_decorators import inlined
from cuesta.ops.numba_support import kernel, num_threads, view, widen

TASKS_PER_THREAD = 4


def dot_interaction(dense: Tensor, sparse: Tensor) -> Tensor:
    num_rows, num_sparse, dim = sparse.shape
    out = dense.new_empty(num_rows, dim + num_sparse * (num_sparse + 1) // 2)
    num_tasks = num_threads() * TASKS_PER_THREAD
    columns = np.zeros((num_tasks, dim, _padded(num_sparse + 1)), np.float32)
    _forward(view(dense), view(sparse), view(out), columns)
    return out


def dot_interaction_backward(grad: Tensor, dense: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    dense_grad, sparse_grad = torch.empty_like(dense), torch.empty_like(sparse)
    num_tasks, num_vectors = num_threads() * TASKS_PER_THREAD, sparse.shape[1] + 1
    slopes = np.zeros((num_tasks, num_vectors, num_vectors), np.float32)
    vectors = np.zeros((num_tasks, num_vectors, _padded(sparse.shape[2])), np.float32)
    _backward(
        view(grad), view(dense), view(sparse), view(dense_grad), view(sparse_grad),
        slopes, vectors,
    )  # fmt: skip
    return dense_grad, sparse_grad


def _padded(size: int) -> int:
    return -(-size // WIDTH) * WIDTH


@kernel
def _forward(dense, sparse, out, columns):
    num_tasks, dim, padded = columns.shape
    num_rows, num_sparse = sparse.shape[0], sparse.shape[1]
    for task in numba.prange(num_tasks):
        mine = columns[task].reshape(dim * padded)
        for row in range(num_rows * task // num_tasks, num_rows * (task + 1) // num_tasks):
            for d in range(dim):
                out[row, d] = dense[row, d]
                mine[d * padded] = widen(dense[row, d])
            for f in range(num_sparse):
                for d in range(dim):
                    mine[d * padded + 1 + f] = widen(sparse[row, f, d])
            for i in range(1, num_sparse + 1, 4):
                for j in range(0, min(i + 3, num_sparse), WIDTH):
                    a, b, c, d = _four_sums(mine, padded, i, num_sparse, mine, padded, j, dim)
                    _write_products(out[row], dim, i, j, a)
                    if i + 1 <= num_sparse:
                        _write_products(out[row], dim, i + 1, j, b)
                    if i + 2 <= num_sparse:
                        _write_products(out[row], dim, i + 2, j, c)
                    if i + 3 <= num_sparse:
                        _write_products(out[row], dim, i + 3, j, d)


@kernel
def _backward(grad, dense, sparse, dense_grad, sparse_grad, slopes, vectors):
    num_tasks, num_vectors, padded = vectors.shape
    num_rows, dim = dense.shape
    last = num_vectors - 1
    for task in numba.prange(num_tasks):
        slope = slopes[task].reshape(num_vectors * num_vectors)
        vector = vectors[task].reshape(num_vectors * padded)
        for row in range(num_rows * task // num_tasks, num_rows * (task + 1) // num_tasks):
            k = dim
            for i in range(num_vectors):
                for j in range(i):
                    slope[i * num_vectors + j] = slope[j * num_vectors + i] = widen(grad[row, k])
                    k += 1
            for d in range(0, dim, WIDTH):
                left = dim - d
                store_upto(vector, d, load_upto(dense[row], d, left), left)
                for f in range(last):
                    value = load_upto(sparse[row, f], d, left)
                    store_upto(vector, (f + 1) * padded + d, value, left)
            for begin in range(0, dim, WIDTH):
                left = dim - begin
                for i in range(0, num_vectors, 4):
                    a, b, c, d = _four_sums(
                        slope, num_vectors, i, last, vector, padded, begin, num_vectors
                    )
                    if i == 0:
                        a = a + load_upto(grad[row], begin, left)
                        store_upto(dense_grad[row], begin, a, left)
                    else:
                        store_upto(sparse_grad[row, i - 1], begin, a, left)
                    if i + 1 <= last:
                        store_upto(sparse_grad[row, i], begin, b, left)
                    if i + 2 <= last:
                        store_upto(sparse_grad[row, i + 1], begin, c, left)
                    if i + 3 <= last:
                        store_upto(sparse_grad[row, i + 2], begin, d, left)


@inlined
def _write_products(out, dim, i, j, products):
    """Write the products of vector i with vectors j .. j + 15, those that come before it."""
    if j < i:
        store_upto(out, dim + i * (i - 1) // 2 + j, products, i - j)


@inlined
def _four_sums(left, left_width, i, last, right, right_width, j, depth):
    """Return columns j .. j + 15 of rows i .. i + 3 of the product of `left`, transposed, and `right`.

    Both are flat, of `depth` rows; rows beyond the `last` repeat it.
    """
    second, third, fourth = min(i + 1, last), min(i + 2, last), min(i + 3, last)
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    for k in range(depth):
        others = load(right, k * right_width + j)
        a = a + spread(at(left, k * left_width + i)) * others
        b = b + spread(at(left, k * left_width + second)) * others
        c = c + spread(at(left, k * left_width + third)) * others
        d = d + spread(at(left, k * left_width + fourth)) * others
    return a, b, c, d
