"""`depth/report.html`: what each image was compared with, between which depths, and what came out."""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures

from cuesta.data.files import write_text
from cuesta.data.maps import read_map
from cuesta.data.scenes.scene import Scene
from cuesta.engine.page import leaves, render_page
from cuesta.engine.recipe import to_json
from cuesta.engine.section import Image, Section, Table
from cuesta.vision.terrasky3d.settings import StereoSettings

_MOST_ROWS, _TILE_PX, _COLUMNS = 24, 220, 2


def write_depth_report(scene: Scene, about: Mapping[str, Any], settings: StereoSettings) -> None:
    """Write the report of the result in plain data, `about`, of maps that are in the scene."""
    images = about["images"]
    confirmed = [image["confirmed_by_two"] for image in images.values()]
    num_refused = len(about["refused"])
    text = render_page(
        Path(__file__).parent / "report.html.j2",
        name=f"depth of {scene.root.resolve().name}",
        made=f"{datetime.datetime.now(datetime.UTC):%d %B %Y, %H:%M} UTC",
        recipe=settings.name,
        seconds=about["seconds"],
        cards=[
            (f"{len(images)} of {len(images) + num_refused}", "images with depth"),
            (f"{np.mean(confirmed):.0%}", "of pixels confirmed by two views"),
            (f"{about['seconds'] / len(images):.1f} s", "an image"),
        ],
        verdict="Depth that no view confirms is continued from what is near and looks alike; masks tell.",
        sections=[_maps_section(scene, list(images)), _choice_section(about)],
        settings=leaves(to_json(settings)),
    )
    write_text(scene.root / "depth" / "report.html", text)


def colored(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return depth as colours [Y, X, 3], near red to far blue by inverse depth; black where there is none."""
    is_known = depth > 0
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=is_known)
    low, high = np.quantile(inverse[is_known], [0.01, 0.99]) if is_known.any() else (0.0, 1.0)
    share = np.clip((inverse - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    import matplotlib as mpl  # here: the memory of matching is free again

    colors: NDArray[np.float64] = mpl.colormaps["turbo"](share)[..., :3]
    return (255 * colors * is_known[..., None]).astype(np.uint8)


def _maps_section(scene: Scene, names: Sequence[str]) -> Section:
    picked = np.linspace(0, len(names) - 1, min(len(names), _MOST_ROWS)).astype(int)
    caption = f"{len(picked)} of {len(names)} images and their depth, near red, far blue."
    sheet = Image(caption=caption, data=_sheet(scene, [names[k] for k in picked]))
    return Section(title="Maps", note="Depth is along the camera's axis.", parts=(sheet,))


def _choice_section(about: Mapping[str, Any]) -> Section:
    rows = tuple(
        (
            name,
            f"{image['nearest']:.3g} to {image['farthest']:.3g}",
            ", ".join(
                f"{other} ({shared}, {angle:.0f}°)"
                for other, shared, angle in zip(
                    image["sources"], image["shared_points"], image["angles_deg"], strict=True
                )
            ),
            f"{image['confirmed_by_two']:.0%}",
            f"{image['mean_cost']:.2f}",
        )
        for name, image in about["images"].items()
    )
    columns = ("image", "depth range", "compared with (points, angle)", "confirmed", "mean cost")
    parts = [Table(title="Each image", columns=columns, rows=rows)]
    if about["refused"]:
        refused = tuple(about["refused"].items())
        parts.append(Table(title="Without depth", columns=("image", "why"), rows=refused))
    note = "Ranges are in the model's unit, from the points that an image sees; so are the others."
    return Section(title="Choice of views and ranges", note=note, parts=tuple(parts))


def _sheet(scene: Scene, names: Sequence[str]) -> bytes:
    tiles = []
    for name in names:
        with Pictures.open(scene.frame(name)) as frame:
            frame.draft("RGB", (2 * _TILE_PX, 2 * _TILE_PX))
            photo = frame.convert("RGB")
        photo.thumbnail((_TILE_PX, _TILE_PX))
        depth = Pictures.fromarray(colored(read_map(scene.depth_map(name)))).resize(photo.size)
        tile = Pictures.new("RGB", (2 * photo.width, photo.height))
        tile.paste(photo, (0, 0))
        tile.paste(depth, (photo.width, 0))
        tiles.append(tile)
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    sheet = Pictures.new("RGB", (_COLUMNS * width, -(-len(tiles) // _COLUMNS) * height), "#808080")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % _COLUMNS * width, number // _COLUMNS * height))
    buffer = io.BytesIO()
    sheet.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
