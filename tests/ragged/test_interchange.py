"""Interchange: the same memory on both sides wherever the layouts agree."""

import pyarrow
import pytest
import torch
from hypothesis import given

from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.ragged.interchange import (
    from_arrow,
    from_nested,
    from_torchrec,
    to_arrow,
    to_nested,
    to_torchrec,
)
from tests.laws import raggeds


def make() -> Ragged:
    return Ragged.from_lengths(torch.arange(5.0), [2, 0, 3])


def test_nested_shares_memory_both_ways() -> None:
    ragged = make()
    nested = to_nested(ragged)
    assert nested.values().data_ptr() == ragged.values.data_ptr()
    back = from_nested(nested)
    assert back.values.data_ptr() == ragged.values.data_ptr()
    assert back.offsets.data_ptr() == ragged.offsets.data_ptr()
    assert [row.tolist() for row in nested.unbind()] == [[0.0, 1.0], [], [2.0, 3.0, 4.0]]


def test_arrow_shares_memory_both_ways() -> None:
    ragged = make()
    array = to_arrow(ragged)
    assert array.to_pylist() == [[0.0, 1.0], [], [2.0, 3.0, 4.0]]
    back = from_arrow(array)
    assert back.values.data_ptr() == ragged.values.data_ptr()
    assert back.offsets.data_ptr() == ragged.offsets.data_ptr()


@given(ragged=raggeds(dims=(1,)))
def test_arrow_round_trip_is_exact(ragged: Ragged) -> None:
    flat = ragged.with_values(ragged.values[:, 0].contiguous())
    back = from_arrow(to_arrow(flat))
    assert torch.equal(back.values, flat.values)
    assert torch.equal(back.offsets, flat.offsets)


def test_arrow_lists_and_their_slices_are_read() -> None:
    array = pyarrow.array([[9], [1, 2], [], [3]], pyarrow.list_(pyarrow.int64()))
    assert from_arrow(array.slice(1)).values.tolist() == [1, 2, 3]
    assert from_arrow(array.slice(1)).lengths().tolist() == [2, 0, 1]


def test_nulls_are_named_by_row() -> None:
    with pytest.raises(ValueError, match="row 1 is null"):
        from_arrow(pyarrow.array([[1], None], pyarrow.list_(pyarrow.int64())))
    with pytest.raises(ValueError, match="row 2 holds a null value"):
        from_arrow(pyarrow.array([[1], [], [2, None]], pyarrow.list_(pyarrow.int64())))


def test_torchrec_shares_memory_both_ways() -> None:
    pytest.importorskip("torchrec", reason="TorchRec is a peer: make peers")
    features = RaggedFeatures.from_ragged(
        {
            "a": Ragged.from_lengths(torch.arange(3), [1, 2]),
            "b": Ragged.from_lengths(torch.arange(2), [2, 0]),
        }
    )
    theirs = to_torchrec(features)
    assert theirs["a"].values().tolist() == [0, 1, 2]
    back = from_torchrec(theirs)
    assert back.values.data_ptr() == features.values.data_ptr()
    assert torch.equal(back.offsets, features.offsets)
