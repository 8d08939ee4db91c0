"""Which of an op's three bodies runs: by the device of its input, or as `force_body` says; and the
registration of ops without autograd.

Bodies are imported when first called, so that importing `cuesta.ops` needs torch alone: Numba is
loaded by the first kernel on a CPU, Triton by the first on a GPU.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., object])
BODIES = ("reference", "cpu", "gpu")
_forced: ContextVar[str | None] = ContextVar("forced_body", default=None)


def body(op: str, tensor: Tensor) -> ModuleType:
    """Return the module of `op` that runs for `tensor`: `cpu`, `gpu`, or `reference` on devices
    without a kernel.

    float64 always takes the reference: it is the dtype of oracles, not of kernels.
    """
    name = _forced.get()
    if name is None:
        name = {"cpu": "cpu", "cuda": "gpu"}.get(tensor.device.type, "reference")
        if tensor.dtype.itemsize == 8 and tensor.dtype.is_floating_point:
            name = "reference"
    return _load(op, name)


@functools.cache
def _load(op: str, name: str) -> ModuleType:
    return importlib.import_module(f"cuesta.ops.{op}.{name}")


def plain_op(name: str, *, mutates_args: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Register a function as torch's op cuesta::`name`, without autograd.

    As `torch.library.custom_op` does for any op, at less cost a call, since nothing in Python stands
    between torch and the function; so the caller raises the versions of arguments written to.
    """

    def register(function: Function) -> Function:
        schema = torch.library.infer_schema(function, mutates_args=mutates_args)
        torch.library.define(f"cuesta::{name}", schema)
        torch.library.impl(f"cuesta::{name}", "default", function)
        return function

    return register


@contextmanager
def force_body(name: str) -> Iterator[None]:
    """Run every op inside the context with this body, `reference`, `cpu` or `gpu`, whatever the
    device.

    >>> with force_body("reference"):
    ...     pass
    """
    if name not in BODIES:
        raise ValueError(f"body must be one of {BODIES}, got {name!r}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)
