"""Poison for op tests: memory that torch hands out uninitialised is NaN, so an element nobody
writes shows.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Fill uninitialised tensors with NaN (the largest value for integers)."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert bool(torch.empty(8).isnan().all())
    yield
    torch.use_deterministic_algorithms(False)
