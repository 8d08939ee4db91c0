"""`cuesta fuse`: what it writes and says, and its mistakes in one line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from cuesta.cli.fusing import add_arguments, fuse, num_bytes
from cuesta.data.clouds import read_cloud
from cuesta.data.scenes.scene import Scene, open_scene
from cuesta.errors import UserError
from tests.vision.terrasky3d.solids import write_place


def run(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="cuesta fuse", add_help=False)
    parser.add_argument("--json", action="store_true")
    add_arguments(parser)
    options, options.settings = parser.parse_known_args(words)
    return fuse(options)


@pytest.fixture
def place(tmp_path: Path) -> Scene:
    return write_place(tmp_path / "place")


def test_a_scene_gets_a_cloud_a_report_and_a_manifest(
    place: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(place.root)) == 0
    said = capsys.readouterr()
    num_points = len(read_cloud(place.root / "fused.ply"))
    assert said.out.startswith(f"{num_points:,} points of 5 images; ")
    assert said.out.rstrip().endswith(str(place.root / "fused.html"))
    stages = [line.split()[0] for line in said.err.splitlines()]
    assert list(dict.fromkeys(stages)) == ["masks", "fuse", "report"]
    open_scene(place.root)
    listed = json.loads(place.manifest.read_text())["files"]
    assert {"fused.ply", "fused.json", "fused.html", "depth/masks_geometric/cam_0/0.png"} <= set(
        listed
    )
    assert run(str(place.root), "--json", "--points.voxel", "0.5", "--masks.min-views=1") == 0
    about = json.loads(capsys.readouterr().out)
    assert about["num_points"] < num_points
    assert about["voxel"] == 0.5
    assert about["settings"]["masks"]["min_views"] == 1
    open_scene(place.root)


def test_a_cloud_goes_where_it_should(place: Scene, tmp_path: Path) -> None:
    assert run(str(place.root), "--out", str(tmp_path / "other" / "cloud.las")) == 0
    assert {path.suffix for path in (tmp_path / "other").iterdir()} == {".las", ".json", ".html"}
    assert not (place.root / "fused.ply").exists()


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert "--memory" in said
    assert "--masks.max-pixels" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "none: no scene"),
        (["none", "--memory", "much"], "--memory 'much' is no size; write 700M or 4G"),
        (["none", "--mesh", "--out", "a.las"], "a.las: a mesh needs normals"),
        (["none", "--masks.max-pixel", "1"], "did you mean --masks.max-pixels"),
        (["none", "--points.voxel", "1", "--points.voxel-footprints", "1"], "give one"),
        (["none", "--points.voxel=-1"], "0 or above"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        run(*words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_are_in_powers_of_1024() -> None:
    assert (num_bytes("4G"), num_bytes("700MiB"), num_bytes("12")) == (4 << 30, 700 << 20, 12)
