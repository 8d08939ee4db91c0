"""Sharded tables against the unsharded module on the batches of all ranks, one below the other: every scheme, pooling
and optimiser, on one to eight ranks; to the bit where nothing is summed over ranks, else within the twin rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags, Table
from cuesta.ops import SGD, Adagrad, PartialRowwiseAdam, RowwiseAdagrad, TableOptimizer
from cuesta.ragged import RaggedFeatures
from cuesta.rec.neo.costs import SCHEMES, Scheme
from cuesta.rec.neo.exchange import Wire
from cuesta.rec.neo.plan import Plan, Shard
from cuesta.rec.neo.ranks import Arriving, Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags, ShardedOptions
from cuesta.rec.neo.tiers import TieredEmbeddingBags, Tiers
from tests.rec.neo.groups import TABLES, batches, plan_of, run_ranks
from tests.twins import assert_close

STEPS = 3
SUM = ShardedOptions(gradient="sum")
BY_COLUMNS = ("column", "table_column", "grid")
SUMMED = ("row", "table_row", "grid")  # over ranks
UNPOOLED = (("history", "more"), ("tags",))  # that share a dim
EXACT_FOR_ALL = SGD(lr=0.5), Adagrad(lr=0.5)
OPTIMIZERS = (*EXACT_FOR_ALL, RowwiseAdagrad(lr=0.5), PartialRowwiseAdam(lr=0.1))


class Trained(NamedTuple):
    """Hold what lookups returned, step after step, and the tables at the end, by name."""

    outputs: list[Tensor]
    tables: dict[str, Tensor]


def looked_up(
    bags: EmbeddingBags | ShardedEmbeddingBags, features: RaggedFeatures
) -> tuple[Tensor, list[Tensor]]:
    """Return the pooled output, and the rows of unpooled features."""
    unweighted = RaggedFeatures(features.keys, features.values, features.offsets)
    rows = [each.values for keys in UNPOOLED for each in bags.rows(unweighted, keys)]
    return bags(features), rows


def unsharded(
    steps: Sequence[list[RaggedFeatures]],
    optimizer: TableOptimizer,
    dtype: torch.dtype = torch.float32,
) -> Trained:
    """Train one module on the batches of all ranks; outputs are cut into ranks' again."""
    bags = EmbeddingBags(TABLES, optimizer, seed=3).to(dtype)
    outputs = []
    for step, parts in enumerate(steps):
        batch = RaggedFeatures.cat(parts)
        if batch.weights is not None:
            batch = replace(batch, weights=batch.weights.to(dtype))
        pooled, rows = looked_up(bags, batch)
        grads = gradients(parts, step, bags.width)
        torch.autograd.backward([pooled, *rows], [grad.to(dtype) for grad in grads])
        bags.step()
        outputs += [pooled.detach(), *(each.detach() for each in rows)]
    return Trained(outputs, {table.name: bags.table(table.name).clone() for table in TABLES})


def gradients(parts: Sequence[RaggedFeatures], step: int, width: int) -> list[Tensor]:
    """Return the gradients of all ranks' outputs, one below the other."""
    generator = torch.Generator().manual_seed(100 + step)
    shapes = [(sum(part.num_rows for part in parts), width)]
    for keys in UNPOOLED:
        for key in keys:
            dim = next(table.dim for table in TABLES if key in table.unpooled)
            shapes.append((sum(part[key].values.numel() for part in parts), dim))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def own(grads: Sequence[Tensor], parts: Sequence[RaggedFeatures], rank: int) -> list[Tensor]:
    """Return a rank's part of the gradients of all."""
    sizes = [[part.num_rows for part in parts]]
    sizes += [[part[key].values.numel() for part in parts] for keys in UNPOOLED for key in keys]
    return [grad.split(size)[rank] for grad, size in zip(grads, sizes, strict=True)]


