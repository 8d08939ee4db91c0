"""The depth maps of a scene against the true ones: raw, and within the masks that the scene has.

Every image with a true map counts: one without an estimate has estimated nothing. Rows are of all
images and, where a scene has both, of those from the ground and from the air.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuesta.data.scenes.scene import Scene
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.benchmark.depth_errors import (
    NOTHING,
    Depth,
    DepthSums,
    at_size,
    compare_depth,
    median_scale,
)
from cuesta.vision.terrasky3d.benchmark.places import (
    find_map,
    read_depth,
    read_grey,
    sources_of,
    views_at,
)
from cuesta.vision.terrasky3d.benchmark.table import Row
from cuesta.vision.terrasky3d.strata import is_aerial

_Key = tuple[str, str]  # the masks, the images


def judge_depth(
    scene: str,
    path: Path,
    truth: Path,
    *,
    has_free_scale: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Row]:
    """Return the rows of a scene's depth maps: for all pixels, within its masks, by where images are.

    With `has_free_scale` the median of each map is first brought to the truth's. Raises `UserError`
    where there is no true map or none of the scene, and naming a map or mask that is broken.
    """
    names = [name for name in views_at(truth).names if find_map(truth, name) is not None]
    if not names:
        raise UserError(f"{truth}: no depth maps; name a truth that has depth/maps")
    own = {name: name for name in names} | {
        true: name for name, true in sources_of(path, names).items() if true in names
    }
    if not any(find_map(path, own[name]) for name in names):
        raise UserError(
            f"{path}: no depth map of {names[0]} or any other image that {truth} has; "
            f"`cuesta depth {path}` makes them"
        )
    sums: dict[_Key, DepthSums] = {}
    for done, name in enumerate(names):
        on_progress(done, len(names))
        kind = "aerial" if is_aerial(name) else "ground"
        for masks, found in _of_image(
            (path, own[name]), (truth, name), has_free_scale=has_free_scale
        ).items():
            for images in ("all", kind):
                sums[masks, images] = sums.get((masks, images), NOTHING) + found
    on_progress(len(names), len(names))
    num_missing = sum(find_map(path, own[name]) is None for name in names)
    counts = {"images": len(names), "missing_images": num_missing}
    has_both = len({is_aerial(name) for name in names}) == 2
    rows = []
    for masks in _MASKS:
        for images in ("all", "ground", "aerial") if has_both else ("all",):
            if (masks, images) in sums:
                rows.append(Row(scene, masks, images, {**counts, **sums[masks, images].values()}))
    of_scene = list(own.values())
    return [row for row in rows if row.method == "raw" or _has_masks(path, of_scene, row.method)]


_MASKS: dict[str, tuple[str, ...]] = {
    "raw": (),
    "geometric": ("geometric",),
    "semantic": ("semantic",),
    "both masks": ("geometric", "semantic"),
}


def _has_masks(path: Path, names: list[str], masks: str) -> bool:
    """Return whether some image has each of these masks."""
    return all(any(_mask(path, name, kind).is_file() for name in names) for kind in _MASKS[masks])


def _of_image(
    image: tuple[Path, str], true_image: tuple[Path, str], *, has_free_scale: bool
) -> dict[str, DepthSums]:
    true_file, file = find_map(*true_image), find_map(*image)
    assert true_file is not None
    true = read_depth(true_file)
    if file is None:
        return {masks: compare_depth(np.zeros_like(true), true) for masks in _MASKS}
    own = read_depth(file)
    estimate: Depth = at_size(own, true.shape, str(file)).astype(np.float32)
    if has_free_scale:
        estimate = estimate * np.float32(median_scale(estimate, true))
    found = {}
    for masks, kinds in _MASKS.items():
        keep = np.ones(true.shape, bool)
        for kind in kinds:
            keep &= _keep(_mask(*image, kind), true.shape)
        found[masks] = compare_depth(estimate, true, keep=keep)
    return found


def _keep(file: Path, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return what a mask keeps at the size of the truth; without a file it keeps nothing."""
    if not file.is_file():
        return np.zeros(size, bool)
    return np.asarray(at_size(read_grey(file), size, str(file)) == 255)


def _mask(path: Path, name: str, kind: str) -> Path:
    scene = Scene(path)
    return scene.geometric_mask(name) if kind == "geometric" else scene.semantic_mask(name)
