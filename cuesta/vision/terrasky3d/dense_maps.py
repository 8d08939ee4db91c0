"""The dense maps of a scene, view by view, as masks and fusion read them: depth, normals, masks, colours.

What is not whole, not finite or of another size than it should be is refused in one line that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cuesta.data.maps import read_map
from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.parsing import blaming, check_pinholes
from cuesta.data.scenes.scene import Scene, read_about
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Transform, pixels_from_pixels


class DepthView(NamedTuple):
    """Hold what a view sees: z [Y, X], 0 for none; unit normals towards the camera, in its axes.

    `matrix` is K at the size of the map, float64, as the pose is.
    """

    name: str
    depth: Float32[Tensor, "Y X"]
    normals: Float32[Tensor, "Y X 3"] | None
    matrix: Float64[Tensor, "3 3"]
    cam_from_world: Transform

    def other_from_this(self, other: DepthView) -> Float64[Tensor, "3 4"]:
        """Return what takes pixels times depth, (u z, v z, z, 1), to those of another view."""
        pose = other.cam_from_world @ self.cam_from_world.inverse()
        return pixels_from_pixels(self.matrix, other.matrix, pose)

    def rotation_to(self, other: DepthView) -> Float64[Tensor, "3 3"]:
        """Return the rotation from this camera's axes to another's."""
        return other.cam_from_world.rotation @ self.cam_from_world.rotation.mT


@final
@dataclass(frozen=True, eq=False)
class DenseScene:
    """Hold a scene and those of its views that have a depth map, by name.

    `normal_map` tells where the normals of an image are, COLMAP's .bin in the camera's axes, and None
    where there are none.
    """

    scene: Scene
    views: Views
    normal_map: Callable[[str], Path | None]

    def read(self, name: str) -> DepthView:
        """Return the maps of a view. Raises `UserError` naming the file that is broken."""
        path = self.scene.depth_map(name)
        depth, camera = read_map(path), self.views.camera(name)
        height, width = depth.shape[:2]
        if depth.ndim != 2 or not camera.has_shape(width, height):
            raise UserError(
                f"{path}: {width} x {height}, where its image is {camera.width} x {camera.height}; "
                "make the depth map again"
            )
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
        matrix = camera.resized(width, height).matrix().double()
        normals = self._normals(name, depth.shape)
        return DepthView(
            name, torch.from_numpy(depth), normals, matrix, self.views.pose(name).to(torch.float64)
        )

    def colors(self, name: str, shape: tuple[int, int]) -> UInt8[np.ndarray, "Y X 3"]:
        """Return the photograph at the size of the depth map, [Y, X]."""
        return self._photo(name, shape, "RGB")

    def grey(self, name: str, shape: tuple[int, int]) -> UInt8[np.ndarray, "Y X"]:
        """Return the photograph without its colours, likewise."""
        return self._photo(name, shape, "L")

    def keep(self, name: str, shape: tuple[int, int]) -> Bool[np.ndarray, "Y X"]:
        """Return where the semantic mask keeps pixels, everywhere where there is none.

        It may have the size of the depth map or that of the photograph.
        """
        path = self.scene.semantic_mask(name)
        if not path.exists():
            return np.ones(shape, bool)
        camera = self.views.camera(name)
        return read_mask(path, shape, or_shape=(camera.height, camera.width))

    def _photo(self, name: str, shape: tuple[int, int], mode: str) -> UInt8[np.ndarray, ...]:
        path, size = self.scene.frame(name), shape[::-1]
        try:
            with Image.open(path) as photo:
                image = photo.convert(mode)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; bring the photograph back") from None
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: not readable ({error}); bring the photograph back") from error
        return np.array(image if image.size == size else image.resize(size, Image.Resampling.BOX))

    def _normals(self, name: str, shape: tuple[int, ...]) -> Float32[Tensor, "Y X 3"] | None:
        path = self.normal_map(name)
        if path is None:
            return None
        normals = read_map(path)
        if normals.shape != (*shape, 3):
            raise UserError(
                f"{path}: {list(normals.shape)}, where the depth map is {list(shape)}; "
                "make depth and normals again"
            )
        return torch.from_numpy(np.where(np.isfinite(normals), normals, np.float32(0)))


def open_dense(
    path: str | Path, normal_map: Callable[[str], Path | None] | None = None
) -> DenseScene:
    """Return the views of a scene that have depth maps; normals are below depth/normals by default.

    Raises `UserError` where there is no scene, no depth map, or lenses are not taken out of the images.
    """
    scene = Scene(Path(path))
    read_about(scene)
    views = read_colmap(scene.model)
    with blaming(scene.model, "`cuesta reconstruct PHOTOS` makes scenes without distortion"):
        check_pinholes(views)
    names = sorted(name for name in views.names if scene.depth_map(name).is_file())
    if not names:
        raise UserError(f"{scene.root}: no depth maps; `cuesta depth {scene.root}` makes them")

    def beside(name: str) -> Path | None:
        folder = scene.root / "depth" / "normals"
        place = folder / PurePosixPath(name).with_suffix(".bin")
        return place if place.is_file() else None

    return DenseScene(scene, views.select(names), normal_map or beside)


def read_mask(
    path: Path, shape: tuple[int, int], *, or_shape: tuple[int, int] | None = None
) -> Bool[np.ndarray, "Y X"]:
    """Return where a mask keeps pixels, brought from `or_shape` to `shape` = (Y, X) if it has that.

    Raises `UserError` naming a mask that is not readable, not of 8 bits, or of another size.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in ("L", "1", "P"):
                raise ValueError(f"it holds {image.mode}, not 8 bits")
            found = image.size[::-1]
            if found not in (shape, or_shape):
                raise ValueError(
                    f"it is {found[1]} x {found[0]}, where the depth map is {shape[1]} x {shape[0]}"
                )
            grey = image.convert("L")
            if found != shape:
                grey = grey.resize(shape[::-1], Image.Resampling.NEAREST)
            return np.asarray(grey) > 127
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: no whole mask of this image ({reason}); remove it") from error