def sharded(
    steps: Sequence[list[RaggedFeatures]],
    optimizer: TableOptimizer,
    plan: Plan,
    options: ShardedOptions = SUM,
    ranks_per_node: int | None = None,
) -> Trained:
    """Train on a rank a batch, and put outputs and tables together again."""

    def work(ranks: Ranks) -> tuple[list[Tensor], dict[tuple[str, Shard], Tensor]]:
        bags = ShardedEmbeddingBags(TABLES, optimizer, plan, ranks, seed=3, options=options)
        outputs = []
        for step, parts in enumerate(steps):
            batch = parts[ranks.rank]
            pooled, rows = looked_up(bags, batch)
            grads = own(gradients(parts, step, bags.width), parts, ranks.rank)
            if options.gradient == "mean":
                grads = [grad / max(batch.num_rows, 1) for grad in grads]
            torch.autograd.backward([pooled, *rows], grads)
            bags.step()
            outputs += [pooled.detach(), *(each.detach() for each in rows)]
        return outputs, bags.shards()

    results = run_ranks(plan.world_size, work, ranks_per_node)
    outputs = [torch.cat(parts) for parts in zip(*(out for out, _ in results), strict=True)]
    tables = {table.name: torch.full((table.num_rows, table.dim), torch.nan) for table in TABLES}
    for _, shards in results:
        for (name, shard), values in shards.items():
            place = tables[name][slice(*shard.rows), slice(*shard.columns)]
            assert place.isnan().all() or torch.equal(place, values), "copies differ"
            place.copy_(values)
    return Trained(outputs, tables)


def rows_of(world: int) -> list[int]:
    """Return how many rows each rank has: uneven, and none at all on one."""
    return [(5, 3, 0, 6, 1, 2, 4, 7)[rank] for rank in range(world)]


def steps_of(world: int, *, weighted: bool = False) -> list[list[RaggedFeatures]]:
    return [batches(rows_of(world), seed, weighted=weighted) for seed in range(STEPS)]


def allowed(scheme: Scheme, optimizer: TableOptimizer) -> bool:
    return scheme not in BY_COLUMNS or optimizer in EXACT_FOR_ALL


@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_every_scheme_equals_the_unsharded_module(
    optimizer: TableOptimizer, scheme: Scheme, world: int
) -> None:
    if not allowed(scheme, optimizer):
        pytest.skip("refused, as another test shows")
    for weighted in (False, True):
        steps = steps_of(world, weighted=weighted)
        ours = sharded(steps, optimizer, plan_of(scheme, world))
        theirs = unsharded(steps, optimizer)
        if scheme not in SUMMED:
            assert all(torch.equal(a, b) for a, b in zip(ours.outputs, theirs.outputs, strict=True))
            assert all(torch.equal(ours.tables[name], theirs.tables[name]) for name in ours.tables)
            continue
        oracle = unsharded(steps, optimizer, torch.float64)
        for number, triple in enumerate(
            zip(oracle.outputs, theirs.outputs, ours.outputs, strict=True)
        ):
            assert_close(*triple, what=f"output {number}")
        for name in ours.tables:
            assert_close(oracle.tables[name], theirs.tables[name], ours.tables[name], what=name)


@pytest.mark.parametrize("scheme", ["table", "row", "data"])
def test_a_mean_over_ranks_is_that_over_all_rows(scheme: Scheme) -> None:
    steps, optimizer = steps_of(4), Adagrad(lr=0.5)
    ours = sharded(steps, optimizer, plan_of(scheme, 4), ShardedOptions(gradient="mean"))

    def mean_of_all(dtype: torch.dtype) -> Trained:
        bags = EmbeddingBags(TABLES, optimizer, seed=3).to(dtype)
        for step, parts in enumerate(steps):
            pooled, rows = looked_up(bags, RaggedFeatures.cat(parts))
            grads = gradients(parts, step, bags.width)
            scaled = [grad.to(dtype) / sum(rows_of(4)) for grad in grads]
            torch.autograd.backward([pooled, *rows], scaled)
            bags.step()
        return Trained([], {table.name: bags.table(table.name) for table in TABLES})

    oracle, theirs = mean_of_all(torch.float64), mean_of_all(torch.float32)
    for name in ours.tables:
        assert_close(oracle.tables[name], theirs.tables[name], ours.tables[name], what=name)


