"""What op tests share: poison, so that an element nobody writes shows, and the engines of bfloat16."""

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cuesta.ops.tiles import has_amx

# Modules whose scratch is numpy's.
SCRATCHED = (
    "cuesta.ops.attended_rows_cpu",
    "cuesta.ops.jagged_bmm.cpu",
    "cuesta.ops.jagged_elementwise.cpu",
    "cuesta.ops.patch_match.cpu",
    "cuesta.ops.plane_sweep.cpu",
)
BFLOAT16_NANS = {"uint16": 0x7FC0, "uint32": 0x7FC07FC0}  # one, and a pair


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Fill uninitialised tensors with NaN (the largest value for integers)."""
    torch.set_deterministic_debug_mode("error")  # the other spelling imports torch's compiler
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert bool(torch.empty(8).isnan().all())
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(autouse=True)
def poisoned_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the scratch of CPU bodies with NaN, as bfloat16 where its type is that of their bits."""
    numpy = ModuleType("numpy")
    numpy.__dict__.update(vars(np), empty=poisoned)
    for name in SCRATCHED:
        monkeypatch.setattr(import_module(name), "np", numpy)


def poisoned(shape: int | tuple[int, ...], dtype: type) -> NDArray:
    array = np.empty(shape, dtype)
    is_float = array.dtype.kind == "f"
    array.fill(np.nan if is_float else BFLOAT16_NANS.get(array.dtype.name, -1))
    return array


@pytest.fixture(params=["as here", "without AMX"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply as this machine does, and bfloat16 as one without tiles for it would."""
    if request.param == "without AMX":
        if request.getfixturevalue("dtype") is not torch.bfloat16:
            pytest.skip("only bfloat16 is multiplied in two ways")
        if not has_amx():
            pytest.skip("this machine has no AMX: nothing else to test")
        monkeypatch.setattr("cuesta.ops.attended_rows_cpu.has_amx", lambda: False)
