"""Scenes run beside each other; a process that is killed costs the step it was at and nothing else."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from cuesta.vision.terrasky3d.fleet import Job, JobResult, Progress, Step, run_scenes

# Notes that it ran; killed at its first attempt where it is told so, after it said something.
FAKE = """
import os, signal, sys
folder, scene, step, order = sys.argv[1:]
runs = os.path.join(folder, f"{scene}.{step}.runs")
with open(runs, "a") as file:
    file.write("x")
first = os.path.getsize(runs) == 1
print(f"{scene} begins {step}", file=sys.stderr, flush=True)
if order == "die" or (order == "die once" and first):
    os.kill(os.getpid(), signal.SIGKILL)
if order.startswith("fail"):
    print("reading", file=sys.stderr)
    print(f"{scene}: the photos are broken", file=sys.stderr)
    sys.exit(int(order.split()[1]))
"""


def fake(
    folder: Path,
    scene: str,
    step: str,
    order: str = "go",
    *,
    mark: str = "",
    makes: Path | None = None,
) -> Step:
    script = folder / "fake.py"
    if not script.exists():
        script.write_text(FAKE)
    arguments = (sys.executable, str(script), str(folder), scene, step, order)
    return Step(name=step, arguments=arguments, mark=mark, makes=makes)


def job(folder: Path, scene: str, *orders: str) -> Job:
    steps = zip(("first", "second", "third"), orders, strict=False)
    return Job(scene=scene, steps=tuple(fake(folder, scene, step, order) for step, order in steps))


def runs(folder: Path) -> dict[str, int]:
    """Return how often each step ran."""
    return {path.stem: path.stat().st_size for path in folder.glob("*.runs")}


def statuses(results: list[JobResult]) -> dict[str, list[str]]:
    return {result.scene: [step.status for step in result.steps] for result in results}


@pytest.mark.parametrize("workers", [1, 3])
def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path, workers: int) -> None:
    names = ["d", "b", "a", "c"]
    jobs = [job(tmp_path, name, "go", "fail 2" if name == "b" else "go", "go") for name in names]
    results = run_scenes(jobs, tmp_path / "record.jsonl", workers=workers)
    assert [result.scene for result in results] == names
    assert statuses(results)["b"] == ["done", "failed", "waiting"]
    assert all(result.is_done == (result.scene != "b") for result in results)
    expected = {f"{name}.{step}": 1 for name in names for step in ("first", "second", "third")}
    del expected["b.third"]
    assert runs(tmp_path) == expected


def test_a_killed_process_costs_the_step_it_was_at_and_nothing_else(tmp_path: Path) -> None:
    jobs = [job(tmp_path, name, "go", "die once" if name == "b" else "go", "go") for name in "abc"]
    results = run_scenes(jobs, tmp_path / "record.jsonl", workers=2)
    assert all(result.is_done for result in results)
    expected = {f"{name}.{step}": 1 for name in "abc" for step in ("first", "second", "third")}
    assert runs(tmp_path) == expected | {"b.second": 2}
    assert [step.attempts for step in results[1].steps] == [1, 2, 1]


def test_what_dies_every_time_is_given_up(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "die", "go"), job(tmp_path, "b", "go", "go")]
    results = run_scenes(jobs, tmp_path / "record.jsonl", workers=1, retries=2)
    assert statuses(results) == {"a": ["failed", "waiting"], "b": ["done", "done"]}
    step = results[0].steps[0]
    assert (step.exit_status, step.attempts) == (-signal.SIGKILL, 3)
    assert runs(tmp_path) == {"a.first": 3, "b.first": 1, "b.second": 1}


def test_a_step_that_fails_is_not_tried_again_and_its_last_words_are_kept(tmp_path: Path) -> None:
    results = run_scenes([job(tmp_path, "a", "fail 2")], tmp_path / "record.jsonl", workers=1)
    step = results[0].steps[0]
    assert (step.status, step.exit_status, step.attempts) == ("failed", 2, 1)
    assert step.last_line == "a: the photos are broken"
    said = (tmp_path / "logs" / "a.first.err").read_text().splitlines()
    assert said == ["a begins first", "reading", "a: the photos are broken"]


def test_cores_are_shared_by_the_scenes_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    step = Step(name="one", arguments=("sh", "-c", "echo $OMP_NUM_THREADS >&2"))

    def threads_of(*scenes: str) -> list[str]:
        jobs = [Job(scene=name, steps=(step,)) for name in scenes]
        results = run_scenes(jobs, tmp_path / "record.jsonl", workers=3)
        return [result.steps[0].last_line for result in results]

    assert threads_of("a", "b") == ["3", "3"]
    assert threads_of("a", "b", "c") == ["3", "3", "6"]  # what is done needs none


def test_a_command_that_is_not_there_is_a_failure_of_its_scene(tmp_path: Path) -> None:
    missing = Job(scene="a", steps=(Step(name="first", arguments=("no-such-command",)),))
    results = run_scenes([missing, job(tmp_path, "b", "go")], tmp_path / "r.jsonl", workers=1)
    assert statuses(results) == {"a": ["failed"], "b": ["done"]}
    words = "cannot run no-such-command: No such file or directory"
    assert results[0].steps[0].last_line == words


def test_the_same_call_runs_only_what_is_not_done(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    run_scenes([job(tmp_path, "a", "go", "fail 2"), job(tmp_path, "b", "go")], record, workers=1)
    again = [job(tmp_path, "a", "go", "go"), job(tmp_path, "b", "go")]
    results = run_scenes(again, record, workers=1)
    assert all(result.is_done for result in results)
    assert runs(tmp_path) == {"a.first": 1, "a.second": 2, "b.first": 1}
    run_scenes(again, record, workers=1)
    assert runs(tmp_path) == {"a.first": 1, "a.second": 2, "b.first": 1}


@pytest.mark.parametrize("change", ["mark", "result", "record"])
def test_a_change_runs_the_step_and_those_after_it_again(tmp_path: Path, change: str) -> None:
    made, record = tmp_path / "made", tmp_path / "record.jsonl"
    made.touch()

    def run(mark: str) -> None:
        first = fake(tmp_path, "a", "first", mark=mark, makes=made)
        run_scenes(
            [Job(scene="a", steps=(first, fake(tmp_path, "a", "second")))], record, workers=1
        )

    run("photos")
    run("photos")
    assert runs(tmp_path) == {"a.first": 1, "a.second": 1}
    if change == "result":
        made.unlink()
    if change == "record":
        record.write_text('{"scene": "a", "steps": [{"na')
    run("other photos" if change == "mark" else "photos")
    assert runs(tmp_path) == {"a.first": 2, "a.second": 2}


def test_the_record_is_lines_of_json_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    run_scenes([job(tmp_path, "b", "go"), job(tmp_path, "a", "fail 3")], record, workers=2)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(line["scene"], line["is_done"]) for line in lines] == [("b", True), ("a", False)]
    assert lines[1]["steps"][0]["exit_status"] == 3


def test_progress_counts_every_step_and_ends_at_all(tmp_path: Path) -> None:
    seen: list[Progress] = []
    jobs = [job(tmp_path, "a", "go", "go"), job(tmp_path, "b", "go")]
    run_scenes(jobs, tmp_path / "record.jsonl", workers=1, on_progress=seen.append)
    assert [(p.scene, p.step, p.result is None, p.num_ended) for p in seen] == [
        ("a", "first", True, 0),
        ("a", "first", False, 1),
        ("a", "second", True, 1),
        ("a", "second", False, 2),
        ("b", "first", True, 2),
        ("b", "first", False, 3),
    ]
    assert {p.num_steps for p in seen} == {3}
    assert seen[0].remaining_s is None
    assert seen[-1].remaining_s == 0


def test_two_jobs_of_one_scene_are_refused(tmp_path: Path) -> None:
    twice = [job(tmp_path, "a", "go"), job(tmp_path, "a", "go")]
    with pytest.raises(ValueError, match=r"different scenes.*\['a', 'a'\]"):
        run_scenes(twice, tmp_path / "record.jsonl", workers=1)
    assert not runs(tmp_path)


# A fleet of one step that says who it is, and then never ends; SIGINT is not ignored, as it is in the
# children of background jobs.
ENDLESS = """
import signal, sys
from pathlib import Path
from cuesta.vision.terrasky3d.fleet import Job, Step, run_scenes
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[1])
words = '''
import os, pathlib, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
pathlib.Path({!r}).write_text(str(os.getpid()))
time.sleep(600)
'''.format(str(folder / "pid"))
steps = (Step(name="first", arguments=(sys.executable, "-c", words)),)
run_scenes([Job(scene="a", steps=steps)], folder / "record.jsonl", workers=1)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_commands_end_with_the_fleet(tmp_path: Path, number: signal.Signals) -> None:
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux ends children with their parent")
    fleet = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ENDLESS), str(tmp_path)], stderr=subprocess.DEVNULL
    )
    written = tmp_path / "pid"
    wait_until(lambda: written.exists() and written.read_text() != "")
    os.kill(fleet.pid, number)
    fleet.wait(60)
    wait_until(lambda: not is_alive(int(written.read_text())))
    line = json.loads((tmp_path / "record.jsonl").read_text())
    assert [step["status"] for step in line["steps"]] == ["waiting"]


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra ray)")
def test_on_ray_a_killed_process_costs_the_step_it_was_at(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "a", "go", "go"),
        job(tmp_path, "b", "die once", "go"),
        job(tmp_path, "c", "fail 2", "go"),
    ]
    results = run_scenes(jobs, tmp_path / "record.jsonl", workers=2, backend="ray")
    assert statuses(results) == {
        "a": ["done", "done"],
        "b": ["done", "done"],
        "c": ["failed", "waiting"],
    }
    assert runs(tmp_path) == {
        "a.first": 1,
        "a.second": 1,
        "b.first": 2,
        "b.second": 1,
        "c.first": 1,
    }


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(1200):
        if is_so():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to that in a minute")


def is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
