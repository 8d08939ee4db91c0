"""What finds matches between two photos: the protocol `Matcher`, and SIFT with mutual nearest neighbours.

Of the two SIFTs that are kept up, pycolmap's and OpenCV's, we take pycolmap's. It is the one that our
reconstructions use, its keypoints count from the corner of the first pixel as ours do (OpenCV's have
pixel centres at whole numbers, and are off by another quarter pixel without its precise upscaling),
and at 8192 features it gave more right pairs of Strecha's fountain; it takes several times as long.
Descriptors are RootSIFT (Arandjelovic and Zisserman, CVPR 2012), the ratio test is Lowe's (IJCV 2004),
in both directions, so that swapping the photos swaps the matches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, final

import numpy as np
import pycolmap
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from PIL import Image, UnidentifiedImageError

from cuesta.errors import UserError
from cuesta.geometry import Camera
from cuesta.vision.terrasky3d.native import call

_NOT_SHRUNK = 1 << 20  # px, longer than any photo
_AT_ONCE = 16  # photos on disk for their features
_ROWS = 2048  # of the table of similarities at a time


@final
@dataclass(frozen=True, eq=False)
class Photo:
    """Name a photo, where it is, and its camera at the size that it is used at."""

    name: str
    path: Path
    camera: Camera

    def rgb(self) -> UInt8[np.ndarray, "Y X 3"]:
        """Return its pixels, brought to the size of the camera.

        Raises `UserError` where it is not readable or of another shape than its camera.
        """
        size = (self.camera.width, self.camera.height)
        with _opened(self.path) as image:
            if not self.camera.has_shape(*image.size):
                raise UserError(
                    f"{self.path}: {image.width} x {image.height} pixels, which its camera, "
                    f"{size[0]} x {size[1]}, does not fit; name the images with --images"
                )
            photo = image.convert("RGB")
            return np.asarray(
                photo if photo.size == size else photo.resize(size, Image.Resampling.LANCZOS)
            )


class Matches(NamedTuple):
    """Hold the pixels of P matches in two photos, float64; pixel (0, 0) has its centre at 0.5."""

    points_a: Float64[np.ndarray, "P 2"]
    points_b: Float64[np.ndarray, "P 2"]


class Matcher(Protocol):
    """Find matches between two photos; features of a photo may be kept by its path."""

    def __call__(self, image_a: Photo, image_b: Photo) -> Matches:
        """Return the matches, in pixels of `rgb()` of each."""
        ...


class _Features(NamedTuple):
    points: Float64[np.ndarray, "P 2"]
    descriptors: UInt8[np.ndarray, "P 128"]  # as bytes: a scene of hundreds of photos is kept


@final
class SiftMatcher:
    """Match by SIFT: mutual nearest neighbours, nearer than `ratio` times the second nearest.

    `num_features` places are described in a photo at most, the largest; some in two orientations.
    """

    def __init__(self, *, num_features: int = 8192, ratio: float = 0.8) -> None:
        self._options = pycolmap.FeatureExtractionOptions()
        self._options.use_gpu = False
        self._options.max_image_size = _NOT_SHRUNK
        self._options.sift.max_num_features = num_features
        self._ratio = ratio
        self._found: dict[Path, _Features] = {}

    def __call__(self, image_a: Photo, image_b: Photo) -> Matches:
        self.prepare([image_a, image_b])
        a, b = self._found[image_a.path], self._found[image_b.path]
        first, second = mutual_nearest(_unit(a), _unit(b), ratio=self._ratio)
        return Matches(a.points[first], b.points[second])

    def prepare(
        self,
        photos: Iterable[Photo],
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """Find the features of those photos that were not seen yet, on all cores."""
        new = list(
            {photo.path: photo for photo in photos if photo.path not in self._found}.values()
        )
        for start in range(0, len(new), _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            self._find(some)
            on_progress(start + len(some), len(new))

    def _find(self, photos: Sequence[Photo]) -> None:
        with tempfile.TemporaryDirectory(prefix="cuesta-") as temporary:
            folder, names = Path(temporary), {}
            for number, photo in enumerate(photos):
                names[f"{number}.bmp"] = photo.path
                Image.fromarray(photo.rgb()).convert("L").save(folder / f"{number}.bmp")
            with pycolmap.Database.open(folder / "database.db") as opened:
                call(
                    lambda token: pycolmap.extract_features(
                        folder / "database.db",
                        folder,
                        list(names),
                        pycolmap.CameraMode.PER_IMAGE,
                        pycolmap.ImageReaderOptions(),
                        self._options,
                        pycolmap.Device.cpu,
                        token,
                    )
                )
                for image in opened.read_all_images():
                    rows = np.array(opened.read_descriptors(image.image_id).data, np.uint8)
                    places = np.asarray(opened.read_keypoints(image.image_id), np.float64)
                    points = places[:, :2] if len(rows) else np.empty((0, 2))
                    self._found[names[image.name]] = _Features(points, rows.reshape(-1, 128))


def _unit(features: _Features) -> Float32[torch.Tensor, "P 128"]:
    rows = torch.from_numpy(features.descriptors.astype(np.float32))
    return torch.nn.functional.normalize(rows, dim=1)


def mutual_nearest(
    a: Float32[torch.Tensor, "rows D"], b: Float32[torch.Tensor, "others D"], *, ratio: float = 1.0
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Return the places of rows that are each other's nearest, and nearer than `ratio` times the next.

    Rows have unit length; the distance is the Euclidean one. A row without a second neighbour passes;
    of neighbours that are equally near, which no ratio tells apart, none does.

    >>> rows = torch.eye(3)
    >>> [found.tolist() for found in mutual_nearest(rows, rows[[2, 0]])]
    [[0, 2], [1, 0]]
    """
    if not len(a) or not len(b):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    none = torch.full((len(b), 2), -np.inf), torch.zeros(len(b), 2, dtype=torch.int64)
    across, down = [], _Nearest(*none)
    for start in range(0, len(a), _ROWS):
        similarity = a[start : start + _ROWS] @ b.T  # [rows, others]
        across.append(_two_nearest(similarity))
        below = _two_nearest(similarity.T.contiguous())
        down = _two_of(down, _Nearest(below.similarity, below.place + start))
    nearest_a, passes_a = _passing(_Nearest(*map(torch.cat, zip(*across, strict=True))), ratio)
    nearest_b, passes_b = _passing(down, ratio)
    is_mutual = nearest_b[nearest_a] == np.arange(len(nearest_a))
    first = np.flatnonzero(is_mutual & passes_a & passes_b[nearest_a])
    return first, nearest_a[first]


