"""`cuesta bench reconstruct`: photos to a posed scene, against bare calls of pycolmap with the same
settings.

Ours reads and checks the photos, finds features, matches, maps, undistorts where that changes
anything, judges, and writes scene, report and manifest. The bare calls are `extract_features`,
`match_exhaustive`, `incremental_mapping` and, where the lens bends, `undistort_images`. Cameras are
compared with the true ones; the real photos are those of `$CUESTA_TEST_DATA`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import pycolmap
import torch

from cuesta.cli.bench.harness import (
    OURS,
    Contender,
    Findings,
    Settings,
    progress,
    refuse,
    sample_rows,
    time_in_turns,
    time_rows,
)
from cuesta.data.scenes.colmap import read_colmap, read_reconstruction, views_of
from cuesta.data.scenes.strecha import read_strecha
from cuesta.data.scenes.views import Views
from cuesta.data.worlds.make import Size, make_landmarks
from cuesta.geometry import umeyama
from cuesta.vision.terrasky3d.pipeline import Reconstruction, reconstruct
from cuesta.vision.terrasky3d.pose_errors import auc, centre_errors, pair_errors
from cuesta.vision.terrasky3d.recipes import laptop
from cuesta.vision.terrasky3d.settings import CalibrateSettings, FeatureSettings
from cuesta.vision.terrasky3d.settings import Settings as PipelineSettings

BENCH = "reconstruct"
BARE = "pycolmap, bare calls"
MOST_TIME = 1.3  # of the bare calls


@final
@dataclass(frozen=True, kw_only=True)
class PhotosCase:
    """Name a folder of photos, how features are found, what is known, and what is asked.

    `least_auc` is in percent at `auc_at` degrees, `most_centre` in metres, `most_error_px` the mean
    reprojection error.
    """

    name: str
    photos: Path
    max_image_size: int
    intrinsics: Path | None = None
    truth: Views | None = None
    truth_scene: Path | None = None
    auc_at: float = 5.0
    least_auc: float | None = None
    most_centre: float | None = None
    most_error_px: float | None = None
    is_timed: bool = False

    def settings(self) -> PipelineSettings:
        """Return the settings of our pipeline."""
        return replace(
            laptop(),
            calibrate=CalibrateSettings(intrinsics=self.intrinsics),
            features=FeatureSettings(max_image_size=self.max_image_size),
        )


def measure(settings: Settings) -> Findings:
    """Reconstruct every case, prove the cameras, and time those that ask for it in turns."""
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="cuesta-bench-") as temporary:
        scratch = Path(temporary)
        for case in [*_real_cases(findings, settings), *_generated_cases(scratch, settings)]:
            progress(f"{BENCH}: {case.name}")
            result = reconstruct(case.photos, scratch / "proof", case.settings())
            _judge(findings, case, result, settings)
            if case.is_timed:
                _time(findings, case, scratch, settings)
            shutil.rmtree(scratch / "proof")
    return findings


def _real_cases(findings: Findings, settings: Settings) -> list[PhotosCase]:
    data = Path(os.environ.get("CUESTA_TEST_DATA", ""))
    fountain, sceaux = data / "fountain-P11", data / "sceaux-castle"
    if settings.quick or not data.name or not fountain.is_dir() or not sceaux.is_dir():
        findings.note("not measured: fountain-P11 and sceaux-castle (set CUESTA_TEST_DATA)")
        return []
    truth = read_strecha(fountain / "gt_dense_cameras")
    given = PhotosCase(
        name="fountain-P11, 1024 px, K given",
        photos=fountain / "images",
        intrinsics=fountain / "images" / "K.txt",
        max_image_size=1024,
        truth=truth,
        auc_at=1.0,
        least_auc=92.0,
        most_centre=0.005,
        is_timed=True,
    )
    name = "fountain-P11, 1024 px, K unknown"
    free = replace(
        given, name=name, intrinsics=None, least_auc=90.0, most_centre=None, is_timed=False
    )
    return [
        given,
        free,
        PhotosCase(
            name="sceaux-castle, 1600 px",
            photos=sceaux,
            max_image_size=1600,
            most_error_px=0.7,
            is_timed=True,
        ),
    ]


def _generated_cases(scratch: Path, settings: Settings) -> list[PhotosCase]:
    size = Size(num_scenes=1, num_images=8, width=320, height=240) if settings.quick else "mini"
    cases = []
    for scene in make_landmarks(scratch / "photos", size):
        route = scene.root.name.rpartition("_")[2]
        cases.append(
            PhotosCase(
                name=f"generated landmark, {route}, K given",
                photos=scene.frames,
                intrinsics=scene.model,
                max_image_size=1600,
                truth=read_colmap(scene.model),
                truth_scene=scene.root,
                least_auc=85.0 if route == "mixed" else 95.0,
                is_timed=settings.quick,
            )
        )
    return cases


def _judge(
    findings: Findings, case: PhotosCase, result: Reconstruction, settings: Settings
) -> None:
    """Note how right the result is and which bars it meets; refuse one that lost half the images."""
    about = result.to_json()
    placed, total = about["num_images"], len(result.result("ingest")["images"])
    words = [f"{placed}/{total} images", f"{about['mean_reprojection_px']:.2f} px reprojection"]
    asked = [(placed == total, "all images")]
    if case.truth is not None:
        errors = pair_errors(result.as_taken(), case.truth)
        score = 100 * auc(errors, case.auc_at)
        centre = float(np.mean(centre_errors(result.as_taken(), case.truth)))
        words += [f"AUC@{case.auc_at:g} {score:.1f}", f"centres off by {1000 * centre:.1f} mm"]
        findings.rows += sample_rows(
            f"{case.name}: AUC@{case.auc_at:g}", {OURS: [score]}, "%", is_more_better=True
        )
        findings.rows += sample_rows(f"{case.name}: centre error", {OURS: [1000 * centre]}, "mm")
        if case.least_auc is not None:
            asked.append((score >= case.least_auc, f"AUC@{case.auc_at:g} {case.least_auc:g}"))
        if case.most_centre is not None:
            asked.append((centre <= case.most_centre, f"centres {1000 * case.most_centre:g} mm"))
    if case.most_error_px is not None:
        is_met = about["mean_reprojection_px"] <= case.most_error_px
        asked.append((is_met, f"{case.most_error_px:g} px"))
    if case.truth_scene is not None:
        off = depth_error(result, case.truth_scene)
        words.append(f"points off by {off:.3%} of their depth in the median")
        findings.rows += sample_rows(f"{case.name}: depth of points", {OURS: [100 * off]}, "%")
        asked.append((off < 0.001, "points 0.1%"))
    findings.note(f"{case.name}: {', '.join(words)}")
    if settings.quick:
        return
    for is_met, what in asked:
        findings.note(f"bar {'met' if is_met else 'MISSED'}: {case.name}, {what}")
    if case.truth is not None and placed < total / 2:
        refuse(BENCH, f"{case.name}: {placed} of {total} images placed")


def depth_error(result: Reconstruction, truth: Path) -> float:
    """Return the median error of points against the exact depth of the images that see them.

    The model is brought into the truth's frame by its cameras' centres. Each observation takes its
    point's z in the true camera, and the depth map's at the pixel where that camera sees the point.
    """
    from cuesta.data.maps import read_map
    from cuesta.data.scenes.scene import Scene

    scene, taken = Scene(truth), result.as_taken()
    true = read_colmap(scene.model)
    world_from_model = umeyama(taken.centres(), true.select(taken.names).centres())
    model = read_reconstruction(result.scene.work / "sparse" / "models" / "0")
    sources = {image["name"]: image["source"] for image in result.result("ingest")["images"]}
    errors = []
    for image_id in model.reg_image_ids():
        name = sources[model.image(image_id).name]
        seen = model.image(image_id).get_observation_points2D()
        places = torch.from_numpy(np.array([model.points3D[p.point3D_id].xyz for p in seen]))
        points = true.pose(name) @ (world_from_model @ places)
        depth = read_map(scene.depth_map(name))
        pixels = true.camera(name).project(points).nan_to_num(-1.0).long().numpy()
        x, y = pixels.T
        is_inside = (x >= 0) & (y >= 0) & (x < depth.shape[1]) & (y < depth.shape[0])
        exact = depth[y[is_inside], x[is_inside]]
        z = points[:, 2].numpy()[is_inside]
        errors.append(np.abs(z / np.where(exact > 0, exact, np.nan) - 1))
    return float(np.nanmedian(np.concatenate(errors)))


def _time(findings: Findings, case: PhotosCase, scratch: Path, settings: Settings) -> None:
    def ours(repetition: int) -> None:
        reconstruct(case.photos, scratch / f"ours-{repetition}", case.settings())

    def bare(repetition: int) -> None:
        reconstruct_bare(case, scratch / f"bare-{repetition}")

    repetitions = 1 if settings.quick else 5
    contenders = [Contender(OURS, ours), Contender(BARE, bare)]
    seconds = time_in_turns(contenders, repetitions, warm_up=0)
    findings.rows += time_rows(case.name, seconds)
    share = float(np.median(seconds[OURS]) / np.median(seconds[BARE]))
    if not settings.quick:
        verdict = "met" if share <= MOST_TIME else "MISSED"
        findings.note(
            f"bar {verdict}: {case.name}, {share:.2f}x the time of bare calls, asked {MOST_TIME}x"
        )
    for folder in scratch.glob("*-[0-9]*"):
        shutil.rmtree(folder)


def reconstruct_bare(case: PhotosCase, folder: Path) -> pycolmap.Reconstruction:
    """Return the largest model that a script of pycolmap's calls makes with the same settings."""
    folder.mkdir()
    database = folder / "database.db"
    names = _image_names(case.photos)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.use_gpu, extraction.max_image_size = False, case.max_image_size
    extraction.sift.peak_threshold = case.settings().features.peak_threshold
    for group, camera in _cameras(case, names):
        reader = pycolmap.ImageReaderOptions()
        if camera is not None:
            reader.camera_model = camera.model.name
            reader.camera_params = ",".join(repr(float(value)) for value in camera.params)
        mode = pycolmap.CameraMode.SINGLE
        pycolmap.extract_features(database, case.photos, group, mode, reader, extraction)
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    pycolmap.match_exhaustive(database, matching)
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size, options.random_seed = 3, 0
    if case.intrinsics is not None:
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = False
        options.mapper.abs_pose_refine_extra_params = False
    models = pycolmap.incremental_mapping(database, case.photos, folder, options)
    largest = max(models, key=lambda number: models[number].num_reg_images())
    model = models[largest]
    if any(camera.model != pycolmap.CameraModelId.PINHOLE for camera in model.cameras.values()):
        pycolmap.undistort_images(folder / "flat", folder / str(largest), case.photos)
    return model


def _image_names(photos: Path) -> list[str]:
    suffixes = {".jpg", ".png"}
    found = [path for path in photos.rglob("*") if path.suffix.lower() in suffixes]
    return sorted(path.relative_to(photos).as_posix() for path in found)


def _cameras(
    case: PhotosCase, names: Sequence[str]
) -> list[tuple[list[str], pycolmap.Camera | None]]:
    """Return the images by camera, with the camera where it is given."""
    if case.intrinsics is None:
        return [(list(names), None)]
    if case.intrinsics.suffix == ".txt":
        matrix = np.loadtxt(case.intrinsics)
        camera = pycolmap.Camera(model="PINHOLE", width=1, height=1, params=[0.0] * 4)
        camera.params = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
        return [(list(names), camera)]
    model = read_reconstruction(case.intrinsics)
    assert set(views_of(model).names) == set(names)
    ids = {name: model.find_image_with_name(name).camera_id for name in names}
    return [
        ([name for name in names if ids[name] == camera_id], model.cameras[camera_id])
        for camera_id in sorted(set(ids.values()))
    ]
