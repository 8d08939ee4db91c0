"""`verify` finds nothing in a whole data set, and everything that we break, also behind right hashes."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cuesta.data.maps import write_map
from cuesta.data.scenes.colmap import read_reconstruction, views_of, write_reconstruction
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.terrasky3d import (
    calibrate_pairs,
    write_calibrated_pairs,
    write_train_data,
    write_views_txt,
)
from cuesta.errors import UserError
from cuesta.geometry import Transform
from cuesta.vision.terrasky3d.archive import write_archive
from cuesta.vision.terrasky3d.publish import list_test_pairs, publish
from cuesta.vision.terrasky3d.publish_scene import PublishSettings, about_file
from cuesta.vision.terrasky3d.selection import PairRules
from cuesta.vision.terrasky3d.verify import Verified, verify
from tests.data.scenes.corner import make_corner

A, B = "cam_0/frame_000000.jpg", "cam_0/frame_000001.jpg"
SCENES = {"church": "train", "square": "test"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make_corner(folder / "scenes" / "church", count=5)
    make_corner(folder / "scenes" / "square", count=5, seed=1, num_points=0)
    rules = PairRules(least_pixels=100, most_overlap=1.01)
    settings = PublishSettings(test=("square",), rules=rules)
    return publish([folder / "scenes"], folder / "set", settings).root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def recompute(root: Path) -> None:
    """Make archives and hashes anew, as someone would who knows what `verify` reads."""
    manifest = json.loads((root / "manifest.json").read_text())
    for name in SCENES:
        files = [file for file in manifest["files"] if file.startswith(f"data/{name}/")]
        write_archive(root / "archives" / f"{name}.tar", root, files)
    manifest["files"] = {file: about_file(root / file) for file in manifest["files"]}
    (root / "manifest.json").write_text(json.dumps(manifest))


def rewrite_lists(root: Path) -> None:
    views = {
        name: views_of(read_reconstruction(Scene(root / "data" / name).model)) for name in SCENES
    }
    write_train_data(root / "train_data.json", {"church": views["church"]})
    write_views_txt(root / "views.txt", {"square": views["square"]})
    pairs = calibrate_pairs({"square": views["square"]}, list_test_pairs(root, ["square"]))
    write_calibrated_pairs(root / "pairs_calibrated.txt", pairs)


def move_pose(root: Path, name: str, tangent: list[float]) -> None:
    """Move the camera of image A in a scene's model."""
    scene = Scene(root / "data" / name)
    model = read_reconstruction(scene.model)
    views = views_of(model)
    moved = Transform.exp(torch.tensor(tangent, dtype=torch.float64)) @ views.pose(A)
    image = next(image for image in model.images.values() if image.name == A)
    frame = model.frame(image.frame_id)
    pose = image.cam_from_world()
    w, x, y, z = moved.quaternion().tolist()
    pose.rotation.quat = np.array([x, y, z, w])
    pose.translation = moved.translation.numpy()
    frame.rig_from_world = pose
    shutil.rmtree(scene.model)
    write_reconstruction(scene.model, model)


def named(found: Verified) -> set[str]:
    return {finding.where for finding in found.findings}


def test_a_whole_data_set_has_nothing_wrong(whole: Path) -> None:
    found = verify(whole)
    assert found.findings == ()
    assert (found.num_scenes, found.num_images) == (2, 10)


