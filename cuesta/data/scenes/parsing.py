"""What reading any format of scenes needs: bounded text, numbers, poses and cameras that make sense,
and one way to say which file does not.

Parsers raise `ValueError` with the reason; `blaming`, around them, adds the file and the remedy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import MODELS, Camera, Transform
from cuesta.geometry.cameras import Model

MOST_TEXT = 1 << 28  # bytes; a million poses have half of it
MOST_SIDE = 1 << 24  # pixels
_MOST_QUOTED = 40  # characters
_ROUNDING = 1e-3  # of an entry of a rotation: files print four digits at least


@contextmanager
def blaming(source: str | Path, remedy: str) -> Iterator[None]:
    """Turn what goes wrong within into a `UserError` of one line: the source, why, the remedy."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or source}: no such file; {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: {reason}; {remedy}") from error


def read_text(path: Path) -> str:
    """Return the text of a file of at most `MOST_TEXT` bytes."""
    if path.stat().st_size > MOST_TEXT:
        raise ValueError(f"{path.stat().st_size} bytes are too many for such a file")
    return path.read_text(encoding="utf-8")


def number(value: object, name: str) -> float:
    """Return a number, also one that stands in a text, if it is finite."""
    if value is None:
        raise ValueError(f"{name} is missing")
    try:
        found = float(value) if isinstance(value, str) else value
    except ValueError:
        found = math.nan
    if isinstance(found, bool) or not isinstance(found, int | float):
        found = math.nan
    if abs(found) <= sys.float_info.max:
        return float(found)
    raise ValueError(f"{name} should be a finite number, it is {repr(value)[:_MOST_QUOTED]}")


def whole(value: object, name: str) -> int:
    """Return a number that counts something: 0 or above, and without a fraction."""
    found = number(value, name)
    if found < 0 or found != int(found):
        raise ValueError(f"{name} should be a whole number, it is {found:g}")
    return int(found)


def numbers(words: Sequence[str], count: int, name: str) -> list[float]:
    """Return the numbers that `words` hold, if there are `count` of them."""
    if len(words) != count:
        raise ValueError(f"{name} should have {count} numbers, it has {len(words)}")
    return [number(word, name) for word in words]


def rigid(matrices: Float[Tensor, "V rows 4"], names: Sequence[str]) -> Transform:
    """Return the rigid motions of 3 x 4 or 4 x 4 matrices, in float64.

    Rotations are rounded in most files: we take the nearest one, by SVD. Raises `ValueError` with
    the name of a matrix that is not finite, or whose rotation is farther off than rounding.
    """
    matrices = matrices.double()
    broken = ~matrices.isfinite().flatten(1).all(1)
    turns = torch.where(broken[:, None, None], 0.0, matrices[:, :3, :3])
    left, _, right = torch.linalg.svd(turns)
    nearest = left @ right
    off = (turns - nearest).abs().flatten(1).amax(1)
    for place in range(len(names)):
        if broken[place]:
            raise ValueError(f"the pose of {names[place]} holds a number that is not finite")
        if off[place] > _ROUNDING or torch.linalg.det(nearest[place]) < 0:
            raise ValueError(f"the pose of {names[place]} is no rotation and translation")
    return Transform.rigid(nearest, matrices[:, :3, 3])


def model_of(name: object) -> Model:
    """Return the camera model of a name. Raises `ValueError` where it is not one of ours."""
    for model in MODELS:
        if model == name:
            return model
    quoted = str(name)[:_MOST_QUOTED]
    raise ValueError(f"camera model {quoted} is not supported, but {', '.join(MODELS)} are")


def camera_of(model: Model, params: Sequence[float], size: tuple[int, int]) -> Camera:
    """Return a camera of float64 parameters for images of `size` = (width, height).

    Raises `ValueError` for parameters that are not finite, a focal length that is not above 0, or a
    size of no image.
    """
    camera = Camera(model, torch.tensor(params, dtype=torch.float64), *size)
    if not camera.params.isfinite().all():
        raise ValueError(f"a camera has parameters that are not finite, {list(params)}")
    if not (camera.focal() > 0).all():
        raise ValueError(f"a focal length should be above 0, it is {camera.focal().min():g}")
    if max(size) > MOST_SIDE:
        raise ValueError(f"no image is {size[0]} x {size[1]}")
    return camera


def pinhole_of(matrix: Sequence[float], size: tuple[int, int], name: str) -> Camera:
    """Return the PINHOLE camera of a K, nine numbers by row. Raises `ValueError` as `camera_of`."""
    across, skew, cx, below, down, cy, *last = matrix
    if skew or below or last != [0, 0, 1]:
        raise ValueError(f"{name} should be fx 0 cx, 0 fy cy, 0 0 1")
    return camera_of("PINHOLE", [across, down, cx, cy], size)


def check_pinholes(views: Views) -> None:
    """Raise `ValueError` naming a camera that is more than its K."""
    for camera_id, camera in views.cameras.items():
        if camera.model != "PINHOLE":
            raise ValueError(
                f"camera {camera_id} has the model {camera.model}; undistort its images first"
            )


def shared(cameras: Sequence[Camera]) -> tuple[dict[int, Camera], tuple[int, ...]]:
    """Return the different ones among the cameras of images, numbered from 1, and each image's id."""
    numbered: dict[tuple[object, ...], int] = {}
    result: dict[int, Camera] = {}
    ids = []
    for camera in cameras:
        key = (camera.model, *camera.params.tolist(), camera.width, camera.height)
        camera_id = numbered.setdefault(key, len(numbered) + 1)
        result.setdefault(camera_id, camera)
        ids.append(camera_id)
    return result, tuple(ids)


def checked(views: Views) -> Views:
    """Return views in float64, if their cameras and poses can be written. Raises `ValueError`."""
    cameras = {
        camera_id: camera_of(camera.model, camera.params.tolist(), (camera.width, camera.height))
        for camera_id, camera in views.cameras.items()
    }
    poses = rigid(views.cam_from_world.matrix(), views.names)
    return Views(views.names, cameras, views.camera_ids, poses)


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height from the header of an image's file."""
    try:
        with Image.open(path) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise ValueError(f"its image {path.name} is too large") from error
