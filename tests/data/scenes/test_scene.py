"""A scene is what its manifest says, or the difference is told in one line."""

import json
from pathlib import Path

import pytest

from cuesta.data.scenes.scene import Scene, open_scene, read_about, verify_scene, write_manifest
from cuesta.errors import UserError

FILES = ("frames/cam_0/a.jpg", "colmap/sparse/0/images.bin", "depth/maps/cam_0/a.h5", "notes.txt")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path / "castle")
    for number, name in enumerate(FILES):
        (made.root / name).parent.mkdir(parents=True, exist_ok=True)
        (made.root / name).write_bytes(bytes(10 + number))
    for name in ("report.html", "work/features/database.db", ".hidden", "frames/.tmp-1"):
        (made.root / name).parent.mkdir(parents=True, exist_ok=True)
        (made.root / name).write_text("not a part of the scene")
    write_manifest(made, {"name": "castle", "unit": "m"})
    return made


def test_the_manifest_lists_what_belongs_to_the_scene(scene: Scene) -> None:
    manifest = json.loads(scene.manifest.read_text())
    assert sorted(manifest["files"]) == sorted(FILES)
    assert manifest["files"]["notes.txt"]["bytes"] == 13
    about = read_about(open_scene(scene.root))
    assert (about["name"], about["unit"], about["format"]) == ("castle", "m", "cuesta scene")
    verify_scene(scene.root)


def test_files_are_where_the_layout_says() -> None:
    scene = Scene(Path("castle"))
    image = "cam_0/a.b.jpg"
    assert scene.frame(image) == Path("castle/frames/cam_0/a.b.jpg")
    assert scene.depth_map(image) == Path("castle/depth/maps/cam_0/a.b.h5")
    assert scene.geometric_mask(image) == Path("castle/depth/masks_geometric/cam_0/a.b.png")
    assert scene.semantic_mask(image) == Path("castle/depth/masks_semantic/cam_0/a.b.png")
    assert scene.model == Path("castle/colmap/sparse/0")


def test_work_and_report_may_go(scene: Scene) -> None:
    scene.report.unlink()
    (scene.work / "features" / "database.db").unlink()
    verify_scene(scene.root)


@pytest.mark.parametrize("name", FILES)
def test_a_moved_file_is_named(scene: Scene, name: str) -> None:
    (scene.root / name).rename(scene.root / "elsewhere")
    with pytest.raises(UserError, match=f"{name} is in the manifest but not in the folder"):
        open_scene(scene.root)


def test_a_file_of_another_size_is_named(scene: Scene) -> None:
    (scene.root / FILES[0]).write_bytes(b"short")
    with pytest.raises(UserError, match=r"a\.jpg has 5 bytes, its manifest says 10"):
        open_scene(scene.root)


def test_a_changed_byte_is_found_by_verify_alone(scene: Scene) -> None:
    (scene.root / FILES[0]).write_bytes(bytes(9) + b"x")
    open_scene(scene.root)
    with pytest.raises(UserError, match=r"a\.jpg is not the file that its manifest describes"):
        verify_scene(scene.root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        pytest.param("[" * 100_000, "no JSON", id="deep"),
        ("[]", "not a manifest of a cuesta scene"),
        ('{"format": "other"}', "not a manifest of a cuesta scene"),
        ('{"format": "cuesta scene", "version": 99}', "version 99, this cuesta reads 1"),
        ('{"format": "cuesta scene", "version": 1}', "it lists no files"),
        (
            '{"format": "cuesta scene", "version": 1, "files": {"../a": {"bytes": 1, "sha256": ""}}}',
            r"its entry '\.\./a' is broken",
        ),
        (
            '{"format": "cuesta scene", "version": 1, "files": {"a": {"bytes": 1}}}',
            "its entry 'a' is broken",
        ),
    ],
)
def test_a_broken_manifest_is_named(scene: Scene, text: str, words: str) -> None:
    scene.manifest.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        open_scene(scene.root)
    assert "manifest.json" in str(caught.value)


def test_a_folder_without_manifest_is_no_scene(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no scene .*cuesta reconstruct"):
        open_scene(tmp_path)
