"""RaggedFeatures: agreement with its own features one by one, and what constructors refuse."""

import pytest
import torch
from hypothesis import given

from cuesta.ragged import Ragged, RaggedFeatures
from tests.laws import permuted, ragged_features, seeds

KEYS = ("feature0", "feature1", "feature2")
batches = ragged_features((5, 9, 100))


@given(features=batches)
def test_splitting_and_joining_changes_nothing(features: RaggedFeatures) -> None:
    parts = {key: features[key] for key in KEYS}
    weights = {key: features.weights_of(key) for key in KEYS}
    back = RaggedFeatures.from_ragged(parts, weights)
    assert torch.equal(back.values, features.values)
    assert torch.equal(back.offsets, features.offsets)
    assert torch.equal(back.weights, features.weights)


@given(features=batches, seed=seeds)
def test_selecting_rows_selects_them_in_every_feature(features: RaggedFeatures, seed: int) -> None:
    order = permuted(features.num_rows, seed)
    chosen = features.select_rows(order)
    for key in KEYS:
        assert torch.equal(chosen[key].values, features[key].select_rows(order).values)
        weights = features[key].with_values(features.weights_of(key)).select_rows(order)
        assert torch.equal(chosen.weights_of(key), weights.values)


@given(features=batches)
def test_selecting_features_keeps_their_rows(features: RaggedFeatures) -> None:
    chosen = features.select(["feature2", "feature0"])
    assert chosen.keys == ("feature2", "feature0")
    for key in chosen.keys:
        assert torch.equal(chosen[key].values, features[key].values)
        assert torch.equal(chosen[key].offsets, features[key].offsets)
    assert torch.equal(chosen.lengths(), features.lengths()[[2, 0]])


@given(features=batches)
def test_concatenating_keeps_rows_and_weights(features: RaggedFeatures) -> None:
    unweighted = RaggedFeatures(features.keys, features.values, features.offsets)
    both = RaggedFeatures.cat([features, unweighted])
    for key in KEYS:
        assert torch.equal(both[key].values, Ragged.cat([features[key]] * 2).values)
        ones = torch.ones_like(features.weights_of(key))
        assert torch.equal(both.weights_of(key), torch.cat([features.weights_of(key), ones]))


def test_a_batch_moves_in_at_most_three_tensors_however_many_features() -> None:
    features = {f"f{i}": Ragged.from_lengths(torch.arange(4), [1, 3]) for i in range(50)}
    batch = RaggedFeatures.from_ragged(features).to("cpu")
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 2


@pytest.mark.parametrize(
    ("keys", "values", "offsets", "message"),
    [
        (("a", "a"), [1, 2], [0, 1, 2], r"unique and at least one, got \['a', 'a'\]"),
        (("a", "b"), [1, 2], [0, 1, 1, 2], "F = 2 features, got 4"),
        (("a", "b"), [1, 2], [0, 2, 1], r"bag \(feature-major\) 1 runs from 2 to 1"),
        (("a",), [1.0, 2.0], [0, 2], "int32 or int64 ids, got torch.float32"),
    ],
)
def test_malformed_batches_are_named(keys, values, offsets, message) -> None:
    with pytest.raises(ValueError, match=message):
        RaggedFeatures(keys, torch.tensor(values), torch.tensor(offsets))


def test_an_unknown_feature_is_named() -> None:
    batch = RaggedFeatures(("a",), torch.tensor([1]), torch.tensor([0, 1]))
    with pytest.raises(KeyError, match="no feature 'b'"):
        batch["b"]
    with pytest.raises(ValueError, match="same number of rows, got"):
        RaggedFeatures.from_ragged(
            {"a": batch["a"], "b": Ragged.from_lengths(torch.tensor([1]), [1, 0])}
        )
