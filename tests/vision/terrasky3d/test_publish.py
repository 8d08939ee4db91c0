"""What is published is whole, the same every time, and made once."""

import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cuesta.data.files import sha256_of
from cuesta.data.maps import read_map, write_map
from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.pair_table import kept_pairs, read_pair_table
from cuesta.data.scenes.scene import Scene, write_manifest
from cuesta.data.scenes.terrasky3d import read_calibrated_pairs, read_train_data, read_views_txt
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.datasheet import Statement
from cuesta.vision.terrasky3d.publish import Published, publish
from cuesta.vision.terrasky3d.publish_scene import PublishSettings
from cuesta.vision.terrasky3d.selection import PairRules
from tests.data.scenes.corner import make_corner

RULES = PairRules(least_pixels=100)
LISTS = {"manifest.json", "datasheet.md", "croissant.json", "train_data.json", "views.txt"}


def settings(**changes: object) -> PublishSettings:
    given = {"test": ("square",), "rules": RULES, "statement": Statement(name="corners")}
    return PublishSettings(**{**given, **changes})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_corner(folder / "church")
    make_corner(folder / "square", seed=1, kinds=("cam_0", "cam_1_aerial"), num_points=0)
    return folder


@pytest.fixture(scope="module")
def made(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish([scenes], tmp_path_factory.mktemp("out") / "set", settings())


def test_the_layout_is_that_of_the_published_data_set(scenes: Path, made: Published) -> None:
    top = {path.name for path in made.root.iterdir()}
    assert top == LISTS | {"pairs_calibrated.txt", "data", "archives", "work"}
    for name in ("church", "square"):
        own, source = Scene(made.root / "data" / name), Scene(scenes / name)
        for image in read_colmap(source.model).names:
            for file in ("frame", "depth_map", "geometric_mask", "semantic_mask"):
                one, other = getattr(own, file)(image), getattr(source, file)(image)
                assert one.samefile(other), "a link, not a copy"


def test_lists_are_those_of_the_models(scenes: Path, made: Published) -> None:
    listed = read_train_data(made.root / "train_data.json") | read_views_txt(
        made.root / "views.txt"
    )
    assert list(read_train_data(made.root / "train_data.json")) == ["church"]
    for name in ("church", "square"):
        own = read_colmap(Scene(scenes / name).model)
        found = listed[name].select(own.names)
        off = (found.cam_from_world.matrix() - own.cam_from_world.matrix()).abs().max()
        assert off <= 1e-9
        for image in own.names:
            assert torch.equal(found.camera(image).params, own.camera(image).params)


def test_test_pairs_are_those_that_the_table_keeps(made: Published) -> None:
    table = kept_pairs(read_pair_table(made.root / "data" / "square" / "pairs.csv"))
    pairs = read_calibrated_pairs(made.root / "pairs_calibrated.txt")
    assert table, "there are some"
    assert pairs.names == tuple((f"square/frames/{a}", f"square/frames/{b}") for a, b in table)
    scenes = made.manifest["scenes"]
    assert isinstance(scenes, dict)
    assert scenes["square"]["num_pairs"] == len(table)
    strata = scenes["square"]["strata"]
    assert sum(sum(counts.values()) for counts in strata.values()) == len(table)


def test_the_manifest_lists_every_file(made: Published) -> None:
    files = made.manifest["files"]
    assert isinstance(files, dict)
    present = {
        path.relative_to(made.root).as_posix()
        for path in made.root.rglob("*")
        if path.is_file() and path.relative_to(made.root).parts[0] not in ("work", "manifest.json")
    }
    assert set(files) == present
    for name, about in files.items():
        assert about == {
            "bytes": (made.root / name).stat().st_size,
            "sha256": sha256_of(made.root / name),
        }


def test_an_archive_holds_a_scene_and_nothing_of_when_and_who(made: Published) -> None:
    with tarfile.open(made.root / "archives" / "church.tar") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == sorted(member.name for member in members)
        for member in members:
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
            file = tar.extractfile(member)
            assert file is not None
            assert file.read() == (made.root / member.name).read_bytes()
        names = {member.name for member in members}
    folder = made.root / "data" / "church"
    assert names == {
        path.relative_to(made.root).as_posix() for path in folder.rglob("*") if path.is_file()
    }


def test_the_same_scenes_give_the_same_bytes(scenes: Path, made: Published, tmp_path: Path) -> None:
    again = publish([scenes / "square", scenes / "church"], tmp_path / "set", settings())
    assert (again.root / "manifest.json").read_bytes() == (made.root / "manifest.json").read_bytes()


def test_what_is_done_is_not_done_again(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    first = publish([scenes], out, settings())
    before = (out / "manifest.json").read_bytes()
    assert first.fresh == ("church", "square")
    assert publish([scenes], out, settings()).fresh == ()
    (out / "archives" / "church.tar").unlink()
    (out / "manifest.json").unlink()
    assert publish([scenes], out, settings()).fresh == ("church",)
    assert (out / "manifest.json").read_bytes() == before
    alone = publish([scenes / "church"], out, settings(test=()))
    assert (alone.fresh, sorted(path.name for path in (out / "data").iterdir())) == ((), ["church"])
    assert not (out / "views.txt").exists()
    assert not (out / "archives" / "square.tar").exists()


def test_an_interrupted_run_leaves_no_manifest(scenes: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "square: pairs" and 0 < done < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish([scenes], tmp_path / "set", settings(), on_progress=stop)
    assert not (tmp_path / "set" / "manifest.json").exists()
    assert not (tmp_path / "set" / "data" / "square").exists()
    assert publish([scenes], tmp_path / "set", settings()).fresh == ("square",)


def test_half_precision_says_how_far_off_it_is(scenes: Path, tmp_path: Path) -> None:
    made = publish([scenes], tmp_path / "set", settings(depth="float16", has_archives=False))
    image = read_colmap(Scene(scenes / "church").model).names[0]
    true = read_map(Scene(scenes / "church").depth_map(image)).astype(np.float64)
    found = read_map(Scene(made.root / "data" / "church").depth_map(image))
    depth = made.manifest["depth"]
    assert isinstance(depth, dict)
    error = depth["max_relative_error"]
    assert isinstance(error, float)
    assert 0 < np.abs(found - true).max() / true.max() <= error <= 2**-11
    assert f"{error:.2g}" in (made.root / "datasheet.md").read_text()
    assert not (made.root / "archives").exists()


def test_the_sheet_says_what_was_stated_and_what_was_not(made: Published) -> None:
    text = (made.root / "datasheet.md").read_text()
    assert text.startswith("# corners\n")
    for words in ("255 = keep", "0 = none", "Faces and number plates: not stated", "CC0-1.0"):
        assert words in text


def test_croissant_names_archives_and_columns(made: Published) -> None:
    content = json.loads((made.root / "croissant.json").read_text())
    objects = {found["@id"]: found for found in content["distribution"]}
    archive = objects["archives/church.tar"]
    assert archive["sha256"] == sha256_of(made.root / "archives" / "church.tar")
    columns = [field["source"]["extract"]["column"] for field in content["recordSet"][0]["field"]]
    head = (made.root / "data" / "church" / "pairs.csv").read_text().splitlines()[0]
    assert columns == head.split(",")


@pytest.mark.parametrize("kind", ["leak", "foreign", "depth", "unknown", "twice", "size"])
def test_what_cannot_be_published_is_named(kind: str, scenes: Path, tmp_path: Path) -> None:
    folder, out, chosen = tmp_path / "scenes", tmp_path / "set", settings()
    shutil.copytree(scenes, folder)
    sources: list[Path] = [folder]
    square = Scene(folder / "square")
    image = read_colmap(square.model).names[0]
    words = {
        "leak": "church is for training and square for testing, but",
        "foreign": "holds something else",
        "depth": f"{image} has no depth map",
        "unknown": "nowhere: no scene of this name",
        "twice": "another scene is called church",
        "size": f"{square.depth_map(image)}: 80 x 60 pixels, its camera has 160 x 120",
    }[kind]
    if kind == "leak":
        write_manifest(square, {"name": "Church (aerial)"})
    elif kind == "foreign":
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    elif kind == "depth":
        square.depth_map(image).unlink()
        write_manifest(square, {"name": "square"})
    elif kind == "unknown":
        chosen = settings(test=("nowhere",))
    elif kind == "twice":
        sources.append(scenes / "church")
    else:
        write_map(square.depth_map(image), np.ones((60, 80), np.float32))
        write_manifest(square, {"name": "square"})
    with pytest.raises(UserError, match=re.escape(words)) as error:
        publish(sources, out, chosen)
    assert len(str(error.value).splitlines()) == 1
    assert not (out / "manifest.json").exists()
    if kind == "leak":
        made = publish(sources, out, settings(allows_leaks=True))
        assert "both are of the landmark 'church'" in (made.root / "datasheet.md").read_text()
