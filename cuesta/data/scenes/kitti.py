"""KITTI's odometry sequences: rectified stereo cameras on a car (Geiger, Lenz and Urtasun, 2012).

```
calib.txt                       P0 ... P3 [3, 4] by row, Tr = cam0_from_velodyne [3, 4]
times.txt                       seconds, one a frame
image_0/000000.png ... image_3  grey left and right, colour left and right
poses.txt, or ../../poses/<sequence>.txt    world_from_cam0 [3, 4] by row, one a frame
```

P = K [I | t], where t is the place of camera 0 in the camera: (minus its baseline, and almost 0, 0).
KITTI counts pixels by their centres at whole numbers, ours are at 0.5: principal points are 0.5
larger here than in calib.txt.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from cuesta.data.files import write_text
from cuesta.data.scenes.parsing import blaming, camera_of, image_size, numbers, read_text, rigid
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Camera, Transform

_REMEDY = "mend it or name another sequence"
_NUM_CAMERAS = 4
_CENTRE = 0.5  # of pixel 0, which KITTI calls 0


class KittiCalibration(NamedTuple):
    """Hold what calib.txt says: P0 ... P3, in KITTI's pixels, and where the scanner is."""

    projections: Float64[np.ndarray, "4 3 4"]
    cam0_from_velodyne: Transform | None


class KittiSequence(NamedTuple):
    """Hold the images of a sequence, the times they were taken, V each, and its calibration.

    The world is that of the poses, usually camera 0 of the first frame. Camera ids are 0 ... 3.
    """

    views: Views
    times_s: Float64[np.ndarray, " V"]
    calibration: KittiCalibration


def read_kitti(folder: str | Path, *, poses: str | Path | None = None) -> KittiSequence:
    """Return the images that a sequence has, of every camera, sorted by name: image_2/000000.png.

    Raises `UserError` naming the file that is missing, broken, or does not fit the others.
    """
    folder = Path(folder)
    calibration = read_calibration(folder / "calib.txt")
    pose_file = _pose_file(folder) if poses is None else Path(poses)
    cam0_from_world = read_poses(pose_file).inverse()
    times = _read_times(folder / "times.txt")
    names, ids, frames = _images(folder)
    num_frames = len(cam0_from_world.scale)
    if max(frames) >= min(num_frames, len(times)):
        raise UserError(
            f"{folder}: an image of frame {max(frames)}, but {num_frames} poses in {pose_file} "
            f"and {len(times)} times; {_REMEDY}"
        )
    cameras, offsets = {}, []
    with blaming(folder / "calib.txt", _REMEDY):
        for camera_id in sorted(set(ids)):
            size = image_size(folder / names[ids.index(camera_id)])
            cameras[camera_id], offset = camera_and_offset(calibration.projections[camera_id], size)
            offsets.append(offset)
        which = [sorted(set(ids)).index(camera_id) for camera_id in ids]
        cam_from_cam0 = Transform.rigid(
            torch.eye(3, dtype=torch.float64).expand(len(ids), 3, 3), torch.stack(offsets)[which]
        )
        every = Transform.rigid(
            cam0_from_world.rotation[frames], cam0_from_world.translation[frames]
        )
        views = Views(tuple(names), cameras, tuple(ids), cam_from_cam0 @ every)
    return KittiSequence(views, times[frames], calibration)


def camera_and_offset(
    projection: Float64[np.ndarray, "3 4"], size: tuple[int, int]
) -> tuple[Camera, Float64[torch.Tensor, " 3"]]:
    """Return the camera of one of P0 ... P3 and the place of camera 0 in it: P = K [I | offset].

    Raises `ValueError` for a projection that is not of this form.
    """
    (across, skew, cx), (below, down, cy), last = projection[:, :3].tolist()
    if skew or below or last != [0, 0, 1]:
        raise ValueError("a projection should be fx 0 cx, 0 fy cy, 0 0 1 in its first columns")
    camera = camera_of("PINHOLE", [across, down, cx + _CENTRE, cy + _CENTRE], size)
    offset = np.linalg.solve(projection[:, :3], projection[:, 3])
    return camera, torch.from_numpy(offset)


