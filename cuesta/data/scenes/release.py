"""A published data set as pairs of images for training and testing: cuesta's own, and TerraSky3D as its
authors publish it.

```
data/SCENE/{colmap,frames,depth}      a scene, see `Scene`; or SCENE/ without data/
train_data.json                       cameras and poses for training
data/SCENE/pairs.csv                  pairs for training; without it, those that share sparse points
views.txt, pairs_calibrated.txt       the same for testing
```

Index i is pair i. The principal point stays where it was, the masks are applied, and a sample's K and
pose are those of the pixels that it holds: a point of it unprojects to the world point that the
original pixel shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple, final

import numpy as np
import pycolmap
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cuesta.data.maps import read_map
from cuesta.data.scenes.colmap import read_reconstruction
from cuesta.data.scenes.pair_table import kept_pairs, read_pair_table
from cuesta.data.scenes.parsing import blaming
from cuesta.data.scenes.resampling import (
    Fit,
    sample_nearest,
    sample_smoothly,
    source_pixels,
    square,
)
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.terrasky3d import (
    read_calibrated_pairs,
    read_train_data,
    read_views_txt,
)
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError

Split = Literal["train", "test"]
MaskPolicy = Literal["available", "geometric", "semantic", "both", "none"]
LEAST_SHARED = 30  # sparse points, of a pair where no list says which pairs there are
_REMEDY = "bring the file back or fetch the data set again"


class ScenePair(NamedTuple):
    """Name a pair: the scene and its two images, as in the model."""

    scene: str
    image_a: str
    image_b: str


@final
@dataclass(frozen=True, eq=False)
class Release:
    """Hold one split of a data set in `root`: the views of its scenes, and its pairs."""

    root: Path
    split: Split
    scenes: Mapping[str, Views]
    pairs: tuple[ScenePair, ...]

    def scene(self, name: str) -> Scene:
        """Return the files of a scene."""
        return scene_in(self.root, name)


class ReleaseView(NamedTuple):
    """Hold one image of a sample, float32: colours from 0 to 1, black where the source has no pixel.

    Depth is z in the scene's unit, NaN where there is none or a mask removes it.
    """

    name: str
    image: Float[Tensor, "3 Y X"]
    depth: Float[Tensor, "Y X"]
    matrix: Float[Tensor, "3 3"]
    cam_from_world: Float[Tensor, "4 4"]


class PairSample(NamedTuple):
    """Hold two views of one scene; a batch of it is made by torch's own collation."""

    scene: str
    a: ReleaseView
    b: ReleaseView


@final
@dataclass(frozen=True, kw_only=True)
class Framing:
    """Say how images become squares of `side` pixels: see `square`.

    Each is turned by an angle drawn evenly from -`most_turn_degrees` to that, from `seed` and the
    index of the pair.
    """

    side: int = 512
    fit: Fit = "cover"
    most_turn_degrees: float = 0.0
    seed: int = 0


@final
@dataclass(frozen=True)
class PairSet(Dataset[PairSample]):
    """Give sample i for pair i of a release.

    Masks: `available` applies those that are there, `geometric`, `semantic` and `both` demand theirs,
    `none` applies none. Raises `UserError` naming a file that is missing, broken or of another size.

    ```
    release = open_release("dataset", "train")
    loader = torch.utils.data.DataLoader(PairSet(release, Framing(side=448)), batch_size=14)
    ```
    """

    release: Release
    framing: Framing = Framing()
    masks: MaskPolicy = "available"

    def __len__(self) -> int:
        return len(self.release.pairs)

    def __getitem__(self, index: int) -> PairSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} pairs, none is {index}")
        pair = self.release.pairs[index]
        most = self.framing.most_turn_degrees
        draw = np.random.default_rng([self.framing.seed, index % len(self)])
        turns = draw.uniform(-most, most, 2)
        scene, views = self.release.scene(pair.scene), self.release.scenes[pair.scene]
        a, b = (
            read_view(scene, views, name, framing=self.framing, turn_degrees=turn, masks=self.masks)
            for name, turn in zip((pair.image_a, pair.image_b), turns.tolist(), strict=True)
        )
        return PairSample(pair.scene, a, b)


def open_release(root: str | Path, split: Split = "train") -> Release:
    """Return a split of the data set in a folder.

    Raises `UserError` where lists are missing or broken, or a pair names an image that is not there.
    """
    root = Path(root)
    name = "train_data.json" if split == "train" else "views.txt"
    if not (root / name).is_file():
        raise UserError(
            f"{root}: it has no {name}, so no {split} split; name another folder or split"
        )
    scenes = read_train_data(root / name) if split == "train" else read_views_txt(root / name)
    pairs = _train_pairs(root, scenes) if split == "train" else _test_pairs(root)
    for pair in pairs:
        missing = {pair.image_a, pair.image_b} - set(_names(scenes, pair.scene))
        if missing:
            raise UserError(
                f"{root}: a pair of {pair.scene} names {min(missing)}, which {name} does not have; "
                f"{_REMEDY}"
            )
    return Release(root, split, scenes, tuple(pairs))


