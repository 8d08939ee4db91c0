"""`report.html` of a run: what it was, how well it did and how to repeat it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cuesta.data.files import write_text
from cuesta.engine.page import leaves, render_page, spelt
from cuesta.engine.recipe import Json, Recipe, fingerprint, to_json
from cuesta.engine.run_folder import RunFolder, read_journal, read_json
from cuesta.engine.section import Chart, Section, Series, Table
from cuesta.engine.task import Evaluation

_NUM_CARDS = 4


def write_report(run: RunFolder, recipe: Recipe, evaluations: Mapping[str, Evaluation]) -> None:
    """Write the report from a finished run's files and its best weights' evaluations by split."""
    test = evaluations["test"]
    sessions = _sessions(run)
    started = datetime.datetime.fromisoformat(str(sessions[0]["started"]))
    text = render_page(
        Path(__file__).parent / "report.html.j2",
        recipe=recipe,
        fingerprint=fingerprint(recipe),
        summary=read_json(run.metrics),
        metrics=_metrics_table(evaluations),
        cards=list(test.metrics.items())[:_NUM_CARDS],
        meanings=test.meanings,
        sections=[_training_section(run, recipe), *test.sections],
        settings=leaves(to_json(recipe)),
        sessions=sessions,
        started=f"{started:%d %B %Y, %H:%M} UTC",
        environment=leaves(sessions[-1]),
    )
    write_text(run.report, text)


def _metrics_table(evaluations: Mapping[str, Evaluation]) -> Table:
    names = dict.fromkeys(
        name for evaluation in evaluations.values() for name in evaluation.metrics
    )
    rows: list[tuple[str | float, ...]] = []
    for name in names:
        values = [evaluation.metrics.get(name, math.nan) for evaluation in evaluations.values()]
        meaning = next((e.meanings[name] for e in evaluations.values() if name in e.meanings), "")
        rows.append((spelt(name), *values, meaning))
    return Table(
        title="Metrics", columns=("metric", *evaluations, "what it says"), rows=tuple(rows)
    )


def _training_section(run: RunFolder, recipe: Recipe) -> Section:
    """Return the curves of every loss, the monitored metric, learning rate and gradient norm."""
    steps, losses = _columns(read_journal(run.losses))
    evaluated, metrics = _columns(read_journal(run.evaluations))
    rate, norm = losses.pop("lr"), losses.pop("gradient_norm")
    monitor = recipe.loop.monitor
    charts = [
        _loss_chart("loss", steps, losses.pop("loss")),
        _line_chart(f"Validation {spelt(monitor)}", spelt(monitor), evaluated, metrics[monitor]),
        *(_loss_chart(name, steps, values) for name, values in losses.items()),
        _line_chart("Learning rate", "learning rate", steps, rate),
        _line_chart("Gradient norm", "norm of the dense gradients", steps, norm),
    ]
    best = "lowest" if recipe.loop.mode == "min" else "highest"
    note = f"The weights evaluated here are those of the {best} validation {spelt(monitor)}."
    return Section(title="Training", note=note, parts=tuple(charts))


def _loss_chart(name: str, steps: Sequence[float], values: Sequence[float]) -> Chart:
    series = (
        Series(name="each step", x=tuple(steps), y=tuple(values), kind="faint"),
        Series(name="smoothed", x=tuple(steps), y=_smoothed(values)),
    )
    title = f"Training {spelt(name)}"
    return Chart(title=title, x_label="step", y_label=spelt(name), series=series)


def _line_chart(title: str, label: str, steps: Sequence[float], values: Sequence[float]) -> Chart:
    series = Series(name=label, x=tuple(steps), y=tuple(values))
    return Chart(title=title, x_label="step", y_label=label, series=(series,))


def _columns(
    lines: Sequence[Mapping[str, float]],
) -> tuple[Sequence[float], dict[str, Sequence[float]]]:
    """Return the steps of a journal, and the other values by name; the epoch is left out."""
    columns = {name: [line[name] for line in lines] for name in lines[0] if name != "epoch"}
    return columns.pop("step"), dict(columns)


def _smoothed(values: Sequence[float]) -> tuple[float, ...]:
    """Return the exponential mean over about a fiftieth of the run, without bias at its start."""
    keep = 1.0 - 1.0 / max(len(values) / 50, 1.0)
    total, weight, smooth = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1.0
        smooth.append(total / weight)
    return tuple(smooth)


def _sessions(run: RunFolder) -> list[dict[str, Json]]:
    sessions = read_json(run.environment)
    assert isinstance(sessions, list)
    return [session for session in sessions if isinstance(session, dict)]
