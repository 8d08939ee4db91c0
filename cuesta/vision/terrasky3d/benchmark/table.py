"""Results as rows: a scene, a method, a stratum and the numbers; as a text table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from cuesta.data.scenes.scene import Json
from cuesta.vision.terrasky3d.pose_errors import auc

Values = Mapping[str, float | int]


class Row(NamedTuple):
    """Hold the numbers of a stratum of a scene by their names; `method` is what was judged."""

    scene: str
    method: str
    stratum: str
    values: Values

    def to_json(self) -> dict[str, Json]:
        """Return it as an object; what is not finite is null, which JSON has instead."""
        numbers = {
            name: value if math.isfinite(value) else None for name, value in self.values.items()
        }
        return {
            "scene": self.scene,
            "method": self.method,
            "stratum": self.stratum,
            **numbers,
        }


def percent_at(
    errors: Float64[np.ndarray, " pairs"], thresholds: Sequence[float]
) -> dict[str, float]:
    """Return the areas under the recall curve up to each threshold, in percent; NaN of no pairs.

    >>> percent_at(np.array([1.0, np.inf]), [2.0])
    {'auc_at_2': 37.5}
    """
    return {
        f"auc_at_{threshold:g}": 100 * auc(errors, threshold) if len(errors) else math.nan
        for threshold in thresholds
    }


def text_of(rows: Sequence[Row]) -> str:
    """Return a table of lines that people read: names left, numbers right, `inf` as it is.

    Rows may have different numbers; a new heading begins where the names change.
    """
    lines: list[str] = []
    start = 0
    while start < len(rows):
        names = list(rows[start].values)
        end = start
        while end < len(rows) and list(rows[end].values) == names:
            end += 1
        heading = ["scene", "method", "stratum", *(name.replace("_", " ") for name in names)]
        cells = [
            [row.scene, row.method, row.stratum, *map(_number, row.values.values())]
            for row in rows[start:end]
        ]
        lines += _aligned([heading, *cells], num_left=3)
        start = end
    return "\n".join(lines)


def _aligned(cells: Sequence[Sequence[str]], *, num_left: int) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < num_left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _number(value: float | int) -> str:
    """Return a number in as many digits as it needs.

    >>> [_number(value) for value in (55, 97.234, 0.0123, float("inf"), float("nan"))]
    ['55', '97.23', '0.0123', 'inf', '-']
    """
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if abs(value) >= 1 or math.isinf(value) else f"{value:.4f}"
