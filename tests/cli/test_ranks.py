"""`cuesta train --ranks`: what ranks are told, what becomes of one that fails, and what is refused."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

from cuesta.cli.main import main
from cuesta.cli.ranks import run_ranks
from cuesta.errors import UserError

# A rank: says what it was told, and ends as `plan` says of its rank and start, "wait" being the end of all patience.
RANK = """
import json, os, signal, sys, time
from pathlib import Path

folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
told = {name: os.environ[name] for name in names if name in os.environ}
start = os.environ["TORCHELASTIC_RESTART_COUNT"]
print(json.dumps(told))
(folder / f"{told['RANK']}.{start}").write_text(str(os.getpid()))
while len(list(folder.glob(f"*.{start}"))) < int(told["WORLD_SIZE"]):
    time.sleep(0.01)
end = plan.get(f"{told['RANK']}.{start}", "")
if end == "wait":
    time.sleep(600)
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if end:
    print("cuesta: no luck", file=sys.stderr)
    sys.exit(int(end))
"""


def run(
    folder: Path, *, size: int = 2, restarts: int = 0, on_ray: bool = False, **plan: str
) -> None:
    words = {name.removeprefix("rank").replace("_", "."): end for name, end in plan.items()}
    command = (sys.executable, "-c", textwrap.dedent(RANK), str(folder), json.dumps(words))
    run_ranks(command, folder / "logs", size=size, on_ray=on_ray, max_restarts=restarts)


def starts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.*"))


def test_ranks_are_told_what_torchrun_tells_and_the_first_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    told = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    assert json.loads(capfd.readouterr().out) == told
    other = (tmp_path / "logs" / "rank-1.out").read_text()
    assert json.loads(other) == {**told, "RANK": "1", "LOCAL_RANK": "1"}


def test_the_error_of_the_rank_that_failed_is_told_and_the_others_end(tmp_path: Path) -> None:
    expected = r"^rank 1 failed: no luck; all that it said is in .*logs/rank-1\.err$"
    with pytest.raises(UserError, match=expected):
        run(tmp_path, rank0_0="wait", rank1_0="3")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "0.0").read_text()), 0)


def test_all_ranks_start_anew_when_one_was_killed_as_often_as_allowed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = {"rank0_0": "wait", "rank1_0": "kill", "rank0_1": "kill", "rank1_1": "wait"}
    (tmp_path / "a").mkdir()
    run(tmp_path / "a", restarts=2, **plan)
    assert starts(tmp_path / "a") == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
    said = capfd.readouterr().err.splitlines()
    told = [line for line in said if line.startswith("rank")]
    assert told == [f"rank {n} was ended by SIGKILL; all ranks start anew" for n in (1, 0)]
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"^rank 0 was ended by SIGKILL; "):
        run(tmp_path / "b", restarts=1, **plan)


def test_a_mistake_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rank 0 failed: no luck"):
        run(tmp_path, restarts=5, rank0_0="2", rank1_0="wait")
    assert starts(tmp_path) == ["0.0", "1.0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ranks", "0"], "--ranks must be at least 1"),
        (["--ranks", "2", "--max-restarts", "-1"], "--max-restarts at least 0"),
        (["--ray"], "--ray and --max-restarts are of --ranks"),
        (["--ranks", "2", "--optim.lr", "much"], "--optim.lr much: expected float"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "dlrm.debug", "--out", str(tmp_path / "run"), *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_rank_starts_no_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        main(["train", "dlrm.debug", "--ranks", "2"])
    assert "this process is a rank already; leave out --ranks" in capsys.readouterr().err


def test_without_ray_its_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        main(["train", "dlrm.debug", "--out", str(tmp_path / "run"), "--ranks", "2", "--ray"])
    said = capsys.readouterr().err
    assert said.startswith("cuesta: Ray is not installed; pip install 'cuesta[ray]' brings it")
    assert said.count("\n") == 1


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra ray)")
def test_on_ray_the_error_of_the_rank_that_failed_is_told_and_ranks_start_anew(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="rank 1 failed: no luck"):
        run(tmp_path, on_ray=True, restarts=1, rank0_0="kill", rank1_0="wait", rank1_1="3")
    assert starts(tmp_path) == ["0.0", "0.1", "1.0", "1.1"]