def read_calibration(path: str | Path) -> KittiCalibration:
    """Return what a calib.txt says. Raises `UserError` naming it where it is missing or broken."""
    path = Path(path)
    with blaming(path, _REMEDY):
        rows = {}
        for line in read_text(path).splitlines():
            name, _, rest = line.partition(":")
            if re.fullmatch("P[0-3]|Tr", name):
                rows[name] = np.array(numbers(rest.split(), 12, name)).reshape(3, 4)
        missing = [f"P{i}" for i in range(_NUM_CAMERAS) if f"P{i}" not in rows]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        scanner = None
        if "Tr" in rows:
            poses = rigid(torch.from_numpy(rows["Tr"])[None], ["Tr"])
            scanner = Transform.rigid(poses.rotation[0], poses.translation[0])
        return KittiCalibration(np.stack([rows[f"P{i}"] for i in range(_NUM_CAMERAS)]), scanner)


def write_calibration(path: str | Path, calibration: KittiCalibration) -> None:
    """Write a calib.txt, with numbers in full."""
    rows = {f"P{i}": calibration.projections[i] for i in range(_NUM_CAMERAS)}
    if calibration.cam0_from_velodyne is not None:
        rows["Tr"] = calibration.cam0_from_velodyne.matrix()[:3].double().numpy()
    write_text(path, "".join(f"{name}: {_words(rows[name])}\n" for name in rows))


def read_poses(path: str | Path) -> Transform:
    """Return world_from_cam0 of each frame, float64. Raises `UserError` naming the file and line."""
    path = Path(path)
    with blaming(path, _REMEDY):
        lines = read_text(path).splitlines()
        names = [f"line {place + 1}" for place in range(len(lines))]
        rows = [numbers(line.split(), 12, name) for name, line in zip(names, lines, strict=True)]
        return rigid(torch.tensor(rows, dtype=torch.float64).reshape(-1, 3, 4), names)


def write_poses(path: str | Path, world_from_cam0: Transform) -> None:
    """Write the poses of frames, with numbers in full. Raises `ValueError` where one is not rigid."""
    matrices = world_from_cam0.matrix()
    poses = rigid(matrices, [f"frame {place}" for place in range(len(matrices))])
    write_text(path, "".join(_words(row) + "\n" for row in poses.matrix()[:, :3].numpy()))


def _words(matrix: np.ndarray) -> str:
    return " ".join(map(repr, matrix.ravel().tolist()))


def _pose_file(folder: Path) -> Path:
    folder = folder.absolute()
    candidates = [folder / "poses.txt", folder.parent.parent / "poses" / f"{folder.name}.txt"]
    for path in candidates:
        if path.is_file():
            return path
    raise UserError(f"{folder}: no poses, neither {candidates[0]} nor {candidates[1]}; name theirs")


def _read_times(path: Path) -> Float64[np.ndarray, " frames"]:
    with blaming(path, _REMEDY):
        words = read_text(path).split()
        return np.array(numbers(words, len(words), "a time"))


def _images(folder: Path) -> tuple[list[str], list[int], list[int]]:
    """Return the name, the camera and the frame of each image, sorted by name."""
    found = []
    for camera_id in range(_NUM_CAMERAS):
        for path in sorted(folder.glob(f"image_{camera_id}/*.png")):
            if re.fullmatch("[0-9]{6}", path.stem):
                found.append((f"image_{camera_id}/{path.name}", camera_id, int(path.stem)))
    if not found:
        raise UserError(f"{folder}: no image_0/000000.png and so on; name a KITTI sequence")
    return [name for name, _, _ in found], [one for _, one, _ in found], [one for *_, one in found]
