"""`cuesta eval PATH --task ...`: two-view pose, the poses of a scene, depth and clouds against truth."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cuesta.cli.stages import OnStage, show_stages
from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.vision.terrasky3d.benchmark.cloud_errors import Positions
    from cuesta.vision.terrasky3d.benchmark.table import Row
    from cuesta.vision.terrasky3d.benchmark.two_view import PairScore, TruePair

TASKS = ("two-view", "scene-pose", "depth", "cloud")
_CLOUDS = (".ply", ".pcd", ".las", ".laz", ".bin")
_FUSED = ("fused.ply", "fused.las", "cloud.ply", "dense/fused.ply")


def add_eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the tasks to the parser of `cuesta eval`, whose path is `run`."""
    group = parser.add_argument_group("scenes", "PATH is a scene, a folder of scenes, or a cloud")
    group.add_argument("--task", choices=TASKS, help="what of the scenes is judged")
    group.add_argument(
        "--against", metavar="TRUTH", help="the truth: as PATH, a views.txt, a cloud"
    )
    group.add_argument("--scenes", nargs="+", default=[], metavar="NAME", help="these alone")
    group.add_argument("--seed", type=int, default=0, help="of RANSAC and --limit (%(default)s)")
    pairs = parser.add_argument_group("--task two-view")
    pairs.add_argument(
        "--pairs", metavar="FILE", help="a pairs_calibrated.txt (pairs that overlap)"
    )
    pairs.add_argument("--limit", type=int, metavar="N", help="pairs of each scene, drawn (all)")
    pairs.add_argument("--images", metavar="FOLDER", help="of the photos (frames, images)")
    pairs.add_argument("--max-size", type=int, metavar="PX", help="longest side (as they are)")
    pairs.add_argument(
        "--estimator",
        choices=("lo-ransac", "ransac", "both"),
        default="lo-ransac",
        help="PoseLib's, OpenCV's or both (%(default)s)",
    )
    pairs.add_argument("--features", type=int, default=8192, help="a photo (%(default)s)")
    pairs.add_argument("--ratio", type=float, default=0.8, help="of Lowe's test (%(default)s)")
    pairs.add_argument("--threshold-px", type=float, default=0.75, help="(%(default)s)")
    depth = parser.add_argument_group("--task depth")
    depth.add_argument(
        "--align-scale", action="store_true", help="bring each map's median to the truth's"
    )
    cloud = parser.add_argument_group("--task cloud, lengths in the unit of the clouds")
    cloud.add_argument(
        "--within", type=float, nargs="+", default=[0.02], help="thresholds of the F-score (0.02)"
    )
    cloud.add_argument(
        "--cap", type=float, default=0.02, help="longest distance in the means (%(default)s)"
    )
    cloud.add_argument("--spacing", type=float, help="thin both clouds to a point in such a cube")


def judge(options: argparse.Namespace) -> int:
    """Judge the scenes at a path by a task and print the rows; raises `UserError` for a mistake."""
    _check(options)
    run: dict[str, Callable[[argparse.Namespace, OnStage], Judged]] = {
        "two-view": _two_view,
        "scene-pose": _scene_pose,
        "depth": _depth,
        "cloud": _cloud,
    }
    with show_stages(sys.stderr) as on_progress:
        rows, about = run[options.task](options, on_progress)
    if options.json:
        result = {"task": options.task, **about, "rows": [row.to_json() for row in rows]}
        print(json.dumps(result, indent=1, allow_nan=False))
        return 0
    from cuesta.vision.terrasky3d.benchmark.table import text_of

    print(text_of(rows))
    for name, words in about.items():
        print(f"{name}: {words}")
    return 0


Judged = tuple[list["Row"], dict[str, str]]


def _check(options: argparse.Namespace) -> None:
    if options.task != "two-view" and options.against is None:
        raise UserError(f"--task {options.task} needs --against TRUTH: a scene or what holds it")
    for name in ("limit", "max_size", "features", "threshold_px", "cap", "spacing", "ratio"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} must be above 0, got {value}")
    if not all(value > 0 for value in options.within):
        raise UserError(f"--within must be above 0, got {min(options.within):g}")
    if options.seed < 0:
        raise UserError(f"--seed must be 0 or above, got {options.seed}")


def _two_view(options: argparse.Namespace, on_progress: OnStage) -> Judged:
    from cuesta.vision.terrasky3d.benchmark.matchers import SiftMatcher
    from cuesta.vision.terrasky3d.benchmark.two_view import (
        ESTIMATORS,
        PoseSettings,
        judge_pairs,
        rows_of,
    )

    chosen = [name for name in ESTIMATORS if options.estimator in (name, "both")]
    settings = [
        PoseSettings(estimator=name, threshold_px=options.threshold_px, seed=options.seed)
        for name in chosen
    ]
    rows: list[Row] = []
    together: list[list[PairScore]] = [[] for _ in settings]
    found, rules = _true_pairs(options, on_progress)
    for scene, pairs in found.items():
        matcher = SiftMatcher(num_features=options.features, ratio=options.ratio)
        photos = (photo for pair in pairs for photo in (pair.image_a, pair.image_b))
        matcher.prepare(photos, partial(on_progress, f"{scene} features"))
        scores = judge_pairs(pairs, matcher, settings, partial(on_progress, scene))
        for place, name in enumerate(chosen):
            rows += rows_of(scene, name, scores[place])
            together[place] += scores[place]
    if len(found) > 1:
        for place, name in enumerate(chosen):
            rows += rows_of("all scenes", name, together[place])
    about = {
        "pairs": rules,
        "method": f"SIFT {options.features}, mutual nearest, ratio {options.ratio:g}, "
        f"{options.threshold_px:g} px, seed {options.seed}",
    }
    return rows, about


