"""`cuesta view` shows cameras, photos and points in a real browser, and answers on this machine only."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cuesta.cli.viewer import start_viewer
from cuesta.data.clouds import Cloud, write_cloud
from cuesta.data.scenes.colmap import read_colmap, write_colmap
from cuesta.data.scenes.scene import Scene, write_manifest
from cuesta.data.scenes.transforms_json import write_transforms_json
from cuesta.data.scenes.views import Views
from cuesta.data.worlds.paths import look_at
from cuesta.errors import UserError
from cuesta.geometry import Camera, Transform

BROWSER = next(
    (
        path
        for name in ("chromium", "google-chrome", "chromium-browser")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS = ("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
SECONDS = 60
GREEN, PHOTO, CAMERA = (20, 200, 40), (30, 60, 220), (217, 102, 31)
LEAST_SHARES = {GREEN: 0.02, PHOTO: 0.001, CAMERA: 0.001}  # of the pixels


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Return a scene of a wall of green points and three blue photos that look at it."""
    generator = np.random.default_rng(0)
    wall = np.zeros((20_000, 3))
    wall[:, ::2] = generator.uniform(-2, 2, (20_000, 2))
    colors = np.broadcast_to(np.array(GREEN, np.uint8), (20_000, 3)).copy()
    camera = Camera("PINHOLE", torch.tensor([120.0, 120.0, 80.0, 60.0]).double(), 160, 120)
    poses = [look_at(np.array([x, -5.0, 0.0]), np.zeros(3)) for x in (-2.0, 0.0, 2.0)]
    rotation, translation = (
        torch.stack([getattr(pose, part) for pose in poses]) for part in ("rotation", "translation")
    )
    names = tuple(f"cam_0/{number}.png" for number in range(3))
    views = Views(names, {1: camera}, (1, 1, 1), Transform.rigid(rotation, translation))
    made = Scene(tmp_path / "wall")
    for name in names:
        made.frame(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 120), PHOTO).save(made.frame(name))
    write_colmap(made.model, views, Cloud(wall, colors))
    write_manifest(made, {"name": "wall"})
    return made.root


@pytest.fixture
def browse() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield a list of browsers that are ended with the test."""
    browsers: list[subprocess.Popen[bytes]] = []
    yield browsers
    for browser in browsers:
        browser.terminate()
        browser.wait()


def share_of(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    """Return the share of pixels whose colour is near this one."""
    return float((np.abs(picture[..., :3].astype(int) - color).max(-1) < 60).mean())


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")
def test_a_browser_shows_cameras_photos_and_points(
    scene: Path, browse: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    assert BROWSER is not None
    server = start_viewer(scene, port=8300)
    try:
        address = f"http://127.0.0.1:{server.get_port()}"
        command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", address]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        browse.append(subprocess.Popen(command, **silent))
        end = time.monotonic() + SECONDS
        shown = dict.fromkeys(LEAST_SHARES, 0.0)
        while any(shown[c] <= LEAST_SHARES[c] for c in shown) and time.monotonic() < end:
            for client in server.get_clients().values():
                picture = client.get_render(300, 400, timeout=SECONDS, transport_format="png")
                shown = {color: share_of(picture, color) for color in LEAST_SHARES}
        for color, least in LEAST_SHARES.items():
            assert shown[color] > least, f"{LEAST_SHARES} should be seen, {shown} are"
        assert float((picture[..., 3] == 0).mean()) > 0.3, "something hides everything"
    finally:
        server.stop()


def test_it_listens_on_this_machine_only(scene: Path) -> None:
    server = start_viewer(scene, port=8300)
    try:
        assert server.get_host() == "127.0.0.1"
    finally:
        server.stop()


def test_a_cloud_alone_is_shown(tmp_path: Path) -> None:
    write_cloud(tmp_path / "cloud.ply", Cloud(np.random.default_rng(0).normal(size=(50, 3))))
    start_viewer(tmp_path / "cloud.ply", port=8300).stop()


@pytest.mark.parametrize(
    ("name", "words"), [("none", "no such file or folder"), (".", "no scene that cuesta reads")]
)
def test_what_cannot_be_shown_is_named(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        start_viewer(tmp_path / name)


def test_a_scene_that_lost_a_file_is_named(scene: Path) -> None:
    (scene / "frames/cam_0/1.png").unlink()
    with pytest.raises(UserError, match=r"frames/cam_0/1\.png is in the manifest but not"):
        start_viewer(scene)


@pytest.mark.parametrize(
    ("host", "port", "words"), [("127.0.0.1", 99_999, "1 to 65535"), ("192.0.2.1", 8300, "--host")]
)
def test_an_address_that_cannot_be_is_refused(
    scene: Path, host: str, port: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        start_viewer(scene, host=host, port=port)


def test_other_forms_are_shown_without_their_pictures(scene: Path, tmp_path: Path) -> None:
    write_transforms_json(tmp_path / "transforms.json", read_colmap(scene / "colmap/sparse/0"))
    start_viewer(tmp_path / "transforms.json", port=8300).stop()
