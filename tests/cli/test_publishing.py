"""The verbs publish, data verify and data export: what they print and their status."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cuesta.cli import publishing
from tests.data.scenes.corner import make_corner

Add = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]


def run(add: Add, verb: Run, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    add(parser)
    return verb(parser.parse_args(arguments))


def publish(*arguments: str) -> int:
    return run(publishing.add_publish_arguments, publishing.publish, *arguments)


def verify(*arguments: str) -> int:
    return run(publishing.add_verify_arguments, publishing.verify, *arguments)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_corner(folder / "church", count=3)
    make_corner(folder / "square", count=3, seed=1)
    return folder


def test_scenes_are_published_checked_and_exported(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corners"
    stated = ("--licence", "CC-BY-4.0", "--privacy", "faces are blurred")
    assert publish(str(scenes), "--out", str(out), "--test", "square", *stated) == 0
    said = capsys.readouterr().out
    assert "church: train, 3 images, 3 pairs by shared points" in said
    assert f"data set: {out}" in said
    sheet = (out / "datasheet.md").read_text()
    assert sheet.startswith("# corners\n")
    assert "Licence of the data set: CC-BY-4.0" in sheet
    assert "Faces and number plates: faces are blurred" in sheet

    assert verify(str(out)) == 0
    assert "nothing is wrong (2 scenes, 6 images" in capsys.readouterr().out

    export = (str(out), "--form", "nerfstudio", "--out", str(tmp_path / "nerf"))
    assert run(publishing.add_export_arguments, publishing.export, *export) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "nerf" / "church"),
        str(tmp_path / "nerf" / "square"),
    ]

    frame = next((out / "data" / "church" / "frames").rglob("*.jpg"))
    content = frame.read_bytes()
    frame.unlink()
    frame.write_bytes(content[:-1])
    assert verify(str(out)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"file: {frame.relative_to(out)}: has ") for line in lines)
    assert verify(str(out), "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["findings"]) == len(lines)
    assert set(found["findings"][0]) == {"kind", "where", "what"}


def test_json_says_what_was_made(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (str(scenes / "church"), "--out", str(tmp_path / "set"), "--no-archives", "--json")
    for made_now in (["church"], []):
        assert publish(*arguments) == 0
        about = json.loads(capsys.readouterr().out)
        assert about["made_now"] == made_now
        assert about["scenes"]["church"]["split"] == "train"
