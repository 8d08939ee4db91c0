"""Samples are what their K and pose say they are, and index i is pair i."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cuesta.data.maps import read_map
from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.pair_table import PairRow, write_pair_table
from cuesta.data.scenes.release import (
    Framing,
    PairSet,
    ReleaseView,
    open_release,
    read_view,
)
from cuesta.data.scenes.resampling import source_pixels, square
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.terrasky3d import (
    calibrate_pairs,
    write_calibrated_pairs,
    write_train_data,
    write_views_txt,
)
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Camera
from tests.data.scenes.corner import make_corner, paint, seen_points

EPS = torch.finfo(torch.float32).eps
FRAMINGS = [
    Framing(side=48),
    Framing(side=48, fit="pad"),
    Framing(side=200, fit="pad"),
    Framing(side=77),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set as TerraSky3D's authors publish it: no manifest, no table of pairs."""
    folder = tmp_path_factory.mktemp("release")
    church = make_corner(folder / "data" / "church", num_points=600)
    square_ = make_corner(folder / "data" / "square", seed=1)
    for scene in (church, square_):
        scene.manifest.unlink()
    views = {"church": read_colmap(church.model), "square": read_colmap(square_.model)}
    write_train_data(folder / "train_data.json", {"church": views["church"]})
    write_views_txt(folder / "views.txt", {"square": views["square"]})
    names = [f"square/frames/{name}" for name in views["square"].names]
    pairs = calibrate_pairs(
        {"square": views["square"]}, [(names[2], names[0]), (names[1], names[3])]
    )
    write_calibrated_pairs(folder / "pairs_calibrated.txt", pairs)
    return folder


def church(root: Path) -> tuple[Scene, Views]:
    scene = Scene(root / "data" / "church")
    return scene, read_colmap(scene.model)


def world_points(view: ReleaseView) -> torch.Tensor:
    """Return the world point of each pixel [Y, X, 3] by the sample's own K and pose, in float64."""
    high, wide = view.depth.shape
    down, across = torch.meshgrid(torch.arange(high) + 0.5, torch.arange(wide) + 0.5, indexing="ij")
    pixels = torch.stack([across, down, torch.ones_like(down)], -1).double()
    in_camera = pixels @ torch.linalg.inv(view.matrix.double()).mT * view.depth.double()[..., None]
    pose = view.cam_from_world.double()
    return (in_camera - pose[:3, 3]) @ pose[:3, :3]


@pytest.mark.parametrize("turn", [0.0, 90.0, -23.0])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("lens", ["PINHOLE", "SIMPLE_RADIAL"])
def test_a_sample_unprojects_to_what_the_original_shows(
    root: Path, framing: Framing, turn: float, lens: str
) -> None:
    scene, views = church(root)
    name = views.names[1]
    if lens == "SIMPLE_RADIAL":
        params = torch.tensor([140.0, 76.5, 63.25, 0.05], dtype=torch.float64)
        views = Views(
            views.names, {1: Camera(lens, params, 160, 120)}, views.camera_ids, views.cam_from_world
        )
    view = read_view(scene, views, name, framing=framing, turn_degrees=turn, masks="none")
    camera, depth = views.camera(name), read_map(scene.depth_map(name))
    places = source_pixels(camera, square(camera, framing.side, framing.fit, turn))
    is_inside = ((places >= 0) & (places < (160, 120))).all(-1)
    assert (np.isnan(view.depth.numpy()) == ~is_inside).all()
    assert is_inside.mean() > 0.4
    cells = np.floor(places[is_inside]).astype(int)
    deep = torch.from_numpy(depth[cells[:, 1], cells[:, 0]]).double()
    rays = camera.unproject(torch.from_numpy(places[is_inside]))
    expected = views.pose(name).inverse() @ (rays * deep[:, None])
    found = world_points(view)[torch.from_numpy(is_inside)]
    size = float(expected.abs().max()) + float(views.cam_from_world.translation.abs().max())
    assert (found - expected).abs().max() <= 32 * EPS * size


def test_pictures_show_what_is_at_their_points(root: Path) -> None:
    scene, views = church(root)
    for turn in (0.0, 30.0):
        view = read_view(
            scene, views, views.names[0], framing=Framing(side=120), turn_degrees=turn, masks="none"
        )
        is_deep = ~view.depth.isnan()
        points = world_points(view)[is_deep].numpy()
        expected = paint(points, 0)[:, 0].astype(float)
        found = 255 * view.image[0][is_deep].numpy()
        assert np.corrcoef(found, expected)[0, 1] > 0.95
        assert not view.image[:, ~is_deep].any()


def test_a_crop_at_full_size_is_the_picture_itself(root: Path) -> None:
    scene, views = church(root)
    name = views.names[0]
    view = read_view(scene, views, name, framing=Framing(side=120), masks="none")
    with Image.open(scene.frame(name)) as opened:
        whole = np.asarray(opened)
    assert np.array_equal(np.rint(255 * view.image.numpy()), whole[:, 20:140].transpose(2, 0, 1))
    assert np.array_equal(view.depth.numpy(), read_map(scene.depth_map(name))[:, 20:140])


def test_the_principal_point_is_not_moved_to_the_middle(root: Path) -> None:
    scene, views = church(root)
    view = read_view(scene, views, views.names[0], framing=Framing(side=120))
    camera = views.camera(views.names[0])
    across, down = camera.principal_point().tolist()
    assert view.matrix[0, 2].item() == pytest.approx(across - (160 - 120) / 2)
    assert view.matrix[1, 2].item() == pytest.approx(down)


