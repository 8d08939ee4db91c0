"""Gates open and close at their limits, and say what to do."""

from typing import Any

import pycolmap
import pytest

from cuesta.vision.terrasky3d.gates import ImageQuality, judge, measure_images
from tests.vision.terrasky3d.synthetic import synthesize

MODEL = {"mean_reprojection_px": 0.5, "mean_track_length": 5.0}


def images(count: int, *, angle: float = 10.0, name: str = "cam_0/{}.jpg") -> list[ImageQuality]:
    return [ImageQuality(name.format(number), 100, 0.5, angle) for number in range(count)]


def photos(count: int, side: int = 1600) -> list[dict[str, Any]]:
    return [{"width": side, "height": side // 2}] * count


def grade(
    seen: list[ImageQuality],
    taken: list[dict[str, Any]],
    *,
    others: int = 0,
    inliers: tuple[Any, ...] = (),
    **model: float,
) -> tuple[str, list[str]]:
    found, gates = judge(seen, MODEL | model, [{}] * others, taken, inliers)
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
    seen = [*images(9), ImageQuality("cam_0/turned.jpg", 50, 0.4, 0.5)]
    found, gates = judge(seen, MODEL, [], photos(10), [])
    assert found == "usable"
    assert "cam_0/turned.jpg" in next(gate.remedy for gate in gates if not gate.is_met)


def test_aerial_and_ground_images_must_hang_together() -> None:
    seen = [*images(10), *images(10, name="cam_1_aerial/{}.jpg")]
    apart = tuple(("cam_0/0.jpg", f"cam_0/{n}.jpg", 99) for n in range(1, 10)) * 20
    apart += tuple(("cam_1_aerial/0.jpg", f"cam_1_aerial/{n}.jpg", 99) for n in range(1, 10))
    link = (("cam_0/0.jpg", "cam_1_aerial/0.jpg", 40),)
    assert grade(seen, photos(20), inliers=apart)[0] == "poor"
    assert grade(seen, photos(20), inliers=apart + link)[0] == "usable"
    assert grade(seen, photos(20), inliers=apart + link * 2) == ("good", [])
    assert grade(seen, photos(20), inliers=apart * 100 + link * 50) == ("good", [])


def test_measures_are_those_of_the_model() -> None:
    model = synthesize()
    model.update_point_3d_errors()
    measured = measure_images(model)
    assert [image.name for image in measured] == sorted(i.name for i in model.images.values())
    mean = sum(image.mean_error_px * image.num_points for image in measured)
    weighted = sum(point.error * point.track.length() for point in model.points3D.values())
    assert mean == pytest.approx(weighted)


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
