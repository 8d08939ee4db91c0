"""`make_depth`: depth and normals of every image of a posed scene, by PatchMatch, image by image.

```
points ─ choice of sources and ranges ─ pass 0: pixels ─ pass 1, ...: views confirm each other ─ completed maps
```

An image's planes after each pass are a file below `work/depth`, so that a run which was cut off goes on with
the next image. Maps and COLMAP's dense workspace take their places when all are done, the manifest last.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cuesta.data.files import atomic_file
from cuesta.data.maps import write_map
from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.parsing import blaming, check_pinholes
from cuesta.data.scenes.scene import Scene, read_about
from cuesta.data.scenes.views import Views
from cuesta.engine.recipe import to_json
from cuesta.errors import UserError
from cuesta.ops.patch_match import PatchMatch
from cuesta.vision.terrasky3d.claim import only_run
from cuesta.vision.terrasky3d.completion import smoothed
from cuesta.vision.terrasky3d.dense_workspace import publish_depth
from cuesta.vision.terrasky3d.grey_pictures import GreyPictures
from cuesta.vision.terrasky3d.settings import StereoSettings
from cuesta.vision.terrasky3d.sparse_points import (
    SparsePoints,
    model_with_tracks,
    sparse_points,
)
from cuesta.vision.terrasky3d.stages import OnProgress, ignore_stages, run_stage
from cuesta.vision.terrasky3d.stereo import (
    bytes_needed,
    completed,
    match_again,
    match_coarse_to_fine,
    normals_of,
)
from cuesta.vision.terrasky3d.view_selection import Choice, choose_sources

MEMORY = 4 << 30  # bytes
_BASE = 600 << 20  # bytes that Python, torch and the compiled kernels take
_CODE = 1  # raised when the result of the same settings changes


class DepthResult(NamedTuple):
    """Hold what came out: the scene, for each image what it was matched with and how well, and why the
    others have no depth.
    """

    scene: Scene
    images: dict[str, dict[str, Any]]
    refused: dict[str, str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it in plain data, for `depth/depth.json` and `--json`."""
        return {
            "scene": str(self.scene.root),
            "num_images": len(self.images),
            "images": self.images,
            "refused": self.refused,
            "seconds": round(self.seconds, 2),
            "report": str(self.scene.root / "depth" / "report.html"),
        }


def make_depth(
    path: str | Path,
    settings: StereoSettings,
    *,
    memory: int = MEMORY,
    on_progress: OnProgress = ignore_stages,
) -> DepthResult:
    """Return the scene at `path`, now with depth and normals of its images.

    Takes at most about `memory` bytes. What a run with the same settings has finished is not done again.
    Raises `UserError` in one line where there is no scene, its images are distorted, none of them shares
    points with others, memory is too small, or the disk full; what was done stays, and is gone on with.
    """
    scene = Scene(Path(path))
    read_about(scene)
    _check_ours(scene)
    views = read_colmap(scene.model)
    with blaming(scene.model, "`cuesta depth SCENE --out NEW` takes distortion out"):
        check_pinholes(views)
    if len(views) < 2:
        raise UserError(
            f"{scene.root}: a single image has no depth; add photographs of the same place"
        )
    _check_names(scene, views.names)
    with only_run(scene):
        on_progress("points", 0, 0)
        points = sparse_points(
            scene,
            views,
            seed=settings.seed,
            on_progress=lambda done, total: on_progress("points", done, total),
        )
        chosen, refused = choose_sources(views, points, settings)
        if not chosen:
            raise UserError(_why_none(scene, refused))
        job = _Job(scene, views, settings, chosen, memory, on_progress)
        stage = _run(job, points)
        on_progress("publish", 0, 1)
        images = stage.result["images"]
        result = DepthResult(scene, images, refused, stage.seconds)
        publish_depth(
            scene, stage.folder / "maps", result.to_json(), settings,
            model=model_with_tracks(scene), is_fresh=stage.is_fresh,
        )  # fmt: skip
        on_progress("publish", 1, 1)
    return result


class _Job:
    """One run: what is matched with what, and where the planes of each pass are."""

    def __init__(
        self,
        scene: Scene,
        views: Views,
        settings: StereoSettings,
        chosen: Mapping[str, Choice],
        memory: int,
        on_progress: OnProgress,
    ) -> None:
        self.scene, self.views, self.settings = scene, views, settings
        self.chosen, self.on_progress = chosen, on_progress
        self.names = sorted(chosen)
        pictures = GreyPictures(scene, views, max_image_size=settings.max_image_size, most_bytes=0)
        sizes = {name: int(np.prod(pictures.size(name))) for name in self.names}
        most_sources = max(len(choice.sources) for choice in chosen.values())
        needed = _BASE + bytes_needed(sizes, most_sources)
        if needed > memory:
            raise UserError(
                f"{scene.root}: pictures of {max(sizes.values()) / 1e6:.1f} megapixels need "
                f"{_gigabytes(needed)} of memory, --memory allows {_gigabytes(memory)}; allow more, or "
                "shrink them with --max-image-size"
            )
        self.pictures = GreyPictures(
            scene, views, max_image_size=settings.max_image_size, most_bytes=memory - needed
        )


def _run(job: _Job, points: SparsePoints) -> Any:
    """Run the passes and the completion as one stage, which is done again where a map of it is lost."""
    digest = hashlib.sha256(points.positions.tobytes()).hexdigest()
    with blaming(job.scene.frames, "bring the photograph back"):
        frames = [job.scene.frame(name).stat() for name in job.views.names]
    inputs = [
        _CODE,
        to_json(replace(job.settings, name="")),
        digest,
        [[name, *choice.sources] for name, choice in sorted(job.chosen.items())],
        [pose.tolist() for pose in job.views.cam_from_world.matrix()],
        [[about.st_size, about.st_mtime_ns] for about in frames],
    ]
    return run_stage("depth", job.scene.work, lambda folder: _make(job, folder), inputs=inputs)


