"""`report.html` of a scene: the verdict, where cameras and points are, how well each image fits."""

from __future__ import annotations

import datetime
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pycolmap
from PIL import Image as Pictures

from cuesta.data.files import write_text
from cuesta.data.scenes.colmap import read_reconstruction
from cuesta.data.scenes.scene import Scene
from cuesta.engine.page import leaves, render_page
from cuesta.engine.recipe import to_json
from cuesta.engine.section import Chart, Image, Section, Series, Table
from cuesta.vision.terrasky3d.drawing import draw_scene
from cuesta.vision.terrasky3d.settings import Settings

if TYPE_CHECKING:
    from cuesta.vision.terrasky3d.pipeline import Reconstruction

_SHEET_IMAGES, _SHEET_COLUMNS, _SHEET_PX = 24, 6, 200
VERDICTS = {
    "good": "Good: every check is met.",
    "usable": "Usable: the scene holds together, with what is said below.",
    "poor": "Poor: do not measure in this scene before what is said below is mended.",
}


def write_report(scene: Scene, result: Reconstruction, settings: Settings) -> None:
    """Write the report of the result into `scene`, where its frames and models are."""
    model = read_reconstruction(scene.model)
    sparse = result.result("sparse")["models"][0]
    text = render_page(
        Path(__file__).parent / "report.html.j2",
        name=result.scene.root.resolve().name,
        made=f"{datetime.datetime.now(datetime.UTC):%d %B %Y, %H:%M} UTC",
        recipe=settings.name,
        seconds=sum(stage.seconds for stage in result.stages),
        cards=[
            (result.grade, "verdict"),
            (f"{len(result.images)} of {_num_inputs(result)}", "images placed"),
            (f"{sparse['num_points']:,}", "points"),
            (f"{sparse['mean_reprojection_px']:.2f} px", "mean reprojection error"),
        ],
        verdict=VERDICTS[result.grade],
        sections=[
            _verdict_section(result),
            _place_section(scene, result, model),
            _fit_section(result, model),
            _work_section(result),
        ],
        settings=leaves(to_json(settings)),
    )
    write_text(scene.report, text)


def _verdict_section(result: Reconstruction) -> Section:
    gates = Table(
        title="Checks",
        columns=("check", "value", "should be", "met", "if not"),
        rows=tuple(
            (g.name, g.value, g.limit, "yes" if g.is_met else "no", "" if g.is_met else g.remedy)
            for g in result.gates
        ),
    )
    parts = [gates]
    if result.excluded:
        rows = tuple((item.name, item.reason) for item in result.excluded)
        parts.append(Table(title="Not in the scene", columns=("photo", "why"), rows=rows))
    if result.notes:
        notes = tuple((note,) for note in result.notes)
        parts.append(Table(title="Worth knowing", columns=("note",), rows=notes))
    return Section(
        title="Verdict", note="What was checked, and what is not in.", parts=tuple(parts)
    )


def _place_section(scene: Scene, result: Reconstruction, model: pycolmap.Reconstruction) -> Section:
    names = [image.name for image in result.images]
    source = result.result("metric")["source"]
    unit = {"gps": "metres, east to the right", "known distance": "metres by a known distance"}
    words = unit.get(source, "no unit: photos alone do not tell size")
    drawn = model if source is None else read_reconstruction(scene.metric_model)
    above, side = draw_scene(drawn, is_enu=source == "gps")
    parts = (
        Image(
            caption=f"From above: cameras in orange, points in colour. Lengths: {words}.",
            data=above,
        ),
        Image(caption="From the side.", data=side),
        Image(
            caption=f"{min(len(names), _SHEET_IMAGES)} of {len(names)} frames.",
            data=_sheet(scene, names),
        ),
    )
    return Section(
        title="The place", note="The command cuesta view shows it in three dimensions.", parts=parts
    )


def _fit_section(result: Reconstruction, model: pycolmap.Reconstruction) -> Section:
    errors = np.array([point.error for point in model.points3D.values()])
    tracks = np.array([point.track.length() for point in model.points3D.values()])
    rows = tuple(
        (image.name, image.num_points, f"{image.mean_error_px:.2f}", f"{image.angle_deg:.1f}")
        for image in result.images
    )
    parts: tuple[Chart | Table | Image, ...] = (
        _histogram("Reprojection error", "px, mean of a point", errors, np.linspace(0, 2, 41)),
        _histogram("Track length", "images that see a point", tracks, np.arange(1.5, 21.5)),
        Table(
            title="Each image",
            columns=("image", "points", "mean error, px", "angle of view of its points, degrees"),
            rows=rows,
        ),
        _cameras_table(result, model),
        *_misses(result),
    )
    note = "Errors are in pixels of the frames; angles are medians over the points of an image."
    return Section(title="How well it fits", note=note, parts=parts)


