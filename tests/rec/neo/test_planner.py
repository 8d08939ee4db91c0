"""Plans hold every row and column once, keep within memory, beat whole tables, and come back from their file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cuesta.cli.main import main
from cuesta.errors import UserError
from cuesta.rec.neo.cluster import GIB, Cluster
from cuesta.rec.neo.explain import explain
from cuesta.rec.neo.plan import Plan, TablePlan, read_plan, write_plan
from cuesta.rec.neo.planner import PlannerSettings, make_plan
from cuesta.rec.neo.workload import TableLoad, Workload, paper_model

CLUSTER = Cluster(world_size=8, ranks_per_node=4)


def workload(num: int = 40, seed: int = 0) -> Workload:
    draw = np.random.default_rng(seed)
    tables = tuple(
        TableLoad(
            name=f"t{number}",
            num_rows=int(draw.lognormal(10, 2)) + 1,
            dim=int(draw.choice([16, 64, 128, 256])),
            ids=float(draw.lognormal(1, 1)),
        )
        for number in range(num)
    )
    return Workload(name="drawn", tables=tables)


def covered(plan: TablePlan) -> np.ndarray:
    """Return how often each element is held."""
    counts = np.zeros((plan.num_rows, plan.dim), np.int64)
    for shard in plan.shards():
        counts[slice(*shard.rows), slice(*shard.columns)] += 1
    return counts


@pytest.mark.parametrize("seed", range(3))
def test_every_element_is_held_once_or_by_all(seed: int) -> None:
    small = dataclasses.replace(
        workload(seed=seed),
        tables=tuple(
            dataclasses.replace(table, num_rows=table.num_rows % 50 + 1)
            for table in workload(seed=seed).tables
        ),
    )
    for schemes in (
        ("table",),
        ("row",),
        ("column", "table"),
        ("data",),
        ("table_row",),
        ("grid", "row"),
        ("table_column", "row"),
    ):
        planned = make_plan(small, CLUSTER, PlannerSettings(schemes=schemes, least_columns=4))
        for table in planned.plan.tables.values():
            assert table.scheme in schemes
            expected = CLUSTER.world_size if table.scheme == "data" else 1
            assert (covered(table) == expected).all()


def test_blocks_of_rows_are_the_papers() -> None:
    table = TablePlan(name="t", num_rows=5, dim=2, scheme="row", columns=1, ranks=(0, 1, 2, 3))
    assert [shard.rows for shard in table.shards()] == [(0, 2), (2, 4), (4, 5), (5, 5)]


def test_loads_are_the_sums_of_the_parts() -> None:
    planned = make_plan(workload(), CLUSTER)
    total = sum(option.work(CLUSTER) for option in planned.chosen.values())
    assert sum(rank.cost.total for rank in planned.ranks) == pytest.approx(total)
    held = np.zeros(CLUSTER.world_size)
    for name, table in planned.plan.tables.items():
        np.add.at(held, list(table.ranks), planned.chosen[name].num_bytes)
    assert [rank.num_bytes for rank in planned.ranks] == pytest.approx(held.tolist())


@pytest.mark.parametrize("capacity", [0.5, 1.0, 4.0])
def test_no_rank_holds_more_than_it_can(capacity: float) -> None:
    load = workload(60, seed=3)
    cluster = dataclasses.replace(CLUSTER, fast_capacity=capacity)
    planned = make_plan(load, cluster)
    assert all(rank.num_bytes <= cluster.room for rank in planned.ranks)


def test_whole_tables_in_turn_are_beaten_by_a_fifth_on_model_a() -> None:
    planned = make_plan(paper_model("model-a", weight_bytes=2), Cluster(world_size=128))
    assert planned.rating <= 0.8 * planned.naive
    assert planned.balance <= 1.02


def test_a_plan_is_never_worse_than_whole_tables_in_turn() -> None:
    for seed in range(5):
        planned = make_plan(workload(30, seed), dataclasses.replace(CLUSTER, fast_capacity=99.0))
        assert planned.rating <= planned.naive


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    plan = make_plan(workload(), CLUSTER).plan
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan


def test_a_table_that_fits_nowhere_is_named_with_what_is_missing() -> None:
    huge = TableLoad(name="huge", num_rows=10**10, dim=128, ids=1.0)
    load = dataclasses.replace(workload(), tables=(*workload().tables, huge))
    with pytest.raises(UserError, match=r"table 'huge' .* fits nowhere: 5\d\d\.\d\d GiB too much"):
        make_plan(load, CLUSTER)


def test_other_tables_and_other_worlds_are_refused() -> None:
    plan = make_plan(workload(3), CLUSTER).plan
    shapes = {name: (table.num_rows, table.dim) for name, table in plan.tables.items()}
    plan.check(shapes, 8)
    with pytest.raises(UserError, match="for 8 ranks, here are 4"):
        plan.check(shapes, 4)
    with pytest.raises(UserError, match="lacks \\['new'\\]"):
        plan.check({**shapes, "new": (1, 1)}, 8)
    with pytest.raises(UserError, match="table 't0' is 7 x 7, in the plan"):
        plan.check({**shapes, "t0": (7, 7)}, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"scheme": "diagonal"}, "scheme 'diagonal'"),
        ({"ranks": [0, 99]}, "2 ranks for 'table'"),
        ({"ranks": [99]}, "0 to 1"),
        ({"columns": 3}, "8 in 3 parts"),
        ({"tables": []}, "no plan of this version"),
    ],
)
def test_a_broken_file_is_named(change: dict[str, object], words: str, tmp_path: Path) -> None:
    table = TablePlan(name="t", num_rows=4, dim=8, scheme="table", columns=1, ranks=(0,))
    content = Plan(world_size=2, ranks_per_node=2, tables={"t": table}).to_json()
    for key, value in change.items():
        (content if key in content else content["tables"]["t"])[key] = value
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        read_plan(path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"plan\.json: no plan"):
        read_plan(path)


def test_a_scheme_that_cannot_cut_a_table_is_named() -> None:
    with pytest.raises(UserError, match=r"'t0' .* cannot be cut by grid"):
        make_plan(workload(1), Cluster(), PlannerSettings(schemes=("grid",)))


def test_reasons_name_the_costliest_table_and_what_binds() -> None:
    planned = make_plan(workload(), CLUSTER)
    text = explain(planned, num_tables=3)
    costliest = max(planned.chosen, key=lambda name: planned.chosen[name].work(CLUSTER))
    assert costliest in text
    assert "what binds is" in text
    assert "rather than" in text
    assert f"{planned.rating:.3f} ms" in text


def test_the_command_plans_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    words = ["plan", "dlrm.debug", "--cluster.world-size", "2", "--cluster.ranks-per-node", "2"]
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--json", "--out", str(out)])
    assert exit_.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert read_plan(out).to_json() == result["plan"]
    assert set(result["plan"]["tables"]) == {"user", "item", "category_0", "category_1"}
    with pytest.raises(SystemExit):
        main(["plan", "model-x"])
    assert "did you mean model-" in capsys.readouterr().err


def test_a_cluster_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="no multiple"):
        Cluster(world_size=12, ranks_per_node=8)
    with pytest.raises(UserError, match=r"cluster\.fast-capacity"):
        Cluster(fast_capacity=0.0)
    assert Cluster(fast_capacity=1.0, reserved=0.5).room == GIB / 2
