"""`pairs.csv`: what was measured of pairs of images, a row for each direction.

```
level_0,level_1,num_pixels,1px,...,10px     TerraSky3D's: from which image to which, how many pixels
                                            go there and back, the shares that come within k px
overlap,kept_pixels,look,inliers,stratum,kept      ours, after these; others' tables lack them
```
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cuesta.data.files import write_text
from cuesta.data.scenes.parsing import blaming, number, read_text, whole

LEAST_PIXELS, LEAST_WITHIN = 3000, 0.5
DISTANCES = tuple(f"{k}px" for k in range(1, 11))
_OWN = ("overlap", "kept_pixels", "look", "inliers", "stratum", "kept")
_NEEDED = ("level_0", "level_1", "num_pixels", *DISTANCES)
_REMEDY = "mend it or publish the scene again"


class PairRow(NamedTuple):
    """Hold what is known of image b seen from image a.

    `num_pixels` of a's pixels with depth go to b and back; `within[k - 1]` is the share of them that
    come back within k px; `overlap` the share of all pixels with depth that do within 10 px. Of those
    checked, `kept_pixels` are kept by a's masks; `look` is the correlation of the two images there.
    `inliers` are of the view graph, None where there is none.
    """

    image_a: str
    image_b: str
    num_pixels: int
    within: tuple[float, ...]
    overlap: float = math.nan
    kept_pixels: int = 0
    look: float = math.nan
    inliers: int | None = None
    stratum: str = ""
    is_kept: bool | None = None


def read_pair_table(path: str | Path) -> list[PairRow]:
    """Return the rows of a table. Raises `UserError` naming the file and the line that is broken."""
    with blaming(path, _REMEDY):
        lines = csv.DictReader(io.StringIO(read_text(Path(path))))
        missing = [name for name in _NEEDED if name not in (lines.fieldnames or ())]
        if missing:
            raise ValueError(f"it has no column {missing[0]}")
        rows = []
        for line in lines:
            try:
                rows.append(_row(line))
            except ValueError as error:
                raise ValueError(f"line {lines.line_num}: {error}") from error
        return rows


def write_pair_table(path: str | Path, rows: Sequence[PairRow]) -> None:
    """Write rows with all columns, numbers in full. Raises `UserError` as `atomic_file` does."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_NEEDED, *_OWN])
    for row in rows:
        inliers = "" if row.inliers is None else row.inliers
        kept = "" if row.is_kept is None else int(row.is_kept)
        measured = (row.image_a, row.image_b, row.num_pixels, *row.within)
        writer.writerow(
            [*measured, row.overlap, row.kept_pixels, row.look, inliers, row.stratum, kept]
        )
    write_text(path, text.getvalue())


def kept_pairs(rows: Sequence[PairRow]) -> list[tuple[str, str]]:
    """Return the pairs (a, b) of a table that are to be used, each once, in its order.

    Those that it says it keeps; where it does not say, those with more than 3,000 pixels of which more
    than half come back within 10 px, in each direction that it holds.
    """
    found: dict[tuple[str, str], bool] = {}
    for row in rows:
        is_good = row.num_pixels > LEAST_PIXELS and row.within[9] > LEAST_WITHIN
        is_kept = is_good if row.is_kept is None else row.is_kept
        pair, back = (row.image_a, row.image_b), (row.image_b, row.image_a)
        key = back if back in found else pair
        found[key] = found.get(key, True) and is_kept
    return [pair for pair, is_kept in found.items() if is_kept]


def _row(line: dict[str, str]) -> PairRow:
    def optional(name: str) -> float:
        text = line.get(name) or "nan"
        return math.nan if text == "nan" else number(text, name)

    inliers, kept = line.get("inliers"), line.get("kept")
    return PairRow(
        line["level_0"],
        line["level_1"],
        whole(line["num_pixels"], "num_pixels"),
        tuple(number(line[name] if line[name] != "nan" else 0.0, name) for name in DISTANCES),
        overlap=optional("overlap"),
        kept_pixels=whole(line.get("kept_pixels") or 0, "kept_pixels"),
        look=optional("look"),
        inliers=whole(inliers, "inliers") if inliers else None,
        stratum=line.get("stratum") or "",
        is_kept=bool(whole(kept, "kept")) if kept else None,
    )
