"""The optimiser: one schedule for dense parameters and tables, clipping of the dense part only."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from small_task import SmallModel, make_rows
from torch import nn

from cuesta.engine.optim import (
    OptimConfig,
    UpdatesItself,
    build_optimizer,
    embedding_bytes,
    schedule_scale,
)


def model_with_gradients() -> SmallModel:
    """Return a small model after one backward."""
    torch.manual_seed(0)
    model = SmallModel(8, 0.0)
    model(make_rows(20, torch.Generator().manual_seed(1))).square().mean().backward()
    return model


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_a_schedule_rises_then_never_rises_again(schedule: str) -> None:
    config = OptimConfig(schedule=schedule, warmup_steps=4)
    scales = [schedule_scale(config, step, 20) for step in range(20)]
    assert scales[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(later <= earlier for earlier, later in pairwise(scales[4:]))
    assert all(scale > 0 for scale in scales), "no step is wasted"
    assert (scales[-1] == 1.0) == (schedule == "constant")


def test_dense_parameters_follow_torch_adamw() -> None:
    ours, theirs = model_with_gradients(), model_with_gradients()
    config = OptimConfig(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    build_optimizer(ours, config, num_steps=1).step(0)
    decayed = [theirs.hidden.weight, theirs.out.weight]
    spared = [theirs.hidden.bias, theirs.out.bias]
    groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1).step()
    torch.testing.assert_close(ours.hidden.state_dict(), theirs.hidden.state_dict())
    torch.testing.assert_close(ours.out.state_dict(), theirs.out.state_dict())


def test_tables_follow_the_schedule_at_their_own_rate() -> None:
    model = model_with_gradients()
    before, gradient = model.table.weight.detach().clone(), model.table.weight.grad
    assert gradient is not None
    config = OptimConfig(schedule="linear", tables_lr_scale=3.0)
    build_optimizer(model, config, num_steps=4).step(2)
    torch.testing.assert_close(model.table.weight.detach(), before - 0.5 * 3.0 * 0.5 * gradient)
    assert model.table.weight.grad is None


def test_clipping_bounds_the_dense_gradients_and_leaves_the_tables() -> None:
    model, plain = model_with_gradients(), model_with_gradients()
    dense = [*model.hidden.parameters(), *model.out.parameters()]
    norm = build_optimizer(plain, OptimConfig(), num_steps=1).clip_gradients()
    limit = norm / 2
    assert (
        build_optimizer(model, OptimConfig(clip_norm=limit), num_steps=1).clip_gradients() == norm
    )
    clipped = nn.utils.get_total_norm([p.grad for p in dense if p.grad is not None])
    torch.testing.assert_close(clipped, torch.tensor(limit))
    assert plain.hidden.weight.grad is not None
    assert plain.table.weight.grad is not None
    torch.testing.assert_close(model.hidden.weight.grad, plain.hidden.weight.grad / 2)
    assert torch.equal(model.table.weight.grad, plain.table.weight.grad)


def test_only_modules_that_update_themselves_are_taken_for_tables() -> None:
    model = SmallModel(8, 0.0)
    assert [name for name, m in model.named_modules() if isinstance(m, UpdatesItself)] == ["table"]
    assert embedding_bytes(model) == 30 * 8 * 4 + 8
    assert embedding_bytes(nn.EmbeddingBag(5, 4)) == 5 * 4 * 4


def test_state_of_an_unknown_parameter_is_named() -> None:
    optimizer = build_optimizer(SmallModel(8, 0.0), OptimConfig(), num_steps=1)
    with pytest.raises(ValueError, match="'hat', which is no dense parameter"):
        optimizer.load_state_dict({"hat.exp_avg": torch.zeros(1)})


def test_a_model_of_tables_alone_trains() -> None:
    model = model_with_gradients().table
    build_optimizer(model, OptimConfig(), num_steps=1).step(0)
    assert int(model.updates) == 1
