"""Saved tables: training goes on as unbroken on other ranks, by other plans, unsharded; a failed save loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags, Table
from cuesta.ops import Adagrad, PartialRowwiseAdam, RowwiseAdagrad, TableOptimizer
from cuesta.ragged import RaggedFeatures
from cuesta.rec.neo import checkpoint
from cuesta.rec.neo.checkpoint import held_tables, load_tables, save_tables, write_tables
from cuesta.rec.neo.costs import Scheme
from cuesta.rec.neo.plan import Plan, TablePlan
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags, ShardedOptions
from cuesta.rec.neo.tiers import TieredEmbeddingBags, Tiers
from tests.rec.neo.groups import TABLES, batches, plan_of, run_ranks

ROWS = 12
SUM = ShardedOptions(gradient="sum")


def batch_of(step: int) -> RaggedFeatures:
    return batches([ROWS], seed=step)[0]


def own(batch: RaggedFeatures, ranks: Ranks) -> RaggedFeatures:
    each = ROWS // ranks.size
    return batch.select_rows(torch.arange(ranks.rank * each, (ranks.rank + 1) * each))


def train(bags: checkpoint.Bags, rows: RaggedFeatures) -> Tensor:
    """Make a step with the rows of this rank; return their outputs."""
    out = bags(rows)
    (out * torch.arange(1.0, bags.width + 1)).sum().backward()
    bags.step()
    return out.detach()


def unbroken(steps: int, optimizer: TableOptimizer) -> list[Tensor]:
    bags = EmbeddingBags(TABLES, optimizer, seed=3)
    return [train(bags, batch_of(step)) for step in range(steps)]


def on_ranks(
    plan: Plan, optimizer: TableOptimizer, steps: range, source: Path | None, target: Path
) -> list[Tensor]:
    """Load, train some steps and save; return the outputs of each step."""

    def work(ranks: Ranks) -> list[Tensor]:
        # another seed: what is not loaded would be seen
        bags = ShardedEmbeddingBags(
            TABLES, optimizer, plan, ranks, seed=3 if source is None else 99, options=SUM
        )
        if source is not None:
            load_tables(bags, source)
        outputs = [train(bags, own(batch_of(step), ranks)) for step in steps]
        save_tables(bags, target)
        return outputs

    return [torch.cat(parts) for parts in zip(*run_ranks(plan.world_size, work), strict=True)]


@pytest.mark.parametrize(
    ("optimizer", "schemes"),
    [
        (Adagrad(lr=0.5), ("column", "table", "data", "column")),
        (RowwiseAdagrad(lr=0.5), ("table", "data", "table", "table")),
        (PartialRowwiseAdam(lr=0.1), ("data", "table", "table", "data")),
    ],
    ids=["columns", "rowwise", "adam"],
)
def test_training_goes_on_to_the_bit_on_4_2_1_and_3_ranks(
    optimizer: TableOptimizer, schemes: tuple[Scheme, ...], tmp_path: Path
) -> None:
    outputs: list[Tensor] = []
    source = None
    for number, (world, scheme) in enumerate(zip((4, 2, 1, 3), schemes, strict=True)):
        target = tmp_path / f"after-{number}"
        steps = range(2 * number, 2 * number + 2)
        outputs += on_ranks(plan_of(scheme, world), optimizer, steps, source, target)
        source = target
    expected = unbroken(8, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("scheme", ["row", "table_row", "grid"])
def test_tables_cut_by_rows_load_unsharded_and_back(scheme: Scheme, tmp_path: Path) -> None:
    optimizer = Adagrad(lr=0.5)
    first = on_ranks(plan_of(scheme, 4), optimizer, range(2), None, tmp_path / "cut")
    whole = EmbeddingBags(TABLES, optimizer, seed=99)
    load_tables(whole, tmp_path / "cut")
    second = train(whole, batch_of(2))
    save_tables(whole, tmp_path / "whole")
    third = on_ranks(plan_of(scheme, 2), optimizer, range(3, 4), tmp_path / "whole", tmp_path / "x")
    for ours, theirs in zip([*first, second, *third], unbroken(4, optimizer), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_large_tables_are_saved_and_loaded_in_blocks_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in files is never in memory as a whole, whoever wrote it."""
    optimizer = RowwiseAdagrad(lr=0.1)
    tiered = TieredEmbeddingBags(TABLES, optimizer, Tiers(fast=0.1, folder=tmp_path / "files"))
    train(tiered, batch_of(0))
    save_tables(tiered, tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "_FILE_BYTES", 600)
    save_tables(tiered, tmp_path / "blocks")
    files = list((tmp_path / "blocks").glob("*.safetensors"))
    assert len(files) > 3
    assert all(sum(each.nbytes for each in load_file(file).values()) <= 600 for file in files)
    for folder in ("whole", "blocks"):
        for bags in (
            EmbeddingBags(TABLES, optimizer, seed=5),
            TieredEmbeddingBags(TABLES, optimizer, Tiers(), seed=5),
        ):
            load_tables(bags, tmp_path / folder)
            for name, values in tiered.state_dict().items():
                assert torch.equal(values, bags.state_dict()[name]), (folder, name)


