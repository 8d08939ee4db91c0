"""Geometric masks against visibility by formula; what they are made from, and that they go on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Transform
from cuesta.ops.consistency import consistency
from cuesta.vision.terrasky3d.dense_maps import DepthView, open_dense, read_mask
from cuesta.vision.terrasky3d.geometric_masks import (
    MaskCoverage,
    MaskSettings,
    geometric_mask,
    write_geometric_masks,
)
from cuesta.vision.terrasky3d.source_views import source_views
from tests.vision.terrasky3d.solids import (
    HEIGHT,
    ROW,
    WIDTH,
    Array,
    depth_of,
    points_of,
    views,
    write_normals,
    write_place,
)

SIZE = (HEIGHT, WIDTH)
STRICT = MaskSettings(max_cost=2.0)  # geometry alone


@pytest.fixture
def place(tmp_path: Path) -> Scene:
    return write_place(tmp_path / "place")


def write_masks(scene: Scene, settings: MaskSettings = STRICT) -> list[MaskCoverage]:
    dense = open_dense(scene.root)
    sources = source_views(dense, settings.num_sources, read=dense.read)
    return write_geometric_masks(dense, settings, sources, read=dense.read)


def masks_of(scene: Scene, seen: Views) -> dict[str, np.ndarray]:
    return {name: read_mask(scene.geometric_mask(name), SIZE) for name in seen.names}


def unseen(view: DepthView) -> torch.Tensor:
    pytest.fail(f"{view.name}: geometry alone needs no photograph")


def sightings(seen: Views, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return by how many other views each pixel is seen for sure, and by how many perhaps."""
    points = torch.from_numpy(points_of(seen.pose(name))).reshape(-1, 3)
    surely, perhaps = np.zeros(SIZE, int), np.zeros(SIZE, int)
    for other in seen.names:
        if other == name:
            continue
        pose = seen.pose(other)
        inside = pose @ points
        pixels = seen.camera(other).project(inside).numpy()
        z = inside[:, 2].numpy()
        steps = np.array([(x, y) for x in (-1.5, 0, 1.5) for y in (-1.5, 0, 1.5)])
        around = depth_of(pose, pixels[:, None] + steps)  # [P, 9]
        within = ((pixels > 2) & (pixels < [WIDTH - 2, HEIGHT - 2])).all(1)
        outside = ((pixels < 0) | (pixels > [WIDTH, HEIGHT])).any(1)
        is_smooth = (np.abs(around / z[:, None] - 1) < 0.02).all(1)
        is_hidden = (around < 0.98 * z[:, None]).all(1)
        surely += (within & is_smooth & (np.abs(around[:, 4] / z - 1) < 1e-6)).reshape(SIZE)
        perhaps += (~outside & ~is_hidden).reshape(SIZE)
    return surely, perhaps


def test_kept_is_what_two_other_views_see(place: Scene) -> None:
    coverage, seen = write_masks(place), views()
    for name, mask in masks_of(place, seen).items():
        surely, perhaps = sightings(seen, name)
        assert mask[surely >= 2].all()
        assert not mask[perhaps < 2].any()
        assert (surely >= 2).mean() > 0.5
        assert (perhaps < 2).any() or name == "cam_0/2.png"
    assert [item.num_kept for item in coverage] == [
        int(mask.sum()) for mask in masks_of(place, seen).values()
    ]


def test_what_is_wrong_is_not_kept(tmp_path: Path) -> None:
    seen = views()
    depth = depth_of(seen.pose("cam_0/2.png"))
    depth[20:40, 10:30] *= 1.05
    depth[50:60, 60:80] = 0
    depth[0:5, 0:5] = np.nan
    scene = write_place(tmp_path / "place", depths={"cam_0/2.png": depth})
    coverage = {item.name: item for item in write_masks(scene)}["cam_0/2.png"]
    mask = masks_of(scene, seen)["cam_0/2.png"]
    assert not mask[20:40, 10:30].any()
    assert not mask[50:60, 60:80].any()
    assert coverage.num_depth == WIDTH * HEIGHT - 200 - 25
    surely, _ = sightings(seen, "cam_0/2.png")
    surely[20:40, 10:30] = surely[50:60, 60:80] = surely[0:5, 0:5] = 0
    assert mask[surely >= 2].all()