def test_two_runs_are_equal_to_the_bit() -> None:
    steps = steps_of(4)
    first, again = (sharded(steps, RowwiseAdagrad(), plan_of("row", 4)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.outputs, again.outputs, strict=True))
    assert all(torch.equal(first.tables[name], again.tables[name]) for name in first.tables)


def test_lookups_of_several_batches_are_one_update() -> None:
    parts = batches([3, 4], seed=1)

    def work(ranks: Ranks) -> dict[tuple[str, Shard], Tensor]:
        bags = ShardedEmbeddingBags(TABLES, Adagrad(), plan_of("data", 2), ranks, options=SUM)
        for _ in range(2):
            bags(parts[ranks.rank]).sum().backward()
        bags.step()
        return bags.shards()

    whole = EmbeddingBags(TABLES, Adagrad())
    for _ in range(2):
        whole(RaggedFeatures.cat(parts)).sum().backward()
    whole.step()
    for shards in run_ranks(2, work):
        assert all(torch.equal(values, whole.table(name)) for (name, _), values in shards.items())


def test_what_is_dropped_changes_nothing() -> None:
    parts = batches([3, 4], seed=1)

    def work(ranks: Ranks) -> bool:
        bags = ShardedEmbeddingBags(TABLES, SGD(), plan_of("table", 2), ranks)
        before = {place: values.clone() for place, values in bags.shards().items()}
        bags(parts[ranks.rank]).sum().backward()
        bags.drop_gradients()
        bags.step()
        return all(torch.equal(before[place], values) for place, values in bags.shards().items())

    assert run_ranks(2, work) == [True, True]


def test_evaluation_leaves_nothing_to_learn_and_sends_no_gradient() -> None:
    parts = batches([3, 4], seed=1)

    def work(ranks: Ranks) -> Tensor:
        bags = ShardedEmbeddingBags(TABLES, SGD(), plan_of("row", 2), ranks, seed=3).eval()
        with torch.no_grad():
            out = bags(parts[ranks.rank])
        assert not out.requires_grad
        assert not any(local.pending for local in bags.local)
        return out

    expected = EmbeddingBags(TABLES, SGD(), seed=3)(RaggedFeatures.cat(parts)).detach()
    torch.testing.assert_close(torch.cat(run_ranks(2, work)), expected)


def one_table(ids: list[int], options: ShardedOptions | None = None) -> Tensor:
    """Return what a table of five rows, 0 to 4, has for these ids."""
    tables = [Table(name="item", num_rows=5, dim=1, pooled=("item",))]
    bags = ShardedEmbeddingBags(tables, SGD(), plan_of("table", 1, tables), options=options)
    next(iter(bags.shards().values())).copy_(torch.arange(5.0)[:, None])
    batch = RaggedFeatures(("item",), torch.tensor(ids), torch.arange(len(ids) + 1))
    return bags(batch).detach().flatten()


def test_ids_that_no_row_has_are_named_clamped_or_ignored() -> None:
    with pytest.raises(ValueError, match=r"feature 'item', row 2: id 5 is out of range .* 5 rows"):
        one_table([0, 4, 5])
    with pytest.raises(ValueError, match=r"feature 'item', row 1: id -1 "):
        one_table([3, -1])
    assert one_table([3, -1, 9], ShardedOptions(out_of_range="clamp")).tolist() == [3, 0, 4]
    assert one_table([3, -1, 9], ShardedOptions(out_of_range="ignore")).tolist() == [3, 0, 0]


