"""`cuesta bench fuse`: depth maps to a cloud, against pycolmap's fusion of the same maps.

Both read depth and normals that `cuesta depth --recipe fast` wrote, ours from the scene, pycolmap from COLMAP's dense
workspace in it, and both write a cloud with colours and normals. Ours compares each view with ten others and
makes its geometric masks each time anew; pycolmap takes the same limits, 2 px, 1 %, 10 degrees, and also asks for
three views a point. Clouds of a generated scene are compared with the surface that its true depth shows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap

from cuesta.cli.bench.depth_cases import (
    TINY,
    PosedCase,
    fountain_case,
    generated_case,
    generated_scenes,
    real_data,
)
from cuesta.cli.bench.harness import (
    OURS,
    Contender,
    Findings,
    Settings,
    progress,
    refuse,
    sample_rows,
    time_in_turns,
)
from cuesta.data.clouds import read_cloud
from cuesta.data.files import write_text
from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.scene import Scene
from cuesta.data.worlds.make import Size
from cuesta.vision.terrasky3d.adopt import adopt
from cuesta.vision.terrasky3d.benchmark.cloud_errors import CloudSettings, compare_clouds, thin
from cuesta.vision.terrasky3d.benchmark.places import cloud_of_maps
from cuesta.vision.terrasky3d.depth import make_depth
from cuesta.vision.terrasky3d.depth_recipes import fast
from cuesta.vision.terrasky3d.fusion import fuse
from cuesta.vision.terrasky3d.view_selection import choose_sources

BENCH = "fuse"
PEER = "pycolmap.stereo_fusion"
MOST_SECONDS = 1.0  # an image
NUM_SOURCES = 10
_ONE_OF_MINI = Size(num_scenes=1, num_images=24, width=640, height=480)
_THRESHOLD, _CAP = 0.05, 0.2  # metres
_LEAST_PRECISION = 0.5  # below, our answer is wrong


def measure(settings: Settings) -> Findings:
    """Judge both clouds of a generated scene, then time both there and on fountain-P11."""
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="cuesta-bench-") as temporary:
        scratch = Path(temporary)
        for route, true in generated_scenes(
            scratch, TINY if settings.quick else _ONE_OF_MINI
        ).items():
            progress(f"{BENCH}: generated landmark, {route}")
            posed = generated_case(route, true, scratch)
            clouds = _time(findings, posed, scratch / "generated", settings)
            _judge(findings, posed.case.name, true, clouds)
        folder = None if settings.quick else real_data("fountain-P11", findings)
        if folder is not None:
            progress(f"{BENCH}: fountain-P11")
            _time(findings, fountain_case(folder, scratch), scratch / "dense", settings)
    return findings


def _time(findings: Findings, posed: PosedCase, root: Path, settings: Settings) -> dict[str, Path]:
    """Fuse in turns; return the clouds by provider."""
    scene = _with_depth(posed, root)
    clouds = {OURS: root / "ours.ply", PEER: root / "peer.ply"}
    options = pycolmap.StereoFusionOptions()
    options.min_num_pixels, options.check_num_images = 3, NUM_SOURCES

    def ours(_: int) -> None:
        shutil.rmtree(scene.root / "depth" / "masks_geometric", ignore_errors=True)
        fuse(scene.root, clouds[OURS])

    def peer(_: int) -> None:
        fused = pycolmap.stereo_fusion(root, scene.root / "colmap" / "dense", options=options)
        fused.export_PLY(clouds[PEER])

    repetitions, warm_up = (1, 0) if settings.quick else (5, 1)
    contenders = [Contender(OURS, ours), Contender(PEER, peer)]
    seconds = time_in_turns(contenders, repetitions, warm_up=warm_up)
    num_images = len(posed.case.references)
    each = {name: [s / num_images for s in samples] for name, samples in seconds.items()}
    name = f"{posed.case.name}, {NUM_SOURCES} sources"
    findings.rows += sample_rows(f"{name}: seconds an image", each, "s")
    points = {provider: len(read_cloud(path)) for provider, path in clouds.items()}
    findings.note(f"{name}: {points[OURS]:,} points, {PEER} {points[PEER]:,}")
    median = float(np.median(each[OURS]))
    if not settings.quick:
        verdict = "met" if median <= MOST_SECONDS else "MISSED"
        findings.note(f"bar {verdict}: {name}, {median:.2f} s an image, asked {MOST_SECONDS:g} s")
    return clouds


def _with_depth(posed: PosedCase, root: Path) -> Scene:
    """Return a copy of the scene with depth and ten sources a view."""
    scene = adopt(posed.scene.root, root / "scene")
    make_depth(scene.root, fast())
    views = read_colmap(scene.model)
    chosen, _ = choose_sources(views, posed.points, replace(fast(), num_sources=NUM_SOURCES))
    sources = {name: choice.sources for name, choice in chosen.items()}
    write_text(scene.root / "depth" / "sources.json", json.dumps(sources))
    return scene


def _judge(findings: Findings, name: str, true: Scene, clouds: Mapping[str, Path]) -> None:
    """Add how near the clouds are to the true surface, as `cuesta eval --task cloud` measures it."""
    surface = thin(cloud_of_maps(true.root, _THRESHOLD / 2), _THRESHOLD / 2)
    settings = CloudSettings(cap=_CAP, thresholds=(_THRESHOLD,))
    scores = {
        provider: compare_clouds(
            thin(read_cloud(path).positions, _THRESHOLD / 2), surface, settings
        )
        for provider, path in clouds.items()
    }
    if not scores[OURS].precision[0] >= _LEAST_PRECISION:
        refuse(BENCH, f"{name}: {scores[OURS].precision[0]:.0%} of the points are near the truth")
    for what, unit, values in (
        ("accuracy", "mm", [1000 * each.accuracy for each in scores.values()]),
        ("completeness", "mm", [1000 * each.completeness for each in scores.values()]),
        ("precision at 5 cm", "%", [100 * each.precision[0] for each in scores.values()]),
        ("recall at 5 cm", "%", [100 * each.recall[0] for each in scores.values()]),
        ("F-score at 5 cm", "%", [100 * each.f_score[0] for each in scores.values()]),
    ):
        _row(findings, f"{name}: {what}", list(scores), values, unit)


def _row(
    findings: Findings, case: str, providers: Sequence[str], values: Sequence[float], unit: str
) -> None:
    samples = {
        name: [value]
        for name, value in zip(providers, values, strict=True)
        if name == OURS or 0 < value < np.inf
    }
    findings.rows += sample_rows(case, samples, unit, is_more_better=unit == "%")
