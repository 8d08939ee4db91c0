"""The surveyed cameras of Strecha's multi-view data: one IMAGE.camera for each image.

A file holds K in three rows, a row of zeros, the rotation world_from_cam in three rows, the camera's
centre in metres, and the image's width and height.
"""

from __future__ import annotations

from pathlib import Path

import torch

from cuesta.data.scenes.parsing import blaming, camera_of, numbers, read_text, rigid, shared, whole
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError

_COUNTS = (3, 3, 3, 3, 3, 3, 3, 3, 2)


def read_strecha(folder: str | Path) -> Views:
    """Return the cameras of a folder of .camera files, under the names of their images.

    Raises `UserError` where there is none, or one is broken.
    """
    files = sorted(Path(folder).glob("*.camera"))
    if not files:
        raise UserError(f"{folder}: no .camera file in it; name the folder of the cameras")
    cameras, matrices = [], []
    for file in files:
        with blaming(file, "write it again"):
            lines = [line.split() for line in read_text(file).splitlines() if line.strip()]
            if len(lines) != len(_COUNTS):
                raise ValueError(f"it should have {len(_COUNTS)} lines, it has {len(lines)}")
            rows = [
                numbers(words, count, f"line {place}")
                for place, (words, count) in enumerate(zip(lines, _COUNTS, strict=True), 1)
            ]
            params = (rows[0][0], rows[1][1], rows[0][2], rows[1][2])
            width, height = (whole(value, "the size") for value in rows[8])
            cameras.append(camera_of("PINHOLE", params, (width, height)))
            matrices.append([[*rows[4 + place], rows[7][place]] for place in range(3)])
    names = tuple(file.name.removesuffix(".camera") for file in files)
    with blaming(folder, "write it again"):
        world_from_cam = rigid(torch.tensor(matrices, dtype=torch.float64), names)
        by_id, ids = shared(cameras)
        return Views(names, by_id, ids, world_from_cam.inverse())