def test_order_of_sources_and_images_changes_nothing(place: Scene, tmp_path: Path) -> None:
    seen = views()
    write_masks(place, replace(STRICT, rule="terrasky3d"))
    first = {name: place.geometric_mask(name).read_bytes() for name in seen.names}
    backwards = seen.select(seen.names[::-1])
    other = write_place(tmp_path / "other", backwards)
    lists = {name: [n for n in backwards.names if n != name] for name in seen.names}
    (other.root / "depth" / "sources.json").write_text(json.dumps(lists))
    write_masks(other, replace(STRICT, rule="terrasky3d"))
    assert {name: other.geometric_mask(name).read_bytes() for name in seen.names} == first


def test_a_view_of_turned_normals_agrees_with_none(tmp_path: Path) -> None:
    seen = views()
    turn = Transform.exp(torch.tensor([0.0, 0, 0, math.radians(20), 0, 0], dtype=torch.float64))
    shares = {}
    for limit in (10.0, 30.0):
        scene = write_place(tmp_path / f"{limit:g}")
        write_normals(scene, seen, turn)
        write_masks(scene, replace(STRICT, max_angle=limit))
        shares[limit] = {name: mask.mean() for name, mask in masks_of(scene, seen).items()}
    first = seen.names[0]
    assert shares[10.0][first] < 0.02 < 0.7 < shares[30.0][first]  # an edge turns by chance
    assert all(shares[10.0][name] > 0.7 for name in seen.names[1:])


def test_what_looks_different_is_not_kept(tmp_path: Path) -> None:
    seen = views()
    scene = write_place(tmp_path / "place")
    write_normals(scene, seen)
    for name in seen.names:
        waves = np.sin(points_of(seen.pose(name)) @ [[9.0, 2], [3, -10], [5, 6]])
        grey = 128 + 60 * waves.sum(-1)
        if name == seen.names[2]:
            grey[20:44, 30:60] = 128
        Image.fromarray(grey.astype(np.uint8)).save(scene.frame(name))
    write_masks(scene)
    geometric = masks_of(scene, seen)[seen.names[2]]
    write_masks(scene, replace(STRICT, max_cost=0.7))
    seen_alike = masks_of(scene, seen)[seen.names[2]]
    assert geometric[24:40, 34:56].mean() > 0.9
    assert not seen_alike[24:40, 34:56].any()
    outside = np.ones(SIZE, bool)
    outside[14:50, 24:66] = False
    assert seen_alike[outside].mean() > 0.9 * geometric[outside].mean()


def test_a_photograph_is_asked_for_only_where_it_is_looked_at(place: Scene) -> None:
    seen = views()
    place.frame(seen.names[1]).unlink()
    assert len(write_masks(place, MaskSettings())) == len(seen.names)
    write_normals(place, seen)
    with pytest.raises(UserError, match=r"cam_0/1\.png: no such file; bring the photograph back"):
        write_masks(place, MaskSettings())


def test_rule_of_the_paper_is_its_formula(tmp_path: Path) -> None:
    seen, draw = views(), np.random.default_rng(0)
    noisy: dict[str, Array] = {
        name: depth_of(seen.pose(name)) * (1 + 0.004 * draw.standard_normal(SIZE))
        for name in seen.names
    }
    scene = write_place(tmp_path / "place", depths=noisy)
    write_normals(scene, seen)
    dense = open_dense(scene.root)
    this, *others = (dense.read(name) for name in seen.names)
    total, count = np.zeros(SIZE), np.zeros(SIZE)
    for other in others:
        found = consistency(
            this.depth,
            other.depth,
            this.other_from_this(other),
            normal=this.normals,
            other_normal=other.normals,
            rotation=this.rotation_to(other),
        )
        assert found.angle is not None
        pixel, depth, angle = (part.numpy().astype(float) for part in found)
        agrees = (pixel < 2) & (depth < 0.01) & (angle < 10)
        with np.errstate(over="ignore"):
            score = np.exp(-(pixel + 200 * depth + 10 * np.pi / 180 * angle))
        total, count = total + np.where(agrees, score, 0), count + agrees
    settings = replace(STRICT, rule="terrasky3d", min_score=0.3)
    mask = geometric_mask(this, others, settings, unseen).numpy()
    expected = (count >= 1) & (total > 0.3 * count)
    is_tie = np.abs(total - 0.3 * count) < 1e-5
    assert (mask == expected)[~is_tie].all()
    assert 0.1 < mask.mean() < 0.9
    assert (geometric_mask(this, others, STRICT, unseen).numpy() == (count >= 2)).all()


