"""What the benches of depth match: pictures, the sources of each, ranges and true depth, of generated scenes and
of the real photographs in `$CUESTA_TEST_DATA`.

hololens: two frames make a pair if they are 0.1 to 0.4 m apart and their optical axes differ by at most 25
degrees. Of the frames that are in at least four pairs, twelve, spread evenly over the sequence, are
references. The sources of any frame are the four others, or as many as there are, that are farthest; depths are
searched from 0.5 to 8 m.
fountain-P11: 1024 x 683 px, the surveyed cameras.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from PIL import Image

from cuesta.cli.bench.harness import Findings
from cuesta.data.maps import Map, read_map
from cuesta.data.scenes.colmap import read_colmap, write_colmap
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.strecha import read_strecha
from cuesta.data.scenes.views import Views
from cuesta.data.worlds.make import Size, make_landmarks
from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.adopt import adopt
from cuesta.vision.terrasky3d.depth_recipes import laptop
from cuesta.vision.terrasky3d.grey_pictures import GreyPictures
from cuesta.vision.terrasky3d.sparse_points import SparsePoints, sparse_points
from cuesta.vision.terrasky3d.stereo import Picture, Range
from cuesta.vision.terrasky3d.view_selection import choose_sources

NUM_REFERENCES, NUM_SOURCES = 12, 4
TINY = Size(num_scenes=1, num_images=6, width=160, height=120)
_BASELINES, _MOST_DEGREES = (0.1, 0.4), 25.0  # metres
_INDOORS = Range(0.5, 8.0)
_FOUNTAIN_SIZE = (1024, 683)
_NEARER, _FARTHER = 0.75, 1.25  # a peer's range beyond the 1 % and 99 % quantiles of points


@final
@dataclass(frozen=True, kw_only=True)
class DepthCase:
    """Hold pictures by name, and for those that are matched their sources, the best first, and the range of
    depths; `references` are those that count, `truth` their true depth where it is known.
    """

    name: str
    pictures: Mapping[str, Picture]
    sources: Mapping[str, tuple[str, ...]]
    ranges: Mapping[str, Range]
    references: tuple[str, ...]
    truth: Mapping[str, Map]

    def of(self, names: Iterable[str]) -> list[Picture]:
        """Return the pictures of these names."""
        return [self.pictures[name] for name in names]


class PosedCase(NamedTuple):
    """Hold a scene on disk, its points, and the case that peers are given: the same sources."""

    scene: Scene
    points: SparsePoints
    case: DepthCase


def real_data(name: str, findings: Findings) -> Path | None:
    """Return a folder of real photographs, or note that it is not there."""
    data = Path(os.environ.get("CUESTA_TEST_DATA", ""))
    if data.name and (data / name).is_dir():
        return data / name
    findings.note(f"not measured: {name} (set CUESTA_TEST_DATA)")
    return None


def generated_scenes(scratch: Path, size: str | Size) -> dict[str, Scene]:
    """Return generated landmarks with their true depth, by route."""
    scenes = make_landmarks(scratch / "worlds", size)
    return {scene.root.name.rpartition("_")[2]: scene for scene in scenes}


def generated_case(route: str, true: Scene, scratch: Path) -> PosedCase:
    """Return a generated scene as `cuesta depth --out` takes it, with true poses and without depth."""
    names = read_colmap(true.model).names
    truth = {name: read_map(true.depth_map(name)) for name in names}
    name = f"generated landmark, {route}, poses given"
    return _posed(name, adopt(true.root, scratch / f"posed_{route}"), truth)


def fountain_case(folder: Path, scratch: Path, chosen: slice = slice(None)) -> PosedCase:
    """Return fountain-P11, or some of its images, with the true cameras."""
    views = read_strecha(folder / "gt_dense_cameras")
    posed = scratch / "given"
    shutil.rmtree(posed, ignore_errors=True)
    (posed / "images").mkdir(parents=True)
    names = {name: f"{Path(name).stem}.png" for name in views.names[chosen]}
    for name, new in names.items():
        with Image.open(folder / "images" / name) as photo:
            small = photo.resize(_FOUNTAIN_SIZE, Image.Resampling.BOX)
        small.save(posed / "images" / new)
    views = views.select(tuple(names))
    cameras = {number: camera.resized(*_FOUNTAIN_SIZE) for number, camera in views.cameras.items()}
    views = replace(views, names=tuple(names.values()), cameras=cameras)
    write_colmap(posed / "sparse" / "0", views)
    name = "fountain-P11, 1024 px, poses given"
    return _posed(name, adopt(posed, scratch / "fountain"), {})


def hololens_case(folder: Path, num_references: int = NUM_REFERENCES) -> DepthCase:
    """Return hololens with references and sources as this file says at its top.

    What is matched are references and their sources: two depth maps are needed to compare them.
    """
    ids, poses = _hololens_poses(folder / "poses.txt")
    sources = _near_sources(ids, poses)
    eligible = [name for name in ids if len(sources[name]) == NUM_SOURCES]
    places = np.linspace(0, len(eligible) - 1, num_references).round().astype(int)
    references = tuple(eligible[place] for place in places)
    matched = sorted({*references, *(other for name in references for other in sources[name])})
    needed = sorted({*matched, *(other for name in matched for other in sources[name])})
    matrix = torch.from_numpy(np.loadtxt(folder / "K.txt"))
    pictures = {
        name: Picture(_grey(folder / "images" / f"{name}.png"), matrix, poses[name])
        for name in needed
    }
    return DepthCase(
        name="hololens, poses given",
        pictures=pictures,
        sources={name: sources[name] for name in matched},
        ranges=dict.fromkeys(matched, _INDOORS),
        references=references,
        truth={name: read_map(folder / "depth" / f"{name}.png") for name in references},
    )


def refined_case(case: DepthCase, folder: Path, scratch: Path) -> DepthCase:
    """Return a case of hololens with the poses that `cuesta depth --refine-poses` finds for all frames."""
    ids, poses = _hololens_poses(folder / "poses.txt")
    posed = scratch / "as_measured"
    (posed / "images").mkdir(parents=True)
    for name in ids:
        shutil.copyfile(folder / "images" / f"{name}.png", posed / "images" / f"{name}.png")
    view = next(iter(case.pictures.values()))
    (focal_x, _, centre_x), (_, focal_y, centre_y), _ = view.matrix.tolist()
    height, width = view.grey.shape
    params = torch.tensor([focal_x, focal_y, centre_x, centre_y], dtype=torch.float64)
    cam_from_world = Transform.rigid(
        torch.stack([poses[name].rotation for name in ids]),
        torch.stack([poses[name].translation for name in ids]),
    )
    names = tuple(f"{name}.png" for name in ids)
    cameras = {1: Camera("PINHOLE", params, width, height)}
    write_colmap(posed / "sparse" / "0", Views(names, cameras, (1,) * len(ids), cam_from_world))
    scene = adopt(posed, scratch / "refined", refines_poses=True)
    better = read_colmap(scene.model)
    pose_of = {Path(name).stem: better.pose(name) for name in better.names}
    pictures = {
        name: picture._replace(cam_from_world=pose_of[name])
        for name, picture in case.pictures.items()
    }
    return replace(case, name="hololens, poses refined", pictures=pictures)


def _posed(name: str, scene: Scene, truth: Mapping[str, Map]) -> PosedCase:
    views = read_colmap(scene.model)
    points = sparse_points(scene, views, seed=laptop().seed, on_progress=lambda *_: None)
    chosen, _ = choose_sources(views, points, laptop())
    pictures = GreyPictures(scene, views, max_image_size=0, most_bytes=0)
    case = DepthCase(
        name=name,
        pictures={image: pictures(image) for image in views.names},
        sources={image: choice.sources for image, choice in chosen.items()},
        ranges={image: _range(views, points, image) for image in chosen},
        references=views.names,
        truth=truth,
    )
    return PosedCase(scene, points, case)


def _range(views: Views, points: SparsePoints, name: str) -> Range:
    """Return the depths of an image's points with a margin: peers spread their planes over it."""
    pose = views.pose(name)
    places = torch.from_numpy(points.positions[points.seen[name]])
    low, high = np.quantile((pose @ places)[:, 2].numpy(), (0.01, 0.99))
    return Range(_NEARER * float(low), _FARTHER * float(high))


