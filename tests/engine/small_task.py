"""A task that trains in milliseconds: rows, an MLP with dropout, a table that updates itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cuesta.engine.metrics import RankingMetrics
from cuesta.engine.optim import OptimConfig
from cuesta.engine.ranking_report import buckets, ranking_evaluation
from cuesta.engine.recipe import LoopConfig, Recipe
from cuesta.engine.task import Evaluation

NUM_IDS = 30


@dataclass(frozen=True)
class Rows:
    """Hold B rows of three numbers, an id and a label."""

    inputs: Tensor
    ids: Tensor
    labels: Tensor

    @property
    def num_rows(self) -> int:
        """Return B."""
        return self.labels.numel()

    def at(self, index: Tensor) -> Rows:
        """Return the rows at `index`."""
        return Rows(self.inputs[index], self.ids[index], self.labels[index])


class SelfUpdatingTable(nn.Module):
    """Embed ids and apply plain SGD itself; counts its updates as a real table does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(NUM_IDS, width))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight)

    def step(self, lr_scale: float) -> None:
        """Apply the gathered gradient at a rate of 0.5."""
        assert self.weight.grad is not None
        with torch.no_grad():
            self.weight -= 0.5 * lr_scale * self.weight.grad
        self.updates += 1
        self.weight.grad = None

    def drop_gradients(self) -> None:
        """Forget the gathered gradient."""
        self.weight.grad = None


class SmallModel(nn.Module):
    """Return a logit a row."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.table = SelfUpdatingTable(width)
        self.hidden = nn.Linear(3 + width, width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, 1)

    def forward(self, rows: Rows) -> Tensor:
        hidden = self.hidden(torch.cat([rows.inputs, self.table(rows.ids)], dim=1))
        return self.out(self.dropout(hidden.relu())).squeeze(1)


class SmallTask:
    """Train on rows made from a seed; `spoil_batch` gets labels that are not finite."""

    def __init__(self, config: SmallConfig, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.config = config
        self.seed = seed
        self.model = SmallModel(config.width, config.dropout)
        self.train_rows = make_rows(config.num_rows, generator)
        self.splits = {split: make_rows(200, generator) for split in ("validation", "test")}
        self.num_train_batches = -(-config.num_rows // config.batch_size)

    def train_batches(self, epoch: int, start: int) -> Iterator[Rows]:
        """Yield the epoch's shuffled batches from `start` on."""
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        order = torch.randperm(self.config.num_rows, generator=generator)
        chunks = order.split(self.config.batch_size)
        for index, chunk in enumerate(chunks[start:], start):
            rows = self.train_rows.at(chunk)
            if index == self.config.spoil_batch:
                rows = Rows(rows.inputs, rows.ids, rows.labels * torch.nan)
            yield rows

    def losses(self, batch: Rows) -> dict[str, Tensor]:
        """Return the cross entropy and the mean square of the logits."""
        logits = self.model(batch).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, batch.labels)
        return {"loss": loss, "square": logits.square().mean()}

    def evaluate(self, split: str) -> Evaluation:
        """Return the ranking metrics of the split, sliced by id."""
        assert not self.model.training
        rows = self.splits[split]
        logits = self.model(rows).float().numpy()
        metrics = RankingMetrics()
        metrics.update(rows.labels.numpy(), logits, rows.ids.numpy())
        return ranking_evaluation(metrics, {"id": buckets(rows.ids.numpy())})


@dataclass(frozen=True, kw_only=True)
class SmallConfig:
    """Hold the small task's settings."""

    num_rows: int = 100
    batch_size: int = 16
    width: int = 8
    dropout: float = 0.2
    spoil_batch: int | None = None
    activation: Literal["relu", "gelu"] = "relu"
    sizes: tuple[int, ...] = (8,)

    def build(self, *, seed: int, device: torch.device) -> SmallTask:
        """Return the task; it only knows the CPU."""
        assert device.type == "cpu"
        return SmallTask(self, seed)


def make_rows(num_rows: int, generator: torch.Generator) -> Rows:
    """Return rows whose labels follow a logistic model."""
    inputs = torch.randn(num_rows, 3, generator=generator)
    ids = torch.randint(NUM_IDS, (num_rows,), generator=generator)
    rate = torch.sigmoid(inputs.sum(1) + (ids % 3).float() - 1.0)
    labels = torch.bernoulli(rate, generator=generator)
    return Rows(inputs, ids, labels)


def small_recipe(
    task: SmallConfig | None = None,
    optim: OptimConfig | None = None,
    loop: LoopConfig | None = None,
) -> Recipe:
    """Return a recipe of 21 steps in three epochs with two evaluations and a checkpoint in each."""
    return Recipe(
        name="small",
        task=task or SmallConfig(),
        optim=optim or OptimConfig(lr=0.01, schedule="cosine", warmup_steps=2, clip_norm=1.0),
        loop=loop or LoopConfig(epochs=3, evaluate_every=3, checkpoint_every=4, log_every=2),
    )


def recipe_named(name: str) -> Recipe:
    """Return the recipe of that name, of which there is one."""
    assert name == "small"
    return small_recipe()
