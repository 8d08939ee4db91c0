"""`cuesta eval PATH --task ...`: rows of each task, the same bytes twice, and mistakes in one line."""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cuesta.cli.judging import add_eval_arguments, judge
from cuesta.data.clouds import Cloud, write_cloud
from cuesta.data.maps import read_map, write_map
from cuesta.data.scenes.colmap import read_colmap, write_colmap
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.terrasky3d import (
    calibrate_pairs,
    write_calibrated_pairs,
    write_views_txt,
)
from cuesta.data.worlds.make import Size, make_landmarks
from cuesta.errors import UserError
from cuesta.geometry import Transform
from tests.vision.terrasky3d.place import take_photos

TASKS = "--task"


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--json", action="store_true")
    add_eval_arguments(parser)
    return judge(parser.parse_args([str(argument) for argument in arguments]))


def rows(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, dict]:
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    return {f"{row['method']}, {row['stratum']}": row for row in found}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return photos of a place in COLMAP's form: a model, and images beside it."""
    root = tmp_path_factory.mktemp("photos") / "castle"
    views = take_photos(root / "images", [-8.0, -3.0, 3.0, 8.0])
    write_colmap(root / "sparse" / "0", views)
    return root


@pytest.fixture(scope="module")
def landmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a generated scene of a few small pictures with true depth."""
    size = Size(num_scenes=1, num_images=6, width=160, height=120)
    return make_landmarks(tmp_path_factory.mktemp("set"), size, preset="clean")[0].root


def test_pairs_of_generated_photos_are_found_and_twice_the_same(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for _ in range(2):
        arguments = (photos, TASKS, "two-view", "--estimator", "both", "--features", "1024")
        assert run(*arguments, "--json") == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    found = json.loads(said[0])
    assert found["pairs"] == "all pairs"
    ours, theirs = (row for row in found["rows"] if row["stratum"] == "all")
    assert (ours["method"], theirs["method"]) == ("lo-ransac", "ransac")
    assert ours["pairs"] == theirs["pairs"] == 6
    assert ours["failed"] == 0
    assert ours["median_deg"] < 1
    assert ours["auc_at_5"] > 70
    assert theirs["auc_at_20"] > 70
    assert 5 <= ours["inliers"] <= ours["matches"]


def test_listed_pairs_are_judged_by_the_truth_of_the_list(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A published split: frames, and a list that says the poses; a wrong one is seen."""
    views = read_colmap(photos / "sparse" / "0")
    shutil.copytree(photos / "images", tmp_path / "data" / "castle" / "frames")
    one, two, three, _ = (f"castle/frames/{name}" for name in views.names)
    pairs = calibrate_pairs({"castle": views}, [(one, two), (two, three)])
    write_calibrated_pairs(tmp_path / "pairs_calibrated.txt", pairs)
    listed = ("--pairs", tmp_path / "pairs_calibrated.txt", "--features", "1024")
    good = rows(capsys, tmp_path, TASKS, "two-view", *listed)["lo-ransac, all"]
    assert good["pairs"] == 2
    assert good["auc_at_5"] > 50
    turned = Transform(pairs.b_from_a.rotation.mT, pairs.b_from_a.translation, pairs.b_from_a.scale)
    write_calibrated_pairs(tmp_path / "pairs_calibrated.txt", pairs._replace(b_from_a=turned))
    bad = rows(capsys, tmp_path, TASKS, "two-view", *listed, "--limit", "1")["lo-ransac, all"]
    assert bad["pairs"] == 1
    assert bad["median_deg"] > 5


