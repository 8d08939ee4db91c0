"""Gates open and close at their limits, and say what to do."""

import math
from typing import Any

import pycolmap
import pytest

from cuesta.vision.terrasky3d.gates import ImageQuality, judge, measure_images
from tests.vision.terrasky3d.synthetic import synthesize

MODEL = {"mean_reprojection_px": 0.5, "mean_track_length": 5.0}


def images(count: int, *, angle: float = 10.0, name: str = "cam_0/{}.jpg") -> list[ImageQuality]:
    return [
        ImageQuality(name.format(number), 100, 0.5, angle, (float(number), 0.0, 0.0))
        for number in range(count)
    ]


def photos(count: int, side: int = 1600) -> list[dict[str, Any]]:
    size = {"width": side, "height": side // 2, "clip": None}
    return [{"name": f"cam_0/{number}.jpg", **size} for number in range(count)]


def grade(
    seen: list[ImageQuality],
    taken: list[dict[str, Any]],
    *,
    others: int = 0,
    inliers: tuple[Any, ...] = (),
    lenses: tuple[Any, ...] = (),
    **model: float,
) -> tuple[str, list[str]]:
    found, gates = judge(seen, MODEL | model, [{}] * others, taken, inliers, lenses)
    return found, [gate.name for gate in gates if not gate.is_met]


def test_a_scene_that_meets_every_limit_is_good() -> None:
    assert grade(images(95), photos(100)) == ("good", [])


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        ({"mean_reprojection_px": 0.7}, None, "good"),
        ({"mean_reprojection_px": 0.71}, "mean reprojection error", "usable"),
        ({"mean_reprojection_px": 1.5}, "mean reprojection error", "poor"),
        ({"mean_track_length": 4.0}, None, "good"),
        ({"mean_track_length": 3.9}, "mean track length", "usable"),
        ({"others": 1}, "connected models", "usable"),
    ],
)
def test_each_limit_is_where_it_says(change: Any, name: str | None, expected: str) -> None:
    missed = [] if name is None else [name]
    assert grade(images(100), photos(100), **change) == (expected, missed)


@pytest.mark.parametrize(("count", "expected"), [(95, "good"), (94, "usable"), (49, "poor")])
def test_images_must_be_placed(count: int, expected: str) -> None:
    assert grade(images(count), photos(100))[0] == expected


def test_larger_images_may_be_off_by_more() -> None:
    assert grade(images(10), photos(10, 3840), mean_reprojection_px=0.95) == ("good", [])


def test_an_image_that_only_turned_is_named() -> None:
    seen = [*images(9), ImageQuality("cam_0/9.jpg", 50, 0.4, 0.5, (9.0, 0.0, 0.0))]
    found, gates = judge(seen, MODEL, [], photos(10), [], [])
    assert found == "usable"
    assert "cam_0/9.jpg" in next(gate.remedy for gate in gates if not gate.is_met)


def test_aerial_and_ground_images_must_hang_together() -> None:
    seen = [*images(10), *images(10, name="cam_1_aerial/{}.jpg")]
    taken = [{**photos(1)[0], "name": image.name} for image in seen]
    apart = tuple(("cam_0/0.jpg", f"cam_0/{n}.jpg", 99) for n in range(1, 10)) * 20
    apart += tuple(("cam_1_aerial/0.jpg", f"cam_1_aerial/{n}.jpg", 99) for n in range(1, 10))
    link = (("cam_0/0.jpg", "cam_1_aerial/0.jpg", 40),)
    assert grade(seen, taken, inliers=apart)[0] == "poor"
    assert grade(seen, taken, inliers=apart + link)[0] == "usable"
    assert grade(seen, taken, inliers=apart + link * 2) == ("good", [])
    assert grade(seen, taken, inliers=apart * 100 + link * 50) == ("good", [])


def clip(places: list[float]) -> tuple[list[ImageQuality], list[dict[str, Any]]]:
    """Return the frames of a clip that were taken at these places, NaN where one is missing."""
    seen = images(len(places), name="cam_0/frame_{:06d}.jpg")
    seen = [
        image._replace(centre=(place, 0.0, 0.0))
        for image, place in zip(seen, places, strict=True)
        if not math.isnan(place)
    ]
    taken = [
        photo | {"name": image.name, "clip": "a.mp4"}
        for photo, image in zip(photos(len(seen)), seen, strict=True)
    ]
    return seen, taken


@pytest.mark.parametrize(
    ("places", "numbers"),
    [
        ([0, 1, 2, 3, 4, 5], []),
        ([0, 1, 6, 7, 8, 9], []),  # a step of five medians may be
        ([0, 1, 7, 8, 9, 10], [2]),  # all from there on are elsewhere
        ([0, 1, 99, 3, 4], [2]),
        ([99, 1, 2, 3, 4], [0]),
        ([0, 1, 2, 3, 99], [4]),
        ([0, 1, *[math.nan] * 6, 8, 9, 10], []),
        ([0, 1, 99, 3], []),  # too few to know what is usual
    ],
)
def test_a_frame_that_jumps_away_from_its_clip_is_named(
    places: list[float], numbers: list[int]
) -> None:
    seen, taken = clip(places)
    found, gates = judge(seen, MODEL, [], taken, [], [])
    assert found == ("usable" if numbers else "good")
    named = [f"cam_0/frame_{number:06d}.jpg" for number in numbers]
    remedies = [gate.remedy for gate in gates if not gate.is_met]
    assert remedies == [f"look at these, and take them out: {', '.join(named)}"] * bool(named)


def test_photos_that_are_no_clip_may_lie_anywhere() -> None:
    seen, taken = clip([0, 1, 99, 3, 4])
    assert grade(seen, [photo | {"clip": None} for photo in taken]) == ("good", [])


@pytest.mark.parametrize(
    ("complaints", "expected"), [(None, "good"), ([], "good"), (["3 views"], "usable")]
)
def test_a_target_that_was_filmed_badly_is_told(
    complaints: list[str] | None, expected: str
) -> None:
    lens = {"folder": "cam_0", "complaints": complaints}
    found, gates = judge(images(10), MODEL, [], photos(10), [], [lens])
    assert found == expected
    values = [gate.value for gate in gates if gate.name == "calibration"]
    assert len(values) == (complaints is not None)
    assert values == ["cam_0: 3 views"] or not complaints


def test_measures_are_those_of_the_model() -> None:
    model = synthesize()
    model.update_point_3d_errors()
    measured = measure_images(model)
    assert [image.name for image in measured] == sorted(i.name for i in model.images.values())
    mean = sum(image.mean_error_px * image.num_points for image in measured)
    weighted = sum(point.error * point.track.length() for point in model.points3D.values())
    assert mean == pytest.approx(weighted)
    centres = {i.name: i.projection_center().tolist() for i in model.images.values()}
    assert {image.name: list(image.centre) for image in measured} == centres


def test_the_angle_of_two_cameras_is_the_one_at_the_point() -> None:
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 2, 40
    model = pycolmap.synthesize_dataset(options)
    angles = []
    centres = [image.projection_center() for image in model.images.values()]
    for point in model.points3D.values():
        angles.append(pycolmap.calculate_triangulation_angle(*centres, point.xyz))
    angles.sort()
    median = (angles[19] + angles[20]) / 2
    for image in measure_images(model):
        assert image.angle_deg == pytest.approx(180 / 3.141592653589793 * median, rel=1e-6)
