"""Chapter 1: train a ranker on a click log, from recipe to report, then by hand.

Run it with `python examples/01_train_a_ranker.py [FOLDER]`; it takes seconds and needs no network,
because it makes its own log: a stream of clicks whose best possible loss is known. For a log of
your own, put Parquet files and a schema.toml into a folder (docs/data.md) and give that as `data`.
The command line does the same: `cuesta train dlrm.debug`.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cuesta.data import RankingBatch, RankingData, StreamConfig, open_ranking_data, write_stream
from cuesta.engine.finish import TrainResult, evaluate_run
from cuesta.engine.loop import train
from cuesta.engine.metrics import RankingMetrics
from cuesta.engine.optim import OptimConfig
from cuesta.engine.progress import Progress
from cuesta.engine.recipe import LoopConfig, Recipe
from cuesta.nn import MLP, EmbeddingBags, Table
from cuesta.ops import RowwiseAdagrad
from cuesta.rec.baselines.inputs import InputConfig
from cuesta.rec.baselines.model import DLRMConfig
from cuesta.rec.baselines.task import RankingTaskConfig


def make_a_log(folder: Path) -> float:
    """Write 20,000 clicks as Parquet with a schema; return the best NE that a model can reach."""
    best = write_stream(StreamConfig.mini(), folder)
    print((folder / "schema.toml").read_text())
    return best["test"].normalised_entropy


def write_a_recipe(log: Path) -> Recipe:
    """Say what to train and how: a recipe is one frozen dataclass, and nothing else decides."""
    inputs = InputConfig(
        dim=8,
        target=("item",),  # the candidate, ...
        history=("history_item",),  # ... likened to each past event by attention, ...
        values_of="history_item",  # ... which pools the events' weights: +1 clicked, -1 not
        tables=RowwiseAdagrad(lr=0.03),
    )
    return Recipe(
        name="example.dlrm",
        task=RankingTaskConfig(data=str(log), model=DLRMConfig(inputs=inputs), batch_size=256),
        optim=OptimConfig(lr=2e-3, schedule="linear", warmup_steps=10),
        loop=LoopConfig(max_steps=60, evaluate_every=20, checkpoint_every=20),
    )


def train_and_report(recipe: Recipe, folder: Path) -> TrainResult:
    """Train into a run folder, which holds all that is needed to repeat, resume and judge it."""

    def show(progress: Progress) -> None:
        if progress.metrics is not None:
            print(progress.metrics_line())

    result = train(recipe, folder, on_progress=show)
    print(f"the run folder: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    print(f"test AUC {result.test['auc']:.4f}, NE {result.test['ne']:.4f}; {result.report}")
    return result


def evaluate_again(recipe: Recipe, folder: Path, result: TrainResult) -> None:
    """Evaluate the saved weights: the same numbers. `recipe_named` finds a recipe by its name."""
    again = evaluate_run(folder, lambda name: replace(recipe, name=name), split="test")
    assert again.metrics["auc"] == result.test["auc"]


class SmallRanker(nn.Module):
    """Score a row: an ordinary torch module with `EmbeddingBags` inside."""

    def __init__(self, sizes: dict[str, int], num_dense: int) -> None:
        super().__init__()
        tables = [
            Table(name="user", num_rows=sizes["user"], dim=8, pooled=("user",)),
            # Two features may share a table; a history is pooled with its weights.
            Table(name="item", num_rows=sizes["item"], dim=8, pooled=("item", "history_item")),
        ]
        self.bags = EmbeddingBags(tables, RowwiseAdagrad(lr=0.1))
        self.mlp = MLP([self.bags.width + 8 + num_dense, 32, 1])

    def forward(self, batch: RankingBatch) -> Tensor:
        """Return one logit a row."""
        user, item, history = self.bags(batch.features).split(self.bags.dims(), dim=1)
        vectors = [user, item, history, history * item, batch.dense]
        return self.mlp(torch.cat(vectors, 1)).squeeze(1)


def a_loop_of_your_own(data: RankingData) -> float:
    """Train without the engine: three lines are new to a reader of torch, and they are marked."""
    torch.manual_seed(0)
    model = SmallRanker(data.sizes, len(data.schema.dense))
    adamw = torch.optim.AdamW(model.parameters(), lr=2e-3)  # tables are no parameters
    for batch in data.batches("train", batch_size=256, seed=0):  # read ahead by a thread
        loss = F.binary_cross_entropy_with_logits(model(batch), batch.label)
        adamw.zero_grad()
        loss.backward()  # new: the bags keep ids and output gradients, not table gradients
        if not loss.isfinite():
            model.bags.drop_gradients()  # new: nothing has reached a table yet
            continue
        adamw.step()
        model.bags.step()  # new: one exact update of the rows that were touched
    return evaluate(model, data)


def evaluate(model: SmallRanker, data: RankingData) -> float:
    """Return the test NE."""
    metrics = RankingMetrics()
    model.eval()
    with torch.no_grad():
        for batch in data.batches("test", batch_size=4096):
            metrics.update(batch.label.numpy(), model(batch).numpy(), batch.user.numpy())
    return metrics.result()["ne"]


def main() -> None:
    """Read the chapter in order."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="cuesta-"))
    bayes = make_a_log(folder / "clicks")
    recipe = write_a_recipe(folder / "clicks")
    result = train_and_report(recipe, folder / "run")
    evaluate_again(recipe, folder / "run", result)
    by_hand = a_loop_of_your_own(open_ranking_data(folder / "clicks"))
    print(
        f"test NE: best possible {bayes:.4f}, DLRM {result.test['ne']:.4f}, by hand {by_hand:.4f}"
    )


if __name__ == "__main__":
    main()
