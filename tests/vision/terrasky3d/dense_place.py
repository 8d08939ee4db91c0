"""A small generated landmark without depth, and settings that give it some in a second."""

from __future__ import annotations

import shutil
from pathlib import Path

from cuesta.data.scenes.scene import Scene
from cuesta.data.worlds.make import Size, make_landmarks
from cuesta.ops.patch_match import Patch
from cuesta.vision.terrasky3d.adopt import adopt
from cuesta.vision.terrasky3d.settings import StereoSettings

QUICK = StereoSettings(
    name="quick",
    max_image_size=120,
    num_sources=2,
    coarse_iterations=2,
    patch=Patch(radius=2),
    fill_reach=10.0,
)


def make_posed(root: Path) -> tuple[Scene, Scene]:
    """Return the generated landmark below `root`, of five images, and a scene of its images and poses."""
    (made,) = make_landmarks(
        root / "made", Size(num_scenes=1, num_images=5, width=240, height=180), num_workers=2
    )
    return made, adopt(made.root, root / "posed")


def copied(scene: Scene, root: Path) -> Scene:
    """Return a copy of a scene as it is, times of files included."""
    shutil.copytree(scene.root, root, copy_function=shutil.copy2)
    return Scene(root)


def depth_files(scene: Scene) -> dict[str, bytes]:
    """Return the maps of a scene, of depth and normals, byte by byte."""
    places = [scene.root / "depth" / kind for kind in ("maps", "normals")]
    files = [path for place in places for path in sorted(place.rglob("*")) if path.is_file()]
    return {path.relative_to(scene.root).as_posix(): path.read_bytes() for path in files}


def times(scene: Scene) -> dict[Path, int]:
    """Return when each file of a scene was last written."""
    return {path: path.stat().st_mtime_ns for path in scene.root.rglob("*") if path.is_file()}
