"""Compilation of Triton kernels without a GPU: record what a body launches, compile just that.

The cases are the launches themselves, so they cannot fall behind the code: a body is called on CPU
tensors while launches are only noted, and each is compiled for an architecture with its arguments'
own types, down to machine code (ptxas comes with the Triton wheel).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction, mangle_type

import cuesta.ops

Value = Tensor | int | float | None
WARP = 32


class Launch(NamedTuple):
    """One launch of a kernel, as `kernel[grid](*arguments, **options)` asked for it."""

    kernel: JITFunction
    arguments: tuple[Value, ...]
    options: dict[str, int]  # warps and stages


def kernels() -> dict[str, JITFunction]:
    """Return every kernel of every gpu.py of `cuesta.ops` by its module and name."""
    found = {}
    for path in sorted(Path(cuesta.ops.__file__).parent.glob("*/gpu.py")):
        module = importlib.import_module(f"cuesta.ops.{path.parent.name}.gpu")
        for name, value in vars(module).items():
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                found[name_of(value)] = value
    return found


def name_of(kernel: JITFunction) -> str:
    """Return the module and name of a kernel."""
    return f"{kernel.module}.{kernel.__name__}"


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Give a list that fills with the launches made inside the context; none of them runs."""
    launches: list[Launch] = []

    def run(
        kernel: JITFunction, *arguments: Value, grid: object, warmup: bool, **options: int
    ) -> None:
        del grid, warmup
        launches.append(Launch(kernel, arguments, options))

    with patch.object(JITFunction, "run", run):
        yield launches


def source_of(launch: Launch) -> ASTSource:
    """Return what Triton compiles for `launch` on its device, tensors being 16-byte aligned."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[index]
        may_specialise = not parameter.do_not_specialize
        is_one = type(value) is int and value == 1 and may_specialise
        if parameter.is_constexpr or value is None or is_one:
            signature[parameter.name], constants[index,] = "constexpr", value
            continue
        signature[parameter.name] = mangle_type(value)
        is_multiple = type(value) is int and value % 16 == 0
        if may_specialise and (isinstance(value, Tensor) or is_multiple):
            attributes[index,] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def compiled(launch: Launch, capability: int) -> CompiledKernel:
    """Return what `launch` launches, compiled for NVIDIA GPUs of `capability`, 80 or 90."""
    target = GPUTarget("cuda", capability, WARP)
    return triton.compile(source_of(launch), target=target, options=launch.options)
