"""The grey pictures of a scene's views as stereo reads them, a few of them kept in memory."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.stereo import Picture


class GreyPictures:
    """Read views on demand and keep the last ones, up to `most_bytes` of pixels, one at least.

    Pictures are shrunk to `max_image_size` px of their longer side, 0 for as they are.
    """

    def __init__(self, scene: Scene, views: Views, *, max_image_size: int, most_bytes: int) -> None:
        self._scene, self._views = scene, views
        self._max_image_size, self._most_bytes = max_image_size, most_bytes
        self._kept: OrderedDict[str, Picture] = OrderedDict()

    def size(self, name: str) -> tuple[int, int]:
        """Return width and height of a view's picture."""
        camera = self._views.camera(name)
        longer = max(camera.width, camera.height)
        share = min(1.0, (self._max_image_size or longer) / longer)
        return max(1, round(camera.width * share)), max(1, round(camera.height * share))

    def __call__(self, name: str) -> Picture:
        """Return a view. Raises `UserError` naming a picture that is missing, broken or of another size."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        picture = self._read(name)
        self._kept[name] = picture
        while len(self._kept) > 1 and self._num_bytes() > self._most_bytes:
            self._kept.popitem(last=False)
        return picture

    def _num_bytes(self) -> int:
        return sum(picture.grey.numel() for picture in self._kept.values())

    def _read(self, name: str) -> Picture:
        path, camera, size = self._scene.frame(name), self._views.camera(name), self.size(name)
        try:
            with Image.open(path) as photo:
                if photo.size != (camera.width, camera.height):
                    raise UserError(
                        f"{path}: {photo.size[0]} x {photo.size[1]}, its camera says "
                        f"{camera.width} x {camera.height}; bring the photograph back"
                    )
                photo.draft("L", size)
                grey = photo.convert("L")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; bring the photograph back") from None
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: not readable ({error}); bring the photograph back") from error
        if grey.size != size:
            grey = grey.resize(size, Image.Resampling.BOX)
        pixels = torch.from_numpy(np.array(grey, np.uint8))
        matrix = camera.resized(*size).matrix().double()
        return Picture(pixels, matrix, self._views.pose(name).to(torch.float64))
