"""Calibrations are whole, come back from their files and are planned with; what is predicted to be held is held."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cuesta.cli.main import main
from cuesta.errors import UserError
from cuesta.nn import Table
from cuesta.ops import SGD, Adagrad, RowwiseAdagrad, TableOptimizer
from cuesta.rec.neo import calibration
from cuesta.rec.neo.calibrate import _lookup_times, measure
from cuesta.rec.neo.calibration import (
    Calibration,
    compared,
    read_calibration,
    write_calibration,
)
from cuesta.rec.neo.cluster import Cluster
from cuesta.rec.neo.constants import Constants
from cuesta.rec.neo.costs import SCHEMES, Scheme, options
from cuesta.rec.neo.planner import PlannerSettings, make_plan
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.requests import schema_workload
from cuesta.rec.neo.sharded import ShardedEmbeddingBags, ShardedOptions
from cuesta.rec.neo.timing import QUICK, Clock
from cuesta.rec.neo.workload import TableLoad, Workload
from tests.rec.neo.groups import run_ranks

FOUND = Calibration(
    cluster=Cluster(
        world_size=2, ranks_per_node=2, fast=3.5, constants=Constants(id_ns=7.0, copies="gathered")
    ),
    machine="some processor",
    date="2026-01-02T03:04:05+00:00",
)


@pytest.mark.parametrize("world", [1, 2])
def test_what_is_measured_is_above_nothing_and_the_same_on_all_ranks(world: int) -> None:
    clusters = run_ranks(world, lambda ranks: measure(ranks, QUICK))
    assert all(each == clusters[0] for each in clusters)
    found = clusters[0]
    assert (found.world_size, found.ranks_per_node) == (world, world)
    assert found.constants.gflops > 0
    assert found.constants.parameter_bytes > 0
    assert found.constants.copies == "gathered"
    assert 0 < found.constants.cached <= 1
    if world == 1:
        assert found.constants.asked_ns == found.constants.copy_forward == 0
    assert json.loads(json.dumps(dataclasses.asdict(found)))["fast"] == found.fast


def test_what_few_rows_take_too_is_not_counted_as_lookups() -> None:
    class Fixed(Clock):
        def median(self, *works: Callable[[], object]) -> list[float]:
            for work in works:
                work()
            return [1.0, 2.0, 1.5, 4.0]  # a lookup and an update, of few rows and of more

    assert _lookup_times(Fixed(Ranks(), 1), QUICK, 16, 2**20) == [0.5, 2.0]


def test_a_calibration_comes_back_from_its_file(tmp_path: Path) -> None:
    write_calibration(FOUND, tmp_path / "found.json")
    assert read_calibration(tmp_path / "found.json") == FOUND
    assert {each.name for each in compared(FOUND)} == {
        "fast", "constants.id_ns", "constants.copies",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 9}, "version 9"),
        ({"kind": "plan"}, "'plan'"),
        ({"cluster": {"fast": "quick", "constants": {}}}, "fast is 'quick'"),
        ({"cluster": {"speed": 1.0, "constants": {}}}, "speed is 1.0"),
        ({"cluster": {"fast": -1.0, "constants": {}}}, r"cluster\.fast must be above 0"),
        ({"cluster": {"constants": {"id_ns": -1.0}}}, "id-ns must not be negative"),
        ({"cluster": {}}, "'constants'"),
    ],
)
def test_a_bad_file_is_one_clear_line(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "found.json"
    write_calibration(FOUND, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words) as caught:
        read_calibration(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.endswith(f"`cuesta plan --calibrate --out {path}` makes one")
    assert "\n" not in text


def test_no_file_and_no_json_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; `cuesta plan --calibrate"):
        read_calibration(tmp_path / "none.json")
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(UserError, match=r"half\.json: no calibration"):
        read_calibration(tmp_path / "half.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match=r"list\.json: no calibration"):
        read_calibration(tmp_path / "list.json")


def test_the_command_plans_with_a_calibration_and_flags_win(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "found.json"
    write_calibration(FOUND, path)

    def milliseconds(*words: str) -> float:
        with pytest.raises(SystemExit) as exit_:
            main(["plan", "dlrm.debug", "--json", *words])
        assert exit_.value.code == 0
        result = json.loads(capsys.readouterr().out)
        assert result["plan"]["world_size"] == 2
        return float(result["milliseconds"])

    two = ("--cluster.world-size", "2", "--cluster.ranks-per-node", "2")
    found = milliseconds("--calibration", str(path))
    assert found > milliseconds(*two)
    assert milliseconds("--calibration", str(path), "--cluster.fast", "0.5") > found
    assert milliseconds(*two, "--cluster.constants.part-us", "1000") > milliseconds(*two)


def test_the_command_measures_so_many_ranks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def calibrate(world_size: int) -> Calibration:
        asked.append(world_size)
        return FOUND

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    path = tmp_path / "found.json"
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "--calibrate", "--cluster.world-size", "2", "--out", str(path)])
    assert exit_.value.code == 0
    assert asked == [2]
    assert read_calibration(path) == FOUND
    assert "2 ranks at once" in capsys.readouterr().out


def test_measuring_and_reading_at_once_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--calibration", "x.json"], ["dlrm.debug"]):
        with pytest.raises(SystemExit) as exit_:
            main(["plan", "--calibrate", *words])
        assert exit_.value.code == 2
        assert "--calibrat" in capsys.readouterr().err


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(Constants)])
def test_every_constant_counts(name: str) -> None:
    """Twice or some of it changes what some way to cut a table costs or holds; those of whole steps, the step."""
    dense = {"gflops", "activation_bytes", "parameter_bytes", "latency_us", "step_ms"}
    if name in dense:
        return  # `test_simulate.py`, and below
    usual = dataclasses.replace(
        Constants(), id_ns=2.0, update_ns=3.0, cached=0.5, cached_update=0.5, cache_mib=0.001
    )
    if name == "copy_gathered":
        usual = dataclasses.replace(usual, copies="gathered")
    value = getattr(usual, name)
    other: object = "gathered" if name == "copies" else value * 2 if value else 5.0
    changed = dataclasses.replace(usual, **{name: other})
    tables = tuple(
        TableLoad(name=str(dim), num_rows=1000, dim=dim, ids=9.0, is_weighted=True)
        for dim in (8, 64, 128)
    )
    work = Workload(name="w", tables=tables, batch_size=64)

    def told(constants: Constants) -> list[object]:
        cluster = Cluster(world_size=4, ranks_per_node=2, constants=constants)
        return [list(options(table, work, cluster)) for table in tables]

    assert told(changed) != told(usual)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("optimizer", [RowwiseAdagrad(lr=0.1), Adagrad(lr=0.1), SGD(lr=0.1)])
def test_bytes_predicted_are_bytes_held(scheme: Scheme, optimizer: TableOptimizer) -> None:
    tables = [Table(name=str(t), num_rows=37 + 50 * t, dim=16, pooled=(f"f{t}",)) for t in range(5)]
    work = Workload(
        name="w",
        tables=tuple(
            TableLoad(name=table.name, num_rows=table.num_rows, dim=table.dim, ids=2.0)
            for table in tables
        ),
        weight_bytes=2,
        state_bytes_a_row=4 if isinstance(optimizer, RowwiseAdagrad) else 0,
        state_bytes_a_weight=4 if isinstance(optimizer, Adagrad) else 0,
    )
    cluster = Cluster(world_size=4, ranks_per_node=2)
    planned = make_plan(work, cluster, PlannerSettings(schemes=(scheme,), least_columns=4))

    def held(ranks: object) -> int:
        bags = ShardedEmbeddingBags(
            tables, optimizer, planned.plan, ranks, storage="float16",
            options=ShardedOptions(row_state="apart"),
        )  # fmt: skip
        state = [each for local in bags.local for each in (local.weight, local.first, local.second)]
        return sum(each.numel() * each.itemsize for each in state)

    expected = planned.held()
    if scheme in ("column", "table_column", "grid") and work.state_bytes_a_row:
        assert sum(expected) > 0
    assert run_ranks(4, held) == expected


def test_a_schema_is_planned_by_its_sizes(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(
        'label = "y"\ntime = "t"\nuser = "u"\n'
        '[features.ad]\nkind = "hash"\nsize = 1000\n'
        '[features.seen]\nkind = "hash"\nsize = 500\nragged = true\nlongest = 20\n'
        '[features.day]\nkind = "id"\nsize = 7\n'
    )
    work = schema_workload(str(path), dim=16, weight_bytes=4, batch_size=8)
    assert [(each.name, each.num_rows, each.dim, each.ids) for each in work.tables] == [
        ("ad", 1000, 16, 1.0), ("seen", 500, 16, 20.0), ("day", 7, 16, 1.0),
    ]  # fmt: skip
    path.write_text('label = "y"\ntime = "t"\nuser = "u"\n[features.ad]\nkind = "vocabulary"\n')
    with pytest.raises(UserError, match="'ad' has a vocabulary, whose size the log says"):
        schema_workload(str(path), dim=16, weight_bytes=4, batch_size=8)
