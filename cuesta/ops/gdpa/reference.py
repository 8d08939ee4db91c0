"""The specification of gdpa: one row after another, O = scale * act(Q K^T) V over the keys within
the band. In 16 bits only weights, slopes and results are rounded, as in the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from cuesta.ops.attended_rows import widened
from cuesta.ops.gdpa.activations import FORMULAS, GELU_CUBIC, GELU_RATE, GELU_RATE_BF16, LEAK


def gdpa(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, scale: float,
) -> Tensor:  # fmt: skip
    dtype = q.dtype
    q, k, v = widened(q, k, v)
    out = v.new_zeros(q.shape[0], v.shape[1], v.shape[2])
    for queries, keys in _rows(q_offsets, offsets):
        scores, seen = _scores(q[queries], k[keys], before, after, aligns_last)
        weights = (scale * _activate(scores, activation) * seen).to(dtype).to(v.dtype)
        out[queries] = torch.einsum("hqk,khc->qhc", weights, v[keys])
    return out.to(dtype)


def gdpa_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dtype = q.dtype
    grad, q, k, v = widened(grad, q, k, v)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for queries, keys in _rows(q_offsets, offsets):
        scores, seen = _scores(q[queries], k[keys], before, after, aligns_last)
        weights = (scale * _activate(scores, activation) * seen).to(dtype).to(v.dtype)
        dv[keys] = torch.einsum("hqk,qhc->khc", weights, grad[queries])
        moved = torch.einsum("qhc,khc->hqk", grad[queries], v[keys])
        slopes = (scale * _slope(scores, activation) * seen * moved).to(dtype).to(q.dtype)
        dq[queries] = torch.einsum("hqk,khd->qhd", slopes, k[keys])
        dk[keys] = torch.einsum("hqk,qhd->khd", slopes, q[queries])
    return dq.to(dtype), dk.to(dtype), dv.to(dtype)


def _rows(q_offsets: Tensor, offsets: Tensor) -> Iterator[tuple[slice, slice]]:
    ours, theirs = q_offsets.tolist(), offsets.tolist()
    for row in range(len(ours) - 1):
        yield slice(ours[row], ours[row + 1]), slice(theirs[row], theirs[row + 1])


def _scores(
    q: Tensor, k: Tensor, before: int, after: int, aligns_last: bool
) -> tuple[Tensor, Tensor]:
    """Return a row's scores [H, queries, keys] and which of them lie in the band [queries, keys]."""
    scores = torch.einsum("qhd,khd->hqk", q, k)
    place = torch.arange(q.shape[0], device=q.device)[:, None]
    if aligns_last:
        place = place + (k.shape[0] - q.shape[0])
    key = torch.arange(k.shape[0], device=q.device)
    return scores, (key >= place - before) & (key <= place + after)


def _activate(x: Tensor, activation: int) -> Tensor:
    match FORMULAS[activation]:
        case "raw":
            return x
        case "gelu":
            return F.gelu(x)
        case "gelu_approx":
            return F.gelu(x, approximate="tanh")
        case "fast_gelu_bf16":
            return 0.5 * x * (1 + torch.tanh(GELU_RATE_BF16 * (x + GELU_CUBIC * x**3)))
        case "relu":
            return x.relu()
        case "leaky_relu":
            return F.leaky_relu(x, LEAK)
        case "relu_squared":
            return x.relu().square()
        case "silu":
            return F.silu(x)
        case _:
            return F.hardswish(x)


def _slope(x: Tensor, activation: int) -> Tensor:
    name = FORMULAS[activation]
    match name:
        case "raw":
            return torch.ones_like(x)
        case "gelu":
            bell = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
            return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * bell
        case "gelu_approx" | "fast_gelu_bf16":
            rate = GELU_RATE if name == "gelu_approx" else GELU_RATE_BF16
            tanh = torch.tanh(rate * (x + GELU_CUBIC * x**3))
            inner = rate * (1 + 3 * GELU_CUBIC * x.square())
            return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh.square()) * inner
        case "relu":
            return (x > 0).to(x.dtype)
        case "leaky_relu":
            return torch.where(x > 0, 1.0, LEAK)
        case "relu_squared":
            return 2 * x.relu()
        case "silu":
            gate = torch.sigmoid(x)
            return gate * (1 + x * (1 - gate))
        case _:
            middle = (2 * x + 3) / 6
            return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, middle))
