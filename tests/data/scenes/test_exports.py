"""Exported scenes come back as they were, through readers of those forms."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from cuesta.data.maps import read_map
from cuesta.data.scenes.colmap import read_colmap, read_reconstruction
from cuesta.data.scenes.exports import depth_range, export, source_views
from cuesta.data.scenes.mvsnet import read_mvsnet
from cuesta.data.scenes.pair_table import PairRow, write_pair_table
from cuesta.data.scenes.release import read_depth
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.transforms_json import read_transforms_json
from cuesta.errors import UserError
from tests.data.scenes.corner import SIZE, make_corner
from tests.data.scenes.posed import assert_same


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    scene = make_corner(folder / "data" / "church")
    names = read_colmap(scene.model).names
    rows = [
        PairRow(names[a], names[b], 5000, (0.9,) * 10, overlap=share, is_kept=share > 0.3)
        for a, b, share in ((0, 1, 0.75), (1, 0, 0.5), (0, 2, 0.25), (2, 0, 0.25), (3, 1, 0.5))
    ]
    write_pair_table(scene.root / "pairs.csv", rows)
    return folder


def scene_of(root: Path) -> Scene:
    return Scene(root / "data" / "church")


def test_colmap_comes_back_with_its_tracks(root: Path, tmp_path: Path) -> None:
    (made,) = export(root, tmp_path / "out", "colmap")
    scene = scene_of(root)
    views = read_colmap(scene.model)
    assert_same(read_colmap(made / "sparse" / "0"), views)
    one, other = read_reconstruction(scene.model), read_reconstruction(made / "sparse" / "0")
    assert one.num_points3D() > 0
    assert one.compute_num_observations() == other.compute_num_observations()
    for name in views.names:
        assert (made / "images" / name).samefile(scene.frame(name))
        assert (made / "masks" / f"{name}.png").samefile(scene.semantic_mask(name))
        depth = read_map(made / "stereo" / "depth_maps" / f"{name}.geometric.bin")
        assert np.array_equal(depth, read_depth(scene, name, SIZE, "both"))
        assert (depth == 0).any()


def test_nerfstudio_comes_back(root: Path, tmp_path: Path) -> None:
    (made,) = export(root, tmp_path / "out", "nerfstudio")
    views = read_colmap(scene_of(root).model)
    found = read_transforms_json(made / "transforms.json")
    assert found.names == tuple(f"images/{name}" for name in views.names)
    off = found.cam_from_world.matrix() - views.cam_from_world.matrix()
    assert off.abs().max() <= 1e-12
    for name, ours in zip(found.names, views.names, strict=True):
        assert torch.equal(found.camera(name).matrix(), views.camera(ours).matrix())
        with Image.open(made / name) as image:
            assert image.size == SIZE
    assert len(list(made.glob("masks/**/*.png"))) == len(views)


def test_mvsnet_comes_back(root: Path, tmp_path: Path) -> None:
    (made,) = export(root, tmp_path / "out", "mvsnet", masks="none")
    scene = scene_of(root)
    views = read_colmap(scene.model)
    found = read_mvsnet(made)
    off = found.views.cam_from_world.matrix() - views.cam_from_world.matrix()
    assert off.abs().max() <= 1e-12
    assert found.pairs.offsets.tolist() == [0, 2, 3, 4, 5]
    assert found.pairs.values.tolist() == [1, 2, 0, 0, 1]
    assert found.scores.values.tolist() == [75.0, 25.0, 50.0, 25.0, 50.0]
    for number, name in enumerate(views.names):
        depth = read_map(made / "depths" / f"{number:08d}.pfm")
        assert np.array_equal(depth, read_map(scene.depth_map(name)))
        low, step, count, high = found.depth_ranges[number]
        assert low < depth.min() < depth.max() < high
        assert low + (count - 1) * step == pytest.approx(high)
        assert (made / "images" / f"{number:08d}.jpg").read_bytes() == scene.frame(
            name
        ).read_bytes()


def test_megadepth_is_read_as_its_loaders_do(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(root, out, "megadepth")
    scene = scene_of(root)
    views = read_colmap(scene.model)
    with np.load(out / "scene_info" / "church.npz", allow_pickle=False) as info:
        infos = list(info["pair_infos"])
        (i, j), overlap, matches = infos[0]
        assert (len(infos), i, j, float(overlap), len(matches)) == (2, 0, 1, 0.5, 0)
        assert info["overlap_matrix"][0].tolist() == [0, 0.75, 0.25, 0]
        for place, name in enumerate(views.names):
            assert np.array_equal(info["intrinsics"][place], views.camera(name).matrix().numpy())
            assert np.array_equal(info["poses"][place], views.pose(name).matrix().numpy())
            assert (out / str(info["image_paths"][place])).samefile(scene.frame(name))
            with h5py.File(out / str(info["depth_paths"][place])) as file:
                depth = file["depth"][...]
            assert np.array_equal(depth, read_depth(scene, name, SIZE, "both"))


def test_what_is_there_is_not_made_again(root: Path, tmp_path: Path) -> None:
    (made,) = export(root, tmp_path / "out", "nerfstudio")
    (made / "transforms.json").write_text("mine")
    export(root, tmp_path / "out", "nerfstudio")
    assert (made / "transforms.json").read_text() == "mine"


def test_a_scene_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    scene = make_corner(tmp_path / "set" / "data" / "church")
    write_pair_table(scene.root / "pairs.csv", [])
    scene.frame(read_colmap(scene.model).names[2]).unlink()
    with pytest.raises(UserError, match=r"frame_000002\.jpg: no such file"):
        export(tmp_path / "set", tmp_path / "out", "colmap")
    assert not (tmp_path / "out" / "church").exists()
    with pytest.raises(UserError, match="no scene data/SCENE"):
        export(tmp_path / "out", tmp_path / "other", "colmap")


def test_a_sweep_needs_depth() -> None:
    with pytest.raises(UserError, match=r"a\.jpg: its depth map is empty"):
        depth_range(np.zeros((4, 4), np.float32), "a.jpg")


def test_sources_are_ten_at_most_best_first() -> None:
    names = [f"{place}.jpg" for place in range(13)]
    rows = [
        PairRow(names[0], name, 1, (1.0,) * 10, overlap=k / 20) for k, name in enumerate(names[1:])
    ]
    pairs, scores = source_views(names, rows)
    assert pairs.offsets.tolist() == [0] + [10] * 13
    assert pairs.values.tolist() == list(range(12, 2, -1))
    assert scores.values.tolist() == sorted(scores.values.tolist(), reverse=True)