def _hololens_poses(path: Path) -> tuple[list[str], dict[str, Transform]]:
    """Return the frames in order, and cam_from_world of each."""
    poses = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, *numbers = line.split()
        matrix = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
        world_from_cam = matrix.view(4, 4)
        poses[name] = Transform.rigid(world_from_cam[:3, :3], world_from_cam[:3, 3]).inverse()
    return list(poses), poses


def _near_sources(
    names: Sequence[str], poses: Mapping[str, Transform]
) -> dict[str, tuple[str, ...]]:
    """Return for each frame the four others that are farthest, of those it makes a pair with."""
    centres = torch.stack([poses[name].inverse().translation for name in names])
    axes = torch.stack([poses[name].rotation[2] for name in names])
    baselines = torch.cdist(centres, centres)
    degrees = (axes @ axes.mT).clamp(-1, 1).arccos().rad2deg()
    low, high = _BASELINES
    is_near = (baselines >= low) & (baselines <= high) & (degrees <= _MOST_DEGREES)
    ranked = torch.where(is_near, baselines, -1.0).sort(dim=1, descending=True, stable=True)
    return {
        name: tuple(
            names[place]
            for place, baseline in zip(order[:NUM_SOURCES], far[:NUM_SOURCES], strict=True)
            if baseline > 0
        )
        for name, far, order in zip(
            names, ranked.values.tolist(), ranked.indices.tolist(), strict=True
        )
    }


def _grey(path: Path) -> torch.Tensor:
    with Image.open(path) as photo:
        return torch.from_numpy(np.array(photo.convert("L"), np.uint8))
