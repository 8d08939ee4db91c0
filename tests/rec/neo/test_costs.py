"""The planner's model against numbers worked out by hand, and what must hold of any of its costs."""

import dataclasses

import pytest

from cuesta.rec.neo.cluster import GIB, Cluster
from cuesta.rec.neo.constants import Constants
from cuesta.rec.neo.costs import Option, options
from cuesta.rec.neo.popularity import fitted
from cuesta.rec.neo.workload import TableLoad, Workload, paper_model

TABLE = TableLoad(name="t", num_rows=1000, dim=128, ids=10.0)
# GiB/s such that a byte takes a thousandth of a ms, then 1/1000, 1/100, 1/10 of bytes are told apart
BYTE = 1e6 / GIB
ONE_NODE = Cluster(world_size=4, ranks_per_node=4, fast=BYTE, inside=10 * BYTE, across=BYTE)
TWO_NODES = dataclasses.replace(ONE_NODE, ranks_per_node=2)
WORK = Workload(name="w", tables=(TABLE,), batch_size=8)


def option_of(
    scheme: str, cluster: Cluster, table: TableLoad = TABLE, parts: int | None = None
) -> Option:
    found = [each for each in options(table, WORK, cluster) if each.scheme == scheme]
    return next(each for each in found if parts in (None, each.num_parts))


def test_a_whole_table() -> None:
    """80 ids and 8 vectors a rank, four ranks: 2560 + 320 x 128 x 4 + 32 x 128 x 4 bytes."""
    cost = option_of("table", ONE_NODE).cost
    forward = (320 * 8 + 320 * 128 * 4 + 32 * 128 * 4) / 1000
    assert cost.forward == pytest.approx(forward)
    assert cost.backward == pytest.approx(2 * forward)
    assert cost.forward_exchange == pytest.approx(32 * 128 * 4 / 10_000)
    assert cost.backward_exchange == cost.forward_exchange


def test_columns_read_all_ids_again_and_narrow_rows_cost_more() -> None:
    cost = option_of("column", ONE_NODE, parts=2).cost
    assert cost.forward == pytest.approx((2560 + 320 * 64 * 4 + 32 * 64 * 4) * 1.15 / 1000)
    cost = option_of("column", ONE_NODE, parts=4).cost
    assert cost.forward == pytest.approx((2560 + 320 * 32 * 4 + 32 * 32 * 4) * 1.75 / 1000)


def test_rows_share_the_ids_and_answer_everyone() -> None:
    cost = option_of("row", ONE_NODE).cost
    assert cost.forward == pytest.approx((80 * 8 + 80 * 128 * 4 + 32 * 128 * 4) / 1000)
    sent = 32 * 128 * 4 / 10_000
    assert cost.forward_exchange == pytest.approx(sent)
    assert cost.backward_exchange == pytest.approx(sent + 2.455 * 32 * 128 * 4 / 1000)


def test_rows_of_unpooled_ids_send_each_vector_once() -> None:
    table = dataclasses.replace(TABLE, bags=0, unpooled=10.0)
    assert option_of("row", ONE_NODE, table).cost.forward_exchange == pytest.approx(
        80 * 128 * 4 / 10_000
    )


def test_rows_of_a_node_go_far_in_part() -> None:
    cost = option_of("table_row", TWO_NODES).cost
    assert cost.forward == pytest.approx((160 * 8 + 160 * 128 * 4 + 32 * 128 * 4) / 1000)
    assert cost.forward_exchange == pytest.approx(32 * 128 * 4 / 10_000 + 16 * 128 * 4 / 1000)


def test_copies_exchange_their_gradient_alone() -> None:
    cost = option_of("data", ONE_NODE).cost
    size = 1000 * 128 * 4
    forward = (80 * 8 + 80 * 128 * 4 + 8 * 128 * 4) / 1000
    assert cost.forward == pytest.approx(forward)
    assert cost.backward == pytest.approx(2 * forward + 9.22 * size / 1000)
    assert cost.forward_exchange == 0
    assert cost.backward_exchange == pytest.approx(size / 40_000)
    two = option_of("data", TWO_NODES).cost
    assert two.backward_exchange == pytest.approx(1.5 * size / 2000)


def test_ids_of_all_ranks_repeat_more_than_those_of_one() -> None:
    """Rows that are in the processor's cache take nothing here: `cached` is 0."""
    constants = Constants(cached=0.0)
    cluster = dataclasses.replace(ONE_NODE, constants=constants)
    table = dataclasses.replace(TABLE, repeated=0.4)
    repeated = fitted(1000, 80.0, 0.4).repeated(320.0)
    assert repeated > 0.5
    forward = (320 * 8 + 32 * 128 * 4 + (1 - repeated) * 320 * 128 * 4) / 1000
    assert option_of("table", cluster, table).cost.forward == pytest.approx(forward)
    own = (80 * 8 + 8 * 128 * 4 + 0.6 * 80 * 128 * 4) / 1000
    assert option_of("data", cluster, table).cost.forward == pytest.approx(own)


def test_weights_of_ids_are_read_and_differentiated() -> None:
    table = dataclasses.replace(TABLE, is_weighted=True)
    cost = option_of("table", ONE_NODE, table).cost
    assert cost.forward == pytest.approx((2 * 2560 + 320 * 128 * 4 + 32 * 128 * 4) / 1000)
    assert cost.backward == pytest.approx(3.1 * cost.forward)


def test_bytes_are_those_of_rows_state_and_buffers() -> None:
    assert option_of("table", ONE_NODE).num_bytes == 1000 * (512 + 4) + 2 * 320 * 8 + 32 * 512
    whole = option_of("row", ONE_NODE).num_bytes
    assert whole == 250 * (512 + 4) + 2 * 80 * 8 + 32 * 512


@pytest.mark.parametrize("cluster", [ONE_NODE, TWO_NODES, Cluster(world_size=1, ranks_per_node=1)])
def test_parts_make_the_table(cluster: Cluster) -> None:
    for option in options(TABLE, WORK, cluster):
        if option.scheme == "table_column":
            assert option.dim * cluster.local_size == TABLE.dim
        else:
            assert option.dim * option.num_parts == TABLE.dim
        assert all(term >= 0 for term in option.cost)
        if cluster.world_size == 1:
            assert option.cost.forward_exchange == option.cost.backward_exchange == 0


def test_the_memory_of_the_paper() -> None:
    """12 trillion weights: 96 TB in float32 with a state of the same, 24 TB and .19 in 16 bits with one a row."""
    naive = dataclasses.replace(paper_model("model-f"), state_bytes_a_weight=4, state_bytes_a_row=0)
    assert naive.num_bytes == pytest.approx(96e12, rel=1e-6)
    small = paper_model("model-f", weight_bytes=2)
    assert small.num_bytes == pytest.approx(24e12 + 0.1875e12, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters", "dim", "ids"),
    [("model-a", 793e9, 93, 15), ("model-f", 12e12, 256, 20), ("model-i", 332e9, 92, 70)],
)
def test_models_of_the_paper_have_its_means(
    name: str, parameters: float, dim: float, ids: float
) -> None:
    model = paper_model(name)
    dims = [table.dim for table in model.tables]
    assert model.num_parameters == pytest.approx(parameters, rel=1e-6)
    assert sum(dims) / len(dims) == pytest.approx(dim, rel=0.05)
    assert sum(table.ids for table in model.tables) / len(dims) == pytest.approx(ids, rel=0.02)
    assert paper_model(name) == model