def scene_in(root: Path, name: str) -> Scene:
    """Return the files of a scene of a data set, below data/ or the root itself."""
    place = root / "data" / name
    return Scene(place if place.is_dir() else root / name)


def read_view(
    scene: Scene,
    views: Views,
    name: str,
    *,
    framing: Framing,
    turn_degrees: float = 0.0,
    masks: MaskPolicy = "available",
) -> ReleaseView:
    """Return an image of a scene as a square; see `PairSet`."""
    camera = views.camera(name)
    size = (camera.width, camera.height)
    target = square(camera, framing.side, framing.fit, turn_degrees)
    pixels = source_pixels(camera, target)
    with blaming(scene.frame(name), _REMEDY), Image.open(scene.frame(name)) as opened:
        _check_size(opened.size, size)
        image = np.asarray(opened.convert("RGB"))
    depth = read_depth(scene, name, size, masks)
    scale = float(target.camera.focal().mean() / camera.focal().double().mean())
    seen = sample_smoothly(image, pixels, scale).astype(np.float32) / 255
    return ReleaseView(
        name,
        torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1))),
        torch.from_numpy(_nothing_is_nan(sample_nearest(depth, pixels))),
        target.camera.matrix().float(),
        (target.target_from_source @ views.pose(name)).matrix().float(),
    )


def read_depth(
    scene: Scene, name: str, size: tuple[int, int], masks: MaskPolicy
) -> NDArray[np.float32]:
    """Return the depth of an image of this (width, height), 0 where there is none or masks remove it.

    Raises `UserError` where a file is missing, broken or of another size.
    """
    path = scene.depth_map(name)
    depth = read_map(path)
    with blaming(path, _REMEDY):
        _check_size(depth.shape[::-1], size)
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
    demanded = {"both": ("geometric", "semantic"), "none": ()}.get(masks, (masks,))
    for kind, file in (
        ("geometric", scene.geometric_mask(name)),
        ("semantic", scene.semantic_mask(name)),
    ):
        if kind in demanded or (masks == "available" and file.is_file()):
            with blaming(file, _REMEDY), Image.open(file) as mask:
                _check_size(mask.size, size)
                depth[np.asarray(mask.convert("L")) < 128] = 0
    return depth


def covisible_pairs(scene: Scene) -> list[tuple[str, str]]:
    """Return the pairs of images that see `LEAST_SHARED` sparse points or more in common, sorted."""
    counts = shared_points(read_reconstruction(scene.model))
    return [pair for pair, count in counts.items() if count >= LEAST_SHARED]


def shared_points(model: pycolmap.Reconstruction) -> dict[tuple[str, str], int]:
    """Return how many sparse points each pair of images has in common, where it is any."""
    names = {i: model.image(i).name for i in model.reg_image_ids()}
    counts: dict[tuple[str, str], int] = {}
    for point in model.points3D.values():
        seen = sorted({names[element.image_id] for element in point.track.elements})
        for pair in combinations(seen, 2):
            counts[pair] = counts.get(pair, 0) + 1
    return dict(sorted(counts.items()))


def _train_pairs(root: Path, scenes: Mapping[str, Views]) -> list[ScenePair]:
    pairs = []
    for name in scenes:
        scene = scene_in(root, name)
        table = scene.root / "pairs.csv"
        found = kept_pairs(read_pair_table(table)) if table.is_file() else covisible_pairs(scene)
        pairs += [ScenePair(name, *pair) for pair in found]
    return pairs


def _test_pairs(root: Path) -> list[ScenePair]:
    pairs = []
    for image_a, image_b in read_calibrated_pairs(root / "pairs_calibrated.txt").names:
        (scene, _, name_a), name_b = image_a.partition("/frames/"), image_b.partition("/frames/")[2]
        pairs.append(ScenePair(scene, name_a, name_b))
    return pairs


def _names(scenes: Mapping[str, Views], scene: str) -> tuple[str, ...]:
    return scenes[scene].names if scene in scenes else ()


def _check_size(found: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(found) != size:
        raise ValueError(f"it is {found[0]} x {found[1]}, its camera {size[0]} x {size[1]}")


def _nothing_is_nan(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(depth > 0, depth, np.float32(np.nan))