def test_masks_go_on_and_are_made_again_when_inputs_change(place: Scene) -> None:
    seen = views()
    dense = open_dense(place.root)
    sources = source_views(dense, 10, read=dense.read)

    class StoppedError(Exception):
        pass

    def stop(_stage: str, done: int, _total: int) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        write_geometric_masks(dense, STRICT, sources, read=dense.read, on_progress=stop)
    times = [place.geometric_mask(name).stat().st_mtime_ns for name in seen.names[:3]]
    assert not place.geometric_mask(seen.names[3]).exists()
    write_masks(place)
    whole = masks_of(place, seen)
    assert [place.geometric_mask(name).stat().st_mtime_ns for name in seen.names[:3]] == times
    write_masks(place, replace(STRICT, min_views=4))
    assert all(mask.sum() < whole[name].sum() for name, mask in masks_of(place, seen).items())
    write_masks(place)
    assert all((mask == whole[name]).all() for name, mask in masks_of(place, seen).items())


def test_a_mask_from_elsewhere_stays(place: Scene) -> None:
    name = views().names[0]
    own = np.zeros(SIZE, np.uint8)
    own[10:20] = 255
    place.geometric_mask(name).parent.mkdir(parents=True)
    Image.fromarray(own).save(place.geometric_mask(name))
    before = place.geometric_mask(name).read_bytes()
    coverage = write_masks(place)
    assert place.geometric_mask(name).read_bytes() == before
    assert [item.is_foreign for item in coverage] == [True, *[False] * (len(ROW) - 1)]
    assert coverage[0].num_kept == 10 * WIDTH


@pytest.mark.parametrize("fault", ["cut", "size", "mask", "sources", "normals"])
def test_what_is_broken_is_named(place: Scene, fault: str) -> None:
    name = views().names[1]
    culprit = place.depth_map(name)
    if fault == "cut":
        culprit.write_bytes(culprit.read_bytes()[:500])
    elif fault == "size":
        source = write_place(place.root.with_name("small"))
        write_small(source, name)
        culprit.write_bytes(source.depth_map(name).read_bytes())
    elif fault == "mask":
        culprit = place.geometric_mask(name)
        culprit.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(culprit)
    elif fault == "sources":
        culprit = place.root / "depth" / "sources.json"
        culprit.write_text(json.dumps({name: 5}))
    else:
        culprit = place.root / "depth" / "normals" / "cam_0" / "1.bin"
        culprit.parent.mkdir(parents=True)
        culprit.write_bytes(b"2&2&3&" + b"\0" * 48)
    with pytest.raises(UserError, match=str(culprit)) as error:
        write_masks(place)
    assert "\n" not in str(error.value)


def write_small(scene: Scene, name: str) -> None:
    from cuesta.data.maps import write_map

    write_map(scene.depth_map(name), np.ones((HEIGHT, WIDTH + 20), np.float32))


def test_sources_by_geometry_see_the_same_from_about_five_degrees(tmp_path: Path) -> None:
    dense = open_dense(write_place(tmp_path / "place", views((0.0, 0.01, 0.55, 2.0))).root)
    found = source_views(dense, 2, read=dense.read)
    assert found["cam_0/0.png"] == ("cam_0/2.png", "cam_0/3.png")
    assert found["cam_0/3.png"][0] == "cam_0/2.png"
    assert all(name not in others for name, others in found.items())


def test_limits_must_be_above_zero() -> None:
    with pytest.raises(UserError, match=r"masks\.max-pixels must be above 0, got 0"):
        MaskSettings(max_pixels=0)
