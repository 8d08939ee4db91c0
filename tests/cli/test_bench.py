"""The benches: their result files, their refusal to time a wrong answer, and the peers they name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cuesta.cli.bench import BENCHES, dlrm, embedding_bag, peers, run_bench
from cuesta.cli.bench.bags import CUESTA, TORCH, CuestaOps
from cuesta.cli.bench.harness import (
    Contender,
    Findings,
    Settings,
    WrongAnswerError,
    rate_rows,
    time_in_turns,
    time_rows,
)
from cuesta.cli.bench.ids import IdBatch
from cuesta.cli.bench.models import TORCH_MODEL, CuestaModel, DenseOptimizer, ModelCase
from cuesta.errors import UserError

QUICK = Settings(quick=True)


@pytest.mark.parametrize("name", BENCHES)
def test_result_file_is_one_object_with_these_keys(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_bench(name, quick=True, json_path=Path("result.json"), save=True)
    result = json.loads(Path("result.json").read_text())
    assert result["bench"] == name
    assert {"hardware", "load", "date", "commit"} <= set(result)
    assert result["hardware"]["processor"]
    assert result["hardware"]["versions"]["torch"] == torch.__version__
    assert len(result["load"]["before"]) == len(result["load"]["after"]) == 3
    for row in result["rows"]:
        assert set(row) == {
            "case", "provider", "median", "low", "high", "unit", "speedup_of_ours",
        }  # fmt: skip
        assert row["low"] <= row["median"] <= row["high"]
        if row["provider"] == "cuesta":
            assert row["speedup_of_ours"] == 1
    assert {row["provider"] for row in result["rows"]} > {"cuesta"}
    (page,) = Path("benchmarks/results").glob("*.md")
    (data,) = Path("benchmarks/results").glob("*.json")
    assert page.stem == data.stem
    assert page.stem.startswith(f"{name}_")
    text = page.read_text()
    assert all(row["provider"] in text for row in result["rows"])
    others = set(Path("benchmarks/results").iterdir()) - {page, data}
    assert all(picture.suffix == ".png" and f"({picture.name})" in text for picture in others)


class _Careless(CuestaOps):
    """Tables that forget to update."""

    def step(self, batch: IdBatch, grad: Tensor) -> Tensor:
        """Do the forward alone."""
        del grad
        return self.forward(batch)


def test_our_wrong_answer_stops_the_bench_before_any_time() -> None:
    broken = CUESTA._replace(build=_Careless)
    with pytest.raises(WrongAnswerError, match=r"output 1 has max error .*no time is printed"):
        embedding_bag.measure(QUICK, [broken])


def test_a_wrong_peer_is_named_and_not_timed() -> None:
    broken = TORCH._replace(build=_Careless)
    findings = embedding_bag.measure(QUICK, [CUESTA, broken])
    timed = {row.case for row in findings.rows if row.provider == broken.name}
    assert timed
    assert all(case.endswith(": forward") for case in timed)
    assert any(note.startswith(f"not timed: {broken.name}") for note in findings.notes)


def test_a_model_with_another_learning_rate_is_not_equal() -> None:
    case = ModelCase(name="", num_tables=2, rows=50, dim=4, bottom=(8,), top=(8,), num_dense=3)

    def build(case: ModelCase, dense: DenseOptimizer) -> CuestaModel:
        model = CuestaModel(case, dense)
        model.optimizer.param_groups[0]["lr"] *= 1.01
        return model

    assert dlrm.prove(case, dlrm.CUESTA_MODEL) is None
    assert dlrm.prove(case, TORCH_MODEL) is None
    assert dlrm.prove(case, dlrm.CUESTA_MODEL._replace(build=build)) is not None


def test_missing_peers_are_named_with_the_remedy() -> None:
    findings = Findings()
    absent = peers.Peer("Nobody", "no_such_module")
    present = peers.Peer("JSON", "json")
    assert peers.importable([absent, present], findings, bench="dlrm") == [present]
    (note,) = findings.notes
    assert "Nobody" in note
    assert "`make peers`" in note
    assert "`.venv-peers/bin/cuesta bench dlrm`" in note


def test_an_unknown_bench_is_a_one_line_error() -> None:
    with pytest.raises(UserError, match="no bench 'nothing'; choose one of embedding_bag"):
        run_bench("nothing")


def test_names_are_listed_without_torch() -> None:
    code = "import sys; from cuesta.cli.bench import BENCHES; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_contenders_take_turns_on_the_same_repetitions() -> None:
    seen: list[tuple[str, int]] = []
    contenders = [Contender(name, lambda i, name=name: seen.append((name, i))) for name in "abc"]
    seconds = time_in_turns(contenders, 5)
    assert {name: len(each) for name, each in seconds.items()} == dict.fromkeys("abc", 5)
    for first in range(0, len(seen), 3):
        assert sorted(seen[first : first + 3]) == [(name, first // 3) for name in "abc"]
    assert len({tuple(name for name, _ in seen[i : i + 3]) for i in range(0, len(seen), 3)}) > 1


def test_a_slow_contender_takes_part_in_some_repetitions_alone() -> None:
    seen: list[int] = []
    contenders = [Contender("slow", seen.append, every=4), Contender("fast", lambda _: None)]
    seconds = time_in_turns(contenders, 20)
    assert seen == [0, 4, 8, 12, 16, 20]
    assert {name: len(each) for name, each in seconds.items()} == {"slow": 5, "fast": 20}


def test_above_one_is_better_for_us_in_times_and_in_rates() -> None:
    seconds = {"cuesta": [1.0, 2.0, 3.0], "peer": [4.0, 4.0, 4.0]}
    for rows in (time_rows("", seconds), rate_rows("", seconds, 8, "rows/s")):
        assert [row.speedup_of_ours for row in rows] == [1.0, 2.0]
    assert [row.median for row in time_rows("", seconds)] == [2000.0, 4000.0]
    assert [row.median for row in rate_rows("", seconds, 8, "rows/s")] == [4.0, 2.0]
