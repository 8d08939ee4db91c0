"""Progress: plain lines for a file, a bar for a terminal."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cuesta.engine.progress import Progress, show_progress


def progress(step: int, metrics: dict[str, float] | None = None) -> Progress:
    """Return progress at a step of 100."""
    return Progress(
        step=step,
        num_steps=100,
        epoch=0,
        losses={"loss": 0.25},
        examples_per_second=1e6,
        remaining_s=90.0,
        metrics=metrics,
    )


def read_to_the_end(terminal: int) -> str:
    """Return all that was written to a terminal whose other side is closed, and close it.

    The kernel hands it over in pieces, and ends with EIO instead of an empty piece.
    """
    pieces = []
    with suppress(OSError):
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    os.close(terminal)
    return b"".join(pieces).decode()


def test_a_file_gets_few_lines_and_every_evaluation(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("w", encoding="utf-8") as stream, show_progress(stream) as show:
        for step in range(1, 101):
            show(progress(step))
        show(progress(100, {"auc": 0.75}))
    first, *between, last = log.read_text(encoding="utf-8").splitlines()
    assert first == "step 1/100 · loss 0.2500 · 1,000,000 examples/s · 1:30 left"
    assert last == "step 100: validation auc 0.75"
    assert len(between) < 8


def test_a_terminal_gets_a_bar() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream, show_progress(stream) as show:
        show(progress(50))
        show(progress(50, {"auc": 0.75}))
    shown = read_to_the_end(ours)
    assert "step 50: validation auc 0.75" in shown
    assert "step 50/100" in shown
    assert "━" in shown