def test_what_cannot_be_exact_or_does_not_fit_is_refused() -> None:
    def make(plan: Plan, optimizer: TableOptimizer, tables: Sequence[Table] = TABLES) -> None:
        ShardedEmbeddingBags(tables, optimizer, plan)

    with pytest.raises(
        UserError, match=r"'user' is cut into 2 parts of columns, and RowwiseAdagrad"
    ):
        make(plan_of("column", 1), RowwiseAdagrad())
    with pytest.raises(UserError, match=r"PartialRowwiseAdam has one number for a whole row"):
        make(plan_of("grid", 1), PartialRowwiseAdam())
    with pytest.raises(UserError, match="the plan is for 2 ranks, here are 1; plan again"):
        make(plan_of("table", 2), SGD())
    with pytest.raises(UserError, match=r"it lacks none and has .*'wide'"):
        make(plan_of("table", 1), SGD(), TABLES[:3])
    with pytest.raises(UserError, match=r"table 'user' is 8 x 8, in the plan 7 x 8"):
        make(plan_of("table", 1), SGD(), [replace(TABLES[0], num_rows=8), *TABLES[1:]])


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("scheme", BY_COLUMNS)
@pytest.mark.parametrize(
    "optimizer", [RowwiseAdagrad(lr=0.5, weight_decay=0.01), PartialRowwiseAdam(lr=0.1)],
    ids=lambda o: type(o).__name__,
)  # fmt: skip
def test_parts_of_columns_that_share_a_rows_state_train_as_the_whole(
    optimizer: TableOptimizer, scheme: Scheme, world: int
) -> None:
    mixed = dict(plan_of(scheme, world).tables)
    mixed["user"] = plan_of("table", world).tables["user"]  # and a table that is whole
    plan = replace(plan_of(scheme, world), tables=mixed)
    steps, options = steps_of(world), replace(SUM, row_state="shared")
    ours, theirs = sharded(steps, optimizer, plan, options), unsharded(steps, optimizer)
    oracle = unsharded(steps, optimizer, torch.float64)
    for name in ours.tables:
        assert_close(oracle.tables[name], theirs.tables[name], ours.tables[name], what=name)


def test_parts_of_columns_may_keep_a_state_each() -> None:
    plan, options = plan_of("column", 2), replace(SUM, row_state="apart")
    ours = sharded(steps_of(2), RowwiseAdagrad(lr=0.5), plan, options)
    theirs = unsharded(steps_of(2), RowwiseAdagrad(lr=0.5))
    assert torch.equal(ours.outputs[0], theirs.outputs[0])
    assert not torch.allclose(ours.tables["item"], theirs.tables["item"])


def test_ranks_of_which_only_some_weigh_are_told_so() -> None:
    weighted, plain = batches([3], 1, weighted=True)[0], batches([3], 1)[0]

    def work(ranks: Ranks) -> None:
        bags = ShardedEmbeddingBags(TABLES, SGD(), plan_of("table", 2), ranks)
        bags(weighted if ranks.rank else plain)

    with pytest.raises(ValueError, match="some ranks' features have weights, others' have none"):
        run_ranks(2, work)