def test_a_turned_picture_keeps_its_middle() -> None:
    params = torch.tensor([140.0, 140.0, 70.0, 66.0], dtype=torch.float64)
    camera = Camera("PINHOLE", params, 160, 120)
    for turn in (0.0, 37.0, 180.0):
        places = source_pixels(camera, square(camera, 121, "pad", turn))
        assert places[60, 60] == pytest.approx((80.0, 60.0))
    down = source_pixels(camera, square(camera, 121, "pad", 90.0))[100, 60]
    assert down[0] > 80, "what was on the right is below after a turn clockwise"


@pytest.mark.parametrize(
    ("masks", "files"),
    [
        ("none", []),
        ("geometric", ["geometric_mask"]),
        ("semantic", ["semantic_mask"]),
        ("both", ["geometric_mask", "semantic_mask"]),
        ("available", ["geometric_mask", "semantic_mask"]),
    ],
)
def test_masks_are_applied_as_asked(root: Path, masks: Any, files: list[str]) -> None:
    scene, views = church(root)
    name = views.names[0]
    view = read_view(scene, views, name, framing=Framing(side=160, fit="pad"), masks=masks)
    points, _ = seen_points(views.camera(name), views.pose(name))
    waves = {
        "geometric_mask": np.sin(3 * points[..., 0]) > -0.8,
        "semantic_mask": np.sin(2 * points[..., 1] + points[..., 0]) > -0.8,
    }
    keep = np.ones((120, 160), bool)
    for file in files:
        keep &= waves[file]
    assert np.array_equal(~view.depth[20:140].isnan().numpy(), keep)


def test_a_mask_that_is_demanded_must_be_there(tmp_path: Path) -> None:
    scene = make_corner(tmp_path / "scene")
    views = read_colmap(scene.model)
    scene.semantic_mask(views.names[0]).unlink()
    framing = Framing(side=32)
    read_view(scene, views, views.names[0], framing=framing, masks="available")
    with pytest.raises(UserError, match="masks_semantic"):
        read_view(scene, views, views.names[0], framing=framing, masks="both")


def test_index_i_is_pair_i(root: Path) -> None:
    release = open_release(root, "test")
    assert [pair[1:] for pair in release.pairs] == [
        ("cam_0/frame_000002.jpg", "cam_0/frame_000000.jpg"),
        ("cam_0/frame_000001.jpg", "cam_0/frame_000003.jpg"),
    ]
    samples = PairSet(release, Framing(side=24, most_turn_degrees=20.0))
    for number in (1, 0, 1):
        sample = samples[number]
        assert (sample.scene, sample.a.name, sample.b.name) == release.pairs[number]
        assert torch.equal(sample.a.image, samples[number - len(samples)].a.image)
    assert len(list(samples)) == 2, "iteration ends"
    turned = [PairSet(release, Framing(side=24, most_turn_degrees=20.0, seed=s))[0] for s in (0, 1)]
    assert not torch.equal(turned[0].a.cam_from_world, turned[1].a.cam_from_world)


def test_batches_are_made_by_torch(root: Path) -> None:
    samples = PairSet(open_release(root, "train"), Framing(side=24))
    batch = next(iter(DataLoader(samples, batch_size=3)))
    assert batch.a.image.shape == (3, 3, 24, 24)
    assert batch.b.cam_from_world.shape == (3, 4, 4)
    assert list(batch.scene) == ["church"] * 3


def test_without_a_table_pairs_share_points(root: Path) -> None:
    release = open_release(root, "train")
    scene, views = church(root)
    assert release.pairs
    assert all(pair.scene == "church" for pair in release.pairs)
    rows = [
        PairRow(a, b, 5000, (share,) * 10)
        for a, b, share in (
            (views.names[0], views.names[3], 0.9),
            (views.names[3], views.names[0], 0.8),
            (views.names[1], views.names[2], 0.4),
        )
    ]
    write_pair_table(scene.root / "pairs.csv", rows)
    try:
        again = open_release(root, "train")
    finally:
        (scene.root / "pairs.csv").unlink()
    assert [pair[1:] for pair in again.pairs] == [(views.names[0], views.names[3])]


def test_scenes_may_stand_without_data(root: Path, tmp_path: Path) -> None:
    (tmp_path / "square").symlink_to(root / "data" / "square")
    for name in ("views.txt", "pairs_calibrated.txt"):
        (tmp_path / name).symlink_to(root / name)
    one, other = (
        PairSet(open_release(place, "test"), Framing(side=24))[0] for place in (root, tmp_path)
    )
    assert torch.equal(one.a.image, other.a.image)


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train_data\.json, so no train split"):
        open_release(tmp_path, "train")
    for name in ("views.txt", "pairs_calibrated.txt"):
        text = (root / name).read_text()
        (tmp_path / name).write_text(text)
    lines = (tmp_path / "pairs_calibrated.txt").read_text()
    lost = lines.replace("frame_000003", "frame_000009")
    (tmp_path / "pairs_calibrated.txt").write_text(lost)
    with pytest.raises(UserError, match=r"cam_0/frame_000009\.jpg"):
        open_release(tmp_path, "test")
    (tmp_path / "pairs_calibrated.txt").write_text(lines)
    with pytest.raises(UserError, match="no such file"):
        PairSet(open_release(tmp_path, "test"))[0]
    with pytest.raises(IndexError, match="2 pairs"):
        PairSet(open_release(tmp_path, "test"))[2]
    with pytest.raises(ValueError, match="1 pixel"):
        square(Camera("PINHOLE", torch.ones(4), 4, 4), 0)
