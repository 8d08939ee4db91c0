"""`report.html`: what a run was, how well it did and how to repeat it, in one file that needs
nothing else.

The page is a jinja2 template beside this file; charts are inline SVG, images inline PNG. It reads
on a phone, in light and dark, and loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cuesta.data.files import write_text
from cuesta.engine.recipe import Json, Recipe, fingerprint, to_json
from cuesta.engine.run_folder import RunFolder, read_journal, read_json
from cuesta.engine.section import Chart, Section, Series, Table
from cuesta.engine.task import Evaluation

_NUM_CARDS = 4


def write_report(run: RunFolder, recipe: Recipe, evaluations: Mapping[str, Evaluation]) -> None:
    """Write the report from a finished run's files and its best weights' evaluations by split."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["number"] = number
    page.filters["svg"] = _svg
    page.filters["png"] = lambda image: base64.b64encode(image.png).decode()
    page.filters["spelt"] = spelt
    page.filters["size"] = size
    page.tests["chart"] = lambda part: isinstance(part, Chart)
    page.tests["table"] = lambda part: isinstance(part, Table)
    page.tests["numeric"] = lambda cell: isinstance(cell, (int, float))
    test = evaluations["test"]
    sessions = _sessions(run)
    started = datetime.datetime.fromisoformat(str(sessions[0]["started"]))
    text = page.get_template("report.html.j2").render(
        recipe=recipe,
        fingerprint=fingerprint(recipe),
        summary=read_json(run.metrics),
        metrics=_metrics_table(evaluations),
        cards=list(test.metrics.items())[:_NUM_CARDS],
        meanings=test.meanings,
        sections=[_training_section(run, recipe), *test.sections],
        settings=_leaves(to_json(recipe)),
        sessions=sessions,
        started=f"{started:%d %B %Y, %H:%M} UTC",
        environment=_leaves(sessions[-1]),
    )
    write_text(run.report, text)


def number(value: str | int | float | None) -> str:
    """Return a cell as text: integers with separators, floats with four digits, NaN as n/a.

    >>> number(1234567), number(0.123456), number(float("nan")), number("as it is")
    ('1,234,567', '0.1235', 'n/a', 'as it is')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 10):
        return f"{int(value):,}"
    return f"{value:.4f}" if 1e-4 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"


def spelt(name: str) -> str:
    """Return a metric's name as a reader expects it.

    >>> spelt("ne"), spelt("calibration_error")
    ('NE', 'calibration error')
    """
    return {"auc": "AUC", "ne": "NE", "gauc": "gAUC"}.get(name, name.replace("_", " "))


def size(num_bytes: int) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> size(1000), size(3 << 20)
    ('1000 bytes', '3.0 MiB')
    """
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} bytes"


def _svg(chart: Chart) -> str:
    import markupsafe

    from cuesta.engine.pictures import chart_svg

    return markupsafe.Markup(chart_svg(chart))


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


def _leaves(value: Json, path: str = "") -> dict[str, str]:
    """Return the settings by dotted path, as text; a group's `class` stands at its own path."""
    if not isinstance(value, dict):
        return {path: value if isinstance(value, str) else json.dumps(value)}
    leaves: dict[str, str] = {}
    for name, item in value.items():
        inner = path if name == "class" else f"{path}.{name}".lstrip(".")
        if inner:
            leaves |= _leaves(item, inner)
    return leaves
