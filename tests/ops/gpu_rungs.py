"""What the tests of Triton bodies share: three rungs (the interpreter, compilation, and a GPU where
there is one), and the numbers that they put in.

Where there is a GPU, `pytest tests/ops -k gpu` runs the twins on it. Everywhere they also run in
Triton's interpreter, in a process of their own since Triton reads TRITON_INTERPRET when
imported; float32 and float16 alone, since the interpreter is silently wrong on bfloat16.
Compilation needs no GPU.
"""

import os
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

from cuesta.ragged import Ragged

pytest.importorskip("triton", reason="Triton is for Linux")

Lengths = tuple[list[int], list[int]]

# Queries and keys of rows: fewer of either, none of either, several tiles of both.
ATTENDED = ([3, 0, 1, 70, 5], [4, 2, 0, 90, 1])
LONG = ([150, 3], [140, 90])  # of tiles for long rows

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_GPU = torch.cuda.is_available() and not IS_INTERPRETED
DEVICE = "cuda" if HAS_GPU else "cpu"
DTYPES = (torch.float32, torch.float16, *([torch.bfloat16] if HAS_GPU else []))

runs = pytest.mark.skipif(
    not (IS_INTERPRETED or HAS_GPU),
    reason="no GPU; the interpreter runs this in a process of its own",
)
tells_nothing_of_fusion = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset")

if IS_INTERPRETED:
    from triton.language import core
    from triton.runtime import interpreter

    _patch = interpreter._patch_lang

    def _patch_once(function: Callable) -> object:
        """Patch triton.language for a kernel or a helper, unless it is: a walk through all its names,
        which took a third of the time when each call of a helper did it. Let numbers count loops
        whatever their versions: Triton 3.6 holds them as arrays [1], of which numpy 2.4 makes no int.
        """
        modules = {function.__globals__.get(name) for name in ("tl", "core")} - {None}
        if any(core.is_builtin(module.load) for module in modules):
            scope = _patch(function)
            scope.set_attr(core.tensor, "__index__", lambda self: self.handle.data.item())
            return scope
        return interpreter._LangPatchScope()

    interpreter._patch_lang = _patch_once


def with_dtypes(names: str, *choices: Sequence[object]) -> pytest.MarkDecorator:
    """Parametrize by `names`, the last of which is a dtype: every choice with every other one on a GPU;
    in the interpreter, which is slow, one dtype each, in turns.
    """
    cases = []
    for places in product(*(range(len(each)) for each in choices)):
        chosen = [each[i] for each, i in zip(choices, places, strict=True)]
        dtypes = DTYPES if HAS_GPU else [DTYPES[sum(places) % len(DTYPES)]]
        cases += [(*chosen, dtype) for dtype in dtypes]
    return pytest.mark.parametrize(names, cases, ids=str)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def ragged(lengths: list[int], dim: int, dtype: torch.dtype) -> Ragged:
    return Ragged.from_lengths(random(sum(lengths), dim).to(dtype), lengths)


def differentiated(run: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """Return a function of run's inputs and a gradient that gives run's result and gradients."""

    def both(*inputs: Tensor) -> list[Tensor]:
        leaves = [each.detach().requires_grad_() for each in inputs[:-1]]
        out = run(*leaves)
        return [out, *torch.autograd.grad(out, leaves, inputs[-1])]

    return both


def attended(
    lengths: Lengths, shape: tuple[int, int, int], dtype: torch.dtype
) -> tuple[Ragged, Ragged, Ragged, Tensor]:
    """Return q, k, v of shape (heads, dim, value dim), and a gradient of what q attends to."""
    (queries, keys), (heads, dim, value_dim) = lengths, shape
    q = random(sum(queries), heads, dim).to(dtype)
    k = random(sum(keys), heads, dim, seed=1).to(dtype)
    v = random(sum(keys), heads, value_dim, seed=2).to(dtype)
    slope = random(sum(queries), heads, value_dim, seed=3).to(dtype)
    rows = Ragged.from_lengths(k, keys)
    return Ragged.from_lengths(q, queries), rows, rows.with_values(v), slope
