"""A picture of time against the density of the rows, a panel each for forward and a step in each
dtype.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cuesta.cli.bench.attention_cases import AttentionCase
from cuesta.cli.bench.attention_trials import FORWARD, STEP
from cuesta.cli.bench.harness import OURS, Row


def draw_densities(cases: Iterable[AttentionCase], rows: Sequence[Row]) -> bytes:
    """Return a PNG of the median times in `rows` of cases that differ in density and dtype."""
    dtypes: dict[str, list[AttentionCase]] = {}
    for case in cases:
        dtypes.setdefault(str(case.dtype).removeprefix("torch."), []).append(case)
    figure = Figure(figsize=(9, 3.4 * len(dtypes)), layout="constrained")
    panels = figure.subplots(len(dtypes), 2, squeeze=False)
    for line, (dtype, own) in zip(panels, dtypes.items(), strict=True):
        for axes, what in zip(line, (FORWARD, STEP), strict=True):
            _draw(axes, own, what, rows)
            axes.set_title(f"{what}, {dtype}", fontsize=10)
    panels[0][0].legend(frameon=False, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()


def _draw(axes: Axes, cases: Sequence[AttentionCase], what: str, rows: Sequence[Row]) -> None:
    density = {f"{case.name}: {what}": case.density for case in cases}
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        at = density.get(row.case)
        if at is not None:
            lines.setdefault(row.provider, []).append((at, row.median))
    for provider, points in lines.items():
        x, y = zip(*sorted(points), strict=True)
        width = 2.2 if provider == OURS else 1.2
        axes.plot(x, y, marker="o", markersize=3, linewidth=width, label=provider)
    axes.set_yscale("log")
    axes.set_xlabel("density: mean length / longest", fontsize=9)
    axes.set_ylabel("ms", fontsize=9)
    axes.grid(which="both", alpha=0.2)
