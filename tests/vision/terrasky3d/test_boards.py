"""A target filmed through a known lens gives that lens back."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cuesta.errors import UserError
from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.boards import (
    Seen,
    Target,
    board_of,
    calibrate_board,
    fit_lens,
    parse_target,
)

CHARUCO = parse_target("charuco:6x8:0.03:0.022")
LENS = Camera(
    "OPENCV",
    torch.tensor([610.0, 612.0, 326.0, 236.0, -0.12, 0.04, 0.0, 0.0], dtype=torch.float64),
    640,
    480,
)
PIXELS_A_SQUARE = 80


def flat_picture(target: Target) -> np.ndarray:
    size = (target.columns * PIXELS_A_SQUARE, target.rows * PIXELS_A_SQUARE)
    if target.kind == "charuco":
        return board_of(target).generateImage(size)
    y, x = np.mgrid[: size[1], : size[0]] // PIXELS_A_SQUARE
    return np.where((x + y) % 2, 255, 0).astype(np.uint8)


def film(target: Target, folder: Path, count: int, lens: Camera = LENS) -> None:
    """Write pictures of the target as the lens sees them, by casting each pixel's ray on the board."""
    generator = np.random.default_rng(0)
    picture = cv2.GaussianBlur(flat_picture(target), (0, 0), 2)
    rows, columns = torch.arange(lens.height) + 0.5, torch.arange(lens.width) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    rays = lens.unproject(torch.stack([x, y], -1).reshape(-1, 2).double())
    extent = np.array([target.columns, target.rows]) * target.square_m
    folder.mkdir(parents=True)
    for number in range(count):
        turn = torch.tensor(generator.uniform(-0.5, 0.5, 3))
        cam_from_board = Transform.exp(torch.cat([torch.zeros(3, dtype=torch.float64), turn]))
        middle = cam_from_board.rotation @ torch.tensor([*extent / 2, 0.0], dtype=torch.float64)
        goal = torch.tensor([*generator.uniform(-0.11, 0.11, 2), generator.uniform(0.25, 0.4)])
        centre = -cam_from_board.rotation.T @ (goal - middle)  # of the camera, on the board
        directions = rays @ cam_from_board.rotation
        points = centre - directions * (centre[2] / directions[:, 2])[:, None]
        pixel = (points[:, :2] / target.square_m * PIXELS_A_SQUARE - 0.5).float()
        maps = pixel.reshape(lens.height, lens.width, 2).numpy()
        seen = cv2.remap(picture, maps, None, cv2.INTER_LINEAR, borderValue=255)
        cv2.imwrite(str(folder / f"{number:02d}.png"), seen)


@pytest.mark.parametrize(
    ("model", "lens"),
    [("OPENCV", (-0.12, 0.04, 0.001, -0.002)), ("OPENCV_FISHEYE", (0.02, -0.01, 0.003, -0.001))],
)
def test_perfect_corners_give_the_lens_in_our_pixels(model, lens) -> None:
    params = torch.tensor([310.0, 312.0, 326.0, 236.0, *lens], dtype=torch.float64)
    camera = Camera(model, params, 640, 480)
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    board = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3).double() * 0.03
    generator = torch.Generator().manual_seed(0)
    seen: list[Seen] = []
    for _ in range(20):
        turn = torch.rand(3, generator=generator, dtype=torch.float64) - 0.5
        place = torch.rand(3, generator=generator, dtype=torch.float64) - 0.5
        shift = place * torch.tensor([0.2, 0.2, 0.1]) + torch.tensor([-0.1, -0.08, 0.3])
        cam_from_board = Transform.rigid(Transform.exp(torch.cat([turn * 0, turn])).rotation, shift)
        pixels = camera.project(cam_from_board @ board) - 0.5
        seen.append((board.numpy().astype(np.float32), pixels.numpy().astype(np.float32)))
    fitted = fit_lens(seen, (640, 480), model)
    assert fitted.rms_px < 0.001
    assert np.abs(fitted.misses[:, 2:]).max() < 0.01
    assert max(abs(a - b) for a, b in zip(fitted.params, params.tolist(), strict=True)) < 0.01


@pytest.mark.parametrize(
    "target", [CHARUCO, parse_target("checkerboard:8x6:0.03")], ids=["charuco", "checkerboard"]
)
def test_the_lens_comes_back(target: Target, tmp_path: Path) -> None:
    film(target, tmp_path / "board", 16)
    board = calibrate_board(tmp_path / "board", target, "OPENCV", tmp_path / "scratch")
    assert (board.width, board.height) == (640, 480)
    assert board.rms_px < 0.3
    found = Camera("OPENCV", torch.tensor(board.params, dtype=torch.float64), 640, 480)
    rays = LENS.unproject(torch.rand(500, 2).double() * torch.tensor([640.0, 480.0]))
    off = torch.linalg.vector_norm(found.project(rays) - LENS.project(rays), dim=-1)
    assert float(off.median()) < 1.0
    assert any("views of the target" in words for words in board.complaints())
    assert np.sqrt(np.mean(board.misses[:, 2:] ** 2) * 2) == pytest.approx(board.rms_px, rel=1e-3)


def test_two_clips_of_one_stem_keep_their_frames(tmp_path: Path) -> None:
    film(CHARUCO, tmp_path / "pictures", 8)
    pictures = [cv2.imread(str(path)) for path in sorted((tmp_path / "pictures").iterdir())]
    folder = tmp_path / "board"
    folder.mkdir()
    for name, seen in (("a.avi", pictures[:5]), ("a.mp4", pictures[5:])):
        code = cv2.VideoWriter.fourcc(*("mp4v" if name.endswith("mp4") else "MJPG"))
        writer = cv2.VideoWriter(str(folder / name), code, 1, (640, 480))
        for picture in seen:
            writer.write(picture)
        writer.release()
    found, apart = (
        calibrate_board(path, CHARUCO, "OPENCV", tmp_path / "scratch").num_views
        for path in (folder, tmp_path / "pictures")
    )
    assert found == apart


def test_a_target_that_is_not_there_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "board"
    folder.mkdir()
    cv2.imwrite(str(folder / "grey.png"), np.full((480, 640), 128, np.uint8))
    with pytest.raises(UserError, match="seen in 0 of 1 images"):
        calibrate_board(folder, CHARUCO, "OPENCV", tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "charuco",
        "charuco:8x11",
        "charuco:8x11:0.02:0.03",
        "checkerboard:2x9:1",
        "circles:4x4:1",
    ],
)
def test_a_target_that_cannot_be_is_refused(words: str) -> None:
    with pytest.raises(UserError, match=r"calibrate\.target"):
        parse_target(words)
