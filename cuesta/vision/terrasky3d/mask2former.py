"""Mask2Former as a segmenter: which pixels are people, vehicles, sky, water and the like, by a network
trained on COCO panoptic (Cheng et al., "Masked-attention Mask Transformer for Universal Image
Segmentation", CVPR 2022), through `transformers` and weights in a local folder.

```
class of a pixel   argmax over k of Σ over queries q of  softmax(classes_q)[k] · sigmoid(mask_q)
```

That is the semantic inference of its predecessor (Cheng et al., MaskFormer, NeurIPS 2021, section
3.4). Nothing is downloaded and nothing unpickled: the folder is read as it is, weights as safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, final

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from safetensors import SafetensorError

from cuesta.errors import UserError

REMOVED = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "truck",
    "light",
    "sea",
    "snow",
    "water-other",
    "tree-merged",
    "sky-other-merged",
    "mountain-merged",
)  # classes of COCO panoptic that TerraSky3D takes out
_REMEDY = (
    "give a folder with config.json, preprocessor_config.json and model.safetensors of a Mask2Former "
    "trained on COCO panoptic, or leave it out"
)


class _Preparation(NamedTuple):
    """Hold how pictures are prepared: an exact size, or least and greatest side; mean and deviation."""

    exact: tuple[int, int] | None  # height, width
    shortest: int
    longest: int
    divisor: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


_USUAL = _Preparation(None, 800, 1333, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@final
class Mask2Former:
    """Keep the pixels of a picture that are of none of the removed classes; see `load_mask2former`."""

    def __init__(
        self,
        model: torch.nn.Module,
        is_removed: Bool[torch.Tensor, " K"],
        preparation: _Preparation,
        device: torch.device,
    ) -> None:
        self._model = model
        self._is_removed = is_removed
        self._preparation = preparation
        self._device = device

    @torch.inference_mode()
    def __call__(
        self, image: UInt8[ndarray, "Y X 3"], depth: Float[ndarray, "Y X"] | None = None
    ) -> Bool[ndarray, "Y X"]:
        """Return True where an RGB picture is kept; `depth` is not looked at.

        The best removed and the best kept class are compared at the size of the picture, their
        scores interpolated from the network's quarter of its input.
        """
        del depth
        pixels = _prepared(image, self._preparation).to(self._device)
        result = self._model(pixel_values=pixels)
        classes = result.class_queries_logits[0].float().softmax(-1)[:, :-1]  # without "nothing"
        masks = result.masks_queries_logits[0].float().sigmoid()
        scores = torch.einsum("qk,qyx->kyx", classes, masks)
        removed = scores[self._is_removed].amax(0)
        kept = scores[~self._is_removed].amax(0)
        size = (image.shape[0], image.shape[1])
        both = torch.stack([removed, kept])[None]
        full = torch.nn.functional.interpolate(both, size, mode="bilinear", align_corners=False)[0]
        return np.asarray((full[0] <= full[1]).cpu().numpy())


def load_mask2former(
    folder: str | Path, *, removed: tuple[str, ...] = REMOVED, device: str = "cpu"
) -> Mask2Former:
    """Return the network in a local folder of the form that `transformers` saves.

    `removed` are names of its classes. Raises `UserError` where `transformers` is not installed, the
    folder is no Mask2Former with safetensors, or it has no class of a name in `removed`.
    """
    folder = Path(folder)
    _check(folder)
    try:
        from transformers import Mask2FormerForUniversalSegmentation
    except ImportError as error:
        raise UserError(
            f"{folder}: Mask2Former needs transformers ({error}); pip install 'cuesta[segment]' "
            "brings it, or leave the weights out"
        ) from error
    try:
        model = Mask2FormerForUniversalSegmentation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: no whole Mask2Former ({reason}); {_REMEDY}") from error
    labels: dict[int, str] = {int(key): name for key, name in model.config.id2label.items()}
    is_removed = removed_classes(labels, removed, where=str(folder))
    place = torch.device(device)
    model = model.eval().to(place)
    return Mask2Former(model, is_removed.to(place), _preparation(folder), place)


def removed_classes(
    labels: dict[int, str], removed: tuple[str, ...], *, where: str
) -> Bool[torch.Tensor, " K"]:
    """Return which of the classes 0 … K − 1 have a name in `removed`.

    Raises `UserError` naming `where` and the first name that no class has, or where nothing is left.

    >>> removed_classes({0: "person", 1: "wall"}, ("person",), where="weights").tolist()
    [True, False]
    """
    names = [labels[number] for number in range(len(labels))]
    for name in removed:
        if name not in names:
            raise UserError(f"{where}: no class is called {name!r}; it has {', '.join(names)}")
    chosen = torch.tensor([name in removed for name in names])
    if chosen.all() or not chosen.any():
        raise UserError(f"{where}: remove some of its {len(names)} classes, not all and not none")
    return chosen


def _check(folder: Path) -> None:
    """Look at the folder before the slow import: what it is, and that its weights are safetensors."""
    config = _read_object(folder / "config.json")
    if config is None or config.get("model_type") != "mask2former":
        raise UserError(f"{folder}: no Mask2Former (its config.json does not say so); {_REMEDY}")
    if not any((folder / f"model.safetensors{end}").is_file() for end in ("", ".index.json")):
        raise UserError(f"{folder}: no model.safetensors (pickled weights are not read); {_REMEDY}")


def _preparation(folder: Path) -> _Preparation:
    """Return how the network wants its pictures; the usual way where the folder does not say."""
    config = _read_object(folder / "preprocessor_config.json") or {}
    size = config.get("size")
    mean, deviation = (
        config.get("image_mean", _USUAL.mean),
        config.get("image_std", _USUAL.deviation),
    )
    divisor = config.get("size_divisor", _USUAL.divisor)
    try:
        sides = {str(k): int(v) for k, v in size.items()} if isinstance(size, dict) else {}
        has_exact = {"height", "width"} <= set(sides)
        found = _Preparation(
            exact=(sides["height"], sides["width"]) if has_exact else None,
            shortest=sides.get("shortest_edge", _USUAL.shortest),
            longest=sides.get("longest_edge", _USUAL.longest),
            divisor=max(1, int(str(divisor))),
            mean=_three_numbers(mean),
            deviation=_three_numbers(deviation),
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: broken preprocessor_config.json ({error}); {_REMEDY}"
        ) from error
    return found


def _three_numbers(values: object) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ValueError(f"three numbers are needed, not {values!r}")
    return tuple(float(value) for value in values)


def _read_object(path: Path) -> dict[str, object] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _prepared(
    image: UInt8[ndarray, "Y X 3"], preparation: _Preparation
) -> Float[torch.Tensor, "1 3 _ _"]:
    """Return a picture as the network takes it: resized, in units of its mean and deviation."""
    height, width = _input_size(image.shape[0], image.shape[1], preparation)
    shrinks = height < image.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=method).astype(np.float32) / 255
    mean, deviation = (
        np.asarray(values, np.float32) for values in (preparation.mean, preparation.deviation)
    )
    return torch.from_numpy(
        np.ascontiguousarray(((resized - mean) / deviation).transpose(2, 0, 1))
    )[None]


def _input_size(height: int, width: int, preparation: _Preparation) -> tuple[int, int]:
    """Return height and width for the network, multiples of its divisor."""
    if preparation.exact is not None:
        height, width = preparation.exact
    else:
        scale = preparation.shortest / min(height, width)
        scale = min(scale, preparation.longest / max(height, width))
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
    step = preparation.divisor
    return -(-height // step) * step, -(-width // step) * step