def test_a_rank_that_cannot_write_leaves_what_was_and_tells_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "tables"
    on_ranks(plan_of("row", 2), Adagrad(), range(1), None, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def failing(tensors: dict[str, Tensor], path: Path) -> None:
        if "rank-00001" in path.name:
            raise OSError(28, "No space left on device", str(path))
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", failing)
    said = []

    def work(ranks: Ranks) -> None:
        bags = ShardedEmbeddingBags(TABLES, Adagrad(), plan_of("row", 2), ranks)
        with pytest.raises(UserError, match=r"rank 1: cannot write .*: the disk is full") as raised:
            save_tables(bags, target, overwrite=True)
        said.append(str(raised.value))

    run_ranks(2, work)
    assert len(said) == 2
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


@pytest.mark.parametrize("scheme", ["row", "data"])
def test_copies_are_of_their_moment_whatever_is_trained_before_they_are_written(
    scheme: Scheme, tmp_path: Path
) -> None:
    def work(ranks: Ranks) -> bool:
        bags = ShardedEmbeddingBags(TABLES, Adagrad(lr=0.5), plan_of(scheme, 2), ranks, options=SUM)
        train(bags, own(batch_of(0), ranks))
        expected = {name: each.clone() for name, each in bags.state_dict().items()}
        tables = held_tables(bags, copies=True)
        train(bags, own(batch_of(1), ranks))
        with ranks.folder(tmp_path / "tables", overwrite=False) as folder:
            write_tables(tables, folder, ranks)
        load_tables(bags, tmp_path / "tables")
        return all(torch.equal(each, expected[name]) for name, each in bags.state_dict().items())

    assert run_ranks(2, work) == [True, True]


def test_a_first_rank_without_tables_saves_how_often_the_others_were_updated(
    tmp_path: Path,
) -> None:
    one = [Table(name="item", num_rows=31, dim=4, pooled=("item",))]
    planned = TablePlan(name="item", num_rows=31, dim=4, scheme="table", columns=1, ranks=(1,))
    plan = Plan(world_size=2, ranks_per_node=2, tables={"item": planned})

    def work(ranks: Ranks) -> None:
        bags = ShardedEmbeddingBags(one, PartialRowwiseAdam(), plan, ranks, options=SUM)
        for step in range(3):
            train(bags, own(batch_of(step), ranks).select(("item",)))
        save_tables(bags, tmp_path / "tables")

    run_ranks(2, work)
    assert json.loads((tmp_path / "tables" / "index.json").read_text())["updates"] == 3


def test_an_existing_folder_is_not_replaced_unasked(tmp_path: Path) -> None:
    on_ranks(plan_of("row", 2), Adagrad(), range(0), None, tmp_path / "tables")
    with pytest.raises(UserError, match="exists"):
        on_ranks(plan_of("row", 2), Adagrad(), range(0), None, tmp_path / "tables")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    whole = EmbeddingBags(TABLES, Adagrad())
    with pytest.raises(UserError, match=r"index\.json: no such file; .* holds no saved tables"):
        load_tables(whole, tmp_path / "nothing")
    save_tables(whole, tmp_path / "tables")
    with pytest.raises(UserError, match="holds other tables"):
        load_tables(EmbeddingBags(TABLES[:2], Adagrad()), tmp_path / "tables")
    with pytest.raises(UserError, match=r"of user\[0:7,0:8\]\.first it holds 0 of 7 numbers"):
        load_tables(EmbeddingBags(TABLES, RowwiseAdagrad()), tmp_path / "tables")
    index = tmp_path / "tables" / "index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"version": 9}))
    with pytest.raises(UserError, match="of another version"):
        load_tables(whole, tmp_path / "tables")
    index.write_text(json.dumps(content | {"parts": content["parts"][1:]}))
    with pytest.raises(UserError, match=r"of user\[0:7,0:8\]\.weight it holds 0 of 56 numbers"):
        load_tables(whole, tmp_path / "tables")
    index.write_text(json.dumps(content))
    (tmp_path / "tables" / "rank-00000-of-00001.safetensors").write_bytes(b"not one")
    with pytest.raises(UserError, match=r"safetensors cannot be read"):
        load_tables(whole, tmp_path / "tables")