class Counting(Ranks):
    """Count the bytes sent, by dtype."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks._group)
        self.sent: dict[torch.dtype, int] = {}

    def exchange(
        self, values: Tensor, sizes: Sequence[int], their_sizes: Sequence[int]
    ) -> Arriving:
        sent = self.sent.get(values.dtype, 0)
        self.sent[values.dtype] = sent + values.numel() * values.itemsize
        return super().exchange(values, sizes, their_sizes)


def test_numbers_of_16_bits_halve_what_travels_and_keep_its_precision() -> None:
    parts = batches([6, 6], seed=1)
    halves = Wire(forward="float16", backward="bfloat16")

    def work(ranks: Ranks, wire: Wire) -> tuple[Tensor, dict[torch.dtype, int], list[Tensor]]:
        counting = Counting(ranks)
        bags = ShardedEmbeddingBags(
            TABLES, SGD(lr=1.0), plan_of("row", 2), counting, options=replace(SUM, wire=wire)
        )
        out = bags(parts[ranks.rank])
        out.square().sum().backward()
        bags.step()
        return out.detach(), counting.sent, list(bags.shards().values())

    whole = run_ranks(2, lambda ranks: work(ranks, Wire()))
    half = run_ranks(2, lambda ranks: work(ranks, halves))
    for (out, sent, tables), (near, fewer, near_tables) in zip(whole, half, strict=True):
        assert 2 * (fewer[torch.float16] + fewer[torch.bfloat16]) == sent[torch.float32]
        assert ((out - near).abs() <= 2**-11 * 2 * out.abs().max()).all()  # of two parts of a sum
        for table, near_table in zip(tables, near_tables, strict=True):
            torch.testing.assert_close(near_table, table, rtol=2**-7, atol=2**-7)


def test_small_gradients_survive_float16_if_they_are_scaled() -> None:
    tables = [Table(name="item", num_rows=5, dim=1, pooled=("item",))]
    batch = RaggedFeatures(("item",), torch.tensor([1]), torch.tensor([0, 1]))

    def moved(scale: float) -> float:
        wire = Wire(backward="float16", loss_scale=scale)
        bags = ShardedEmbeddingBags(
            tables, SGD(lr=1.0), plan_of("table", 1, tables), options=ShardedOptions(wire=wire)
        )
        (values,) = bags.shards().values()
        values.zero_()
        (bags(batch) * 1e-9).sum().backward()
        bags.step()
        return float(values[1, 0])

    assert moved(1.0) == 0.0
    assert moved(2.0**14) == pytest.approx(-1e-9, rel=2**-10)


def test_what_float16_cannot_hold_is_sent_as_its_largest() -> None:
    tables = [Table(name="item", num_rows=5, dim=1, pooled=("item",))]
    options = ShardedOptions(wire=Wire(forward="float16"))
    bags = ShardedEmbeddingBags(tables, SGD(), plan_of("table", 1, tables), options=options)
    next(iter(bags.shards().values())).fill_(-1e9)
    batch = RaggedFeatures(("item",), torch.tensor([1]), torch.tensor([0, 1]))
    assert bags(batch).item() == torch.finfo(torch.float16).min


def test_gradients_of_work_between_sending_and_waiting_are_untouched() -> None:
    """Other layers' work may stand between: numbers come and go in the order of the graph."""
    parts = batches([3, 4], seed=1)

    def work(ranks: Ranks) -> Tensor:
        bags = ShardedEmbeddingBags(TABLES, SGD(), plan_of("row", 2), ranks)
        dense = torch.ones(3, requires_grad=True)
        sent = bags.send(parts[ranks.rank])
        between = dense.square().sum()
        (sent.wait().sum() * between).backward()
        assert dense.grad is not None
        return dense.grad

    for grad in run_ranks(2, work):
        assert bool((grad == grad[0]).all())


