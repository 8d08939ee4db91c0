"""Fused clouds against the place they are of, and the laws of fusion."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

from cuesta.data.clouds import Cloud, read_cloud, write_cloud
from cuesta.data.scenes.scene import Scene, open_scene, verify_scene
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Transform
from cuesta.vision.terrasky3d import fusion
from cuesta.vision.terrasky3d.cloud_report import about_cloud, write_cloud_report
from cuesta.vision.terrasky3d.dense_maps import DenseScene, open_dense, read_mask
from cuesta.vision.terrasky3d.fusion import (
    FusedCloud,
    FusionSettings,
    PointSettings,
    depth_normals,
    fuse,
    renew_manifest,
)
from cuesta.vision.terrasky3d.geometric_masks import MaskSettings
from cuesta.vision.terrasky3d.surface import MeshSettings, write_mesh
from tests.vision.terrasky3d.solids import (
    BALL,
    FLOOR,
    FOCAL,
    HEIGHT,
    RADIUS,
    WALL,
    WIDTH,
    Array,
    color_at,
    depth_of,
    distances,
    normals_at,
    points_of,
    views,
    write_normals,
    write_place,
)

SIZE = (HEIGHT, WIDTH)


def cloud_of(scene: Scene, settings: FusionSettings | None = None) -> tuple[Cloud, FusedCloud]:
    fused = fuse(scene.root, settings=settings)
    return read_cloud(fused.path), fused


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Cloud, FusedCloud]:
    scene = write_place(tmp_path_factory.mktemp("exact") / "place")
    return scene, *cloud_of(scene)


def test_points_are_on_the_surface_in_its_colour_and_turned_as_it_is(
    exact: tuple[Scene, Cloud, FusedCloud],
) -> None:
    _, cloud, _ = exact
    assert cloud.colors is not None
    assert cloud.normals is not None
    assert len(cloud) > WIDTH * HEIGHT
    off = distances(cloud.positions)
    is_edge = np.abs(np.linalg.norm(cloud.positions - BALL, axis=1) - RADIUS) < 0.1
    _, y, z = cloud.positions.T
    is_edge |= (y > FLOOR - 0.3) & (z > WALL - 0.7)  # pixels about the crease are that large
    assert is_edge.mean() < 0.25
    assert off[~is_edge].max() < 1e-5  # planes lose nothing but the rounding of float32
    assert np.quantile(off, 0.99) < 2e-3  # a ball bends between pixels of 6 cm
    misses = np.abs(cloud.colors - color_at(cloud.positions)).max(1)
    assert np.quantile(misses, 0.99) < 6
    cosine = (cloud.normals * normals_at(cloud.positions)).sum(1)
    assert np.degrees(np.arccos(np.quantile(cosine, 0.05))) < 8
    assert np.median(cosine[~is_edge]) > 0.9999


def test_every_pixel_that_a_mask_keeps_is_near_a_point(
    exact: tuple[Scene, Cloud, FusedCloud],
) -> None:
    scene, cloud, _ = exact
    seen, points = views(), torch.from_numpy(cloud.positions)
    for name in seen.names:
        mask = read_mask(scene.geometric_mask(name), SIZE)
        kept = torch.from_numpy(points_of(seen.pose(name))[mask])
        width = depth_of(seen.pose(name))[mask] / FOCAL
        nearest = torch.cdist(kept, points).amin(1).numpy()
        floor = 4.0  # a pixel of the floor is that much longer than wide
        assert (nearest <= floor * width).all()


def test_what_one_view_saw_is_in_no_point(exact: tuple[Scene, Cloud, FusedCloud]) -> None:
    _, cloud, fused = exact
    seen, count = views(), np.zeros(len(cloud), int)
    for name in seen.names:
        pose = seen.pose(name)
        inside = pose @ torch.from_numpy(cloud.positions)
        pixels = seen.camera(name).project(inside).numpy()
        is_within = ((pixels > -1) & (pixels < [WIDTH + 1, HEIGHT + 1])).all(1)
        steps = np.array([(x, y) for x in (-1.0, 0, 1.0) for y in (-1.0, 0, 1.0)])
        ratio = depth_of(pose, pixels[:, None] + steps) / inside[:, 2:].numpy()
        count += is_within & (np.abs(ratio - 1) < 0.02).any(1)
    assert cloud.intensity is not None
    assert (count >= 2).all()
    assert (cloud.intensity <= count).all()
    assert cloud.intensity.min() >= 2
    assert cloud.intensity.max() == len(seen)
    by_views = np.bincount(cloud.intensity.astype(int))
    assert fused.facts.num_views.tolist() == by_views.tolist()


def test_a_surface_point_is_there_once(tmp_path: Path) -> None:
    """Views from one place see the same pixels, and two views of each other's make one cloud."""
    seen = views((0.3, 0.3, 0.3, 0.3))
    scene = write_place(tmp_path / "place", seen)
    lists = {name: [other for other in seen.names if other != name] for name in seen.names}
    (scene.root / "depth" / "sources.json").write_text(json.dumps(lists))
    cloud, fused = cloud_of(scene)
    assert len(cloud) == WIDTH * HEIGHT
    assert cloud.intensity is not None
    assert (cloud.intensity == 4).all()
    assert [view.num_points for view in fused.views] == [WIDTH * HEIGHT, 0, 0, 0]
    expected = points_of(seen.pose(seen.names[0])).reshape(-1, 3)
    assert np.abs(cloud.positions - expected).max() < 1e-5


