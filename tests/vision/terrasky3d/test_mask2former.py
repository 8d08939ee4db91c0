"""Mask2Former of a local folder: which classes go, how pictures go in, and what is refused.

With `transformers` a tiny network with random weights is saved, loaded and run; without, a stand-in
answers what the network would.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from cuesta.errors import UserError
from cuesta.vision.terrasky3d import mask2former
from cuesta.vision.terrasky3d.mask2former import (
    REMOVED,
    Mask2Former,
    load_mask2former,
    removed_classes,
)

LABELS = {0: "person", 1: "car", 2: "sky-other-merged", 3: "wall-brick", 4: "window-other"}
HEIGHT, WIDTH = 96, 128
needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed (extra segment)"
)


class Answer(NamedTuple):
    class_queries_logits: torch.Tensor
    masks_queries_logits: torch.Tensor


class StandIn(torch.nn.Module):
    """Answer with given queries, whatever the picture; keep what it was given."""

    def __init__(self, classes: torch.Tensor, masks: torch.Tensor) -> None:
        super().__init__()
        self.answer = Answer(classes[None], masks[None])
        self.given: list[torch.Tensor] = []

    def forward(self, pixel_values: torch.Tensor) -> Answer:
        self.given.append(pixel_values)
        return self.answer


def segmenter(
    classes: torch.Tensor, masks: torch.Tensor, **size: int
) -> tuple[Mask2Former, StandIn]:
    stand_in = StandIn(classes, masks)
    is_removed = removed_classes(LABELS, ("person", "sky-other-merged"), where="here")
    usual = mask2former._USUAL._replace(**size)
    return Mask2Former(stand_in, is_removed, usual, torch.device("cpu")), stand_in


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_the_papers_classes_are_twelve_of_coco() -> None:
    assert len(REMOVED) == len(set(REMOVED)) == 12
    assert {"person", "sky-other-merged", "tree-merged", "water-other"} <= set(REMOVED)


def test_a_pixel_goes_with_the_class_that_its_queries_make_likeliest() -> None:
    draw = torch.Generator().manual_seed(0)
    classes = torch.randn(7, 6, generator=draw) * 3  # 7 queries, 5 classes and "nothing"
    masks = torch.randn(7, HEIGHT, WIDTH, generator=draw) * 3
    keep = segmenter(classes, masks)[0](picture())
    weights = classes.double().softmax(-1)
    for y, x in [(0, 0), (17, 90), (95, 127), (40, 3), (60, 64)]:  # by hand, a pixel at a time
        scores = [
            sum(float(weights[q, k] * masks[q, y, x].double().sigmoid()) for q in range(7))
            for k in range(5)
        ]
        assert keep[y, x] == (LABELS[int(np.argmax(scores))] not in ("person", "sky-other-merged"))
    assert 0.1 < keep.mean() < 0.9


def test_scores_of_a_quarter_of_the_size_become_a_mask_of_the_pictures_size() -> None:
    classes = torch.full((2, 6), -9.0)
    classes[0, 0] = classes[1, 3] = 9.0  # a person, a wall
    left = torch.where(torch.arange(WIDTH // 4) < WIDTH // 8, 9.0, -9.0).expand(HEIGHT // 4, -1)
    keep = segmenter(classes, torch.stack([left, -left]))[0](picture())
    assert keep.shape == (HEIGHT, WIDTH)
    assert not keep[:, : WIDTH // 2].any()
    assert keep[:, WIDTH // 2 :].all()


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((96, 128), {}, (800, 1088)),  # 800 x 1067, the sides then multiples of 32
        ((96, 288), {}, (448, 1344)),  # the longer side is at most 1333
        ((96, 128), {"shortest": 64, "longest": 999, "divisor": 1}, (64, 85)),
    ],
)
def test_pictures_go_in_at_the_size_that_the_network_was_trained_at(
    shape: tuple[int, int], options: dict[str, int], expected: tuple[int, int]
) -> None:
    model, stand_in = segmenter(torch.randn(2, 6), torch.randn(2, 8, 8), **options)
    model(picture(*shape))
    assert stand_in.given[0].shape == (1, 3, *expected)


def test_pictures_go_in_with_mean_and_deviation_taken_out() -> None:
    model, stand_in = segmenter(torch.randn(2, 6), torch.randn(2, 8, 8))
    model(np.full((HEIGHT, WIDTH, 3), (255, 0, 51), np.uint8))
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    for channel, value in enumerate(expected):
        assert torch.allclose(stand_in.given[0][0, channel], torch.tensor(value))


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        (("person", "tree-merged"), "no class is called 'tree-merged'; it has person, car, "),
        ((), "remove some of its 5 classes"),
        (tuple(LABELS.values()), "remove some of its 5 classes"),
    ],
)
def test_names_that_are_no_classes_are_refused(removed: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        removed_classes(LABELS, removed, where="weights")


def folder_of(path: Path, *, kind: str = "mask2former", weights: str = "model.safetensors") -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": kind}))
    (path / weights).write_bytes(b"\0" * 64)
    return path


def test_a_folder_of_something_else_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no Mask2Former .*give a folder with config.json"):
        load_mask2former(tmp_path / "none")
    with pytest.raises(UserError, match=r"no Mask2Former .*give a folder with config.json"):
        load_mask2former(folder_of(tmp_path / "other", kind="bert"))


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "weights", weights="pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model.safetensors .pickled weights are not read."):
        load_mask2former(folder)


def test_without_transformers_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'cuesta\[segment\]' brings it"):
        load_mask2former(folder_of(tmp_path / "weights"))


@needs_transformers
def test_broken_weights_are_named(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "weights")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="weights: no whole Mask2Former"):
        load_mask2former(folder, removed=("person",))


@needs_transformers
def test_a_saved_network_is_loaded_and_answers_as_it_did(tmp_path: Path) -> None:
    from transformers import Mask2FormerForUniversalSegmentation

    folder = tiny(tmp_path / "weights")
    model = load_mask2former(folder, removed=("person", "sky-other-merged"))
    image = picture()
    keep = model(image)
    assert keep.shape == (HEIGHT, WIDTH)
    assert np.array_equal(
        keep, load_mask2former(folder, removed=("person", "sky-other-merged"))(image)
    )
    opposite = load_mask2former(folder, removed=("car", "wall-brick", "window-other"))(image)
    assert np.array_equal(opposite, ~keep)
    raw = Mask2FormerForUniversalSegmentation.from_pretrained(folder, local_files_only=True).eval()
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    pixels = (torch.from_numpy(image).float() / 255 - mean) / deviation
    with torch.no_grad():
        result = raw(pixel_values=pixels.permute(2, 0, 1)[None])
    classes = result.class_queries_logits.softmax(-1)[0, :, :5]
    masks = result.masks_queries_logits.sigmoid()[0]
    scores = (classes[:, :, None, None] * masks[:, None]).sum(0)
    is_removed = torch.isin(scores.argmax(0), torch.tensor([0, 2])).numpy()
    middle = (~keep)[1::4, 1::4] & (~keep)[2::4, 2::4]  # four pixels for one of the network's
    assert (middle == is_removed).mean() > 0.9


def tiny(folder: Path) -> Path:
    """Save a small network with random weights, its pictures 128 x 96."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=6,
        id2label=LABELS,
        label2id={name: number for number, name in LABELS.items()},
    )
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    size = {"height": HEIGHT, "width": WIDTH}
    about = {"size": size, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder
