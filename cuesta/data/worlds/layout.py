"""How a rendered picture becomes files of a scene: the picture and the truth behind it.

```
frames/cam_0/a.jpg                  the photograph
depth/maps/cam_0/a.h5               z, float32, exact; 0 = the sky
depth/masks_semantic/cam_0/a.png    255 = keep; 0 = sky, vegetation, what moves
depth/normals/cam_0/a.png           16 bits a channel, in the camera's frame, off by 2e-5 at most
semantic/cam_0/a.png                ids of `Label`
```
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuesta.data.files import atomic_file
from cuesta.data.maps import write_map
from cuesta.data.scenes.scene import Scene
from cuesta.data.worlds.labels import REMOVED
from cuesta.data.worlds.render import Frame
from cuesta.errors import UserError

_STEPS = 32767  # of a component of a normal from 0 to 1; 0 in a file is -1 - 1 / _STEPS: no normal


def normal_map(scene: Scene, image: str) -> Path:
    """Return where the normals of an image are."""
    return scene.root / "depth" / "normals" / PurePosixPath(image).with_suffix(".png")


def semantic_ids(scene: Scene, image: str) -> Path:
    """Return where the semantic ids of an image are."""
    return scene.root / "semantic" / PurePosixPath(image).with_suffix(".png")


def files_of(scene: Scene, image: str) -> list[Path]:
    """Return all files of an image, the photograph last."""
    truth = [scene.depth_map(image), scene.semantic_mask(image), normal_map(scene, image)]
    return [*truth, semantic_ids(scene, image), scene.frame(image)]


def write_frame(
    scene: Scene, image: str, frame: Frame, *, photo: NDArray[np.uint8], jpeg_quality: int
) -> None:
    """Write the files of an image; `photo` is what the camera made of `frame.rgb`."""
    write_map(scene.depth_map(image), frame.depth)
    keep = ~np.isin(frame.ids, REMOVED)
    _write_png(scene.semantic_mask(image), keep.astype(np.uint8) * np.uint8(255))
    _write_png(semantic_ids(scene, image), frame.ids)
    write_normals(normal_map(scene, image), frame.normals)
    with atomic_file(scene.frame(image)) as temporary:
        Image.fromarray(photo).save(temporary, quality=jpeg_quality, subsampling=0)


def write_normals(path: Path, normals: NDArray[np.float32]) -> None:
    """Write unit normals [Y, X, 3] as a 16-bit PNG; (0, 0, 0) stays what it is."""
    steps = np.rint(normals * _STEPS + (_STEPS + 1)).astype(np.uint16)
    steps[~normals.any(-1)] = 0
    _write_png(path, steps[..., ::-1])


def read_normals(path: Path) -> NDArray[np.float32]:
    """Return unit normals [Y, X, 3]; (0, 0, 0) where there is none. Raises `UserError`."""
    steps = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if steps is None or steps.dtype != np.uint16 or steps.ndim != 3:
        raise UserError(f"{path}: no 16-bit PNG of normals; make the scene again")
    values = ((steps[..., ::-1].astype(np.float64) - (_STEPS + 1)) / _STEPS).astype(np.float32)
    values[~steps.any(-1)] = 0
    return values


def write_preview(scene: Scene, images: list[str], *, columns: int = 6, width: int = 320) -> None:
    """Write preview.jpg, a sheet of up to 24 of the pictures, small."""
    chosen = images[:: max(len(images) // 24, 1)][:24]
    tiles = []
    for image in chosen:
        with Image.open(scene.frame(image)) as picture:
            size = (width, round(width * picture.height / picture.width))
            tiles.append(picture.resize(size, Image.Resampling.LANCZOS))
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width, rows * tiles[0].height))
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % columns * width, k // columns * tile.height))
    with atomic_file(scene.root / "preview.jpg") as temporary:
        sheet.save(temporary, quality=88)


def _write_png(path: Path, values: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    # OpenCV writes 16 bits a channel, which Pillow does not.
    done, data = cv2.imencode(".png", np.ascontiguousarray(values))
    assert done
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.tobytes())