def _make(job: _Job, folder: Path) -> dict[str, Any]:
    settings = job.settings
    last = settings.geometric_passes
    whole = [n for n in range(last + 1) if all(_has_planes(job, folder, n))]
    for number in range(max(whole, default=-1) + 1, last + 1):
        for place, name in enumerate(job.names):
            job.on_progress(f"pass {number}", place, len(job.names))
            target = _planes_file(folder, number, name)
            if not target.exists():
                _write_planes(target, _matched(job, folder, number, name))
        job.on_progress(f"pass {number}", len(job.names), len(job.names))
        shutil.rmtree(folder / f"pass_{number - 2}", ignore_errors=True)
    images = {}
    for place, name in enumerate(job.names):
        job.on_progress("maps", place, len(job.names))
        images[name] = _finished(job, folder, last, name)
    job.on_progress("maps", len(job.names), len(job.names))
    for number in range(last + 1):
        shutil.rmtree(folder / f"pass_{number}", ignore_errors=True)
    return {"images": images}


def _matched(job: _Job, folder: Path, number: int, name: str) -> PatchMatch:
    """Return the planes of one image after a pass; the first has the pixels alone."""
    choice, settings = job.chosen[name], job.settings
    view = job.pictures(name)
    seed = settings.seed + 1000003 * number + job.views.index(name)
    if number == 0:
        sources = [job.pictures(source) for source in choice.sources]
        return match_coarse_to_fine(view, sources, choice.within, settings, seed)
    names = _matched_sources(job, name)
    start = _read_planes(_planes_file(folder, number - 1, name))
    if not names:
        return start
    sources = [job.pictures(source) for source in names]
    depths = [_read_inverse_depth(_planes_file(folder, number - 1, source)) for source in names]
    return match_again(view, sources, start, depths, choice.within, settings, seed)


def _finished(job: _Job, folder: Path, last: int, name: str) -> dict[str, Any]:
    """Write the maps of an image; return what it was matched with, and how well."""
    begin = time.perf_counter()
    choice, view = job.chosen[name], job.pictures(name)
    found = _read_planes(_planes_file(folder, last, name))
    names = _matched_sources(job, name)
    depths = (_read_inverse_depth(_planes_file(folder, last, source)) for source in names)
    filled, confirmed = completed(
        view, [job.pictures(source) for source in names], found, depths, job.settings
    )
    planes = smoothed(
        filled if job.settings.fills else found.planes,
        radius=job.settings.smooth_radius,
        tolerance=job.settings.smooth_tolerance,
    )
    maps = folder / "maps"
    for kind, suffix, values in (
        ("depth", ".h5", 1 / planes[0]),
        ("normals", ".bin", normals_of(planes, view)),
    ):
        target = (maps / kind / PurePosixPath(name)).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_map(target, values.contiguous().numpy())
    return {
        "sources": list(choice.sources),
        "shared_points": list(choice.shared),
        "angles_deg": [round(angle, 2) for angle in choice.degrees],
        "nearest": choice.within.nearest,
        "farthest": choice.within.farthest,
        "confirmed_by_two": round((confirmed >= 2).float().mean().item(), 4),
        "mean_cost": round(found.costs.mean().item(), 4),
        "seconds": round(time.perf_counter() - begin, 2),
    }


def _matched_sources(job: _Job, name: str) -> list[str]:
    """Return the sources of an image that have planes of their own."""
    return [source for source in job.chosen[name].sources if source in job.chosen]


def _has_planes(job: _Job, folder: Path, number: int) -> list[bool]:
    return [_planes_file(folder, number, name).exists() for name in job.names]


def _planes_file(folder: Path, number: int, name: str) -> Path:
    return folder / f"pass_{number}" / PurePosixPath(name).with_suffix(".npy")


def _write_planes(path: Path, found: PatchMatch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.save(file, torch.cat([found.planes, found.costs[None]]).numpy())


def _read_planes(path: Path) -> PatchMatch:
    state = torch.from_numpy(np.load(path, allow_pickle=False))
    return PatchMatch(state[:3], state[3])


def _read_inverse_depth(path: Path) -> Tensor:
    return torch.from_numpy(np.array(np.load(path, mmap_mode="r", allow_pickle=False)[0]))


def _check_names(scene: Scene, names: Sequence[str]) -> None:
    """Refuse images that differ by their suffix alone: their depth would be one file."""
    owner: dict[PurePosixPath, str] = {}
    for name in names:
        other = owner.setdefault(PurePosixPath(name).with_suffix(""), name)
        if other != name:
            raise UserError(
                f"{scene.root}: {other} and {name} would have one depth map; rename one"
            )


def _check_ours(scene: Scene) -> None:
    """Refuse to replace depth that came from elsewhere: a sensor's, or a generated scene's truth."""
    maps = scene.root / "depth" / "maps"
    ours = (scene.root / "depth" / "depth.json", scene.work / "depth" / "stage.json")
    if maps.is_dir() and not any(path.is_file() for path in ours):
        raise UserError(
            f"{maps}: depth that `cuesta depth` has not made; give --out for a new scene of the same images"
        )


def _why_none(scene: Scene, refused: Mapping[str, str]) -> str:
    name, reason = next(iter(refused.items()))
    return f"{scene.root}: no image can be matched: {name}: {reason}"


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
