"""Pairs are measured as geometry says, and chosen as the rules say."""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from cuesta.data.scenes.colmap import read_colmap, read_reconstruction
from cuesta.data.scenes.pair_table import PairRow, kept_pairs, read_pair_table, write_pair_table
from cuesta.data.scenes.scene import Scene
from cuesta.errors import UserError
from cuesta.geometry import Transform
from cuesta.vision.terrasky3d.selection import (
    PairRules,
    ViewGraph,
    choose,
    measure_pairs,
    measure_row,
    reader,
    view_graph,
)
from cuesta.vision.terrasky3d.selection_kernels import count_pixels
from cuesta.vision.terrasky3d.strata import count_strata
from tests.data.scenes.corner import make_corner, seen_points

INLIERS = ViewGraph("verified inliers", {})
DEPTH = ViewGraph("overlap of depth", None)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_corner(tmp_path_factory.mktemp("corner") / "scene")


def row(**changes: object) -> PairRow:
    base = PairRow("a.jpg", "b.jpg", 3001, (0.51,) * 10, 0.5, 1, 0.9, 100, "ground")
    return base._replace(**changes)


def kept(there: PairRow, back: PairRow, split: str, graph: ViewGraph) -> list[bool | None]:
    back = back._replace(image_a="b.jpg", image_b="a.jpg")
    return [found.is_kept for found in choose([there, back], split, graph, PairRules())]


def test_pixels_that_the_other_image_holds_go_there_and_back(scene: Scene) -> None:
    views = read_colmap(scene.model)
    name_a, name_b = views.names[0], views.names[2]
    found = measure_row(views, (name_a, name_b), reader(scene, views, 1600))
    points, depth = seen_points(views.camera(name_a), views.pose(name_a))
    in_b = views.pose(name_b) @ torch.from_numpy(points.reshape(-1, 3))
    pixels = views.camera(name_b).project(in_b).numpy()
    is_seen = ((pixels >= 0) & (pixels < (160, 120))).all(-1)
    on_border = (np.abs(pixels - np.round(pixels / (160, 120)) * (160, 120)) < 1e-3).any(-1)
    assert abs(found.num_pixels - is_seen.sum()) <= on_border.sum()
    assert found.within[0] > 0.99
    assert abs(found.overlap - is_seen.mean()) < 0.01
    assert found.look > 0.9
    assert depth.min() > 0


def test_one_pass_counts_what_numpy_counts() -> None:
    draw = np.random.default_rng(0)
    shape = (30, 40)
    errors = draw.choice([0.3, 1.0, 1.7, 9.99, 10.5, np.inf], shape).astype(np.float32)
    depth = draw.choice([0, 1.5, 2.5], shape).astype(np.float32)
    errors[depth == 0] = np.inf
    keep = draw.random(shape) < 0.7
    detail, other = draw.standard_normal((2, *shape)).astype(np.float32)
    matrix = np.hstack([np.eye(3), np.array([[3.0], [-4.0], [0.1]])])
    within, counts, sums = np.empty(10, np.int64), np.empty(4, np.int64), np.empty(5)
    count_pixels(errors, depth, keep, detail, other, matrix, within, counts, sums)
    assert within.tolist() == [int((errors <= k).sum()) for k in range(1, 11)]
    has_way, is_alike = np.isfinite(errors), errors <= 1
    expected = [has_way.sum(), (depth > 0).sum(), (has_way & keep).sum(), is_alike.sum()]
    assert counts.tolist() == expected
    rows, columns = np.nonzero(is_alike)
    z = depth[is_alike].astype(float)
    x = ((columns + 0.5) * z + 3) / (z + 0.1)
    y = ((rows + 0.5) * z - 4) / (z + 0.1)
    there = other[y.clip(0, 29).astype(int), x.clip(0, 39).astype(int)].astype(float)
    here = detail[is_alike].astype(float)
    values = here, there, here**2, there**2, here * there
    assert np.allclose(sums, [value.sum() for value in values])


def test_a_wrong_pose_shows_in_the_round_trip_and_in_the_look(scene: Scene) -> None:
    views = read_colmap(scene.model)
    pair = (views.names[0], views.names[1])
    right = measure_row(views, pair, reader(scene, views, 1600))
    turned = Transform.exp(torch.tensor([0, 0, 0, 0, 0.03, 0], dtype=torch.float64))
    wrong = type(views)(
        views.names,
        views.cameras,
        views.camera_ids,
        Transform(
            torch.cat(
                [(turned @ views.pose(pair[0])).rotation[None], views.cam_from_world.rotation[1:]]
            ),
            views.cam_from_world.translation,
            views.cam_from_world.scale,
        ),
    )
    found = measure_row(wrong, pair, reader(scene, wrong, 1600))
    assert found.look < right.look - 0.3


def test_masked_pixels_are_counted_apart(scene: Scene) -> None:
    views = read_colmap(scene.model)
    name_a, name_b = views.names[0], views.names[2]
    found = measure_row(views, (name_a, name_b), reader(scene, views, 1600))
    points, _ = seen_points(views.camera(name_a), views.pose(name_a))
    x, y = points[..., 0], points[..., 1]
    keep = (np.sin(3 * x) > -0.8) & (np.sin(2 * y + x) > -0.8)
    in_b = views.pose(name_b) @ torch.from_numpy(points.reshape(-1, 3))
    pixels = views.camera(name_b).project(in_b).numpy().reshape(120, 160, 2)
    is_seen = ((pixels >= 0) & (pixels < (160, 120))).all(-1)
    assert abs(found.kept_pixels - (is_seen & keep).sum()) <= 2
    assert found.kept_pixels < found.num_pixels - 100