def test_moving_the_scene_moves_the_cloud(
    exact: tuple[Scene, Cloud, FusedCloud], tmp_path: Path
) -> None:
    scene, cloud, fused = exact
    tangent = torch.tensor([30.0, -20.0, 10.0, 0.7, -1.1, 0.4, math.log(3.7)], dtype=torch.float64)
    new_from_world = Transform.exp(tangent)
    other = write_place(tmp_path / "moved", new_from_world=new_from_world)
    moved, about = cloud_of(other)
    for name in views().names:
        mask = read_mask(scene.geometric_mask(name), SIZE)
        assert (read_mask(other.geometric_mask(name), SIZE) == mask).all()
    assert len(moved) == len(cloud)
    expected = (new_from_world @ torch.from_numpy(cloud.positions)).numpy()
    assert np.quantile(np.abs(moved.positions - expected).max(1), 0.999) < 1e-4
    assert cloud.normals is not None
    assert moved.normals is not None
    turned = cloud.normals @ new_from_world.rotation.numpy().T
    assert np.quantile(np.abs(moved.normals - turned).max(1), 0.99) < 1e-3
    assert cloud.intensity is not None
    assert moved.intensity is not None
    assert (moved.intensity == cloud.intensity).mean() > 0.999
    assert about.facts.footprint == pytest.approx(3.7 * fused.facts.footprint)


def test_the_mean_of_views_is_better_than_each(tmp_path: Path) -> None:
    seen, draw = views(), np.random.default_rng(1)
    noise = {name: 1 + 0.002 * draw.standard_normal(SIZE) for name in seen.names}
    noisy: dict[str, Array] = {name: depth_of(seen.pose(name)) * noise[name] for name in seen.names}
    scene = write_place(tmp_path / "place", depths=noisy)
    write_normals(scene, seen)
    cloud, _ = cloud_of(scene)
    assert cloud.intensity is not None
    is_wall = np.abs(cloud.positions[:, 2] - 8) < 0.2
    off = cloud.positions[:, 2] - 8
    by_views = {k: off[is_wall & (cloud.intensity == k)] for k in (3, 5)}
    single = 0.002 * 8
    for k, found in by_views.items():
        assert len(found) > 100
        rms = np.sqrt(np.mean(found**2))
        assert rms < 1.15 * single / math.sqrt(k)


