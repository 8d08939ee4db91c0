"""Masks of a scene: whose they are, what they keep, that they are made once, and what is refused."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cuesta.data.maps import write_map
from cuesta.data.scenes.colmap import write_colmap
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.views import Views
from cuesta.data.worlds.labels import REMOVED, Label
from cuesta.data.worlds.layout import semantic_ids
from cuesta.data.worlds.make import Size, make_landmarks
from cuesta.errors import UserError
from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.semantic_masks import (
    SemanticMasks,
    SemanticSettings,
    draw_removed,
    make_semantic_masks,
)
from tests.vision.terrasky3d.pictures import textured

NAMES = tuple(f"cam_0/{k}.jpg" for k in range(4))
WIDTH, HEIGHT, FOCAL, WALL = 160, 120, 150.0, 5.0
STEP = 0.2  # m, from camera to camera, along x
DEFAULT = SemanticSettings()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A wall with a picture on it, 5 m away; before the second camera somebody in white passes."""
    scene = Scene(tmp_path / "wall")
    camera = Camera(
        "PINHOLE", torch.tensor([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]).double(), WIDTH, HEIGHT
    )
    shifts = torch.tensor([[-STEP * k, 0.0, 0.0] for k in range(4)]).double()
    poses = Transform.rigid(torch.eye(3).double().expand(4, 3, 3), shifts)
    write_colmap(scene.model, Views(NAMES, {1: camera}, (1,) * 4, poses))
    wall = cv2.GaussianBlur(textured(400, HEIGHT), (0, 0), 2)
    for k, name in enumerate(NAMES):
        left = round(FOCAL * STEP * k / WALL)  # 6 px a step
        image = np.stack(
            [wall[:, left : left + WIDTH], *2 * [wall[:, left : left + WIDTH] // 2]], -1
        )
        keep = np.ones((HEIGHT, WIDTH), np.uint8)
        if k == 1:
            image = np.where(walker()[..., None], 255, image)
            keep[walker()] = 0
        if k == 2:
            keep[20:60, 30:80] = 0  # not confirmed, but it looks as it does from the others
        scene.frame(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(scene.frame(name), quality=95)
        write_map(scene.depth_map(name), np.full((HEIGHT, WIDTH), WALL, np.float32))
        scene.geometric_mask(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(keep * np.uint8(255)).save(scene.geometric_mask(name))
    return scene


def walker() -> NDArray[np.bool_]:
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[40:100, 70:95] = True
    return found


def mask(scene: Scene, name: str) -> NDArray[np.uint8]:
    with Image.open(scene.semantic_mask(name)) as picture:
        assert picture.mode == "L"
        return np.asarray(picture)


def write_mask(path: Path, keep: NDArray[np.bool_]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(keep.astype(np.uint8)).save(path)  # 0 and 1: all but 0 is kept


def some_mask(seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.5


@pytest.mark.parametrize("form", ["cam_0/{}.jpg.png", "cam_0/{}.png", "{}.jpg.png", "{}.png"])
def test_a_users_mask_is_taken_by_the_name_of_its_image(scene: Scene, form: str) -> None:
    folder = scene.root.parent / "own"
    for k in range(4):
        write_mask(folder / form.format(k), some_mask(k))
    result = make_semantic_masks(scene, SemanticSettings(masks=folder))
    for k, name in enumerate(NAMES):
        assert np.array_equal(mask(scene, name), some_mask(k) * 255)
        assert result.images[k].kept == some_mask(k).mean()
    assert result.source == f"masks of {folder}"


def test_an_image_without_a_users_mask_is_kept_whole_and_told(scene: Scene) -> None:
    folder = scene.root.parent / "own"
    write_mask(folder / "0.png", some_mask(0))
    result = make_semantic_masks(scene, SemanticSettings(masks=folder))
    assert (mask(scene, NAMES[3]) == 255).all()
    assert [note.split(" in ")[0] for note in result.notes] == [
        f"no mask of {name}" for name in NAMES[1:]
    ]


def test_a_segmenter_gets_image_and_confirmed_depth_and_is_obeyed(scene: Scene) -> None:
    seen = []

    def upper_half(
        image: NDArray[np.uint8], depth: NDArray[np.float32] | None
    ) -> NDArray[np.bool_]:
        assert depth is not None
        seen.append((image, depth))
        return np.arange(HEIGHT)[:, None].repeat(WIDTH, 1) < HEIGHT // 2

    make_semantic_masks(scene, DEFAULT, segmenter=upper_half)
    assert np.array_equal(seen[1][1] > 0, ~walker())
    with Image.open(scene.frame(NAMES[1])) as picture:
        assert np.array_equal(seen[1][0], np.asarray(picture))
    assert (mask(scene, NAMES[2])[: HEIGHT // 2] == 255).all()
    assert (mask(scene, NAMES[2])[HEIGHT // 2 :] == 0).all()


def test_depth_that_no_mask_confirms_is_not_shown_to_a_segmenter(scene: Scene) -> None:
    seen = []

    def keep_all(image: NDArray[np.uint8], depth: NDArray[np.float32] | None) -> NDArray[np.bool_]:
        seen.append(depth is None)
        return np.ones(image.shape[:2], bool)

    scene.geometric_mask(NAMES[0]).unlink()
    scene.depth_map(NAMES[1]).unlink()
    make_semantic_masks(scene, DEFAULT, segmenter=keep_all)
    assert seen == [True, True, False, False]


def test_a_segmenter_that_returns_something_else_is_refused(scene: Scene) -> None:
    with pytest.raises(ValueError, match=r"bool \[120, 160\] for cam_0/0.jpg, got bool \[60, 80\]"):
        make_semantic_masks(scene, DEFAULT, segmenter=lambda *_: np.ones((60, 80), bool))


def test_who_passes_is_removed_where_other_views_confirm_the_wall(scene: Scene) -> None:
    result = make_semantic_masks(scene, DEFAULT)
    removed = mask(scene, NAMES[1]) == 0
    assert removed[walker()].mean() >= 0.95
    assert (removed & ~walker()).sum() <= 0.2 * walker().sum()
    for name in (NAMES[0], *NAMES[2:]):
        assert (mask(scene, name) == 255).all()
    assert len(result.notes) == 1


def test_without_depth_only_looks_count_and_it_says_so(scene: Scene) -> None:
    for name in NAMES:
        scene.geometric_mask(name).unlink()
    result = make_semantic_masks(scene, DEFAULT)
    assert (mask(scene, NAMES[1]) == 255).all()
    assert "by its looks alone" in result.notes[1]


def test_masks_are_made_once_and_again_when_their_inputs_change(scene: Scene) -> None:
    folder = scene.root.parent / "own"
    for k in range(4):
        write_mask(folder / f"{k}.png", some_mask(k))
    settings = SemanticSettings(masks=folder)

    def fresh() -> list[str]:
        result = make_semantic_masks(scene, settings)
        return [image.name for image in result.images if image.is_fresh]

    assert fresh() == list(NAMES)
    assert fresh() == []
    write_mask(folder / "2.png", ~some_mask(2))
    scene.semantic_mask(NAMES[0]).unlink()
    record = scene.work / "semantic_masks" / f"{NAMES[3]}.json"
    record.write_text("{")
    assert fresh() == [NAMES[0], *NAMES[2:]]
    assert np.array_equal(mask(scene, NAMES[2]), ~some_mask(2) * 255)


def test_a_run_that_was_cut_off_goes_on(scene: Scene) -> None:
    def stop_at_two(_stage: str, done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_semantic_masks(scene, DEFAULT, stop_at_two)
    steps: list[tuple[str, int, int]] = []
    result = make_semantic_masks(scene, DEFAULT, lambda *step: steps.append(step))
    assert [image.is_fresh for image in result.images] == [False, False, True, True]
    assert steps == [("masks", done, 4) for done in range(5)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("size", r"0.png: 80 x 60 pixels, its image has 160 x 120"),
        ("broken", r"0.png: no whole mask"),
        ("none", r"own: no mask of this scene; cam_0/0.jpg is looked for as cam_0/0.jpg.png, "),
        ("folder", r"own: no such folder of masks"),
        ("frame", r"0.jpg: no whole picture"),
        ("depth", r"0.h5: no whole .h5 map"),
        ("depth size", r"0.h5: 80 x 90 pixels, its image has 160 x 120"),
    ],
)
def test_mistakes_are_named(scene: Scene, wrong: str, words: str) -> None:
    folder = scene.root.parent / "own"
    settings = SemanticSettings(masks=folder)
    if wrong == "size":
        write_mask(folder / "0.png", np.ones((60, 80), bool))
    elif wrong == "broken":
        folder.mkdir()
        (folder / "0.png").write_bytes(b"\x89PNG")
    elif wrong == "none":
        folder.mkdir()
    elif wrong != "folder":
        settings = DEFAULT
    if wrong == "frame":
        scene.frame(NAMES[0]).write_bytes(scene.frame(NAMES[0]).read_bytes()[:500])
    if wrong == "depth":
        scene.depth_map(NAMES[0]).write_bytes(b"HDF")
    if wrong == "depth size":
        write_map(scene.depth_map(NAMES[0]), np.ones((90, 80), np.float32))
    with pytest.raises(UserError, match=words):
        make_semantic_masks(scene, settings)
    assert not scene.semantic_mask(NAMES[0]).exists()


def test_two_sources_are_refused(scene: Scene) -> None:
    both = SemanticSettings(masks=scene.root, weights=scene.root)
    with pytest.raises(UserError, match="both say what to keep; give one"):
        make_semantic_masks(scene, both)


def test_the_report_counts_what_is_kept(scene: Scene) -> None:
    folder = scene.root.parent / "own"
    for k in range(4):
        keep = np.zeros((HEIGHT, WIDTH), bool)
        keep[: 30 * k] = True
        write_mask(folder / f"{k}.png", keep)
    result = make_semantic_masks(scene, SemanticSettings(masks=folder))
    about = json.loads(json.dumps(result.to_json()))
    assert (about["mean_kept"], about["least_kept"], about["num_made"]) == (0.375, 0.0, 4)
    assert about["images"][NAMES[3]] == 0.75
    assert isinstance(result, SemanticMasks)


def test_the_drawing_is_red_where_something_is_removed() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    with Image.open(io.BytesIO(draw_removed(image, ~walker(), width=WIDTH))) as picture:
        drawn = np.asarray(picture).astype(int)
    assert (drawn[~walker()] == 100).all()
    assert (drawn[walker()][:, 0] > 150).all()
    assert (drawn[walker()][:, 1] < 80).all()


def test_masks_of_known_ids_remove_the_distractors_of_a_generated_scene(tmp_path: Path) -> None:
    """The route of a plug-in: at least 90 % of what moves is removed, by names of ids."""
    made = make_landmarks(tmp_path, Size(num_scenes=1, num_images=8, width=320, height=240))[0]
    scene = Scene(tmp_path / "copy")
    scene.root.mkdir()
    for part in ("colmap", "frames"):
        (made.root / part).rename(scene.root / part)
    folder = tmp_path / "own"
    names = sorted(p.relative_to(scene.frames).as_posix() for p in scene.frames.rglob("*.jpg"))
    ids = {n: cv2.imread(str(semantic_ids(made, n)), cv2.IMREAD_UNCHANGED) for n in names}
    for name in names:
        write_mask(folder / f"{name}.png", ~np.isin(ids[name], REMOVED))
    make_semantic_masks(scene, SemanticSettings(masks=folder))
    moving = np.concatenate([(ids[n] == Label.MOVING).ravel() for n in names])
    removed = np.concatenate([(mask(scene, n) == 0).ravel() for n in names])
    kept_ids = np.concatenate([~np.isin(ids[n], REMOVED).ravel() for n in names])
    assert moving.sum() > 50
    assert removed[moving].mean() >= 0.9
    assert not removed[kept_ids].any()
