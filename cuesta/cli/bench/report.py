"""How a bench's result is shown: a table on the terminal, one JSON object, and a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cuesta.cli.bench.harness import OURS, BenchResult, Row
from cuesta.data.files import write_text

HEADINGS = ("provider", "median", "low", "high", "unit", "ours is")
LEGEND = (
    "low and high: 10th and 90th percentile. ours is: the provider's median over that of "
    f"`{OURS}`; for rates (…/s) the inverse; above 1, ours is the better one."
)
QUICK = "quick run on tiny sizes: it shows that the bench works, and its times mean nothing"


def to_json(result: BenchResult) -> dict[str, object]:
    """Return the result as the one object of a result file."""
    machine = asdict(result.machine)
    return {
        "bench": result.bench,
        "date": machine.pop("date"),
        "commit": machine.pop("commit"),
        "hardware": machine,
        "load": asdict(result.load),
        "rows": [asdict(row) for row in result.rows],
        "notes": [QUICK, *result.notes] if result.quick else list(result.notes),
    }


def write_json(result: BenchResult, path: Path) -> None:
    """Write the result as JSON."""
    write_text(path, json.dumps(to_json(result), indent=1) + "\n")


def save(result: BenchResult, folder: Path) -> list[Path]:
    """Write NAME_HARDWARE_DATE.md and .json into `folder`, and pictures; return their paths."""
    stem = _stem(result)
    page, data = folder / f"{stem}.md", folder / f"{stem}.json"
    write_text(page, markdown(result))
    write_json(result, data)
    pictures = [folder / f"{stem}_{name}.png" for name in result.pictures]
    for path, picture in zip(pictures, result.pictures.values(), strict=True):
        path.write_bytes(picture)
    return [page, data, *pictures]


def print_result(result: BenchResult) -> None:
    """Print the table of ratios, the notes, and where and under what load it was measured."""
    console = Console(highlight=False)
    for case, rows in _by_case(result):
        table = Table(title=case, title_justify="left", title_style="bold")
        for heading in HEADINGS:
            is_text = heading in ("provider", "unit")
            table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
        for row in rows:
            table.add_row(*_cells(row), style="bold" if row.provider == OURS else None)
        console.print(table)
    for line in [LEGEND, *_where(result), *result.notes, *([QUICK] if result.quick else [])]:
        console.print(line, markup=False)


def markdown(result: BenchResult) -> str:
    """Return the result as a page."""
    lines = [f"# cuesta bench {result.bench}", ""]
    lines += [f"* {line}" for line in _where(result)]
    lines += [f"* **{QUICK}**"] if result.quick else []
    lines += ["", LEGEND, ""]
    for name in result.pictures:
        lines += [f"![{name}]({_stem(result)}_{name}.png)", ""]
    for case, rows in _by_case(result):
        lines += [
            f"## {case}",
            "",
            f"| {' | '.join(HEADINGS)} |",
            "| --- | --: | --: | --: | --- | --: |",
        ]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
        lines.append("")
    if result.notes:
        lines += ["## Notes", "", *(f"* {note}" for note in result.notes), ""]
    return "\n".join(lines)


def _stem(result: BenchResult) -> str:
    return f"{result.bench}_{result.machine.slug()}_{result.machine.date[:10]}"


def _by_case(result: BenchResult) -> Iterator[tuple[str, list[Row]]]:
    for case, rows in groupby(result.rows, key=lambda row: row.case):
        yield case, list(rows)


def _cells(row: Row) -> tuple[str, ...]:
    numbers = tuple(_number(value) for value in (row.median, row.low, row.high))
    return (row.provider, *numbers, row.unit, f"{row.speedup_of_ours:.2f}x")


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def _where(result: BenchResult) -> list[str]:
    machine, load = result.machine, result.load
    memory = "" if machine.memory_gib is None else f", {machine.memory_gib:g} GiB"
    settings = ", ".join(
        f"{name}={value or 'unset'}" for name, value in machine.environment.items()
    )
    others = "" if load.others is None else f"; other programs used {load.others:.0%} of the cores"
    averages = " -> ".join(" ".join(f"{x:g}" for x in each) for each in (load.before, load.after))
    return [
        *([machine.gpu] if machine.gpu else []),
        f"{machine.processor}, {machine.cores} cores, {machine.threads} threads{memory}",
        machine.system,
        f"load average {averages}{others}",
        f"{machine.date}, commit {machine.commit}",
        ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        f"environment: {settings}",
    ]
