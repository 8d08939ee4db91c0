"""Both kinds of masks of a scene with depth: what they keep is told, and a second run does nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.scene import Scene, verify_scene
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.claim import only_run
from cuesta.vision.terrasky3d.geometric_masks import MaskSettings
from cuesta.vision.terrasky3d.masks import Masks, MasksSettings, make_masks
from tests.vision.terrasky3d.dense_place import times
from tests.vision.terrasky3d.solids import write_place

MEMORY = 1 << 30


@pytest.fixture
def place(tmp_path: Path) -> Scene:
    return write_place(tmp_path / "place")


def made(place: Scene, **geometric: object) -> Masks:
    settings = MasksSettings(geometric=MaskSettings(**geometric))
    return make_masks(place.root, settings, memory=MEMORY)


def kept(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        pixels = np.asarray(image)
    assert set(np.unique(pixels)) <= {0, 255}
    return pixels == 255


def test_every_image_gets_both_masks_and_the_manifest_lists_them(place: Scene) -> None:
    told = made(place).to_json()
    names = read_colmap(place.model).names
    assert sorted(told["geometric"]["images"]) == sorted(names)
    listed = json.loads(place.manifest.read_text())["files"]
    shares = []
    for name in names:
        for path in (place.geometric_mask(name), place.semantic_mask(name)):
            assert path.relative_to(place.root).as_posix() in listed
        share = kept(place.geometric_mask(name)).mean()
        assert told["geometric"]["images"][name] == pytest.approx(share, abs=1e-6)
        shares.append(share)
        assert kept(place.semantic_mask(name)).shape == kept(place.geometric_mask(name)).shape
    assert told["geometric"]["mean_kept"] == pytest.approx(np.mean(shares), abs=1e-5)
    assert 0.5 < told["geometric"]["mean_kept"] < 1
    verify_scene(place.root)


def test_a_second_run_does_nothing(place: Scene) -> None:
    first = made(place).to_json()
    before = {path: time for path, time in times(place).items() if path.suffix == ".png"}
    again = made(place).to_json()
    assert again["geometric"] == first["geometric"]
    assert (first["semantic"]["num_made"], again["semantic"]["num_made"]) == (5, 0)
    assert again["semantic"]["mean_kept"] == first["semantic"]["mean_kept"]
    assert {path: time for path, time in times(place).items() if path.suffix == ".png"} == before


def test_a_stricter_rule_keeps_less(place: Scene) -> None:
    masks = [made(place, min_views=count).geometric for count in (1, 2, 3)]
    counts = [sum(view.num_kept for view in views) for views in masks]
    assert counts[0] > counts[1] > counts[2]


def test_raw_depth_is_left_as_it_is(place: Scene) -> None:
    files = sorted((place.root / "depth" / "maps").rglob("*.h5"))
    before = [path.read_bytes() for path in files]
    made(place)
    assert [path.read_bytes() for path in files] == before


def test_two_runs_at_once_are_refused(place: Scene) -> None:
    with only_run(place), pytest.raises(UserError, match="another run is writing into it"):
        made(place)


def test_a_scene_without_depth_is_told(place: Scene) -> None:
    for path in (place.root / "depth" / "maps").rglob("*.h5"):
        path.unlink()
    with pytest.raises(UserError, match="no depth maps; `cuesta depth"):
        made(place)


def test_settings_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    settings = MasksSettings()
    both = dataclasses.replace(settings.semantic, masks=Path("a"), weights=Path("b"))
    with pytest.raises(UserError, match=r"masks \(a\) and weights \(b\) both say what to keep"):
        make_masks(tmp_path / "none", dataclasses.replace(settings, semantic=both), memory=MEMORY)
