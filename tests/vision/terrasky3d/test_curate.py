"""Leaks between splits are found by place, name and picture; cameras that jump by their clip."""

from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.scene import Json, Scene
from cuesta.data.scenes.views import Views
from cuesta.geometry import Transform
from cuesta.vision.terrasky3d.curate import (
    SceneFacts,
    facts_of,
    find_leaks,
    near_duplicates,
    outlier_cameras,
)
from tests.data.scenes.corner import make_corner

METRE = 1 / 111_195  # of latitude, in degrees


def facts(north_m: float | None, landmark: str) -> SceneFacts:
    places = () if north_m is None else ((47.0 + north_m * METRE, 15.0),)
    return SceneFacts(places, landmark, {})


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (facts(0, "a"), facts(199, "b"), "199 m apart"),
        (facts(0, "a"), facts(201, "b"), None),
        (facts(0, "a"), facts(None, "b"), None),
        (facts(0, "a"), facts(5000, "a"), "landmark 'a'"),
        (facts(None, "a"), facts(None, "a"), "landmark 'a'"),
    ],
)
def test_one_place_in_both_splits_is_a_leak(
    train: SceneFacts, test: SceneFacts, words: str | None
) -> None:
    nowhere = {"one": Scene(Path("one")), "two": Scene(Path("two"))}
    leaks = find_leaks({"one": train}, {"two": test}, nowhere)
    assert [leak[:2] for leak in leaks] == [("one", "two")] * (words is not None)
    assert words is None or words in leaks[0].reason


def test_the_same_picture_in_both_splits_is_a_leak(tmp_path: Path) -> None:
    one, two = make_corner(tmp_path / "one"), make_corner(tmp_path / "two", seed=1)
    views = {scene.root.name: read_colmap(scene.model) for scene in (one, two)}
    scenes = {"one": one, "two": two}

    def leaks() -> list[str]:
        found = {name: facts_of(scene, views[name]) for name, scene in scenes.items()}
        return [
            leak.reason for leak in find_leaks({"one": found["one"]}, {"two": found["two"]}, scenes)
        ]

    assert leaks() == []
    name, other = views["one"].names[0], views["two"].names[1]
    with Image.open(one.frame(name)) as image:
        ImageEnhance.Brightness(image).enhance(0.9).save(two.frame(other), quality=80)
    assert len(leaks()) == 1
    assert f"{name} and {other}" in leaks()[0]


def test_near_duplicates_differ_in_few_bits() -> None:
    assert near_duplicates({"a": 0b111111}, {"b": 0, "c": 1}) == [("a", "c"), ("a", "b")]
    assert near_duplicates({"a": 0b1111111}, {"b": 0}) == []
    assert near_duplicates({}, {"b": 0}) == []


def test_gps_of_photos_is_where_a_scene_is(tmp_path: Path) -> None:
    images: dict[str, Json] = {"cam_0/frame_000000.jpg": {"gps": [47.0, 15.0, None], "clip": None}}
    scene = make_corner(tmp_path / "scene", about={"images": images})
    assert facts_of(scene, read_colmap(scene.model)).places == ((47.0, 15.0),)


def test_a_camera_that_jumps_out_of_its_clip_is_named(tmp_path: Path) -> None:
    names = [f"cam_0/frame_{place:06d}.jpg" for place in range(8)]
    images: dict[str, Json] = {name: {"clip": "a.mp4", "gps": None} for name in names}
    scene = make_corner(tmp_path / "clip", count=8, num_points=0, about={"images": images})
    views = read_colmap(scene.model)
    assert outlier_cameras(scene, views) == []
    moved = views.cam_from_world.translation.clone()
    moved[3] += 20
    poses = Transform.rigid(views.cam_from_world.rotation, moved)
    off = Views(views.names, views.cameras, views.camera_ids, poses)
    assert outlier_cameras(scene, off) == [names[3]]
    photos = make_corner(tmp_path / "photos", count=8, num_points=0)
    assert outlier_cameras(photos, off) == [], "where no clip is known, none jumps"
