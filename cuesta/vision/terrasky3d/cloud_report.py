"""What became of a fusion, as JSON and as one HTML page: how many points, how dense, how well the views
agree, and what the cloud looks like.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuesta.data.files import write_text
from cuesta.data.scenes.colmap import reconstruction_of
from cuesta.data.scenes.scene import Json, read_about
from cuesta.engine.page import leaves, render_page
from cuesta.engine.recipe import to_json
from cuesta.engine.section import Chart, Image, Section, Series, Table
from cuesta.vision.terrasky3d.drawing import draw_scene
from cuesta.vision.terrasky3d.fusion import NUM_BINS, FusedCloud, FusionSettings

_QUANTILES = {"median": 0.5, "p90": 0.9}


def write_cloud_report(fused: FusedCloud, settings: FusionSettings) -> tuple[Path, Path]:
    """Write the .json and the .html beside a fused cloud, and return where they are."""
    about, page = fused.path.with_suffix(".json"), fused.path.with_suffix(".html")
    write_text(about, json.dumps(about_cloud(fused, settings), indent=1) + "\n")
    write_text(page, _page(fused, settings))
    return about, page


def about_cloud(fused: FusedCloud, settings: FusionSettings) -> dict[str, Json]:
    """Return the facts of a fused cloud in plain data, lengths in the unit of the scene.

    Errors are those of pairs of views that agree, from histograms up to the limits of the masks.
    """
    facts = fused.facts
    masks = {item.name: item for item in fused.coverage}
    return {
        "cloud": str(fused.path),
        "unit": read_about(fused.dense.scene).get("unit"),
        "num_points": facts.num_points,
        "pixel_width": facts.footprint,
        "points_per_area": facts.density,
        "voxel": fused.voxel,
        "mean_views": _mean_views(facts.num_views),
        "points_by_views": facts.num_views.tolist(),
        "pixel_error": _quantiles(fused.residuals.pixels, settings.masks.max_pixels),
        "depth_error": _quantiles(fused.residuals.depths, settings.masks.max_depth),
        "agreeing_share": _agreeing_share(fused),
        "images": {
            view.name: {
                "with_depth": masks[view.name].num_depth / masks[view.name].num_pixels,
                "in_geometric_mask": masks[view.name].num_kept / max(masks[view.name].num_depth, 1),
                "num_sources": masks[view.name].num_sources,
                "num_kept": view.num_kept,
                "num_covered": view.num_covered,
                "num_points": view.num_points,
            }
            for view in fused.views
        },
        "settings": to_json(settings),
        "seconds": round(fused.seconds, 2),
    }


def _page(fused: FusedCloud, settings: FusionSettings) -> str:
    facts, about = fused.facts, read_about(fused.dense.scene)
    num_depth = sum(item.num_depth for item in fused.coverage)
    kept = sum(item.num_kept for item in fused.coverage) / max(num_depth, 1)
    return render_page(
        Path(__file__).parent / "report.html.j2",
        name=f"{fused.dense.scene.root.resolve().name}: {fused.path.name}",
        made=f"{datetime.datetime.now(datetime.UTC):%d %B %Y, %H:%M} UTC",
        recipe=settings.name,
        seconds=fused.seconds,
        cards=[
            (f"{facts.num_points:,}", "points"),
            (f"{facts.density:,.0f}", "points a unit of area"),
            (f"{100 * kept:.0f} %", "of the depth is consistent"),
            (f"{_mean_views(facts.num_views):.1f}", "views a point, mean"),
        ],
        verdict=f"The unit is that of the scene: {about.get('unit', 'not known')}.",
        sections=[_look_section(fused), _agreement_section(fused, settings), _views_section(fused)],
        settings=leaves(to_json(settings)),
    )


def _look_section(fused: FusedCloud) -> Section:
    above, side = draw_scene(reconstruction_of(fused.dense.views, fused.facts.sample))
    caption = f"From above: {len(fused.facts.sample):,} of the points, cameras in orange."
    parts = (Image(caption=caption, data=above), Image(caption="From the side.", data=side))
    note = "The command cuesta view shows the cloud in three dimensions."
    return Section(title="The cloud", note=note, parts=parts)


def _agreement_section(fused: FusedCloud, settings: FusionSettings) -> Section:
    masks, residuals = settings.masks, fused.residuals
    views = fused.facts.num_views
    parts = (
        _bars("Views of a point", "views", np.arange(-0.5, len(views)), views),
        _bars("Reprojection error", "px", _edges(masks.max_pixels), residuals.pixels),
        _bars("Error of depth", "%", _edges(100 * masks.max_depth), residuals.depths),
    )
    note = (
        f"Of the pixels fused that a source could check, {100 * _agreeing_share(fused):.0f} % agree with it; "
        "errors are those of agreeing pairs, after there and back."
    )
    return Section(title="How well the views agree", note=note, parts=parts)


def _views_section(fused: FusedCloud) -> Section:
    rows = tuple(
        (
            view.name,
            f"{100 * item.num_depth / item.num_pixels:.1f}",
            f"{100 * item.num_kept / max(item.num_depth, 1):.1f}",
            item.num_sources,
            view.num_covered,
            view.num_points,
        )
        for item, view in zip(fused.coverage, fused.views, strict=True)
    )
    columns = (
        *("image", "pixels with depth, %", "of these consistent, %", "sources"),
        *("covered before", "points"),
    )
    note = "Pixels that an earlier image covered become no second point."
    table = Table(title="Each image", columns=columns, rows=rows)
    return Section(title="What each image gave", note=note, parts=(table,))


def _bars(title: str, label: str, edges: NDArray[np.float64], counts: NDArray[np.int64]) -> Chart:
    series = Series(name=title, x=tuple(edges), y=tuple(counts.astype(float)), kind="bars")
    return Chart(title=title, x_label=label, y_label="count", series=(series,))


def _edges(most: float) -> NDArray[np.float64]:
    return np.linspace(0, most, NUM_BINS + 1)


def _quantiles(counts: NDArray[np.int64], most: float) -> dict[str, Json]:
    """Return quantiles of what a histogram counted, linear within its bins; none of nothing."""
    total = np.concatenate([[0], np.cumsum(counts)])
    if not total[-1]:
        return dict.fromkeys(_QUANTILES)
    return {
        name: float(np.interp(share * total[-1], total, _edges(most)))
        for name, share in _QUANTILES.items()
    }


def _mean_views(num_views: NDArray[np.int64]) -> float:
    return float((np.arange(len(num_views)) * num_views).sum() / max(num_views.sum(), 1))


def _agreeing_share(fused: FusedCloud) -> float:
    return float(fused.residuals.pixels.sum() / max(fused.residuals.num_compared, 1))