class _Nearest(NamedTuple):
    """Hold the two most similar of each row, -inf where there is no second."""

    similarity: Float32[torch.Tensor, "rows 2"]
    place: Int64[torch.Tensor, "rows 2"]


def _two_nearest(similarity: torch.Tensor) -> _Nearest:
    found = _Nearest(*similarity.topk(min(2, similarity.shape[1]), dim=1))
    if similarity.shape[1] > 1:
        return found
    none = torch.full_like(found.similarity, -np.inf)
    return _Nearest(torch.cat([found.similarity, none], 1), found.place.repeat(1, 2))


def _two_of(one: _Nearest, other: _Nearest) -> _Nearest:
    """Return the two most similar of four."""
    best = torch.cat([one.similarity, other.similarity], 1).topk(2, dim=1)
    place = torch.cat([one.place, other.place], 1).gather(1, best.indices)
    return _Nearest(best.values, place)


def _passing(found: _Nearest, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest, and whether it is nearer than the ratio asks: of two equals neither is."""
    square = (2 - 2 * found.similarity).clamp(min=0)
    return found.place[:, 0].numpy(), (square[:, 0] < ratio**2 * square[:, 1]).numpy()


def photo_of(name: str, path: Path, camera: Camera | None, *, max_size: int | None) -> Photo:
    """Return a photo with its camera at a size of `max_size` on the longer side at most.

    Without a camera it gets one of its size, of focal length 1 to be replaced. Raises `UserError`
    where the file is missing or not readable.
    """
    with _opened(path) as image:
        width, height = image.size
    if camera is None:
        params = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
        camera = Camera("PINHOLE", params, width, height)
    scale = min(1.0, (max_size or np.inf) / max(width, height))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    if not camera.has_shape(*size):
        raise UserError(
            f"{path}: {width} x {height} pixels, which its camera, {camera.width} x "
            f"{camera.height}, does not fit; name the images with --images"
        )
    return Photo(name, path, camera.resized(*size))


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; name the folder of images with --images") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: no readable image ({reason}); bring it back") from error
