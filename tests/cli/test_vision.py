"""`cuesta reconstruct`, `cuesta data make landmarks` and what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cuesta.cli.main import main
from cuesta.cli.stages import show_stages
from cuesta.cli.vision import demo_scene
from cuesta.data.scenes.scene import open_scene
from cuesta.data.worlds import make
from tests.vision.terrasky3d.place import take_photos


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place") / "photos"
    take_photos(folder, [-15.0, -9.0, -3.0, 3.0, 9.0, 15.0])
    (folder / "broken.jpg").write_bytes(b"")
    return folder


def test_photos_become_a_scene_with_a_verdict(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photos.parent / "scene"
    arguments = ("reconstruct", str(photos), "--out", str(out), "--recipe", "debug")
    status, said, progress = run(capsys, *arguments)
    assert status == 0, progress
    assert "6 images" in said
    assert "left out: broken.jpg: not readable" in said
    assert said.rstrip().endswith(str(out / "report.html"))
    assert (out / "report.html").is_file()
    stages = [line.split()[0] for line in progress.splitlines()]
    assert list(dict.fromkeys(stages)) == [
        *("ingest", "calibrate", "features", "matches", "sparse", "undistort", "metric", "publish"),
    ]
    status, said, _ = run(capsys, *arguments, "--json")
    about = json.loads(said)
    assert (status, about["num_images"]) == (0, 6)
    assert about["excluded"] == [
        {"name": "broken.jpg", "reason": about["excluded"][0]["reason"]},
    ]
    assert about["verdict"] in ("good", "usable")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "none: no such folder"),
        (["none", "--features.max-image-sise", "5"], "did you mean --features.max-image-size"),
        (["none", "--mapping.method", "magic"], "expected one of incremental, global"),
        (["none", "--ingest.frames-per-second", "0"], "above 0 and at most 240"),
        (["none", "--scale.first", "a.jpg"], "scale.first, scale.second and scale.metres > 0"),
        (
            ["none", *("--scale.first", "a", "--scale.second", "b", "--scale.metres", "7")],
            "none: no such folder",
        ),
        (
            ["none", "--calibrate.intrinsics", "K.txt", "--calibrate.board", "clips"],
            "calibrate.intrinsics (K.txt) and calibrate.board (clips)",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, _, error = run(capsys, "reconstruct", *arguments, "--out", str(tmp_path / "out"))
    last = error.strip().splitlines()[-1]
    assert status == 2
    assert words in last
    assert last.startswith("cuesta: ")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (("reconstruct", "photos"), "pycolmap", "vision"),
        (("view", "scene"), "viser", "view"),
        (("data", "make", "landmarks"), "h5py", "vision"),
    ],
)
def test_a_missing_extra_is_one_line(arguments: tuple[str, ...], module: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from cuesta.cli.main import main; main({list(arguments)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"cuesta: {module} is not installed; pip install 'cuesta[{extra}]' brings it, "
        f"in a clone pip install -e '.[{extra}]'"
    )
    assert "Traceback" not in done.stderr


def test_make_demo_installs_what_its_scene_is_viewed_with() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "install --quiet --no-compile -e '.[vision,view]'" in makefile


def test_the_demo_rebuilds_a_landmark_and_replaces_an_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "landmark"
    folder.mkdir()
    (folder / "old.txt").write_text("of a run before")
    result, accuracy = demo_scene(folder, num_images=8, width=320, height=240)
    assert len(result.images) == 8
    assert accuracy["auc_at_5_deg"] > 80
    assert sorted(path.name for path in folder.iterdir()) == ["photos", "scene"]
    open_scene(folder / "scene")


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = run(capsys, "reconstruct", "--help", "--recipe", "paper")
    assert status == 0
    for flag in (
        "--calibrate.intrinsics",
        "--features.max-image-size  ",
        "--scale.metres",
        "--seed",
    ):
        assert flag.strip() in said
    assert "4000" in said


def test_landmarks_are_made_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = make.Size(num_scenes=1, num_images=2, width=64, height=48)
    monkeypatch.setitem(make.SIZES, "mini", tiny)
    arguments = ("data", "make", "landmarks", "--out", str(tmp_path))
    status, said, _ = run(capsys, *arguments)
    assert status == 0
    scene = Path(said.strip())
    assert scene.parent == tmp_path
    before = {file: file.stat().st_mtime_ns for file in scene.rglob("*") if file.is_file()}
    assert run(capsys, *arguments)[1] == said
    assert {file: file.stat().st_mtime_ns for file in scene.rglob("*") if file.is_file()} == before


def test_an_unknown_size_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, error = run(
        capsys, "data", "make", "rooms", "--size", "huge", "--out", str(tmp_path / "rooms")
    )
    assert status == 2
    assert "no size 'huge'; choose one of mini, small, train" in error


def test_lines_tell_the_stage_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    with show_stages(sys.stderr) as show:
        show("features", 0, 4)
        show("features", 2, 4)
        show("matches", 0, 0)
    assert capsys.readouterr().err.splitlines() == ["features 0/4", "matches"]