def test_a_list_of_views_is_a_truth_too(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = read_colmap(photos / "sparse" / "0")
    write_views_txt(tmp_path / "views.txt", {"castle": views})
    for truth in (tmp_path, tmp_path / "views.txt", photos):
        found = rows(capsys, photos, TASKS, "scene-pose", "--against", truth)["cameras, all"]
        assert (found["pairs"], found["failed"], found["missing_images"]) == (6, 0, 0)
        assert found["auc_at_0.5"] > 99.9


def test_a_scene_with_an_image_less_has_infinite_pairs(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = read_colmap(photos / "sparse" / "0")
    write_colmap(tmp_path / "sparse" / "0", views.select(views.names[1:]))
    found = rows(capsys, tmp_path, TASKS, "scene-pose", "--against", photos)["cameras, all"]
    assert (found["failed"], found["missing_images"]) == (3, 1)
    assert found["auc_at_10"] == pytest.approx(50, abs=0.1)


def test_names_of_a_reconstruction_are_those_of_its_photos(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = read_colmap(photos / "sparse" / "0")
    own = tuple(f"cam_0/{place}.jpg" for place in range(4))
    model = type(views)(own, views.cameras, views.camera_ids, views.cam_from_world)
    write_colmap(tmp_path / "sparse" / "0", model)
    images = [{"name": name, "source": was} for name, was in zip(own, views.names, strict=True)]
    record = tmp_path / "work" / "ingest" / "stage.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"result": {"images": images}}))
    found = rows(capsys, tmp_path, TASKS, "scene-pose", "--against", photos)["cameras, all"]
    assert found["failed"] == 0
    assert found["auc_at_0.5"] > 99.9


def test_depth_is_judged_raw_and_within_masks(
    landmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views, truth = read_colmap(Scene(landmark).model), Scene(landmark)
    made = Scene(tmp_path / "made")
    write_colmap(made.model, views)
    for name in views.names[1:]:
        write_map(made.depth_map(name), np.float32(1.015) * read_map(truth.depth_map(name)))
    shutil.copytree(landmark / "depth" / "masks_semantic", made.root / "depth" / "masks_semantic")
    arguments = (made.root, TASKS, "depth", "--against", landmark)
    found = rows(capsys, *arguments)
    assert set(found) == {"raw, all", "semantic, all"}
    raw, masked = found["raw, all"], found["semantic, all"]
    assert (raw["images"], raw["missing_images"]) == (6, 1)
    assert raw["abs_rel"] == pytest.approx(0.015, rel=1e-4)
    assert (raw["within_1"], raw["within_2"]) == (0, 1)
    assert 0.5 < raw["complete"] < 1
    assert masked["complete"] < raw["complete"]
    assert masked["pixels"] == raw["pixels"]
    aligned = rows(capsys, *arguments, "--align-scale")["raw, all"]
    assert aligned["abs_rel"] < 1e-5
    for name in views.names[1:]:  # depth may be smaller than its photographs, whose size masks have
        write_map(made.depth_map(name), read_map(made.depth_map(name))[1::2, 1::2])
    smaller = rows(capsys, *arguments)["semantic, all"]
    assert smaller["complete"] == pytest.approx(masked["complete"], abs=0.02)


@pytest.mark.parametrize("has_masks", [False, True])
def test_depth_is_compared_with_that_of_the_photo_that_an_image_was(
    landmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], has_masks: bool
) -> None:
    views, truth, made = read_colmap(Scene(landmark).model), Scene(landmark), Scene(tmp_path)
    write_colmap(made.model, views)
    names = views.names
    images = [  # the new names are those of other photos
        {"name": name, "source": was}
        for name, was in zip(names, names[1:] + names[:1], strict=True)
    ]
    record = made.work / "ingest" / "stage.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"result": {"images": images}}))
    for image in images:
        write_map(made.depth_map(image["name"]), read_map(truth.depth_map(image["source"])))
        if has_masks:
            mask = made.semantic_mask(image["name"])
            mask.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(truth.semantic_mask(image["source"]), mask)
    found = rows(capsys, made.root, TASKS, "depth", "--against", landmark)
    assert ("semantic, all" in found) == has_masks
    for row in found.values():
        assert (row["missing_images"], row["abs_rel"], row["within_1"]) == (0, 0, 1)


def test_pairs_of_a_scene_with_depth_are_told_by_overlap(
    landmark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(capsys, landmark, TASKS, "two-view", "--features", "256")
    strata = {name: row["pairs"] for name, row in found.items() if "overlap" in name}
    assert sum(strata.values()) == found["lo-ransac, all"]["pairs"] > 0
    assert "lo-ransac, overlap below 0.1" not in strata


def test_a_cloud_is_judged_against_one_and_against_true_depth(
    landmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cuesta.vision.terrasky3d.benchmark.places import cloud_of_maps

    points = cloud_of_maps(landmark, 0.2)
    shift = np.array([0.0, 0.0, 0.01])
    write_cloud(tmp_path / "found.ply", Cloud(points + shift))
    write_cloud(tmp_path / "true.ply", Cloud(points))
    arguments = (tmp_path / "found.ply", TASKS, "cloud", "--within", "0.005", "0.02", "--against")
    found = rows(capsys, *arguments, tmp_path / "true.ply")["cloud, all"]
    assert found["points"] == found["true_points"] == len(points)
    assert found["accuracy"] <= 0.01 + 1e-9
    assert found["f_score_at_0.02"] == 1
    assert found["f_score_at_0.005"] < 0.1
    spaced = rows(capsys, *arguments, landmark, "--spacing", "0.2", "--cap", "1")["cloud, all"]
    assert spaced["recall_at_0.02"] > 0.5


def test_a_table_is_for_people(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(photos, TASKS, "scene-pose", "--against", photos) == 0
    heading, line, *_ = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["scene", "method", "stratum"]
    assert line.split()[:4] == ["castle", "cameras", "all", "6"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{photos}", TASKS, "depth"), "--task depth needs --against TRUTH"),
        (("none", TASKS, "two-view"), "none: no such folder"),
        (("{empty}", TASKS, "two-view"), "no scene and no folder of scenes"),
        (("{photos}", TASKS, "two-view", "--scenes", "moon"), "no scene 'moon'; it has castle"),
        (("{photos}", TASKS, "two-view", "--images", "{empty}"), "no image IMG_0000.jpg in"),
        (("{photos}", TASKS, "two-view", "--limit", "0"), "--limit must be above 0, got 0"),
        (("{photos}", TASKS, "depth", "--against", "{photos}"), "no depth maps"),
        (("{photos}", TASKS, "depth", "--against", "{landmark}"), "no depth map of cam_"),
        (("{photos}", TASKS, "scene-pose", "--against", "{landmark}"), "no image of it is in"),
        (("{photos}", TASKS, "cloud", "--against", "{photos}"), "no cloud; name a .ply"),
        (("{photos}", TASKS, "two-view", "--pairs", "none.txt"), "none.txt: no such file"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], words: str, photos: Path, landmark: Path, tmp_path: Path
) -> None:
    given = [a.format(photos=photos, landmark=landmark, empty=tmp_path) for a in arguments]
    with pytest.raises(UserError) as raised:
        run(*given)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
