"""`make_landmarks` and `make_rooms`: whole sets of synthetic scenes on disk, in the layout of `Scene`.

Every picture draws from a seed of its own, (seed, scene, picture), and is written file by file, so
that neither the number of workers nor an interruption changes a byte. What is there is not made again;
a scene's manifest comes last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.clouds import write_cloud
from cuesta.data.files import write_text
from cuesta.data.scenes.colmap import write_colmap
from cuesta.data.scenes.scene import (
    Json,
    Scene,
    open_scene,
    read_about,
    read_json,
    write_manifest,
)
from cuesta.data.scenes.views import Views
from cuesta.data.worlds.landmarks import KINDS, build_landmark, movers
from cuesta.data.worlds.layout import files_of, write_frame, write_preview
from cuesta.data.worlds.lidar import Lidar, build_map
from cuesta.data.worlds.mesh import Mesh
from cuesta.data.worlds.paths import (
    ROUTES,
    Lenses,
    Shot,
    landmark_shots,
    lidar_poses,
    room_lidar_poses,
    room_shots,
)
from cuesta.data.worlds.photograph import Photography, photograph, photography_of
from cuesta.data.worlds.render import World, rays_of, render
from cuesta.data.worlds.rooms import build_room
from cuesta.errors import UserError
from cuesta.geometry import Transform

VERSION = 1  # of what a seed makes
LICENCE = "CC0-1.0: made by a program from a seed"
Progress = Callable[[int, int, str], None]


@final
@dataclass(frozen=True, kw_only=True)
class Size:
    """Say how many scenes of how many pictures of which size a set has."""

    num_scenes: int
    num_images: int
    width: int
    height: int


SIZES: dict[str, Size] = {
    "mini": Size(num_scenes=3, num_images=24, width=640, height=480),
    "small": Size(num_scenes=6, num_images=60, width=1280, height=960),
    "train": Size(num_scenes=60, num_images=60, width=640, height=480),
}


class Plan(NamedTuple):
    """Hold a scene before it is rendered."""

    world: World
    shots: list[Shot]
    moving: Callable[[Shot, np.random.Generator], Mesh]
    scanner: tuple[
        Lidar, list[Transform], float
    ]  # the LiDAR, its world_from_sensor, the map's voxel


def make_landmarks(
    out: Path,
    size: str | Size = "mini",
    *,
    seed: int = 0,
    preset: str = "mild",
    has_lidar: bool = False,
    num_workers: int | None = None,
    on_progress: Progress | None = None,
) -> list[Scene]:
    """Make a set of landmarks below `out`, a folder a scene; return the scenes.

    Scenes go round the routes ground, aerial and mixed. `preset` is one of `PRESETS`. `on_progress`
    is told how many pictures are done, of how many, and the last one's name. Interrupted, the same
    call goes on. Raises `UserError` for an unknown size or preset, and where a scene's folder holds
    something else.
    """

    def plan(number: int, lenses: Lenses, count: int) -> Plan:
        return _plan_landmark(seed, number, lenses, count=count)

    chosen = size_of(size)
    names = [f"landmark_{k:03d}_{ROUTES[k % 3]}" for k in range(chosen.num_scenes)]
    job = _Job("landmark", chosen, seed, preset, has_lidar)
    return _make(
        Path(out),
        names,
        job,
        plan=plan,
        num_workers=num_workers or os.cpu_count() or 1,
        on_progress=on_progress,
    )


def make_rooms(
    out: Path,
    size: str | Size = "mini",
    *,
    seed: int = 0,
    preset: str = "mild",
    has_lidar: bool = False,
    num_workers: int | None = None,
    on_progress: Progress | None = None,
) -> list[Scene]:
    """Make a set of rooms below `out`; all else is as in `make_landmarks`."""

    def plan(number: int, lenses: Lenses, count: int) -> Plan:
        return _plan_room(seed, number, lenses, count=count)

    chosen = size_of(size)
    names = [f"room_{k:03d}" for k in range(chosen.num_scenes)]
    job = _Job("room", chosen, seed, preset, has_lidar)
    return _make(
        Path(out),
        names,
        job,
        plan=plan,
        num_workers=num_workers or os.cpu_count() or 1,
        on_progress=on_progress,
    )


def size_of(size: str | Size) -> Size:
    """Return a size by its name; raise `UserError` with the known names for another."""
    if isinstance(size, Size):
        return size
    if size not in SIZES:
        raise UserError(f"no size {size!r}; choose one of {', '.join(SIZES)}")
    return SIZES[size]


class _Job(NamedTuple):
    kind: str
    size: Size
    seed: int
    preset: str
    has_lidar: bool

    def about(self, name: str) -> dict[str, Json]:
        return {
            "name": name,
            "kind": self.kind,
            "unit": "m",
            "licence": LICENCE,
            "maker": f"cuesta.data.worlds {VERSION}",
            "seed": self.seed,
            "size": asdict(self.size),
            "preset": self.preset,
            "has_lidar": self.has_lidar,
        }


def _make(
    out: Path, names: list[str], job: _Job, *, plan: Callable[[int, Lenses, int], Plan],
    num_workers: int, on_progress: Progress | None,
) -> list[Scene]:  # fmt: skip
    photography = photography_of(job.preset)
    lenses = Lenses(width=job.size.width, height=job.size.height, bend=photography.bend)
    total, done = len(names) * job.size.num_images, 0
    scenes = [Scene(out / name) for name in names]
    for number, scene in enumerate(scenes):
        is_finished = _claim(scene, job.about(names[number]))
        if not is_finished:
            planned = plan(number, lenses, job.size.num_images)
            seeds = [job.seed, number]
            _render_scene(
                scene,
                planned,
                photography,
                seeds=seeds,
                num_workers=num_workers,
                tell=_shifted(on_progress, done, total),
            )
            _finish_scene(scene, planned, job, seeds=seeds)
        done += job.size.num_images
        if on_progress is not None and is_finished:
            on_progress(done, total, names[number])
    return scenes


def _shifted(on_progress: Progress | None, first: int, total: int) -> Callable[[int, str], None]:
    def tell(done: int, what: str) -> None:
        if on_progress is not None:
            on_progress(first + done, total, what)

    return tell


def _claim(scene: Scene, about: dict[str, Json]) -> bool:
    """Return whether a scene is finished; write what it is going to be where its folder is new.

    Raises `UserError` where the folder holds something else, a finished scene lost a file, or the
    record of what was begun is broken.
    """
    remedy = f"remove {scene.root}, and it is made again"
    begun = scene.work / "recipe.json"
    if scene.manifest.exists():
        found = read_about(scene)
        if {name: found.get(name) for name in about} == about:
            open_scene(scene.root)
            return True
    elif begun.is_file():
        if read_json(begun, remedy) == about:
            return False
    elif not scene.root.exists() or (scene.root.is_dir() and not any(scene.root.iterdir())):
        write_text(begun, json.dumps(about, indent=1) + "\n")
        return False
    raise UserError(f"{scene.root} holds something else; choose another folder or remove it")


def _render_scene(
    scene: Scene, plan: Plan, photography: Photography, *, seeds: list[int], num_workers: int,
    tell: Callable[[int, str], None],
) -> None:  # fmt: skip
    """Render what is missing, a picture a thread: the kernels run without Python's lock."""
    rays: dict[str, NDArray[np.float64]] = {}
    for shot in plan.shots:
        if shot.folder not in rays:
            rays[shot.folder] = rays_of(shot.camera)

    def take(number: int) -> str:
        image, shot = image_names(plan.shots)[number], plan.shots[number]
        if not all(file.is_file() for file in files_of(scene, image)):
            moving = plan.moving(shot, np.random.default_rng([*seeds, number, 0]))
            frame = render(
                plan.world, shot.camera, shot.cam_from_world, moving=moving, rays=rays[shot.folder]
            )
            photo = photograph(frame.rgb, photography, np.random.default_rng([*seeds, number, 1]))
            write_frame(scene, image, frame, photo=photo, jpeg_quality=photography.jpeg_quality)
        return image

    with ThreadPoolExecutor(num_workers) as pool:
        futures = [pool.submit(take, number) for number in range(len(plan.shots))]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                tell(done, f"{scene.root.name}/{future.result()}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def image_names(shots: list[Shot]) -> list[str]:
    """Return the shots' names, counted within each camera's folder."""
    names, counts = [], dict.fromkeys((shot.folder for shot in shots), 0)
    for shot in shots:
        names.append(f"{shot.folder}/frame_{counts[shot.folder]:06d}.jpg")
        counts[shot.folder] += 1
    return names


def views_of(shots: list[Shot]) -> Views:
    """Return the shots as views, named by `image_names`; a camera a folder."""
    folders = sorted({shot.folder for shot in shots})
    cameras = {folders.index(shot.folder) + 1: shot.camera for shot in shots}
    ids = tuple(folders.index(shot.folder) + 1 for shot in shots)
    poses = Transform.rigid(
        torch.stack([shot.cam_from_world.rotation for shot in shots]),
        torch.stack([shot.cam_from_world.translation for shot in shots]),
    )
    return Views(tuple(image_names(shots)), cameras, ids, poses)


def _finish_scene(scene: Scene, plan: Plan, job: _Job, *, seeds: list[int]) -> None:
    """Write what a scene has beside its pictures, the manifest last."""
    if not scene.model.exists():
        write_colmap(scene.model, views_of(plan.shots))
    cloud = scene.root / "lidar" / "map.ply"
    if job.has_lidar and not cloud.exists():
        lidar, poses, voxel = plan.scanner
        draw = np.random.default_rng([*seeds, 1 << 20])
        write_cloud(cloud, build_map(plan.world, lidar, poses, voxel_m=voxel, draw=draw))
    write_preview(scene, image_names(plan.shots))
    write_manifest(scene, job.about(scene.root.name))


def _plan_landmark(seed: int, number: int, lenses: Lenses, *, count: int) -> Plan:
    landmark = build_landmark(
        _own_seed(seed, number), kind=KINDS[(seed + number) % 3], palette=seed + number
    )
    draw = np.random.default_rng([seed, number, 1 << 21])
    shots = landmark_shots(landmark, ROUTES[number % 3], count=count, lenses=lenses, draw=draw)

    def moving(shot: Shot, own_draw: np.random.Generator) -> Mesh:
        x, y, _ = shot.cam_from_world.inverse().translation.tolist()
        return movers(landmark, (x, y), own_draw)

    return Plan(landmark.world, shots, moving, (Lidar(), lidar_poses(landmark), 0.1))


def _plan_room(seed: int, number: int, lenses: Lenses, *, count: int) -> Plan:
    room = build_room(_own_seed(seed, number))
    draw = np.random.default_rng([seed, number, 1 << 21])
    shots = room_shots(room, count=count, lenses=lenses, draw=draw)
    scanner = (Lidar(lowest_degrees=-45.0, highest_degrees=45.0), room_lidar_poses(room), 0.02)
    return Plan(room.world, shots, lambda _, __: Mesh(), scanner)


def _own_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
