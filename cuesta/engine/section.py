"""The pieces of a report: a `Section` is a title, a note, and tables, charts and images as plain
data.

Tasks say what to show; `report` decides how it looks. Nothing here draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Table:
    """Hold rows of cells under column titles; the report formats numbers, NaN as n/a."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Hold one set of points of a chart; for bars, `x` holds the left edges and the last bar's
    right edge.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    kind: Literal["line", "faint", "points", "bars", "reference"] = "line"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Hold the series of one pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]


@dataclass(frozen=True, kw_only=True)
class Image:
    """Hold one encoded PNG or JPEG and the words under it."""

    caption: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Section:
    """Hold one titled part of a report."""

    title: str
    note: str
    parts: tuple[Table | Chart | Image, ...]
