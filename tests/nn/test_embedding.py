"""EmbeddingBags: equal to torch's own modules trained by dense optimisers, exact state, errors that
name features.
"""

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from cuesta.nn import EmbeddingBags, Storage, Table
from cuesta.ops import SGD, PartialRowwiseAdam, RowwiseAdagrad
from cuesta.ragged import Ragged, RaggedFeatures
from tests.laws import ragged_features

TABLES = (
    Table(name="user", num_rows=7, dim=4, pooled=("feature0",)),
    Table(name="item", num_rows=30, dim=4, pooled=("feature1",), unpooled=("feature2",)),
    Table(name="tag", num_rows=11, dim=4, pooled=("feature3",), pooling="mean"),
)
SIZES = (7, 30, 30, 11)


def make(optimizer=SGD(lr=0.5), **given) -> EmbeddingBags:  # noqa: B008 - frozen
    return EmbeddingBags(TABLES, optimizer, seed=3, **given)


def outputs(bags: EmbeddingBags, features: RaggedFeatures) -> tuple[Tensor, Tensor]:
    pooled = RaggedFeatures(features.keys, features.values, features.offsets)
    return bags(pooled), bags.rows(pooled, ["feature2"])[0].values


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_the_storage_begins_on_a_cache_line(storage: str) -> None:
    assert all(make(storage=storage).weight.data_ptr() % 64 == 0 for _ in range(8))


@given(features=ragged_features(SIZES))
def test_a_step_equals_autograd_and_sgd_on_dense_tables(features: RaggedFeatures) -> None:
    bags = make()
    tables = {t.name: nn.Parameter(bags.table(t.name).clone().double()) for t in TABLES}

    def pooled(key: str, table: str, mode: str) -> Tensor:
        feature = features[key]
        return nn.functional.embedding_bag(
            feature.values, tables[table], feature.offsets, mode=mode, include_last_offset=True
        )

    out, rows = outputs(bags, features)
    ((out**2).sum() + (rows**2).sum()).backward()
    bags.step()
    expected = torch.cat(
        [
            pooled("feature0", "user", "sum"),
            pooled("feature1", "item", "sum"),
            pooled("feature3", "tag", "mean"),
        ],
        1,
    )
    expected_rows = tables["item"][features["feature2"].values]
    torch.testing.assert_close(out, expected.float())
    ((expected**2).sum() + (expected_rows**2).sum()).backward()
    for name, table in tables.items():
        gradient = torch.zeros_like(table) if table.grad is None else table.grad
        torch.testing.assert_close(bags.table(name), (table - 0.5 * gradient).detach().float())


@given(features=ragged_features(SIZES))
def test_accumulating_two_batches_is_one_update_with_both(features: RaggedFeatures) -> None:
    twice, once = make(RowwiseAdagrad(lr=0.1)), make(RowwiseAdagrad(lr=0.1))
    for _ in range(2):
        outputs(twice, features)[0].sum().backward()
    twice.step()
    both = RaggedFeatures.cat([features, features])
    outputs(once, both)[0].sum().backward()
    once.step()
    torch.testing.assert_close(twice.weight, once.weight)


def batch() -> RaggedFeatures:
    ids = {"feature0": [1, 2], "feature1": [3, 4], "feature2": [5, 29], "feature3": [0, 10]}
    return RaggedFeatures.from_ragged(
        {key: Ragged.from_lengths(torch.tensor(values), [1, 1]) for key, values in ids.items()}
    )


def train(bags: EmbeddingBags, steps: int) -> None:
    for _ in range(steps):
        out, rows = outputs(bags, batch())
        (out.square().sum() + rows.sum()).backward()
        bags.step()


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float16"])
def test_saved_and_loaded_state_goes_on_bit_equal(storage) -> None:
    unbroken = make(PartialRowwiseAdam(lr=0.1), storage=storage)
    train(unbroken, 2)
    state = {key: value.clone() for key, value in unbroken.state_dict().items()}
    train(unbroken, 2)
    resumed = EmbeddingBags(TABLES, PartialRowwiseAdam(lr=0.1), storage=storage, seed=3)
    resumed.weight.zero_()
    resumed.load_state_dict(state)
    train(resumed, 2)
    assert torch.equal(resumed.weight, unbroken.weight)
    assert torch.equal(resumed.first, unbroken.first)
    assert torch.equal(resumed.second, unbroken.second)
    assert int(resumed.updates) == 4


def test_state_is_named_by_table() -> None:
    state = make(PartialRowwiseAdam()).state_dict()
    assert state["tables.item"].shape == (30, 4)
    assert state["moments.item.first"].shape == (30, 4)
    assert state["moments.item.second"].shape == (30,)
    assert len(state) == 3 * 3 + 1
    state["tables.item"] = torch.zeros(2, 2)
    with pytest.raises(RuntimeError, match=r"tables.item: expected shape \(30, 4\), got \(2, 2\)"):
        make(PartialRowwiseAdam()).load_state_dict(state)


def test_equal_seeds_give_equal_tables() -> None:
    assert torch.equal(make().weight, make().weight)
    assert not torch.equal(make().weight, EmbeddingBags(TABLES, SGD(), seed=4).weight)
    assert float(make().table("item").abs().max()) <= 30**-0.5


def test_dropped_gradients_change_nothing_and_neither_does_evaluation() -> None:
    bags = make()
    before = bags.weight.clone()
    outputs(bags, batch())[0].sum().backward()
    bags.drop_gradients()
    bags.step()
    with torch.no_grad():
        outputs(bags, batch())
    assert not outputs(bags.eval(), batch())[0].requires_grad
    assert torch.equal(bags.weight, before)
    assert int(bags.updates) == 0


def test_sample_weights_receive_gradients() -> None:
    bags = EmbeddingBags([Table(name="t", num_rows=5, dim=3, pooled=("f",))], SGD())
    weights = torch.tensor([0.5, 2.0, 1.0], requires_grad=True)
    features = RaggedFeatures(("f",), torch.tensor([0, 1, 4]), torch.tensor([0, 2, 3]), weights)
    bags(features).sum().backward()
    torch.testing.assert_close(weights.grad, bags.table("t")[[0, 1, 4]].sum(1))


def test_mistakes_are_named() -> None:
    features = batch()
    features.values[3] = 99
    with pytest.raises(ValueError, match=r"feature 'feature1', row 1: id 99 is outside \[0, 30\)"):
        make()(features)
    with pytest.raises(
        ValueError, match=r"no unpooled feature 'feature0'; the tables have \['feature2'\]"
    ):
        make().rows(batch(), ["feature0"])
    with pytest.raises(KeyError, match="no feature 'feature3'"):
        make()(batch().select(["feature0", "feature1"]))


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_tables_of_16_bits_start_as_those_of_32_rounded(storage: Storage) -> None:
    tables = [Table(name="item", num_rows=70_001, dim=16), Table(name="tag", num_rows=3, dim=5)]
    wide = EmbeddingBags(tables, SGD(), seed=4)
    narrow = EmbeddingBags(tables, SGD(), seed=4, storage=storage)
    for table in tables:
        expected = wide.table(table.name).to(getattr(torch, storage))
        assert torch.equal(narrow.table(table.name), expected)