def test_a_scene_at_half_the_size_has_the_same_overlap(scene: Scene) -> None:
    views = read_colmap(scene.model)
    pair = (views.names[0], views.names[2])
    whole = measure_row(views, pair, reader(scene, views, 160))
    half = measure_row(views, pair, reader(scene, views, 80))
    assert abs(whole.overlap - half.overlap) < 0.02
    assert abs(whole.num_pixels - 4 * half.num_pixels) < 0.05 * whole.num_pixels


def test_the_view_graph_counts_what_is_shared(scene: Scene) -> None:
    model = read_reconstruction(scene.model)
    graph = view_graph(scene, model, PairRules(graph_inliers=1))
    assert graph.source == "shared points"
    of_image = {
        image.name: {point.point3D_id for point in image.points2D if point.has_point3D()}
        for image in model.images.values()
    }
    expected = {
        (a, b): len(of_image[a] & of_image[b]) for a, b in combinations(sorted(of_image), 2)
    }
    assert graph.counts == {pair: count for pair, count in expected.items() if count}
    assert set(of_image.values().__iter__().__next__()), "the oracle saw points"


def test_verified_inliers_come_first(tmp_path: Path) -> None:
    scene = make_corner(tmp_path / "scene")
    names = read_colmap(scene.model).names
    inliers = [[names[1], names[0], 120], [names[0], names[2], 29], [names[0], "gone.jpg", 500]]
    record = scene.work / "matches" / "stage.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"result": {"inliers": inliers}}))
    graph = view_graph(scene, read_reconstruction(scene.model), PairRules())
    assert graph == ViewGraph("verified inliers", {(names[0], names[1]): 120})
    record.write_text("{")
    with pytest.raises(UserError, match=r"stage\.json"):
        view_graph(scene, read_reconstruction(scene.model), PairRules())


def test_without_a_view_graph_depth_says_who_sees_whom(tmp_path: Path) -> None:
    scene = make_corner(tmp_path / "scene", num_points=0)
    views = read_colmap(scene.model)
    graph = view_graph(scene, read_reconstruction(scene.model), PairRules())
    assert graph == DEPTH
    rows = measure_pairs(scene, views, graph, PairRules())
    assert {(row.image_a, row.image_b) for row in rows} == {
        pair for a, b in combinations(views.names, 2) for pair in ((a, b), (b, a))
    }


@pytest.mark.parametrize(
    ("there", "back", "expected"),
    [
        ({}, {}, True),
        ({"num_pixels": 3000}, {}, False),
        ({}, {"num_pixels": 3000}, False),
        ({"within": (0.5,) * 10}, {}, False),
        ({}, {"within": (0.9,) * 9 + (0.5,)}, False),
        ({"inliers": 5}, {"inliers": 5}, True),
    ],
)
def test_the_rule_for_training(there: dict, back: dict, expected: bool) -> None:
    assert kept(row(**there), row(**back), "train", INLIERS) == [expected] * 2


@pytest.mark.parametrize(
    ("stratum", "inliers", "expected"),
    [
        ("ground", 99, False),
        ("ground", 100, True),
        ("aerial", 500, True),
        ("aerial", 501, False),
        ("mixed", 31, True),
        ("mixed", 900, True),
    ],
)
def test_the_rule_for_testing(stratum: str, inliers: int, expected: bool) -> None:
    found = row(stratum=stratum, inliers=inliers, num_pixels=10)
    assert kept(found, found, "test", INLIERS) == [expected] * 2


@pytest.mark.parametrize(
    ("stratum", "overlap", "expected"),
    [("ground", 0.09, False), ("ground", 0.1, True), ("ground", 0.7, False), ("mixed", 0.8, True)],
)
def test_without_inliers_overlap_decides(stratum: str, overlap: float, expected: bool) -> None:
    there, back = row(stratum=stratum, overlap=overlap), row(stratum=stratum, overlap=0.9)
    assert kept(there, back, "test", DEPTH) == [expected] * 2


def test_strata_hold_every_pair_once() -> None:
    pairs = [("ground", 0.1), ("ground", 0.29), ("mixed", 0.3), ("aerial", 0.05), ("mixed", 1.0)]
    counts = count_strata(pairs)
    assert counts["ground"]["0.1-0.3"] == 2
    assert counts["mixed"] == {
        **dict.fromkeys(counts["mixed"], 0),
        "0.3-0.5": 1,
        "above 0.7": 1,
    }
    assert sum(sum(found.values()) for found in counts.values()) == len(pairs)


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    rows = [
        row(look=0.1 + 0.2, is_kept=True),
        row(image_a="with, comma.jpg", inliers=None, is_kept=False),
    ]
    write_pair_table(tmp_path / "pairs.csv", rows)
    assert read_pair_table(tmp_path / "pairs.csv") == rows
    write_pair_table(tmp_path / "pairs.csv", [row(look=math.nan)])
    assert math.isnan(read_pair_table(tmp_path / "pairs.csv")[0].look)


def test_a_table_of_others_is_read_by_the_rule(tmp_path: Path) -> None:
    columns = ",".join(f"{k}px" for k in range(1, 11))
    shares = ",".join(["0.6"] * 10)
    lines = [
        f",level_0,level_1,num_pixels,{columns}",
        f"0,a.jpg,b.jpg,4000,{shares}",
        f"1,b.jpg,a.jpg,4000,{shares}",
        f"2,a.jpg,c.jpg,4000,{shares}",
        f"3,c.jpg,a.jpg,2000,{shares}",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    assert kept_pairs(read_pair_table(tmp_path / "pairs.csv")) == [("a.jpg", "b.jpg")]
    (tmp_path / "pairs.csv").write_text("\n".join(lines).replace("2000", "many"))
    with pytest.raises(UserError, match="line 5: num_pixels"):
        read_pair_table(tmp_path / "pairs.csv")
