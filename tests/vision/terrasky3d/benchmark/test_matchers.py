"""Matches are those of a table of all distances, keypoints are in our pixels, photos fit their cameras."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cuesta.errors import UserError
from cuesta.geometry import Camera
from cuesta.vision.terrasky3d.benchmark import matchers
from cuesta.vision.terrasky3d.benchmark.matchers import (
    Photo,
    SiftMatcher,
    mutual_nearest,
    photo_of,
)


def unit_rows(count: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=1)


def by_brute_force(a: torch.Tensor, b: torch.Tensor, ratio: float) -> set[tuple[int, int]]:
    distances = torch.cdist(a.double(), b.double()).numpy()
    found = set()
    for i, row in enumerate(distances):
        j = int(row.argmin())
        column = distances[:, j]
        others = np.delete(row, j), np.delete(column, i)
        is_clear = all(row[j] < ratio * other.min() for other in others if len(other))
        if column.argmin() == i and is_clear:
            found.add((i, j))
    return found


@pytest.mark.parametrize("ratio", [0.6, 0.8, 1.0])
@pytest.mark.parametrize(("num_a", "num_b"), [(40, 55), (1, 7), (7, 1), (1, 1), (0, 3), (3, 0)])
def test_matches_are_those_of_all_distances(
    num_a: int, num_b: int, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matchers, "_ROWS", 9)
    a, b = unit_rows(num_a, 1), unit_rows(num_b, 2)
    first, second = mutual_nearest(a, b, ratio=ratio)
    expected = by_brute_force(a, b, ratio) if num_a and num_b else set()
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    back = mutual_nearest(b, a, ratio=ratio)
    assert set(zip(back[1].tolist(), back[0].tolist(), strict=True)) == expected


def test_two_equal_neighbours_are_no_match() -> None:
    a = unit_rows(1, 3)
    first, _ = mutual_nearest(a, torch.cat([a, a]), ratio=0.8)
    assert len(first) == 0


def test_keypoints_have_pixel_centres_at_a_half(tmp_path: Path) -> None:
    """Blobs drawn at known places, with a fraction of a pixel, are found there."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:320, :320] + 0.5
    grid = np.array([(40 + 80 * i, 40 + 80 * j) for i in range(4) for j in range(4)])
    places = grid + draw.uniform(-1, 1, (16, 2))
    light = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 3.0**2)) for u, v in places)
    grey = np.rint(255 * np.clip(light, 0, 1)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "blobs.png")
    camera = Camera("PINHOLE", torch.tensor([300.0, 300.0, 160.0, 160.0]), 320, 320)
    photo = Photo("blobs.png", tmp_path / "blobs.png", camera)
    matcher = SiftMatcher()
    matcher.prepare([photo])
    found = matcher._found[photo.path].points
    off = found[np.linalg.norm(found[:, None] - places, axis=-1).argmin(0)] - places
    assert np.abs(off.mean(0)).max() < 0.02
    assert np.abs(off).max() < 0.1


def test_a_photo_without_features_matches_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), (90, 90, 90)).save(tmp_path / "flat.png")
    flat = photo_of("flat.png", tmp_path / "flat.png", None, max_size=None)
    found = SiftMatcher()(flat, flat)
    assert found.points_a.shape == found.points_b.shape == (0, 2)


def test_a_photo_comes_at_the_size_of_its_camera(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (80, 60)).save(path)
    camera = Camera("PINHOLE", torch.tensor([200.0, 200.0, 80.0, 60.0]), 160, 120)
    small = photo_of("a.png", path, camera, max_size=40)
    assert small.camera.params.tolist() == [50.0, 50.0, 20.0, 15.0]
    assert small.rgb().shape == (30, 40, 3)
    as_is = photo_of("a.png", path, camera, max_size=None)
    assert as_is.rgb().shape == (60, 80, 3)


def test_a_photo_of_another_shape_than_its_camera_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (60, 80)).save(path)
    camera = Camera("PINHOLE", torch.tensor([200.0, 200.0, 80.0, 60.0]), 160, 120)
    with pytest.raises(UserError, match=r"a\.png: 60 x 80 pixels.*160 x 120.*--images"):
        photo_of("a.png", path, camera, max_size=None)
    with pytest.raises(UserError, match=r"b\.png: no such image"):
        photo_of("b.png", tmp_path / "b.png", camera, max_size=None)