def _true_pairs(
    options: argparse.Namespace, on_progress: OnStage
) -> tuple[dict[str, list[TruePair]], str]:
    """Return the pairs of each scene, and by which rules they were taken."""
    from cuesta.vision.terrasky3d.benchmark.pairs import Photos, pairs_of_file, pairs_of_scene
    from cuesta.vision.terrasky3d.benchmark.places import find_frames, true_views

    photos = Photos(options.images, options.max_size)
    drawn = {"limit": options.limit, "seed": options.seed}
    scenes = find_frames(options.run, options.scenes)
    if options.pairs is not None:
        found = pairs_of_file(Path(options.pairs), scenes, photos, **drawn)
    else:
        truth = true_views(options.against or options.run, list(scenes))
        found = {
            name: pairs_of_scene(
                path,
                truth[name],
                photos,
                on_progress=partial(on_progress, "overlap"),
                **drawn,
            )
            for name, path in scenes.items()
        }
    rules = sorted({pairs.rule for pairs in found.values()})
    return {name: pairs.pairs for name, pairs in found.items()}, "; ".join(rules)


def _scene_pose(options: argparse.Namespace, on_progress: OnStage) -> Judged:
    from cuesta.vision.terrasky3d.benchmark.places import (
        as_named,
        find_scenes,
        true_views,
        views_at,
    )
    from cuesta.vision.terrasky3d.benchmark.scene_pose import judge_scene

    scenes = find_scenes(options.run, options.scenes)
    truths = true_views(options.against, list(scenes))
    rows: list[Row] = []
    for done, (name, path) in enumerate(scenes.items()):
        on_progress("scenes", done, len(scenes))
        estimated = as_named(views_at(path), path, truths[name])
        if len(truths[name]) < 2:
            raise UserError(f"{options.against}: {name} has no two images; name another truth")
        if not set(estimated.names) & set(truths[name].names):
            raise UserError(
                f"{path}: no image of it is in {options.against}, which has "
                f"{truths[name].names[0]}; name the truth of this scene"
            )
        rows += judge_scene(name, estimated, truths[name])
    return rows, {}


def _depth(options: argparse.Namespace, on_progress: OnStage) -> Judged:
    from cuesta.vision.terrasky3d.benchmark.depth_scenes import judge_depth
    from cuesta.vision.terrasky3d.benchmark.places import find_scenes, matched

    scenes = find_scenes(options.run, options.scenes)
    truths = matched(find_scenes(options.against), list(scenes), Path(options.against))
    rows: list[Row] = []
    for name, path in scenes.items():
        rows += judge_depth(
            name,
            path,
            truths[name],
            has_free_scale=options.align_scale,
            on_progress=partial(on_progress, name),
        )
    return rows, {
        "scale": "each map's median brought to the truth's"
    } if options.align_scale else {}


def _cloud(options: argparse.Namespace, on_progress: OnStage) -> Judged:
    from cuesta.vision.terrasky3d.benchmark.cloud_errors import CloudSettings, compare_clouds, thin
    from cuesta.vision.terrasky3d.benchmark.table import Row

    on_progress("read", 0, 0)
    least = min(options.within)
    found, true = _points(options.run, None), _points(options.against, options.spacing or least / 2)
    if options.spacing is not None:
        found, true = thin(found, options.spacing), thin(true, options.spacing)
    on_progress("compare", 0, 0)
    settings = CloudSettings(cap=options.cap, thresholds=tuple(options.within))
    scores = compare_clouds(found, true, settings)
    values: dict[str, float | int] = {
        "points": len(found),
        "true_points": len(true),
        "accuracy": scores.accuracy,
        "completeness": scores.completeness,
        "overall": scores.overall,
        "beyond_cap": scores.accuracy_outliers,
        "true_beyond_cap": scores.completeness_outliers,
    }
    for place, threshold in enumerate(options.within):
        for name in ("precision", "recall", "f_score"):
            values[f"{name}_at_{threshold:g}"] = getattr(scores, name)[place]
    about = {"means": f"of distances below {options.cap:g}; no observability mask"}
    return [Row(Path(options.run).name, "cloud", "all", values)], about


def _points(path: str, spacing: float | None) -> Positions:
    """Return the points of a cloud, of a scene's fused cloud, or of a true scene's depth maps."""
    from cuesta.data.clouds import read_cloud
    from cuesta.vision.terrasky3d.benchmark.places import cloud_of_maps, is_scene

    place = Path(path)
    if place.suffix.lower() in _CLOUDS or place.is_file():
        return read_cloud(place).positions
    fused = next((place / name for name in _FUSED if (place / name).is_file()), None)
    if fused is not None:
        return read_cloud(fused).positions
    if spacing is not None and place.is_dir() and is_scene(place):
        return cloud_of_maps(place, spacing)
    raise UserError(f"{place}: no cloud; name a {', '.join(_CLOUDS)}, or a scene with {_FUSED[0]}")
