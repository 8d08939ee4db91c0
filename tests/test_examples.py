"""The examples are the documentation: each chapter runs, and says what it should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cuesta.cli import THREAD_ENVIRONMENT

FOLDER = Path(__file__).parents[1] / "examples"
CHAPTERS = sorted(FOLDER.glob("*.py"))
LIMIT_S = 300


def run(path: Path, *arguments: str, cwd: Path) -> str:
    """Return what a chapter prints; fail if it fails or hangs."""
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **THREAD_ENVIRONMENT},
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    return done.stdout


def test_chapters_are_numbered() -> None:
    numbers = [path.name[:2] for path in CHAPTERS]
    assert len(CHAPTERS) >= 2
    assert all(number.isdigit() for number in numbers)
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    "path", [p for p in CHAPTERS if p.stem != "01_train_a_ranker"], ids=lambda p: p.stem
)
def test_a_chapter_runs(path: Path, tmp_path: Path) -> None:
    run(path, cwd=tmp_path)


def test_the_rankers_of_chapter_1_learn(tmp_path: Path) -> None:
    printed = run(FOLDER / "01_train_a_ranker.py", str(tmp_path / "out"), cwd=tmp_path)
    last = printed.strip().splitlines()[-1]
    bayes, engine, by_hand = (float(part.split()[-1]) for part in last.split(": ")[1].split(","))
    assert bayes < engine < 1
    assert bayes < by_hand < 1
    assert (tmp_path / "out" / "run" / "report.html").stat().st_size > 10_000