def test_a_flipped_byte_is_found_in_any_file(root: Path) -> None:
    files = sorted(json.loads((root / "manifest.json").read_text())["files"])
    flipped = files[:: len(files) // 6]
    for file in flipped:
        data = bytearray((root / file).read_bytes())
        data[len(data) // 2] ^= 1
        (root / file).unlink()
        (root / file).write_bytes(data)
    assert set(flipped) <= named(verify(root))


@pytest.mark.parametrize(
    ("scene", "file"),
    [
        ("church", "frame"),
        ("church", "depth_map"),
        ("church", "geometric_mask"),
        ("church", "semantic_mask"),
        ("square", "frame"),
        ("square", "depth_map"),
    ],
)
def test_swapped_files_are_found_behind_right_hashes(root: Path, scene: str, file: str) -> None:
    files = Scene(root / "data" / scene)
    swap(getattr(files, file)(A), getattr(files, file)(B))
    recompute(root)
    found = named(verify(root))
    assert {f"{scene}/{A}", f"{scene}/{B}"} <= found
    assert not {where for where in found if where.startswith("data/")}, "not by its hash"


@pytest.mark.parametrize(
    ("scene", "tangent"),
    [
        ("church", [0.3, 0, 0, 0, 0, 0]),
        ("church", [0, 0, 0, 0, 0, 0.05]),
        ("square", [0, 0, 0.2, 0, 0, 0]),
        ("square", [0, 0, 0, 0, 0, 0.05]),
    ],
)
def test_a_wrong_pose_is_found_behind_right_lists_and_hashes(
    root: Path, scene: str, tangent: list[float]
) -> None:
    move_pose(root, scene, tangent)
    rewrite_lists(root)
    recompute(root)
    found = named(verify(root))
    assert f"{scene}/{A}" in found
    assert not {where for where in found if ".json" in where or ".txt" in where}
    assert f"{scene}/cam_0/frame_000004.jpg" not in found, "an image far from it is not blamed"


def test_a_model_that_is_not_that_of_the_lists_is_found(root: Path) -> None:
    for scene in SCENES:
        move_pose(root, scene, [1e-7, 0, 0, 0, 0, 0])
    recompute(root)
    found = named(verify(root))
    assert {f"train_data.json: church/{A}", f"views.txt: square/{A}"} <= found
    assert {where for where in found if where.startswith("pairs_calibrated.txt")}


def test_a_pose_in_a_list_may_differ_by_rounding_only(root: Path) -> None:
    text = (root / "train_data.json").read_text()
    content = json.loads(text)
    content["church"]["images"][A]["P"][0][3] += 1e-7
    (root / "train_data.json").write_text(json.dumps(content))
    recompute(root)
    assert named(verify(root)) == {f"train_data.json: church/{A}"}


def mask_of_grey(root: Path) -> str:
    path = Scene(root / "data" / "church").semantic_mask(A)
    with Image.open(path) as opened:
        mask = np.array(opened)
    mask[mask == 255] = 254
    Image.fromarray(mask).save(path)
    return f"mask: church/{A}"


def small_depth(root: Path) -> str:
    write_map(Scene(root / "data" / "square").depth_map(A), np.ones((10, 10), np.float32))
    return f"depth: square/{A}"


def foreign_pair(root: Path) -> str:
    path = root / "data" / "church" / "pairs.csv"
    path.write_text(path.read_text().replace(B, "cam_0/nowhere.jpg"))
    return "pairs: church/cam_0/nowhere.jpg"


def other_pairs(root: Path) -> str:
    path = root / "pairs_calibrated.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    return "list: pairs_calibrated.txt"


@pytest.mark.parametrize("damage", [mask_of_grey, small_depth, foreign_pair, other_pairs])
def test_contents_that_cannot_be_are_found(root: Path, damage: Callable[[Path], str]) -> None:
    expected = damage(root)
    recompute(root)
    assert expected in {f"{finding.kind}: {finding.where}" for finding in verify(root).findings}


def test_missing_added_and_other_files_are_all_told(root: Path) -> None:
    frame = Scene(root / "data" / "church").frame(A)
    frame.unlink()
    (root / "data" / "church" / "notes.txt").write_text("mine")
    (root / "views.txt").write_text((root / "views.txt").read_text() + "# more\n")
    found = named(verify(root))
    assert {frame.relative_to(root).as_posix(), "data/church/notes.txt", "views.txt"} <= found


def test_no_path_leaves_the_folder(root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["files"]["../secret.txt"] = about_file(secret)
    os.symlink(secret, root / "link.txt")
    manifest["files"]["link.txt"] = about_file(secret)
    manifest["scenes"]["../scenes"] = manifest["scenes"]["church"]
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert {"'../secret.txt'", "link.txt", "'../scenes'"} <= named(verify(root))


def test_an_archive_is_read_without_trust(root: Path) -> None:
    path = root / "archives" / "church.tar"
    with tarfile.open(path) as tar:
        name = tar.getnames()[0]
    with tarfile.open(path, "w") as tar:
        for member, size in (("../../evil.sh", 4), ("data/church/bomb", 1 << 16), (name, 3)):
            about = tarfile.TarInfo(member)
            about.size = size
            tar.addfile(about, io.BytesIO(bytes(size)))
        link = tarfile.TarInfo("data/church/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    told = [
        finding.what for finding in verify(root).findings if finding.where == "archives/church.tar"
    ]
    for words in (
        "leads out of the folder",
        "no plain file",
        "not in the manifest",
        "3 bytes",
        "lacks",
    ):
        assert any(words in line for line in told), words
    path.write_bytes(path.read_bytes()[:700])
    recomputed = [finding.kind for finding in verify(root).findings]
    assert "archive" in recomputed


def test_a_folder_without_manifest_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json"):
        verify(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "cuesta scene"}')
    with pytest.raises(UserError, match="not a manifest"):
        verify(tmp_path)
