"""Draw a `Chart` as inline SVG that follows the page: colours are CSS variables, text is the page's
font.

matplotlib draws with placeholder colours, which are then replaced by `var(--…)`; so one picture
serves light and dark.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cuesta.engine.section import Chart, Series

_INK, _MUTED, _GRID = "#010203", "#010204", "#010205"
_SERIES = ("#010211", "#010212", "#010213", "#010214")
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _GRID: "--line",
    **{colour: f"--series-{index}" for index, colour in enumerate(_SERIES)},
}
_MOST_POINTS = 400


def chart_svg(chart: Chart) -> str:
    """Return `chart` as one `<svg>` element without any reference to the outside."""
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": chart.title, "font.size": 9}
    ):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        _draw(figure.add_subplot(), chart)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    return _inline(buffer.getvalue(), chart.title)


def _draw(axes: Axes, chart: Chart) -> None:
    num_drawn = 0
    for series in chart.series:
        colour = _MUTED if series.kind == "reference" else _SERIES[num_drawn % len(_SERIES)]
        _draw_series(axes, series, colour=colour)
        num_drawn += series.kind not in ("reference", "faint")  # the line over it shares its colour
    axes.set_xlabel(chart.x_label, color=_MUTED)
    axes.set_ylabel(chart.y_label, color=_MUTED)
    axes.tick_params(colors=_MUTED, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_MUTED)
    if len(chart.series) > 1:
        axes.legend(frameon=False, labelcolor=_INK, loc="best")


def _draw_series(axes: Axes, series: Series, *, colour: str) -> None:
    match series.kind:
        case "bars":
            axes.stairs(series.y, series.x, fill=True, color=colour, alpha=0.45, label=series.name)
            axes.margins(x=0)
        case "points":
            axes.plot(series.x, series.y, "o", color=colour, markersize=5, label=series.name)
        case "reference":
            axes.plot(series.x, series.y, "--", color=colour, linewidth=1.2, label=series.name)
        case "line" | "faint":
            x, y = _thinned(series.x, series.y)
            alpha = 0.35 if series.kind == "faint" else 1.0
            marker = "o" if len(x) <= 30 else ""
            axes.plot(
                x,
                y,
                color=colour,
                linewidth=1.6,
                alpha=alpha,
                marker=marker,
                markersize=3.5,
                label=series.name,
            )


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of equal runs of points, at most `_MOST_POINTS` of them."""
    size = -(-len(x) // _MOST_POINTS) or 1
    starts = np.arange(0, len(x), size)
    if not len(starts):
        return np.empty(0), np.empty(0)
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _inline(svg: str, title: str) -> str:
    """Return the bare element, without a fixed size, in the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)[ >].*?</\1>", "", svg, flags=re.DOTALL)
    svg = (
        re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg.partition(">")[0])
        + svg[svg.index(">") :]
    )
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
