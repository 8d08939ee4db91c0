"""Which of an op's three bodies runs: by the device of its input, or as `force_body` says.

Bodies are imported when first called, so that importing `cuesta.ops` needs torch alone: Numba is
loaded by the first kernel on a CPU, Triton by the first on a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

from torch import Tensor

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
    return importlib.import_module(f"cuesta.ops.{op}.{name}")


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
