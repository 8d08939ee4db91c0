"""A stage runs once, goes on where it was cut off, and runs again when what it depends on changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from cuesta.vision.terrasky3d.stages import Stage, run_stage


class Counted:
    """A stage of three steps, each a file; it counts the steps that it takes."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.steps = 0
        self.fails_at = fails_at

    def __call__(self, folder: Path) -> dict[str, Any]:
        for number in range(3):
            if number == self.fails_at:
                raise KeyboardInterrupt
            if not (folder / str(number)).exists():
                (folder / str(number)).write_text("done")
                self.steps += 1
        return {"answer": 42}


def run(work: Path, make: Counted, inputs: object = 1, *after: Stage) -> Stage:
    return run_stage("count", work, make, inputs=inputs, after=after)


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    make = Counted()
    first, second = run(tmp_path, make), run(tmp_path, make)
    assert (make.steps, first.is_fresh, second.is_fresh) == (3, True, False)
    assert first.result == second.result == {"answer": 42}
    assert first.seconds == second.seconds


def test_a_stage_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    broken, whole = Counted(fails_at=2), Counted()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, broken)
    assert run(tmp_path, whole).is_fresh
    assert (broken.steps, whole.steps) == (2, 1)


def test_other_inputs_find_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counted(fails_at=2), 1)
    make = Counted()
    run(tmp_path, make, 2)
    assert make.steps == 3


def test_a_stage_is_done_again_when_one_before_it_changed(tmp_path: Path) -> None:
    def stage(inputs: int, make: Counted) -> Stage:
        before = run_stage("before", tmp_path, Counted(), inputs=inputs)
        return run(tmp_path, make, 1, before)

    make = Counted()
    stage(1, make)
    stage(1, make)
    assert make.steps == 3
    stage(2, make)
    assert make.steps == 6


def test_a_stage_that_lost_a_file_is_done_again(tmp_path: Path) -> None:
    make = Counted()
    run(tmp_path, make)
    (tmp_path / "count" / "1").unlink()
    run(tmp_path, make)
    assert make.steps == 6


def test_a_stage_whose_file_was_changed_is_done_again(tmp_path: Path) -> None:
    make = Counted()
    run(tmp_path, make)
    (tmp_path / "count" / "deep").mkdir()
    run(tmp_path, make)
    assert make.steps == 3  # an empty folder changes nothing
    (tmp_path / "count" / "1").write_text("edited by hand")
    run(tmp_path, make)
    assert make.steps == 6


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"fingerprint": "x"})])
def test_a_broken_record_is_no_record(tmp_path: Path, text: str) -> None:
    make = Counted()
    run(tmp_path, make)
    (tmp_path / "count" / "stage.json").write_text(text)
    run(tmp_path, make)
    assert make.steps == 6
