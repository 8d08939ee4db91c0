"""`cuesta depth` and `cuesta masks`: what they write and say, and their mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cuesta.cli.main import main
from cuesta.data.scenes.scene import Scene, open_scene
from tests.vision.terrasky3d.dense_place import make_posed

QUICK = (
    *("--recipe", "debug", "--num-sources=2", "--coarse-iterations", "2", "--patch.radius", "2"),
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Scene]:
    return make_posed(tmp_path_factory.mktemp("places"))


def test_posed_images_get_depth_then_masks(
    places: tuple[Scene, Scene], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "scene"
    arguments = ("depth", str(places[0].root), "--out", str(out), *QUICK)
    status, said, progress = run(capsys, *arguments)
    assert status == 0, progress
    assert said.startswith("5 images with depth, ")
    assert f"depth: {out / 'depth' / 'maps'}" in said
    assert f"COLMAP's workspace: {out / 'colmap' / 'dense'}" in said
    assert said.rstrip().endswith(str(out / "depth" / "report.html"))
    stages = [line.removeprefix("pass ").split()[0] for line in progress.splitlines()]
    assert list(dict.fromkeys(stages)) == ["images", "points", "0", "1", "maps", "publish"]
    status, said, _ = run(capsys, *arguments, "--json")
    about = json.loads(said)
    assert (status, about["num_images"], about["refused"]) == (0, 5, {})
    assert about == json.loads((out / "depth" / "depth.json").read_text())
    status, said, progress = run(
        capsys, "masks", str(out), "--json", "--geometric.max-depth", "0.05"
    )
    assert status == 0, progress
    assert 0 < json.loads(said)["geometric"]["mean_kept"] < 1
    status, said, _ = run(capsys, "masks", str(out), "--geometric.max-depth", "0.05")
    assert said.startswith("geometric masks keep ")
    open_scene(out)


def test_images_without_depth_are_told_by_the_status(
    places: tuple[Scene, Scene],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cuesta.vision.terrasky3d import depth

    def told(*_: object, **_named: object) -> depth.DepthResult:
        images = {"cam_0/a.jpg": {"confirmed_by_two": 0.5}}
        reasons = {"cam_0/b.jpg": "it shares no 5 points"}
        return depth.DepthResult(places[1], images, reasons, 1.0)

    monkeypatch.setattr(depth, "make_depth", told)
    status, said, _ = run(capsys, "depth", str(places[1].root))
    assert status == 1
    assert "  without depth: cam_0/b.jpg: it shares no 5 points" in said.splitlines()


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("depth", ("--memory", "--engine", "--num-sources", "--patch.radius", "--nearest")),
        ("masks", ("--memory", "--geometric.max-pixels", "--semantic.weights")),
    ],
)
def test_help_lists_every_setting(
    verb: str, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, _ = run(capsys, verb, "--help")
    assert status == 0
    for flag in flags:
        assert flag in said


def test_a_recipe_changes_what_help_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(capsys, "depth", "--help")[1] != run(capsys, "depth", "--help", "--recipe", "fast")[1]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["depth", "none"], "none: no scene"),
        (["depth", "none", "--out", "new"], "none: no such folder or file"),
        (["depth", "none", "--images", "photos"], "--images photos goes with --out"),
        (["depth", "none", "--num-source", "3"], "did you mean --num-sources"),
        (["depth", "none", "--num-sources", "few"], "--num-sources few: expected int"),
        (["depth", "none", "--num-sources", "0"], "num-sources must be above 0, got 0"),
        (["depth", "none", "--patch.radius", "99"], "radius must be 1 to "),
        (["depth", "none", "--memory", "much"], "--memory 'much' is no size"),
        (["masks", "none"], "none: no scene"),
        (["masks", "none", "--geometric.max-pixel", "3"], "did you mean --geometric.max-pixels"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = run(capsys, *arguments)
    last = error.strip().splitlines()[-1]
    assert status == 2
    assert last.startswith("cuesta: ")
    assert words in last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("verb", "words"), [("depth", "reconstruct"), ("masks", "cuesta depth")])
def test_no_scene_is_one_line(verb: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, verb)
    assert status == 2
    assert words in error.strip().splitlines()[-1]
