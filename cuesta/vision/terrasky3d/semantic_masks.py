"""`make_semantic_masks`: for each image of a scene, what of it is neither sky nor anything that moves,
grows or flows (TerraSky3D publishes these masks beside raw depth and geometric masks).

```
a segmenter of the caller's, else
a folder of the user's masks, else
Mask2Former, where its weights are given, else
the heuristic: the sky by its looks, and what moved by what other views confirm
```

Masks are 8 bits, 255 = keep. Each is written when it is made, with a record below `work/`: a run that
was cut off goes on, and one with the same inputs does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, final

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from numpy.typing import NDArray
from PIL import Image

from cuesta.data.files import atomic_file, write_text
from cuesta.data.maps import read_map
from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.scene import Json, Scene
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.distractors import Look, MoverFinder
from cuesta.vision.terrasky3d.mask2former import REMOVED, load_mask2former
from cuesta.vision.terrasky3d.sky import find_sky
from cuesta.vision.terrasky3d.stages import OnProgress, fingerprint, ignore_stages

_CODE = 2  # raised when a mask would come out differently; those made before are then made again
STAGE = "masks"
_RED = (220, 30, 30)

Rgb = NDArray[np.uint8]
Depth = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Segmenter(Protocol):
    """Say what to keep of an image; `depth` is z, 0 where no other view confirms it, None for none."""

    def __call__(
        self, image: UInt8[ndarray, "Y X 3"], depth: Float[ndarray, "Y X"] | None
    ) -> Bool[ndarray, "Y X"]: ...


@dataclass(frozen=True, kw_only=True)
class SemanticSettings:
    """Say where masks come from; `masks` or `weights`, not both, and the heuristic without them.

    `masks` is a folder with a mask for each of the scene's frames, of its size: `cam_0/a.jpg.png`
    (COLMAP's way), `cam_0/a.png`, or the same without `cam_0/`; 0 = remove. `weights` is a folder
    with a Mask2Former; `removed` are its classes to take out; `device` is where it runs.
    """

    masks: Path | None = None
    weights: Path | None = None
    removed: tuple[str, ...] = REMOVED
    device: str = "cpu"

    def check(self) -> None:
        """Refuse two sources; flags set one field after the other."""
        if self.masks is not None and self.weights is not None:
            raise UserError(
                f"masks ({self.masks}) and weights ({self.weights}) both say what to keep; give one"
            )


class SemanticCoverage(NamedTuple):
    """Hold of an image the share of its pixels that is kept; `is_fresh` if the mask was made now."""

    name: str
    kept: float
    is_fresh: bool


@final
@dataclass(frozen=True, kw_only=True)
class SemanticMasks:
    """Hold where the masks of a scene came from, what each keeps, and what there is to know of them."""

    source: str
    images: tuple[SemanticCoverage, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it in plain data, for reports and `--json`."""
        kept = [image.kept for image in self.images]
        return {
            "source": self.source,
            "num_images": len(self.images),
            "num_made": sum(image.is_fresh for image in self.images),
            "mean_kept": round(float(np.mean(kept)), 6),
            "least_kept": round(min(kept), 6),
            "images": {image.name: round(image.kept, 6) for image in self.images},
            "notes": list(self.notes),
        }


def make_semantic_masks(
    scene: Scene,
    settings: SemanticSettings,
    on_progress: OnProgress = ignore_stages,
    *,
    segmenter: Segmenter | None = None,
) -> SemanticMasks:
    """Write `scene.semantic_mask(name)` for every image of the model, and return what they keep.

    A `segmenter` is known by its name only: change its name when it changes. Depth counts where
    `scene.geometric_mask(name)` keeps it. The manifest is the caller's to write anew. Raises
    `UserError` naming the file for a frame, mask or map that is broken or of another size, where the
    user's folder has no mask of this scene, and as `load_mask2former`.
    """
    settings.check()
    views = read_colmap(scene.model)
    source = _source_of(scene, views, settings, segmenter)
    images = []
    for done, name in enumerate(views.names):
        on_progress(STAGE, done, len(views))
        images.append(_mask_once(scene, name, source))
    on_progress(STAGE, len(views), len(views))
    return SemanticMasks(source=source.name, images=tuple(images), notes=source.notes)


def draw_removed(
    image: UInt8[ndarray, "Y X 3"], keep: Bool[ndarray, "Y X"], *, width: int = 320
) -> bytes:
    """Return a small PNG of an image, with red over what is removed."""
    size = (width, max(1, round(width * image.shape[0] / image.shape[1])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    share = cv2.resize((~keep).astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None]
    drawn = small + 0.6 * share * (np.asarray(_RED, np.float32) - small)
    is_done, data = cv2.imencode(".png", np.rint(drawn[..., ::-1]).astype(np.uint8))
    assert is_done
    return data.tobytes()


class _Source(NamedTuple):
    """Hold what makes masks: its name, a fingerprint of what it reads for an image, and how."""

    name: str
    facts: Callable[[str], Json]
    keep: Callable[[str], Mask]
    notes: tuple[str, ...]


def _source_of(
    scene: Scene, views: Views, settings: SemanticSettings, segmenter: Segmenter | None
) -> _Source:
    if segmenter is not None:
        return _by_segmenter(scene, views, segmenter, _name_of(segmenter))
    if settings.masks is not None:
        return _by_user(views, settings.masks)
    if settings.weights is not None:
        network = load_mask2former(
            settings.weights, removed=settings.removed, device=settings.device
        )
        facts = [_facts_of(path) for path in sorted(settings.weights.iterdir())]
        name = f"Mask2Former of {settings.weights} [{fingerprint([facts, list(settings.removed)])}]"
        return _by_segmenter(scene, views, network, name)
    return _by_heuristic(scene, views)


def _by_segmenter(scene: Scene, views: Views, segmenter: Segmenter, name: str) -> _Source:
    def keep(image: str) -> Mask:
        found = segmenter(_frame(scene, views, image), _confirmed_depth(scene, views, image))
        camera = views.camera(image)
        if found.shape != (camera.height, camera.width) or found.dtype != np.bool_:
            raise ValueError(
                f"a segmenter returns bool {[camera.height, camera.width]} for {image}, "
                f"got {found.dtype} {list(found.shape)}"
            )
        return found

    def facts(image: str) -> Json:
        return [_facts_of(scene.depth_map(image)), _facts_of(scene.geometric_mask(image))]

    return _Source(name, facts, keep, ())


def _by_user(views: Views, folder: Path) -> _Source:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of masks; name another")
    files = {image: _users_mask(folder, image) for image in views.names}
    missing = [image for image, file in files.items() if file is None]
    if len(missing) == len(views):
        raise UserError(
            f"{folder}: no mask of this scene; {views.names[0]} is looked for as "
            f"{', '.join(_names_of_mask(views.names[0]))}"
        )
    notes = (f"no mask of {image} in {folder}; all of it is kept" for image in missing)

    def keep(image: str) -> Mask:
        camera, file = views.camera(image), files[image]
        if file is None:
            return np.ones((camera.height, camera.width), bool)
        return _read_mask(file, camera.width, camera.height)

    def facts(image: str) -> Json:
        file = files[image]
        return None if file is None else [str(file), _facts_of(file)]

    return _Source(f"masks of {folder}", facts, keep, tuple(notes))


def _by_heuristic(scene: Scene, views: Views) -> _Source:
    def look(image: str) -> Look | None:
        depth = _confirmed_depth(scene, views, image)
        return None if depth is None else Look(_frame(scene, views, image), depth)

    finder = MoverFinder(views, look)

    def keep(image: str) -> Mask:
        frame, depth = _frame(scene, views, image), _confirmed_depth(scene, views, image)
        return np.asarray(~(find_sky(frame, depth) | finder.find(image)))

    maps = [[_facts_of(f) for f in _depth_files(scene, image)] for image in views.names]
    model = [_facts_of(path) for path in sorted(scene.model.iterdir())]
    everything = fingerprint([model, maps])
    notes = [
        "the heuristic removes sky and what moved; trees, water and what stands still it keeps"
    ]
    if sum(all(f.is_file() for f in _depth_files(scene, image)) for image in views.names) < 3:
        notes.append(
            "fewer than three images have depth and a geometric mask: the sky was found by its looks "
            "alone, and what moved was not looked for; run `cuesta depth` first"
        )
    return _Source("heuristic", lambda _: everything, keep, tuple(notes))


def _mask_once(scene: Scene, image: str, source: _Source) -> SemanticCoverage:
    """Return what the mask of an image keeps, made unless it is there and its inputs are the same."""
    target = scene.semantic_mask(image)
    record = scene.work / "semantic_masks" / f"{image}.json"
    made_from = fingerprint(
        [_CODE, source.name, source.facts(image), _facts_of(scene.frame(image))]
    )
    known = _read_record(record)
    if known.get("made_from") == made_from and known.get("file") == _facts_of(target):
        kept = known.get("kept")
        assert isinstance(kept, float)
        return SemanticCoverage(image, kept, is_fresh=False)
    keep = source.keep(image)
    with atomic_file(target) as temporary:
        Image.fromarray(keep.astype(np.uint8) * np.uint8(255)).save(temporary, format="PNG")
    share = float(keep.mean())
    about = {"made_from": made_from, "file": _facts_of(target), "kept": share}
    write_text(record, json.dumps(about) + "\n")
    return SemanticCoverage(image, share, is_fresh=True)


def _frame(scene: Scene, views: Views, image: str) -> Rgb:
    path, camera = scene.frame(image), views.camera(image)
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: no whole picture ({error}); make the scene again") from error
    _check_size(path, pixels, camera.width, camera.height)
    return pixels


def _confirmed_depth(scene: Scene, views: Views, image: str) -> Depth | None:
    """Return the depth of an image where its geometric mask keeps it, None where either is missing.

    Maps that were made smaller than their image are brought to its size, each pixel as the nearest.
    """
    camera = views.camera(image)
    files = _depth_files(scene, image)
    if not all(file.is_file() for file in files):
        return None
    depth = read_map(files[0])
    height, width = depth.shape[:2]
    if not camera.has_shape(width, height):
        _check_size(files[0], depth, camera.width, camera.height)
    confirmed = np.where(_read_mask(files[1], width, height), depth, 0).astype(np.float32)
    if (width, height) == (camera.width, camera.height):
        return confirmed
    size = (camera.width, camera.height)
    return np.asarray(cv2.resize(confirmed, size, interpolation=cv2.INTER_NEAREST))


def _depth_files(scene: Scene, image: str) -> tuple[Path, Path]:
    return scene.depth_map(image), scene.geometric_mask(image)


def _read_mask(path: Path, width: int, height: int) -> Mask:
    """Return where a mask is not 0. Raises `UserError` where it is broken or of another size."""
    try:
        with Image.open(path) as picture:
            is_plain = picture.mode in ("1", "L", "I", "I;16", "F")
            values = np.asarray(picture if is_plain else picture.convert("L"))
    except OSError as error:
        raise UserError(f"{path}: no whole mask ({error}); write it again") from error
    _check_size(path, values, width, height)
    return np.asarray(values > 0)


def _check_size(path: Path, values: NDArray[np.generic], width: int, height: int) -> None:
    if values.shape[:2] != (height, width):
        raise UserError(
            f"{path}: {values.shape[1]} x {values.shape[0]} pixels, its image has {width} x {height}; "
            "write it again at that size"
        )


def _users_mask(folder: Path, image: str) -> Path | None:
    found = (folder / name for name in _names_of_mask(image))
    return next((path for path in found if path.is_file()), None)


def _names_of_mask(image: str) -> list[str]:
    """Return what a user's mask of an image may be called, best first."""
    path = PurePosixPath(image)
    names = [f"{image}.png", str(path.with_suffix(".png")), f"{path.name}.png", f"{path.stem}.png"]
    return list(dict.fromkeys(names))


def _name_of(segmenter: Segmenter) -> str:
    kind = segmenter if hasattr(segmenter, "__qualname__") else type(segmenter)
    return f"{kind.__module__}.{getattr(kind, '__qualname__', '')}"


def _facts_of(path: Path) -> list[Json]:
    """Return name, size and time of change of a file, nothing where there is none."""
    if not path.is_file():
        return []
    about = path.stat()
    return [path.name, about.st_size, about.st_mtime_ns]


def _read_record(path: Path) -> dict[str, Json]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("kept"), float) else {}
