"""Poses that were given a little wrong come back to what the photographs show, in the frame that was given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cuesta.cli.main import main
from cuesta.data.scenes.colmap import read_colmap, read_reconstruction, write_colmap
from cuesta.data.scenes.scene import Scene, read_about
from cuesta.data.scenes.views import Views
from cuesta.data.worlds.make import Size, make_landmarks
from cuesta.errors import UserError
from cuesta.geometry import Transform, umeyama
from cuesta.vision.terrasky3d.adopt import adopt
from cuesta.vision.terrasky3d.pose_errors import pair_errors

BLANK = "cam_0/frame_000000.jpg"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Views, Views, Scene]:
    """Return true and perturbed poses, and the scene of the latter, refined; one image sees nothing."""
    root = tmp_path_factory.mktemp("places")
    size = Size(num_scenes=1, num_images=12, width=320, height=240)
    (made,) = make_landmarks(root / "made", size, num_workers=2)
    true = read_colmap(made.model)
    given = perturbed(true)
    posed = root / "given"
    write_colmap(posed / "sparse" / "0", given)
    for name in true.names:
        (posed / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (posed / "images" / name).write_bytes(made.frame(name).read_bytes())
    flat(posed / "images" / BLANK, size)
    return true, given, adopt(posed, root / "refined", refines_poses=True)


def perturbed(views: Views) -> Views:
    """Return views that are off at random, by some 20 cm and two thirds of a degree an axis."""
    draw = torch.Generator().manual_seed(1)
    twist = torch.randn(len(views), 6, generator=draw, dtype=torch.float64)
    twist *= torch.tensor([0.2] * 3 + [0.012] * 3)
    return replace(views, cam_from_world=Transform.exp(twist) @ views.cam_from_world)


def flat(path: Path, size: Size) -> None:
    from PIL import Image

    Image.new("RGB", (size.width, size.height), (90, 90, 90)).save(path)


def seen(views: Views) -> Views:
    return views.select(tuple(name for name in views.names if name != BLANK))


def test_poses_come_nearer_to_the_truth(places: tuple[Views, Views, Scene]) -> None:
    true, given, scene = places
    before, after = (
        np.median(pair_errors(seen(views), seen(true)))
        for views in (given, read_colmap(scene.model))
    )
    assert after < before / 3


def test_frame_and_unit_stay_as_given(places: tuple[Views, Views, Scene]) -> None:
    _, given, scene = places
    back = umeyama(seen(read_colmap(scene.model)).centres(), seen(given).centres())
    assert back.scale.item() == pytest.approx(1, abs=0.01)
    assert torch.allclose(back.rotation, torch.eye(3).double(), atol=0.02)
    cameras, before = read_colmap(scene.model).cameras, given.cameras
    assert [c.params.tolist() for c in cameras.values()] == [
        c.params.tolist() for c in before.values()
    ]


def test_an_image_that_sees_nothing_keeps_its_pose(places: tuple[Views, Views, Scene]) -> None:
    _, given, scene = places
    poses = [views.pose(BLANK).matrix() for views in (given, read_colmap(scene.model))]
    assert torch.allclose(*poses, atol=1e-9)


def test_the_model_has_tracks_and_the_manifest_tells(places: tuple[Views, Views, Scene]) -> None:
    _, _, scene = places
    about = read_about(scene)
    assert about["poses"] == "refined"
    told = about["refined"]
    assert isinstance(told, dict)
    model = read_reconstruction(scene.model)
    assert told["num_images"] in (10, 11)
    assert told["num_points"] == model.num_points3D() > 100
    assert told["median_moved"] == pytest.approx(0.3, rel=0.5)


def test_it_is_not_taken_for_the_scene_as_given(places: tuple[Views, Views, Scene]) -> None:
    source = places[2].root.parent / "given"
    with pytest.raises(UserError, match="another scene"):
        adopt(source, places[2].root)
    assert adopt(source, places[2].root, refines_poses=True).root == places[2].root


def test_images_that_share_nothing_are_refused(tmp_path: Path) -> None:
    size = Size(num_scenes=1, num_images=3, width=160, height=120)
    (made,) = make_landmarks(tmp_path / "made", size)
    write_colmap(tmp_path / "given" / "sparse" / "0", read_colmap(made.model))
    for name in read_colmap(made.model).names:
        (tmp_path / "given" / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        flat(tmp_path / "given" / "images" / name, size)
    with pytest.raises(UserError, match="leave out --refine-poses"):
        adopt(tmp_path / "given", tmp_path / "refined", refines_poses=True)
    assert not (tmp_path / "refined").exists()


def test_it_needs_a_new_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["depth", str(tmp_path), "--refine-poses"])
    assert "--refine-poses goes with --out" in capsys.readouterr().err
