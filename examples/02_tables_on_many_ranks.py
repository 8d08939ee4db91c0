"""Chapter 2: tables that one process does not hold: planned, spread over ranks, saved, and larger than memory.

Run it with `python examples/02_tables_on_many_ranks.py [FOLDER]`; it takes seconds and needs no network. Its two ranks
are processes of this machine, as `cuesta train RECIPE --ranks 2` starts them; `torchrun` and Ray do the same on
several. What is trained is the same everywhere, so each part checks itself against tables in one process.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from cuesta.nn import EmbeddingBags, Table
from cuesta.ops import RowwiseAdagrad
from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.rec.neo.calibration import on_ranks
from cuesta.rec.neo.checkpoint import load_tables, save_tables
from cuesta.rec.neo.cluster import Cluster
from cuesta.rec.neo.explain import explain
from cuesta.rec.neo.plan import Plan
from cuesta.rec.neo.planner import Planned, make_plan
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags
from cuesta.rec.neo.tiers import TieredEmbeddingBags, Tiers
from cuesta.rec.neo.workload import TableLoad, Workload

TABLES = (
    Table(name="item", num_rows=5_000, dim=16, pooled=("seen",)),
    Table(name="user", num_rows=2_000, dim=8, pooled=("user",)),
)
OPTIMIZER = RowwiseAdagrad(lr=0.1)
STEPS, ROWS = 4, 64  # of a rank


def plan_for_two_ranks() -> Planned:
    """Say how often each table is looked up, and let the planner place them."""
    loads = (
        TableLoad(name="item", num_rows=5_000, dim=16, ids=3.0),
        TableLoad(name="user", num_rows=2_000, dim=8, ids=1.0),
    )
    planned = make_plan(
        Workload(name="chapter 2", tables=loads, batch_size=65_536),
        Cluster(world_size=2, ranks_per_node=2),
    )
    print(explain(planned))
    return planned


def batch(step: int, rank: int) -> RaggedFeatures:
    """Return a rank's rows of a batch."""
    draw = torch.Generator().manual_seed(10 * step + rank)
    lengths = torch.randint(1, 6, (ROWS,), generator=draw)
    seen = torch.randint(5_000, (int(lengths.sum()),), generator=draw)
    users = torch.randint(2_000, (ROWS,), generator=draw)
    return RaggedFeatures.from_ragged(
        {
            "seen": Ragged.from_lengths(seen, lengths.tolist()),
            "user": Ragged.from_lengths(users, [1] * ROWS),
        }
    )


def train_a_share(plan: Plan, folder: Path, ranks: Ranks) -> float:
    """Train on this rank's rows, and save what all ranks hold."""
    bags = ShardedEmbeddingBags(TABLES, OPTIMIZER, plan, ranks)
    for step in range(STEPS):
        answers = bags.send(
            batch(step, ranks.rank)
        )  # on its way; other layers could work meanwhile
        answers.wait().square().mean(0).sum().backward()
        bags.step()
    save_tables(bags, folder)
    return bags.num_bytes() / 2**20


def train_alone(bags: EmbeddingBags | TieredEmbeddingBags) -> None:
    """Train on the rows of both ranks, one below the other."""
    batches = [RaggedFeatures.cat([batch(step, rank) for rank in (0, 1)]) for step in range(STEPS)]
    for step, features in enumerate(batches):
        out = bags(features)
        if isinstance(bags, TieredEmbeddingBags) and step + 1 < STEPS:
            bags.prefetch(batches[step + 1])  # its rows move while this one trains
        out.square().mean(0).sum().backward()
        bags.step()


def main(folder: Path) -> None:
    """Train on two ranks, load what they saved into one process, and train what does not fit."""
    plan = plan_for_two_ranks().plan
    held = on_ranks(2, partial(train_a_share, plan, folder / "tables"))
    print(f"the first of two ranks held {held:.2f} MiB of weights")

    alone = EmbeddingBags(TABLES, OPTIMIZER)
    train_alone(alone)
    loaded = EmbeddingBags(TABLES, OPTIMIZER)
    load_tables(loaded, folder / "tables")
    apart = max(float((alone.table(t.name) - loaded.table(t.name)).abs().max()) for t in TABLES)
    print(f"two ranks against one process: weights differ by {apart:.1e} at most")
    assert apart < 1e-6

    tiered = TieredEmbeddingBags(TABLES, OPTIMIZER, Tiers(fast=0.1, folder=folder / "files"))
    train_alone(tiered)
    print(f"a tenth of the rows in memory, the rest in files: {tiered.counts()}")
    assert all(torch.equal(tiered.table(t.name), alone.table(t.name)) for t in TABLES)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
