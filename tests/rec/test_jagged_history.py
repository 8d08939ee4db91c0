"""pooling="jagged": the events of a history are put into context, in their order, and learn from it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cuesta.data.batch import RankingBatch
from cuesta.data.schema import Feature, Schema
from cuesta.engine.finish import model_precision
from cuesta.errors import UserError
from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.rec.baselines.inputs import InputConfig, Inputs

SCHEMA = Schema(
    label="label",
    time="time",
    user="user",
    features=(
        Feature(name="item"),
        Feature(name="events", vocabulary_of="item", ragged=True),
    ),
)
CONFIG = InputConfig(target=("item",), history=("events",), pooling="jagged", num_heads=2)
EVENTS = [[1, 2, 3, 4], [], [5]]


def make_inputs() -> Inputs:
    return Inputs(CONFIG, SCHEMA, {"item": 10}, seed=0)


def batch_of(events: list[list[int]]) -> RankingBatch:
    num_rows = len(events)
    features = {
        "item": Ragged.from_lengths(torch.arange(num_rows) + 6, [1] * num_rows),
        "events": Ragged.from_rows([torch.tensor(row, dtype=torch.int64) for row in events]),
    }
    ids = torch.arange(num_rows)
    return RankingBatch(
        label=torch.zeros(num_rows),
        dense=torch.zeros(num_rows, 0),
        features=RaggedFeatures.from_ragged(features),
        user=ids,
        time=ids,
    )


def encoded(inputs: Inputs, events: list[list[int]]) -> Tensor:
    """Return what the encoded events give, which follows the pooling that both attentions share."""
    return inputs(batch_of(events)).history[:, 3 * CONFIG.num_heads :]


def test_the_order_of_events_matters() -> None:
    inputs = make_inputs()
    before, after = encoded(inputs, EVENTS), encoded(inputs, [[4, 2, 3, 1], *EVENTS[1:]])
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1:], after[1:])


def test_an_empty_history_gives_zeros() -> None:
    out = encoded(make_inputs(), EVENTS)
    assert out.shape == (3, CONFIG.num_heads * CONFIG.head_dim)
    assert out[1].count_nonzero() == 0
    assert out[[0, 2]].count_nonzero() > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_training_moves_encoder_event_and_null(precision: str) -> None:
    inputs = make_inputs()
    parts = {"encoder": inputs.encoder, "event": inputs.event, "pool": inputs.pool}
    named = {
        f"{part}.{name}": each
        for part, module in parts.items()
        for name, each in module.named_parameters()
    }
    before = {name: each.detach().clone() for name, each in named.items()}
    optimizer = torch.optim.SGD(named.values(), lr=0.1)
    with model_precision(precision, torch.device("cpu")):
        out = encoded(inputs, EVENTS)
    out.float().square().sum().backward()
    assert all(bool(each.grad.isfinite().all()) for each in named.values())
    optimizer.step()
    assert "pool.null" in named
    still = [name for name, each in named.items() if torch.equal(each, before[name])]
    assert not still, f"unmoved: {still}"


@pytest.mark.parametrize("setting", [{"num_layers": 2}, {"window": 8}], ids=str)
def test_settings_of_the_encoder_without_it_are_named(setting: dict[str, int]) -> None:
    config = replace(CONFIG, pooling="attention", **setting)
    with pytest.raises(
        UserError, match="which only pooling 'jagged' reads; pooling is 'attention'"
    ):
        Inputs(config, SCHEMA, {"item": 10}, seed=0)