def test_the_semantic_mask_takes_out_what_it_should(tmp_path: Path) -> None:
    seen = views()
    scene = write_place(tmp_path / "place")
    for name in seen.names:
        points = points_of(seen.pose(name))
        on_ball = np.abs(np.linalg.norm(points - BALL, axis=-1) - RADIUS) < 1e-9
        path = scene.semantic_mask(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((~on_ball).astype(np.uint8) * np.uint8(255)).save(path)
    cloud, _ = cloud_of(scene)
    reach = np.linalg.norm(cloud.positions - BALL, axis=1)
    assert (reach > RADIUS + 0.01).all()
    scene.semantic_mask(seen.names[0]).write_bytes(b"none")
    with pytest.raises(UserError, match=re.escape(str(scene.semantic_mask(seen.names[0])))):
        fuse(scene.root)


def test_a_voxel_holds_one_point(exact: tuple[Scene, Cloud, FusedCloud], tmp_path: Path) -> None:
    scene, cloud, _ = exact
    edge = 0.25
    settings = FusionSettings(points=PointSettings(voxel=edge))
    merged = read_cloud(fuse(scene.root, tmp_path / "merged.ply", settings).path)
    low = cloud.positions.min(0)
    cells = np.floor((cloud.positions - low) / edge).astype(int)
    occupied, place = np.unique(cells, axis=0, return_inverse=True)
    assert len(merged) == len(occupied)
    assert cloud.intensity is not None
    weight = np.bincount(place.ravel(), cloud.intensity)
    for axis in range(3):
        mean = np.bincount(place.ravel(), cloud.intensity * cloud.positions[:, axis]) / weight
        assert np.allclose(merged.positions[:, axis], mean)
    most = np.zeros(len(occupied))
    np.maximum.at(most, place.ravel(), cloud.intensity)
    assert merged.intensity is not None
    assert (merged.intensity == most).all()


def test_merging_in_parts_is_merging_at_once(exact: tuple[Scene, Cloud, FusedCloud]) -> None:
    from cuesta.vision.terrasky3d.point_files import POINT, merge_voxels

    _, cloud, _ = exact
    points = np.zeros(len(cloud), POINT)
    for k, name in enumerate("xyz"):
        points[name] = cloud.positions[:, k]
    points["intensity"] = cloud.intensity
    once = np.concatenate(list(merge_voxels(points, 0.3, memory=1 << 30)))
    parts = np.concatenate(list(merge_voxels(points, 0.3, memory=len(points) * 200 // 5)))
    assert (np.sort(once, order=["x", "y", "z"]) == np.sort(parts, order=["x", "y", "z"])).all()
    with pytest.raises(UserError, match=r"points\.voxel 1e-07 is too small"):
        list(merge_voxels(points, 1e-7, memory=1 << 30))


def test_a_small_cache_gives_the_same_bytes(
    exact: tuple[Scene, Cloud, FusedCloud], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, _, fused = exact

    def two(_dense: DenseScene, _memory: int) -> int:
        return 2

    monkeypatch.setattr(fusion, "views_in_memory", two)
    out = fuse(scene.root, tmp_path / "small.ply").path
    assert out.read_bytes() == fused.path.read_bytes()


def test_memory_that_is_too_small_is_said(exact: tuple[Scene, Cloud, FusedCloud]) -> None:
    words = r"a memory of 0\.098 GiB is too small for images of 96 x 72; fusing them takes 0\.5"
    with pytest.raises(UserError, match=words):
        fuse(exact[0].root, memory=100 << 20)


def test_las_holds_the_same_points(exact: tuple[Scene, Cloud, FusedCloud], tmp_path: Path) -> None:
    scene, cloud, _ = exact
    las = read_cloud(fuse(scene.root, tmp_path / "cloud.las").path)
    assert np.abs(las.positions - cloud.positions).max() <= 0.5001e-4
    assert las.colors is not None
    assert las.intensity is not None
    assert (las.colors == cloud.colors).all()
    assert (las.intensity == cloud.intensity).all()
    with pytest.raises(UserError, match=r"\.ply or \.las, not '\.xyz'"):
        fuse(scene.root, tmp_path / "cloud.xyz")


def test_where_nothing_agrees_the_old_cloud_stays(tmp_path: Path) -> None:
    seen, draw = views(), np.random.default_rng(2)
    wrong = {name: draw.uniform(2, 9, SIZE) for name in seen.names}
    scene = write_place(tmp_path / "place", depths=wrong)
    (scene.root / "fused.ply").write_bytes(b"old")
    with pytest.raises(UserError, match="nothing is consistent") as error:
        fuse(scene.root, settings=FusionSettings(masks=MaskSettings(min_views=4)))
    assert "\n" not in str(error.value)
    assert (scene.root / "fused.ply").read_bytes() == b"old"
    assert not list((scene.work / "fusion").iterdir())


def test_without_depth_the_remedy_is_named(tmp_path: Path) -> None:
    scene = write_place(tmp_path / "place")
    for name in views().names:
        scene.depth_map(name).unlink()
    with pytest.raises(UserError, match=f"no depth maps; `cuesta depth {scene.root}`"):
        fuse(scene.root)


def test_normals_of_planes_are_exact_and_face_the_camera(tmp_path: Path) -> None:
    seen = views()
    view = open_dense(write_place(tmp_path / "place").root).read(seen.names[1])
    pose = seen.pose(seen.names[1])
    points = points_of(pose)
    found = depth_normals(view) @ pose.rotation.numpy()
    on_ball = np.abs(np.linalg.norm(points - BALL, axis=-1) - RADIUS) < 1e-6
    cosine = (found * normals_at(points)).sum(-1)
    assert np.quantile(cosine[~on_ball], 0.03) > 0.9999  # but where planes meet
    assert np.median(cosine[on_ball]) > 0.99
    towards = ((pose.inverse().translation.numpy() - points) * found).sum(-1)
    assert (towards > 0).all()


def test_the_report_tells_what_the_cloud_holds(tmp_path: Path) -> None:
    scene = write_place(tmp_path / "place")
    cloud, fused = cloud_of(scene)
    about, page = write_cloud_report(fused, FusionSettings())
    renew_manifest(fused.dense)
    open_scene(scene.root)
    verify_scene(scene.root)
    facts = json.loads(about.read_text())
    assert facts["num_points"] == len(cloud)
    assert sum(facts["points_by_views"]) == len(cloud)
    assert sum(image["num_points"] for image in facts["images"].values()) == len(cloud)
    assert facts["pixel_error"]["median"] < 0.1
    assert facts["depth_error"]["p90"] < 0.01
    assert 0.5 < facts["agreeing_share"] <= 1
    area = 8 * 12 + 6 * 12  # about what of the wall and the floor is in view
    assert len(cloud) / area / 4 < facts["points_per_area"] < len(cloud) / area * 8
    assert facts == json.loads(json.dumps(about_cloud(fused, FusionSettings())))
    assert page.read_text().count("data:image/png") == 2


def test_a_ball_becomes_a_closed_mesh(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    normals = draw.standard_normal((3000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    middle = np.array([450_000.0, 5_200_000.0, 300.0])
    colors = np.full((3000, 3), (10, 200, 30), np.uint8)
    cloud = Cloud(middle + 2 * normals, colors, normals.astype(np.float32))
    write_cloud(tmp_path / "ball.ply", cloud)
    counts = write_mesh(tmp_path / "ball.ply", tmp_path / "mesh.ply", MeshSettings(depth=5, trim=0))
    mesh = PlyData.read(tmp_path / "mesh.ply")
    corners = np.stack([mesh["vertex"][name] for name in "xyz"], 1) - middle
    faces = np.stack(list(mesh["face"].data["vertex_indices"]))
    assert counts == (len(corners), len(faces))
    assert np.abs(np.linalg.norm(corners, axis=1) - 2).max() < 0.05
    volume = np.einsum(
        "pi,pi->p", corners[faces[:, 0]], np.cross(*corners[faces[:, 1:]].swapaxes(0, 1))
    )
    assert volume.sum() / 6 == pytest.approx(4 / 3 * np.pi * 8, rel=0.03)
    write_cloud(tmp_path / "bare.ply", Cloud(cloud.positions))
    with pytest.raises(UserError, match=r"bare\.ply: no points with normals"):
        write_mesh(tmp_path / "bare.ply", tmp_path / "none.ply")


def test_a_view_far_off_adds_nothing(tmp_path: Path) -> None:
    """A camera that looks the other way keeps nothing, and changes nothing of the rest."""
    seen = views()
    poses = seen.cam_from_world
    behind = Transform.exp(torch.tensor([0.0, 0, 0, 0, math.pi, 0], dtype=torch.float64))
    away = behind @ seen.pose(seen.names[0])
    rotation = torch.cat([poses.rotation, away.rotation[None]])
    translation = torch.cat([poses.translation, away.translation[None]])
    names = (*seen.names, "cam_0/away.png")
    more = Views(names, seen.cameras, (1,) * len(names), Transform.rigid(rotation, translation))
    depths: dict[str, Array] = {"cam_0/away.png": np.full(SIZE, 5.0)}
    alone, _ = cloud_of(write_place(tmp_path / "alone"))
    scene = write_place(tmp_path / "more", more, depths=depths)
    together, fused = cloud_of(scene)
    assert (together.positions == alone.positions).all()
    assert fused.views[-1].name == "cam_0/away.png"
    assert fused.views[-1].num_kept == 0


def test_masks_that_keep_all_still_make_no_point_of_one_view(tmp_path: Path) -> None:
    scene = write_place(tmp_path / "place")
    for name in views().names:
        path = scene.geometric_mask(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(path)
    cloud, fused = cloud_of(scene)
    assert all(item.is_foreign and item.num_kept == WIDTH * HEIGHT for item in fused.coverage)
    assert cloud.intensity is not None
    assert cloud.intensity.min() == 2


def test_a_semantic_mask_takes_its_view_out_of_the_means(tmp_path: Path) -> None:
    seen = views()
    scene = write_place(tmp_path / "place")
    path = scene.semantic_mask(seen.names[0])
    path.parent.mkdir(parents=True)
    points = points_of(seen.pose(seen.names[0]))
    on_ball = np.abs(np.linalg.norm(points - BALL, axis=-1) - RADIUS) < 1e-9
    Image.fromarray((~on_ball).astype(np.uint8) * np.uint8(255)).save(path)
    cloud, fused = cloud_of(scene)
    mask = read_mask(scene.geometric_mask(seen.names[0]), SIZE)
    assert fused.views[0].num_kept == (mask & ~on_ball).sum() < mask.sum()
    reach = np.linalg.norm(cloud.positions - BALL, axis=1)
    assert cloud.intensity is not None
    assert cloud.intensity[reach < RADIUS + 0.01].max() == len(seen) - 1
