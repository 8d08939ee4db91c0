"""Ranks in nodes: sums inside a node first give the bits of an exchange among all, and a node's share of its bytes."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from cuesta.nn import EmbeddingBags
from cuesta.ops import SGD, Adagrad
from cuesta.rec.neo.costs import Scheme
from cuesta.rec.neo.exchange import Wire
from cuesta.rec.neo.launch import Ranked, ranks_a_node, world_here
from cuesta.rec.neo.plan import Plan
from cuesta.rec.neo.ranks import Arriving, Levels, Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags, ShardedOptions
from cuesta.rec.neo.sharding import Sharding
from cuesta.rec.neo.ways import Bags, ways_of
from tests.rec.neo.groups import TABLES, batches, plan_of, run_ranks
from tests.rec.neo.test_sharded import SUM, sharded, steps_of, unsharded
from tests.twins import assert_close


def mixed(*schemes: Scheme) -> Plan:
    """Return a plan of a scheme a table."""
    plan = plan_of("table", 4)
    tables = {
        table.name: plan_of(scheme, 4).tables[table.name]
        for table, scheme in zip(TABLES, schemes, strict=True)
    }
    return replace(plan, tables=tables)


PLANS = {
    "table_row": plan_of("table_row", 4),
    "grid": plan_of("grid", 4),
    "mixed": mixed("table_row", "column", "grid", "row"),
    "with copies": mixed("data", "grid", "table", "table_row"),
    "nodes of three": plan_of("table_row", 6, ranks_per_node=3),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_sums_inside_nodes_are_those_among_all_to_the_bit(name: str, is_weighted: bool) -> None:
    plan = PLANS[name]
    steps = steps_of(plan.world_size, weighted=is_weighted)
    options = ShardedOptions(gradient="mean") if is_weighted else SUM
    ours = sharded(steps, Adagrad(lr=0.5), plan, options, plan.ranks_per_node)
    among_all = sharded(steps, Adagrad(lr=0.5), plan, options)
    assert all(torch.equal(a, b) for a, b in zip(ours.outputs, among_all.outputs, strict=True))
    assert all(torch.equal(ours.tables[name], among_all.tables[name]) for name in ours.tables)


@pytest.mark.parametrize("name", ["mixed", "with copies"])
def test_schemes_side_by_side_equal_the_unsharded_module(name: str) -> None:
    steps, optimizer = steps_of(4), Adagrad(lr=0.5)
    ours = sharded(steps, optimizer, PLANS[name], ranks_per_node=2)
    theirs, oracle = unsharded(steps, optimizer), unsharded(steps, optimizer, torch.float64)
    for number, triple in enumerate(zip(oracle.outputs, theirs.outputs, ours.outputs, strict=True)):
        assert_close(*triple, what=f"output {number}")
    for table in ours.tables:
        assert_close(oracle.tables[table], theirs.tables[table], ours.tables[table], what=table)


class Counting(Ranks):
    """Count the exchanges of vectors and the bytes of these to other nodes; `nodes` are those of the ranks."""

    def __init__(self, ranks: Ranks, nodes: Sequence[int], levels: Levels | None = None) -> None:
        super().__init__(ranks._group, levels)
        self._nodes = nodes
        self.exchanges, self.sent, self.crossed = 0, 0, 0

    def exchange(
        self, values: Tensor, sizes: Sequence[int], their_sizes: Sequence[int]
    ) -> Arriving:
        if values.is_floating_point():
            self.exchanges += 1
            self.sent += sum(sizes) * values.itemsize
            here = self._nodes[self.rank]
            away = (size for node, size in zip(self._nodes, sizes, strict=True) if node != here)
            self.crossed += sum(away) * values.itemsize
        return super().exchange(values, sizes, their_sizes)


def counted(ranks: Ranks, per_node: int = 2) -> tuple[Counting, Counting | None, Counting | None]:
    """Return ranks that count, and their levels if they have some."""
    nodes = [rank // per_node for rank in range(ranks.size)]
    if ranks.levels is None:
        return Counting(ranks, nodes), None, None
    inside = Counting(ranks.levels.inside, [nodes[ranks.rank]] * per_node)
    across = Counting(ranks.levels.across, range(ranks.size // per_node))
    return Counting(ranks, nodes, Levels(inside, across)), inside, across


@pytest.mark.parametrize("scheme", ["table_row", "grid"])
def test_what_crosses_nodes_is_divided_by_the_ranks_of_a_node(scheme: Scheme) -> None:
    parts = batches([5, 3, 0, 6], seed=1)

    def crossed(ranks: Ranks) -> tuple[int, int]:
        """Return the bytes sent to other nodes, forward, and backward."""
        found = counted(ranks)
        bags = ShardedEmbeddingBags(TABLES, SGD(), plan_of(scheme, 4), found[0])
        out = bags(parts[ranks.rank])
        forward = sum(each.crossed for each in found if each is not None)
        out.sum().backward()
        return forward, sum(each.crossed for each in found if each is not None) - forward

    in_nodes, among_all = run_ranks(4, crossed, 2), run_ranks(4, crossed)
    for ours, theirs in zip(zip(*in_nodes, strict=True), zip(*among_all, strict=True), strict=True):
        assert sum(ours) > 0
        assert 2 * sum(ours) == sum(theirs)


def test_the_first_leg_starts_with_sending_and_the_slow_one_before_a_gradient_is_waited_for() -> (
    None
):
    parts = batches([5, 3, 0, 6], seed=1)

    def work(ranks: Ranks) -> list[tuple[int, int]]:
        whole, inside, across = counted(ranks)
        assert inside is not None
        assert across is not None
        seen: list[tuple[int, int]] = []

        class Between(torch.autograd.Function):
            """Be the work of other layers between sending and waiting."""

            @staticmethod
            def forward(_ctx: object, values: Tensor) -> Tensor:
                seen.append((inside.exchanges, across.exchanges))
                return values * 2

            @staticmethod
            def backward(_ctx: object, grad: Tensor) -> Tensor:
                seen.append((inside.exchanges, across.exchanges))
                return grad * 2

        bags = ShardedEmbeddingBags(TABLES, SGD(), plan_of("table_row", 4), whole)
        bags.announce(parts[ranks.rank])
        bags.fetch(parts[ranks.rank])
        sent = bags.send(parts[ranks.rank])
        between = Between.apply(torch.ones(1, requires_grad=True))
        (sent.wait() * between).sum().backward()
        seen.append((inside.exchanges, across.exchanges))
        assert whole.exchanges == 0
        return seen

    for seen in run_ranks(4, work, 2):
        assert seen == [(1, 0), (1, 2), (2, 2)]


def test_ids_sent_ahead_change_no_bit() -> None:
    steps = steps_of(4)

    def work(ranks: Ranks, *, is_ahead: bool) -> list[Tensor]:
        bags = ShardedEmbeddingBags(TABLES, Adagrad(lr=0.5), PLANS["mixed"], ranks, seed=3)
        own, outputs = [parts[ranks.rank] for parts in steps], []
        for step, batch in enumerate(own):
            if is_ahead:
                for later in own if step == 0 else own[step + 2 : step + 3]:
                    bags.announce(later)
                    bags.fetch(later)
            out = bags(batch)
            out.square().sum().backward()
            bags.step()
            outputs.append(out.detach())
        return outputs

    ahead = run_ranks(4, lambda ranks: work(ranks, is_ahead=True), 2)
    plain = run_ranks(4, lambda ranks: work(ranks, is_ahead=False), 2)
    for ours, theirs in zip(ahead, plain, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_16_bits_halve_every_leg_and_sums_stay_float32() -> None:
    parts = batches([6, 6, 6, 6], seed=1)

    def work(ranks: Ranks, wire: Wire) -> tuple[Tensor, list[int], dict[str, Tensor]]:
        whole, inside, across = counted(ranks)
        assert inside is not None
        assert across is not None
        bags = ShardedEmbeddingBags(
            TABLES, SGD(lr=1.0), plan_of("table_row", 4), whole, options=replace(SUM, wire=wire)
        )
        out = bags(parts[ranks.rank])
        out.square().sum().backward()
        bags.step()
        tables = {f"{name}{shard}": part for (name, shard), part in bags.shards().items()}
        return out.detach(), [inside.sent, across.sent], tables

    halves = Wire(forward="float16", backward="bfloat16")
    whole = run_ranks(4, lambda ranks: work(ranks, Wire()), 2)
    half = run_ranks(4, lambda ranks: work(ranks, halves), 2)
    for (out, sent, tables), (near, fewer, near_tables) in zip(whole, half, strict=True):
        assert [2 * each for each in fewer] == sent
        assert near.dtype == torch.float32
        # of two parts of a sum, and of the sum
        assert ((out - near).abs() <= 2**-11 * 3 * out.abs().max()).all()
        assert not torch.equal(out, near)
        for name, table in tables.items():
            torch.testing.assert_close(near_tables[name], table, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("scheme", ["table_row", "grid", "data"])
@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_ranks_draw_the_first_weights_of_the_whole_in_small_blocks(
    scheme: Scheme, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EmbeddingBags(TABLES, SGD(), seed=3, storage=storage)
    monkeypatch.setattr("cuesta.nn.embedding.DRAWN_AT_ONCE", 40)

    def work(ranks: Ranks) -> None:
        bags = ShardedEmbeddingBags(
            TABLES, SGD(), plan_of(scheme, 4), ranks, seed=3, storage=storage
        )  # fmt: skip
        for (name, shard), part in bags.shards().items():
            expected = whole.table(name)[slice(*shard.rows), slice(*shard.columns)]
            assert torch.equal(part, expected)

    run_ranks(4, work)


def test_a_mesh_of_processes_makes_the_levels() -> None:
    """Four processes that were started as on two nodes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ranks = [context.Process(target=rank_in_a_node, args=(rank, port)) for rank in range(4)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join()
    assert [each.exitcode for each in ranks] == [0] * 4


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [("aabb", 2), ("aaaa", 4), ("abcd", 1), ("aab", 1), ("abab", 1), ("aaba", 1), ("abbb", 1)],
)
def test_without_torchrun_ranks_on_one_host_are_a_node_where_they_follow_each_other(
    hosts: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(Ranks, "say", lambda *_: list(hosts))
    assert ranks_a_node(Ranks()) == expected


@pytest.mark.parametrize(("said", "expected"), [("22", 2), ("21", 1)])
def test_torchrun_says_how_many_ranks_a_node_has(
    said: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(Ranks, "say", lambda *_: list(said))
    assert ranks_a_node(Ranks()) == expected


def rank_in_a_node(rank: int, port: int) -> None:
    """Be a rank of two nodes of two."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_RANK": str(rank % 2)}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with world_here() as world:
        assert isinstance(world, Ranked)
        levels = world.ranks.levels
        assert levels is not None
        assert levels.inside.say(str(rank)) == [str(rank // 2 * 2 + place) for place in range(2)]
        assert levels.across.say(str(rank)) == [str(node * 2 + rank % 2) for node in range(2)]
        in_nodes, among_all = sent_by(world.ranks), sent_by(Ranks(dist.group.WORLD))
        assert all(torch.equal(a, b) for a, b in zip(in_nodes, among_all, strict=True))
        for shape in ((4,), (4, 1), (1, 4)):
            assert Ranks.of_mesh(init_device_mesh("cpu", shape)).levels is None
        with pytest.raises(ValueError, match="a mesh of nodes and their ranks has two axes"):
            Ranks.of_mesh(init_device_mesh("cpu", (1, 2, 2)))


def sent_by(ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Return what arrives of random answers, and the gradient of these."""
    sharding = Sharding(TABLES, plan_of("table_row", 4), SGD(), 4)
    (way,) = ways_of(sharding, ranks)
    num_rows = [5, 3, 0, 6]
    width = sum(slot.columns.width for slot in sharding.slots[ranks.rank])
    generator = torch.Generator().manual_seed(ranks.rank)
    values = torch.rand(sum(num_rows), width, generator=generator).requires_grad_()
    lengths = torch.full((len(sharding.pooled_keys), num_rows[ranks.rank]), 2)
    out = way.send(values, Bags(num_rows, lengths, 0.5), Wire()).wait()
    out.square().sum().backward()
    assert values.grad is not None
    return out.detach(), values.grad
