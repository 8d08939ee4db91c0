"""A simulated spinning LiDAR: exact distances along its beams, what a real one measures of them, and
the map that many scans make up.

Only what stands still is in the world that it scans; a map is free of passers-by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.clouds import Cloud
from cuesta.data.worlds.ray_kernels import Packet, closest_hits
from cuesta.data.worlds.render import World
from cuesta.data.worlds.shade_kernels import reflect
from cuesta.geometry import Transform


@final
@dataclass(frozen=True, kw_only=True)
class Lidar:
    """Say how a LiDAR scans; its frame is x ahead, y left, z up. Raises `ValueError` for no beam."""

    num_beams: int = 64
    num_columns: int = 1024
    lowest_degrees: float = -25.0
    highest_degrees: float = 15.0
    longest_m: float = 100.0
    noise_m: float = 0.02  # standard deviation of a distance
    drop_out: float = 0.02  # share of echoes lost, more at grazing incidence

    def __post_init__(self) -> None:
        if min(self.num_beams, self.num_columns) < 1:
            raise ValueError(
                f"a LiDAR has a beam at least, got {self.num_beams} x {self.num_columns}"
            )

    def directions(self) -> NDArray[np.float64]:
        """Return unit directions [beams * columns, 3] in the sensor's frame, beam by beam."""
        up = np.radians(np.linspace(self.lowest_degrees, self.highest_degrees, self.num_beams))
        turn = 2 * np.pi * np.arange(self.num_columns) / self.num_columns
        up, turn = (grid.ravel() for grid in np.meshgrid(up, turn, indexing="ij"))
        return np.stack([np.cos(up) * np.cos(turn), np.cos(up) * np.sin(turn), np.sin(up)], 1)


class Scan(NamedTuple):
    """Hold a scan, a row for each beam and column."""

    exact_m: NDArray[np.float64]  # distances; infinity where nothing is hit
    measured_m: NDArray[np.float64]  # with noise; NaN where there is no echo
    intensity: NDArray[np.float32]  # reflected share of light


def scan(
    world: World, lidar: Lidar, world_from_sensor: Transform, *, draw: np.random.Generator
) -> Scan:
    """Return what a LiDAR at a pose measures."""
    shapes, pose = world.shapes, world_from_sensor.to(torch.float64)
    directions = lidar.directions() @ pose.rotation.numpy().T
    origins = np.repeat(pose.translation.numpy()[None], len(directions), 0)
    exact, slots = np.empty(len(directions)), np.empty(len(directions), np.int64)
    closest_hits(
        shapes.tree, shapes.planes, shapes.kinds, origins, directions, exact, slots, Packet.new()
    )
    cosines, albedos = np.zeros(len(directions)), np.zeros(len(directions))
    reflect(shapes, origins, directions, exact, slots, cosines, albedos)
    noise, luck = draw.normal(0, 1, len(exact)), draw.random(len(exact))
    is_seen = (exact <= lidar.longest_m) & (luck > lidar.drop_out / np.maximum(cosines, 0.02))
    measured = np.where(is_seen, exact + lidar.noise_m * noise, np.nan)
    intensity = np.where(is_seen, albedos * (0.3 + 0.7 * cosines), 0).astype(np.float32)
    return Scan(exact, measured, intensity)


def points_of(scanned: Scan, lidar: Lidar, world_from_sensor: Transform) -> NDArray[np.float64]:
    """Return the measured points [P, 3] in the world, of the beams with an echo."""
    has_echo = np.isfinite(scanned.measured_m)
    local = lidar.directions()[has_echo] * scanned.measured_m[has_echo, None]
    pose = world_from_sensor.to(torch.float64)
    return local @ pose.rotation.numpy().T + pose.translation.numpy()


def build_map(
    world: World,
    lidar: Lidar,
    poses: Sequence[Transform],
    *,
    voxel_m: float,
    draw: np.random.Generator,
) -> Cloud:
    """Return the map that scans from `poses` (world_from_sensor) make up, a point a voxel.

    The first point to fall into a voxel stays. Raises `ValueError` where no beam has an echo.
    """
    points, intensities = [], []
    for pose in poses:
        scanned = scan(world, lidar, pose, draw=draw)
        points.append(points_of(scanned, lidar, pose))
        intensities.append(scanned.intensity[np.isfinite(scanned.measured_m)])
    everything = np.concatenate(points)
    if not len(everything):
        raise ValueError("no beam of the LiDAR has an echo")
    voxels = np.floor(everything / voxel_m).astype(np.int64)
    voxels -= voxels.min(0)
    keys = np.ravel_multi_index(tuple(voxels.T), tuple(voxels.max(0) + 1))
    _, first = np.unique(keys, return_index=True)
    first.sort()
    return Cloud(everything[first], intensity=np.concatenate(intensities)[first])
