"""`cuesta scenes`: which commands it makes of a folder, what it refuses, and what it says."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from cuesta.cli import fleet
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.fleet import JobResult, Step, StepResult


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders of (no) photos and one scene."""
    for name in ("castle", "abbey", ".hidden"):
        (tmp_path / "places" / name).mkdir(parents=True)
        (tmp_path / "places" / name / "a.jpg").write_bytes(b"no photo")
    (tmp_path / "places" / "done").mkdir()
    (tmp_path / "places" / "done" / "manifest.json").write_text("{}")
    (tmp_path / "places" / "notes.txt").write_text("not a folder")
    return tmp_path / "places"


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    fleet.add_arguments(parser)
    return parser.parse_args(words)


def test_each_folder_becomes_commands_in_the_order_of_the_steps(folder: Path) -> None:
    out = folder.parent / "out"
    flags = fleet.flags_of(["reconstruct=--recipe debug", "depth=--memory '4 G'"], fleet.STEPS)
    jobs = fleet.jobs_of(folder, out, fleet.STEPS, flags)
    assert [job.scene for job in jobs] == ["abbey", "castle", "done"]
    words = [step.arguments for step in jobs[1].steps]
    cuesta, castle = (sys.executable, "-m", "cuesta.cli.main"), str(out / "castle")
    made = ("reconstruct", str(folder / "castle"), "--out", castle, "--recipe", "debug")
    assert words == [
        (*cuesta, *made),
        (*cuesta, "depth", castle, "--memory", "4 G"),
        (*cuesta, "masks", castle),
        (*cuesta, "fuse", castle),
    ]


def test_a_scene_is_worked_on_where_it_is_and_not_reconstructed(folder: Path) -> None:
    jobs = fleet.jobs_of(folder, folder / "out", ("reconstruct", "fuse"), {})
    assert [step.name for step in jobs[-1].steps] == ["fuse"]
    assert jobs[-1].steps[0].arguments[-1] == str(folder / "done")


def test_other_photos_are_another_mark_and_the_same_are_the_same(folder: Path) -> None:
    def marks() -> list[str]:
        jobs = fleet.jobs_of(folder, folder / "out", ("reconstruct",), {})
        return [job.steps[0].mark for job in jobs]

    before = marks()
    assert marks() == before
    (folder / "castle" / "b.jpg").write_bytes(b"")
    after = marks()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def test_the_folder_of_results_is_no_place(folder: Path) -> None:
    (folder / "out").mkdir()
    jobs = fleet.jobs_of(folder, folder / "out", ("reconstruct",), {})
    assert [job.scene for job in jobs] == ["abbey", "castle"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "none: no such folder; name one with a folder for each scene"),
        (["."], "no folder in it; give each scene one with its photos"),
        (["places", "--steps", "depth,melt"], "--steps: no step 'melt'; choose of reconstruct, "),
        (["places", "--steps", "depth,depth"], "name each step once"),
        (["places", "--steps", ","], "name each step once"),
        (["places", "--workers", "0"], "--workers must be at least 1, got 0"),
        (["places", "--with", "melt=-x"], "--with 'melt=-x': write STEP='FLAGS'"),
        (["places", "--with", "depth"], "--with 'depth': write STEP='FLAGS'"),
        (["places", "--with", "depth='"], "No closing quotation; write STEP='FLAGS'"),
    ],
)
def test_mistakes_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(folder if words == ["."] else folder.parent)
    if words == ["."]:
        words = ["castle"]
    with pytest.raises(UserError, match=message):
        fleet.scenes(options(*words))
    assert not Path("scenes").exists()


def test_a_scene_that_fails_is_told_with_its_last_words_and_the_others_are_done(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent / "out"
    words = [str(folder), "--out", str(out), "--steps", "reconstruct"]
    assert fleet.scenes(options(*words)) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split(": ")[:3] for line in lines[:2]] == [
        [name, "reconstruct failed (exit status 2)", "cuesta"] for name in ("abbey", "castle")
    ]
    assert lines[2] == f"results: {out / 'scenes.jsonl'}"
    assert said.err.splitlines()[0] == "abbey reconstruct begins · 0/2 steps"
    assert "castle reconstruct failed in 0:" in said.err.splitlines()[-1]
    record = [json.loads(line) for line in (out / "scenes.jsonl").read_text().splitlines()]
    assert [(line["scene"], line["is_done"]) for line in record] == [
        ("abbey", False),
        ("castle", False),
    ]


def test_json_is_the_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    jobs = fleet.jobs_of(folder, out, ("reconstruct",), {})
    steps = [step for job in jobs for step in job.steps]
    lines = [
        {"scene": job.scene, "steps": [_done(step)]} for job, step in zip(jobs, steps, strict=True)
    ]
    out.mkdir()
    (out / "scenes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for job in jobs:
        (out / job.scene).mkdir()
        (out / job.scene / "manifest.json").touch()
    words = [str(folder), "--out", str(out), "--steps", "reconstruct", "--json"]
    assert fleet.scenes(options(*words)) == 0
    assert capsys.readouterr().out == (out / "scenes.jsonl").read_text()


def _done(step: Step) -> dict[str, object]:
    return {
        "name": step.name,
        "arguments": step.arguments,
        "mark": step.mark,
        "status": "done",
        "seconds": 1.0,
        "attempts": 1,
    }


def test_how_a_scene_ended_is_one_line() -> None:
    done = StepResult("depth", (), "", "done", 0, 1, 61.0, "")
    killed = StepResult("fuse", (), "", "failed", -9, 2, 3.0, "fusing 3/8")
    assert fleet.line_of(JobResult("a", (done, done))) == "a: done in 2:02"
    words = "a: fuse failed (ended by signal 9, 2 attempts): fusing 3/8"
    assert fleet.line_of(JobResult("a", (done, killed))) == words
