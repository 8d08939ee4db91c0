"""Pairs of large sets are those near in time, place and looks."""

from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from cuesta.errors import UserError
from cuesta.vision.terrasky3d.matching import connected_parts
from cuesta.vision.terrasky3d.pairs import (
    choose_pairs,
    enu_of,
    looks_of,
    sequential_pairs,
    similar_pairs,
    spatial_pairs,
)
from cuesta.vision.terrasky3d.settings import MatchSettings


def photo(name: str, clip: str | None = None, gps: list[float] | None = None) -> dict[str, Any]:
    return {"name": name, "clip": clip, "gps": gps}


def test_small_sets_are_matched_exhaustively(tmp_path: Path) -> None:
    photos = [photo(f"cam_0/{number}.jpg") for number in range(5)]
    pairs, rules = choose_pairs(tmp_path / "none.db", photos, MatchSettings(), 0)
    assert len(pairs) == len(set(pairs)) == 10
    assert all(first < second for first, second in pairs)
    assert rules == {"exhaustive": 10}


def test_sequences_stay_within_a_clip_and_reach_far() -> None:
    photos = [photo(f"cam_0/{clip}_{n:02d}.jpg", clip) for clip in "ab" for n in range(20)]
    pairs = sequential_pairs(photos, 3)
    steps = set()
    for first, second in pairs:
        assert first.split("_")[1] == second.split("_")[1]
        steps.add(int(second[-6:-4]) - int(first[-6:-4]))
    assert steps == {1, 2, 3, 4, 8, 16}


def test_neighbours_on_the_ground_are_paired_up_to_a_distance() -> None:
    # a thousandth of a degree of latitude is 111 m
    line = [photo(f"cam_0/{n}.jpg", gps=[47 + n / 4000, 15.0, 100.0 * n]) for n in range(6)]
    assert spatial_pairs(line, 2, 40.0) == {
        (f"cam_0/{n}.jpg", f"cam_0/{n + 1}.jpg") for n in range(5)
    }


def test_a_missing_altitude_is_the_median_and_not_0() -> None:
    places = [[47.0, 15.0, 400.0], [47.0001, 15.0, None], [47.0002, 15.0, 410.0]]
    enu, middle = enu_of(places)
    assert middle.tolist() == [47.0001, 15.0, 405.0]
    assert enu[1].tolist() == [0, 0, 0]
    flat, sea = enu_of([[47.0, 15.0, None], [47.0001, 15.0, None]])
    assert sea[2] == 0
    assert abs(flat[1, 1] - flat[0, 1] - 11.1) < 0.1  # a ten-thousandth of a degree


def test_spatial_pairs_need_gps(tmp_path: Path) -> None:
    settings = MatchSettings(method="spatial")
    with pytest.raises(UserError, match="needs GPS"):
        choose_pairs(
            tmp_path / "none.db", [photo("cam_0/a.jpg"), photo("cam_0/b.jpg")], settings, 0
        )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database of four places, each seen in five images with noise on its descriptors."""
    path = tmp_path_factory.mktemp("looks") / "database.db"
    generator = np.random.default_rng(0)
    places = generator.integers(0, 200, (4, 300, 128))
    with pycolmap.Database.open(path) as opened:
        camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", 500, 640, 480)
        opened.write_camera(camera, use_camera_id=True)
        for number in range(20):
            place = places[number % 4]
            rows = (place + generator.integers(0, 30, place.shape)).clip(0, 255).astype(np.uint8)
            image = pycolmap.Image(name=f"cam_0/{number:02d}.jpg", camera_id=1)
            image_id = opened.write_image(image)
            descriptors = pycolmap.FeatureDescriptors(pycolmap.FeatureExtractorType.SIFT, rows)
            opened.write_descriptors(image_id, descriptors)
    return path


def test_similar_images_are_those_of_one_place(database: Path) -> None:
    pairs = similar_pairs(looks_of(database, 0), 4)
    assert len(pairs) == 4 * 10
    for first, second in pairs:
        assert int(first[-6:-4]) % 4 == int(second[-6:-4]) % 4


def test_looks_are_unit_vectors_and_the_same_every_time(database: Path) -> None:
    once, again = looks_of(database, 0), looks_of(database, 0)
    for name, look in once.items():
        assert abs(float(np.linalg.norm(look)) - 1) < 1e-6
        assert np.array_equal(look, again[name])


def test_large_sets_take_every_rule_that_they_can(database: Path) -> None:
    photos = [photo(f"cam_0/{n:02d}.jpg", gps=[47 + n / 1e5, 15.0, 0.0]) for n in range(20)]
    settings = MatchSettings(exhaustive_up_to=5, overlap=1, neighbours=2, retrieved=4)
    pairs, rules = choose_pairs(database, photos, settings, 0)
    assert sorted(rules) == ["retrieval", "sequential", "spatial"]
    assert len(pairs) < 190
    without_gps = [entry | {"gps": None} for entry in photos]
    assert "spatial" not in choose_pairs(database, without_gps, settings, 0)[1]


def test_parts_are_the_connected_ones() -> None:
    pairs = [("a", "b", 20), ("d", "c", 90), ("b", "e", 15)]
    assert connected_parts(list("abcdef"), pairs) == [["a", "b", "e"], ["c", "d"], ["f"]]