def _misses(result: Reconstruction) -> list[Image]:
    """Return the drawing of each lens that was fitted to a target."""
    caption = (
        "What the lens of {} misses ({}): arrows, enlarged, lead from the target's corners to it."
    )
    return [
        Image(
            caption=caption.format(camera["folder"], camera["source"]),
            data=(result.scene.work / "calibrate" / f"{camera['folder']}.png").read_bytes(),
        )
        for camera in result.result("calibrate")["cameras"]
        if camera["complaints"] is not None
    ]


def _cameras_table(result: Reconstruction, model: pycolmap.Reconstruction) -> Table:
    rows = []
    for camera in result.result("calibrate")["cameras"]:
        placed = [i.name for i in result.images if i.name.startswith(camera["folder"] + "/")]
        rows.append(
            (
                camera["folder"],
                f"{camera['width']} x {camera['height']}",
                camera["source"] + (", kept" if camera["is_fixed"] else ", then fitted"),
                f"{len(placed)} of {camera['num_images']}",
                _focal(model, placed),
            )
        )
    columns = ("camera", "size, px", "known from", "placed", "focal length of its frames, px")
    return Table(title="Each camera", columns=columns, rows=tuple(rows))


def _focal(model: pycolmap.Reconstruction, names: Sequence[str]) -> str:
    image = model.find_image_with_name(names[0]) if names else None
    camera = None if image is None else image.camera
    return "" if camera is None else f"{camera.mean_focal_length():.1f}"


def _work_section(result: Reconstruction) -> Section:
    matches = result.result("matches")
    rules = ", ".join(f"{count:,} {name}" for name, count in matches["rules"].items())
    stages = tuple((stage.name, f"{stage.seconds:.1f}") for stage in result.stages)
    counts = sorted(count for _, _, count in matches["inliers"])
    parts: list[Table | Chart] = [
        Table(title="Seconds", columns=("stage", "seconds"), rows=stages),
    ]
    if counts:
        edges = np.linspace(0, max(counts), 31)
        parts.append(_histogram("Inliers of a pair", "verified matches", np.array(counts), edges))
    note = (
        f"{matches['num_pairs']:,} pairs were matched ({rules}), {matches['num_verified']:,} verified, "
        f"{len(counts):,} of them with 30 inliers or more."
    )
    return Section(title="Work", note=note, parts=tuple(parts))


def _histogram(title: str, label: str, values: np.ndarray, edges: np.ndarray) -> Chart:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    series = Series(name=label, x=tuple(edges), y=tuple(counts.astype(float)), kind="bars")
    return Chart(title=title, x_label=label, y_label="count", series=(series,))


def _sheet(scene: Scene, names: Sequence[str]) -> bytes:
    """Return a contact sheet of at most 24 frames, evenly taken, as JPEG."""
    chosen = [
        names[i] for i in np.linspace(0, len(names) - 1, min(len(names), _SHEET_IMAGES)).astype(int)
    ]
    tiles = []
    for name in chosen:
        with Pictures.open(scene.frame(name)) as frame:
            frame.draft("RGB", (2 * _SHEET_PX, 2 * _SHEET_PX))
            tile = frame.convert("RGB")
            tile.thumbnail((_SHEET_PX, _SHEET_PX))
            tiles.append(tile)
    columns = min(_SHEET_COLUMNS, len(tiles))
    height = max(tile.height for tile in tiles)
    rows = -(-len(tiles) // columns)
    sheet = Pictures.new("RGB", (columns * _SHEET_PX, rows * height), "#808080")
    for number, tile in enumerate(tiles):
        x, y = number % columns * _SHEET_PX, number // columns * height
        sheet.paste(tile, (x + (_SHEET_PX - tile.width) // 2, y + (height - tile.height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _num_inputs(result: Reconstruction) -> int:
    return len(result.images) + len(result.excluded)
