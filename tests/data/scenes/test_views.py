"""Views hold together: names, cameras and poses agree, and a change of frame moves all of them."""

import pytest
import torch

from cuesta.data.scenes.views import Views
from cuesta.geometry import Camera, Transform

CAMERA = Camera("PINHOLE", torch.tensor([100.0, 100.0, 50.0, 40.0]).double(), 100, 80)
WIDE = Camera("PINHOLE", torch.tensor([60.0, 60.0, 50.0, 40.0]).double(), 100, 80)


@pytest.fixture
def views() -> Views:
    poses = Transform.exp(torch.randn(3, 6, dtype=torch.float64))
    return Views(("a.jpg", "b.jpg", "sub/c.jpg"), {1: CAMERA, 7: WIDE}, (1, 7, 1), poses)


def test_a_point_keeps_its_pixel_and_its_depth_scales_in_a_new_frame(views: Views) -> None:
    new_from_world = Transform.exp(torch.randn(7, dtype=torch.float64))
    moved, points = views.moved(new_from_world), torch.randn(20, 3, dtype=torch.float64)
    for name in views.names:
        before = views.pose(name) @ points
        after = moved.pose(name) @ (new_from_world @ points)
        assert torch.allclose(after, new_from_world.scale * before)
    assert torch.allclose(moved.centres(), new_from_world @ views.centres())
    assert torch.equal(moved.cam_from_world.scale, torch.ones(3, dtype=torch.float64))


def test_select_takes_names_in_order_with_their_cameras(views: Views) -> None:
    some = views.select(["sub/c.jpg", "a.jpg"])
    assert some.names == ("sub/c.jpg", "a.jpg")
    assert dict(some.cameras) == {1: CAMERA}
    assert torch.equal(some.centres(), views.centres()[[2, 0]])
    assert views.camera("b.jpg") is WIDE
    assert len(views.select([])) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ("a.jpg", "a.jpg", "c.jpg")}, "'a.jpg' is there 2 times"),
        ({"names": ("a.jpg", "b.jpg")}, "2 names need as many"),
        ({"names": ("a.jpg", "../b.jpg", "c.jpg")}, "leads out of the folder"),
        ({"names": ("a.jpg", "/etc/b.jpg", "c.jpg")}, "leads out of the folder"),
        ({"names": ("a.jpg", "", "c.jpg")}, "leads out of the folder"),
        ({"camera_ids": (1, 2, 1)}, "'b.jpg' names camera 2"),
    ],
)
def test_what_does_not_hold_together_is_refused(
    views: Views, change: dict[str, tuple[object, ...]], words: str
) -> None:
    fields = {
        "names": views.names,
        "cameras": views.cameras,
        "camera_ids": views.camera_ids,
        "cam_from_world": views.cam_from_world,
    }
    with pytest.raises(ValueError, match=words):
        Views(**(fields | change))


def test_a_name_that_is_not_there_is_named(views: Views) -> None:
    with pytest.raises(ValueError, match=r"no image is called 'd\.jpg'"):
        views.camera("d.jpg")