class Started(Ranks):
    """Count the exchanges that are started."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks._group)
        self.started = 0

    def exchange(
        self, values: Tensor, sizes: Sequence[int], their_sizes: Sequence[int]
    ) -> Arriving:
        self.started += 1
        return super().exchange(values, sizes, their_sizes)


@pytest.mark.parametrize("scheme", ["row", "table", "data"])
def test_ids_sent_ahead_change_no_bit_and_leave_only_answers_to_be_sent(scheme: Scheme) -> None:
    steps = steps_of(2)

    def work(ranks: Ranks, *, is_ahead: bool) -> tuple[list[Tensor], list[int]]:
        counting = Started(ranks)
        bags = ShardedEmbeddingBags(TABLES, Adagrad(lr=0.5), plan_of(scheme, 2), counting, seed=3)
        own = [parts[ranks.rank] for parts in steps]
        outputs, started = [], []
        for step, batch in enumerate(own):
            if is_ahead and step:  # what is asked for in the first lookups is known from then on
                for later in own[step : step + 2] if step == 1 else own[step + 1 : step + 2]:
                    bags.announce(later)
                    bags.fetch(later)
            before = counting.started
            rows = [each.values for keys in UNPOOLED for each in bags.rows(batch, keys)]
            pooled = bags(batch)
            started.append(counting.started - before)
            (pooled.sum() + sum(each.sum() for each in rows)).backward()
            bags.step()
            outputs += [pooled.detach(), *(each.detach() for each in rows)]
        return outputs, started

    ahead = run_ranks(2, lambda ranks: work(ranks, is_ahead=True))
    plain = run_ranks(2, lambda ranks: work(ranks, is_ahead=False))
    answers = 0 if scheme == "data" else 3  # pooled, and rows of two widths
    for (ours, started), (theirs, all_started) in zip(ahead, plain, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert started[1:] == [answers, answers]
        assert all_started[1:] == [4 * answers, 4 * answers]


def test_what_is_forgotten_is_asked_for_anew() -> None:
    parts = batches([3, 4], seed=1)

    def work(ranks: Ranks) -> Tensor:
        bags = ShardedEmbeddingBags(TABLES, SGD(), plan_of("row", 2), ranks, seed=3)
        bags.announce(parts[ranks.rank])
        bags.fetch(parts[ranks.rank])
        bags.forget()
        return bags(parts[ranks.rank]).detach()

    expected = EmbeddingBags(TABLES, SGD(), seed=3)(RaggedFeatures.cat(parts)).detach()
    torch.testing.assert_close(torch.cat(run_ranks(2, work)), expected)


@pytest.mark.parametrize("scheme", ["table", "row", "column"])
@pytest.mark.parametrize("is_ahead", [False, True])
def test_parts_in_tiers_train_to_the_bits_of_parts_in_memory(
    scheme: Scheme, is_ahead: bool, tmp_path: Path
) -> None:
    plan, optimizer = plan_of(scheme, 2), Adagrad(lr=0.5)
    steps = [batches([40, 31], seed) for seed in range(5)]

    def train(ranks: Ranks, tiers: Tiers | None) -> tuple[list[Tensor], dict[str, Tensor], int]:
        options = ShardedOptions(tiers=tiers)
        bags = ShardedEmbeddingBags(TABLES, optimizer, plan, ranks, seed=3, options=options)
        outputs = []
        for number, step in enumerate(steps):
            if is_ahead and number + 1 < len(steps):
                bags.announce(steps[number + 1][ranks.rank])
                bags.fetch(steps[number + 1][ranks.rank])
            pooled, rows = looked_up(bags, step[ranks.rank])
            sum(each.square().sum() for each in (pooled, *rows)).backward()
            bags.step()
            outputs += [pooled.detach(), *(each.detach() for each in rows)]
        own = bags.local[0]
        placed = own.counts().batches if isinstance(own, TieredEmbeddingBags) else 0
        parts = {f"{name}{shard}": part.clone() for (name, shard), part in bags.shards().items()}
        return outputs, parts, placed

    for tiers in (Tiers(fast=0.1), Tiers(fast=0.3, folder=tmp_path, policy="lfu")):
        tiered = run_ranks(2, lambda ranks, tiers=tiers: train(ranks, tiers))
        for ours, theirs in zip(
            tiered, run_ranks(2, lambda ranks: train(ranks, None)), strict=True
        ):
            assert all(torch.equal(a, b) for a, b in zip(ours[0], theirs[0], strict=True))
            assert all(torch.equal(part, theirs[1][name]) for name, part in ours[1].items())
            assert ours[2] >= len(steps)


def test_shared_states_of_rows_have_no_tiers() -> None:
    options = ShardedOptions(tiers=Tiers(), row_state="shared")
    with pytest.raises(
        UserError, match="rows that share their state over ranks cannot lie in tiers"
    ):
        ShardedEmbeddingBags(
            TABLES, RowwiseAdagrad(), plan_of("column", 1), Ranks(), options=options
        )
