"""Camera paths: where pictures are taken from, checked to be in free air and to see something.

Lenses are those of a phone, f = 0.78 and 1.47 times the width (its 13 and 26 mm lenses), and of a
drone, 0.8 times. A shot's folder is its camera's, so that one folder is one lens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.worlds.landmarks import Landmark, ring_point
from cuesta.data.worlds.ray_kernels import Packet, closest_hits
from cuesta.data.worlds.render import World
from cuesta.data.worlds.rooms import Room
from cuesta.data.worlds.surroundings import ground_height
from cuesta.geometry import Camera, Transform

ROUTES = ("ground", "aerial", "mixed")
CLEARANCE_M, ROOM_CLEARANCE_M = 0.9, 0.3
_MOST_TRIES = 200


class Shot(NamedTuple):
    """Hold one picture to be taken; `folder` names the camera."""

    folder: str
    camera: Camera
    cam_from_world: Transform


@final
@dataclass(frozen=True, kw_only=True)
class Lenses:
    """Say how large pictures are and how lenses bend: 0 is PINHOLE, else the k of SIMPLE_RADIAL."""

    width: int = 640
    height: int = 480
    bend: float = 0.0

    def camera(self, focal: float, *, number: int) -> Camera:
        """Return the camera of focal length `focal` times the width; `number` shifts its centre."""
        f = focal * self.width
        cx, cy = self.width * (0.5 + 0.004 * (number - 1)), self.height * (0.5 - 0.003 * number)
        if self.bend:
            params = torch.tensor(
                [f, cx, cy, self.bend * (1.0, 0.6, 0.4)[number]], dtype=torch.float64
            )
            return Camera("SIMPLE_RADIAL", params, self.width, self.height)
        params = torch.tensor([f, f, cx, cy], dtype=torch.float64)
        return Camera("PINHOLE", params, self.width, self.height)


def look_at(
    centre: NDArray[np.float64], target: NDArray[np.float64], *, roll: float = 0.0
) -> Transform:
    """Return cam_from_world of a camera at `centre` [3] that looks at `target` [3], level but for `roll`.

    Raises `ValueError` where it would look straight up or down.
    """
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    if np.linalg.norm(right) < 1e-6:
        raise ValueError(f"from {centre.tolist()} to {target.tolist()} is straight up or down")
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    turned = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    rotation = torch.from_numpy(np.stack([*turned, forward]))
    return Transform.rigid(rotation, -rotation @ torch.from_numpy(centre))


def clearance(world: World, point: NDArray[np.float64]) -> float:
    """Return the distance in metres from a point to the nearest surface, as 200 rays see it."""
    number = np.arange(200) + 0.5
    height, turn = 1 - number / 100, np.pi * (1 + 5**0.5) * number
    radius = np.sqrt(1 - height**2)
    directions = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], 1)
    return float(_distances(world, point, directions).min())


def landmark_shots(
    landmark: Landmark, route: str, *, count: int, lenses: Lenses, draw: np.random.Generator
) -> list[Shot]:
    """Return `count` shots of a landmark along one of `ROUTES`.

    ground: a ring at eye level, 8 to 25 m off the walls, wide and long lens by turns. aerial: a ring
    20 to 60 m away that looks down by 30 to 60 degrees. mixed: both over the same sector, and between
    them an arc at 6 to 15 m above the ground. Raises `ValueError` for another route or where no free
    place is found.
    """
    if route not in ROUTES:
        raise ValueError(f"no route is called {route!r}; choose one of {', '.join(ROUTES)}")
    if route == "ground":
        half = min(np.pi, np.radians(3.0) * count)
        sector = (-np.pi / 2 - half, -np.pi / 2 + half)
        return _ring(landmark, "ground", count, sector=sector, lenses=lenses, draw=draw)
    if route == "aerial":
        return _ring(landmark, "aerial", count, sector=(0.0, 2 * np.pi), lenses=lenses, draw=draw)
    low, middle = round(0.4 * count), round(0.25 * count)
    half = min(np.pi, np.radians(2.0) * count)
    sector = (-np.pi / 2 - half, -np.pi / 2 + half)
    shots = []
    for level, share in (("ground", low), ("arc", middle), ("aerial", count - low - middle)):
        shots += _ring(landmark, level, share, sector=sector, lenses=lenses, draw=draw)
    return shots


def room_shots(room: Room, *, count: int, lenses: Lenses, draw: np.random.Generator) -> list[Shot]:
    """Return `count` shots of a walk round the middle of a room, each towards the far side.

    Raises `ValueError` where no free place is found.
    """
    shots, middle = [], np.array([room.width / 2, room.depth / 2])
    camera = lenses.camera(0.78, number=0)
    for k in range(count):
        for _ in range(_MOST_TRIES):
            angle = 2 * np.pi * (k + 0.5) / count + float(draw.normal(0, 0.02))
            side = np.array([np.cos(angle), np.sin(angle)])
            reach = draw.uniform(0.24, 0.33) * np.array([room.width, room.depth])
            centre = np.array([*(middle + reach * side), draw.uniform(1.3, 1.75)])
            turn = angle + float(draw.normal(0, 0.12))
            far = middle - 0.5 * np.array([room.width, room.depth]) * [np.cos(turn), np.sin(turn)]
            target = np.array([*far, draw.uniform(0.6, 1.4)])
            if clearance(room.world, centre) > ROOM_CLEARANCE_M:
                pose = look_at(centre, target, roll=float(draw.normal(0, 0.03)))
                shots.append(Shot("cam_0", camera, pose))
                break
        else:
            raise ValueError(f"no free place for a camera in the room, shot {k}")
    return shots


def room_lidar_poses(room: Room, *, count: int = 8) -> list[Transform]:
    """Return world_from_sensor of a LiDAR that is carried round a room, 1.25 m high."""
    poses = []
    for k in range(count):
        angle = 2 * np.pi * k / count
        x, y = room.width * (0.5 + 0.3 * np.cos(angle)), room.depth * (0.5 + 0.3 * np.sin(angle))
        poses.append(_upright(x, y, 1.25, turn=angle + np.pi / 2))
    return poses


def _upright(x: float, y: float, z: float, *, turn: float) -> Transform:
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], dtype=torch.float64)
    return Transform.rigid(rotation, torch.tensor([x, y, z], dtype=torch.float64))


def lidar_poses(landmark: Landmark, *, count: int = 20) -> list[Transform]:
    """Return world_from_sensor of a LiDAR that is carried round a landmark, 1.9 m high."""
    poses = []
    for k in range(count):
        angle = 2 * np.pi * k / count
        x, y = ring_point(landmark, angle, 10.0 + 3 * np.sin(3 * angle))
        poses.append(_upright(x, y, ground_height(x, y) + 1.9, turn=angle + np.pi / 2))
    return poses


def _ring(
    landmark: Landmark, level: str, count: int, *, sector: tuple[float, float], lenses: Lenses,
    draw: np.random.Generator,
) -> list[Shot]:  # fmt: skip
    shots = []
    for k in range(count):
        angle = sector[0] + (sector[1] - sector[0]) * (k + 0.5) / count
        for _ in range(_MOST_TRIES):
            shot, centre, target = _draw_shot(
                landmark, level, k, angle=angle, lenses=lenses, draw=draw
            )
            if _is_good(landmark.world, centre, target):
                shots.append(shot)
                break
        else:
            raise ValueError(
                f"no free place for a camera at {np.degrees(angle):.0f} degrees ({level})"
            )
    return shots


def _draw_shot(
    landmark: Landmark,
    level: str,
    k: int,
    *,
    angle: float,
    lenses: Lenses,
    draw: np.random.Generator,
) -> tuple[Shot, NDArray[np.float64], NDArray[np.float64]]:
    angle = angle + float(draw.normal(0, np.radians(1.5)))
    roll = float(draw.normal(0, np.radians(1.0)))
    if level == "ground":
        is_long = k % 2
        away = float(draw.uniform(15, 24) if is_long else draw.uniform(8, 16))
        x, y = ring_point(landmark, angle, away)
        centre = np.array([x, y, ground_height(x, y) + draw.uniform(1.5, 1.75)])
        near = np.array([*ring_point(landmark, angle + float(draw.normal(0, 0.06)), 0.0), 0.0])
        target = 0.45 * near + [0, 0, draw.uniform(3.6, 5.2)]
        lens = ("cam_1", 1.47, 1) if is_long else ("cam_0", 0.78, 0)
    else:
        lens = ("cam_2_aerial", 0.8, 2)
        if level == "arc":
            x, y = ring_point(landmark, angle, float(draw.uniform(14, 24)))
            centre = np.array([x, y, draw.uniform(6, 15)])
        else:
            pitch = np.radians(draw.uniform(32, 58) if k % 3 else draw.uniform(30, 40))
            away = draw.uniform(26, 46) + 0.5 * landmark.half_width
            level_ = away * np.cos(pitch)
            centre = np.array(
                [level_ * np.cos(angle), level_ * np.sin(angle), 4 + away * np.sin(pitch)]
            )
        target = np.array([*draw.normal(0, 1.2, 2), draw.uniform(3, 6)])
    camera = lenses.camera(lens[1], number=lens[2])
    return Shot(lens[0], camera, look_at(centre, target, roll=roll)), centre, target


def _is_good(world: World, centre: NDArray[np.float64], target: NDArray[np.float64]) -> bool:
    """Return whether a camera is in free air, under the sky, and has a view towards its target."""
    if clearance(world, centre) < CLEARANCE_M:
        return False
    forward = target - centre
    ahead, sky = _distances(world, centre, np.stack([forward, [0.0, 0.0, 1.0]]))
    return bool(ahead > 0.35 and np.isinf(sky))


def _distances(
    world: World, point: NDArray[np.float64], directions: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far each ray from a point goes, in lengths of its direction; infinity for the sky."""
    distances, slots = np.empty(len(directions)), np.empty(len(directions), np.int64)
    origins = np.repeat(point[None], len(directions), 0)
    shapes = world.shapes
    closest_hits(
        shapes.tree, shapes.planes, shapes.kinds, origins, np.ascontiguousarray(directions, float),
        distances, slots, Packet.new(),
    )  # fmt: skip
    return distances
