"""Doors between `Ragged` and the field's other ragged types: torch nested, Arrow lists, TorchRec's
jagged tensors.

Nothing is copied where the layouts agree: values always are shared, and so are the offsets, except
that Arrow's `ListArray` has 32-bit offsets (its `LargeListArray` is shared whole). pyarrow and
torchrec are imported when a function that needs them is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cuesta.ragged.features import RaggedFeatures
from cuesta.ragged.ragged import Ragged

if TYPE_CHECKING:
    import pyarrow
    import torchrec


def to_nested(ragged: Ragged) -> Tensor:
    """Return a torch nested tensor (jagged layout) that shares values and offsets."""
    return torch.nested.nested_tensor_from_jagged(ragged.values, offsets=ragged.offsets)


def from_nested(nested: Tensor) -> Ragged:
    """Return the ragged tensor that shares a jagged-layout nested tensor's values and offsets."""
    if not nested.is_nested or nested.layout is not torch.jagged:
        raise ValueError(
            f"expected a nested tensor of layout torch.jagged, got layout {nested.layout}"
        )
    if nested.lengths() is not None:  # type: ignore[attr-defined]
        raise ValueError(
            "expected a contiguous nested tensor, got one with holes; call contiguous() first"
        )
    return Ragged(nested.values(), nested.offsets())  # type: ignore[attr-defined]


def to_arrow(ragged: Ragged) -> pyarrow.LargeListArray:
    """Return an Arrow list array that shares the memory of 1-D CPU values and the offsets."""
    import pyarrow

    if ragged.values.dim() != 1 or ragged.values.device.type != "cpu":
        raise ValueError(
            f"Arrow lists hold 1-D values on the CPU, got shape {tuple(ragged.values.shape)} on {ragged.values.device}"
        )
    offsets = pyarrow.array(ragged.offsets.numpy())
    return pyarrow.LargeListArray.from_arrays(
        offsets, pyarrow.array(ragged.values.detach().numpy())
    )


def from_arrow(array: pyarrow.ListArray | pyarrow.LargeListArray) -> Ragged:
    """Return the rows of an Arrow list array of numbers; a null row or value raises `ValueError`
    naming the row.
    """
    if array.null_count:
        row = array.is_null().to_pylist().index(True)
        raise ValueError(f"row {row} is null; an empty row is written as an empty list")
    offsets = _tensor_of_arrow(array.offsets).long()
    begin, end = int(offsets[0]), int(offsets[-1])
    values = array.values.slice(begin, end - begin)
    if values.null_count:
        position = values.is_null().to_pylist().index(True) + begin
        row = int(torch.searchsorted(offsets, position, right=True)) - 1
        raise ValueError(f"row {row} holds a null value")
    return Ragged(_tensor_of_arrow(values), offsets - begin if begin else offsets)


def to_torchrec(features: RaggedFeatures) -> torchrec.KeyedJaggedTensor:
    """Return TorchRec's KeyedJaggedTensor over the same memory."""
    import torchrec

    return torchrec.KeyedJaggedTensor.from_offsets_sync(
        keys=list(features.keys),
        values=features.values,
        offsets=features.offsets,
        weights=features.weights,
    )


def from_torchrec(features: torchrec.KeyedJaggedTensor) -> RaggedFeatures:
    """Return the batch that shares a KeyedJaggedTensor's values, offsets and weights."""
    offsets = features.offsets().long()
    return RaggedFeatures(
        tuple(features.keys()), features.values(), offsets, features.weights_or_none()
    )


def _tensor_of_arrow(values: pyarrow.Array) -> Tensor:
    import warnings

    numbers = values.to_numpy(zero_copy_only=True)
    with warnings.catch_warnings():  # Arrow memory is read-only; nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(numbers)
