"""`cuesta bench worlds`: how fast a generated world is photographed, and its rays against Embree's.

Rays are those of the pixels of one picture, cast on one thread by our packets in float64 and by
Embree (through embreex) in float32, at the same flat primitives. Pictures are whole: colours,
shadows, people and cars, exact depth, normals and labels, on as many threads as there are cores.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.cli.bench.harness import (
    OURS,
    Contender,
    Findings,
    Settings,
    progress,
    rate_rows,
    refuse,
    time_in_turns,
    time_rows,
)
from cuesta.data.worlds.bvh import build_bvh
from cuesta.data.worlds.labels import Label, Material
from cuesta.data.worlds.landmarks import Landmark, build_landmark, movers
from cuesta.data.worlds.mesh import Finish, Mesh
from cuesta.data.worlds.paths import ROUTES, Lenses, Shot, landmark_shots, look_at
from cuesta.data.worlds.ray_kernels import ELLIPSOID, PARALLELOGRAM, Packet, closest_hits
from cuesta.data.worlds.render import World, rays_of, render
from cuesta.data.worlds.shapes import Shapes
from cuesta.geometry import Camera

BENCH = "worlds"
LEAST_FRAMES_A_SECOND = 10.0
MOST_DEPTH_ERROR = 1e-4
EMBREE = "embreex"

Floats = NDArray[np.float64]


def measure(settings: Settings) -> Findings:
    """Prove depth against a plane and a sphere, then time rays and whole pictures."""
    findings = Findings()
    off = depth_error()
    if not off <= MOST_DEPTH_ERROR:
        refuse(BENCH, f"depth is off by {off:.1e} of an analytic plane or sphere")
    findings.note(f"depth is off by at most {off:.0e} of an analytic plane and sphere (asked 1e-4)")
    landmark = build_landmark(1, kind="palace")
    size = Lenses(width=160, height=120) if settings.quick else Lenses(width=640, height=480)
    name = f"{size.width}x{size.height}"
    shots = {
        route: landmark_shots(landmark, route, count=12, lenses=size, draw=np.random.default_rng(0))
        for route in ROUTES
    }
    _time_rays(findings, landmark.world, shots["ground"][3], settings, name)
    for route, taken in shots.items():
        progress(f"{BENCH}: {route}")
        _time_pictures(findings, landmark, taken, settings, f"pictures of {name}, {route}")
    return findings


def depth_error() -> float:
    """Return the largest relative error of depth against an analytic plane and sphere."""
    camera = Camera("PINHOLE", torch.tensor([300.0, 300.0, 160.0, 120.0]).double(), 320, 240)
    finish = Finish(Material.STONE, Label.OBJECT, (0.5, 0.5, 0.5))
    rays, light = rays_of(camera), build_landmark(1).world.light
    pose = look_at(np.zeros(3), np.array([0.0, 1.0, 0.0]))  # looks along y, z is up
    plane, ball = Mesh(), Mesh()
    corner, along, up = (
        np.array([-40.0, 7.0 - 12.0, -40.0]),
        np.array([80.0, 24.0, 0]),
        np.array([0, 0, 80.0]),
    )
    plane.parallelogram(corner, corner + along, corner + up, finish)
    centre, radius = np.array([0.3, 6.0, -0.2]), 1.7
    ball.ellipsoid(centre, [radius] * 3, finish)
    errors = []
    frame = render(World(shapes=plane.shapes(), light=light), camera, pose)
    expected = 7.0 / (1 - 0.3 * rays[..., 0])  # y = 7 + 0.3 x
    errors.append(np.abs(frame.depth / expected - 1).max())
    frame = render(World(shapes=ball.shapes(), light=light), camera, pose)
    middle = np.array([centre[0], -centre[2], centre[1]])  # in the camera's frame
    along_ray, square = rays @ middle, (rays**2).sum(-1)
    root = along_ray**2 - square * (middle @ middle - radius**2)
    is_hit = root > 1e-3
    expected = (along_ray - np.sqrt(np.maximum(root, 0))) / square
    errors.append(np.abs(frame.depth / expected - 1)[is_hit].max())
    return float(max(errors))


def _time_rays(findings: Findings, world: World, shot: Shot, settings: Settings, name: str) -> None:
    shapes, corners = flat_shapes(world.shapes)
    pose = shot.cam_from_world
    directions = rays_of(shot.camera).reshape(-1, 3) @ pose.rotation.numpy()
    origins = np.repeat(pose.inverse().translation.numpy()[None], len(directions), 0)
    distances, slots = np.empty(len(origins)), np.empty(len(origins), np.int64)
    packet = Packet.new()

    def ours(_: int = 0) -> object:
        closest_hits(
            shapes.tree, shapes.planes, shapes.kinds, origins, directions, distances, slots, packet
        )
        return slots

    try:
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh
    except ImportError:
        findings.note("not timed: embreex is not installed")
        return
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, corners.astype(np.float32))
    from32, along32 = origins.astype(np.float32), directions.astype(np.float32)

    def embree(_: int = 0) -> object:
        return scene.run(from32, along32, query="DISTANCE")

    ours()
    theirs = np.asarray(embree())
    is_hit = slots >= 0
    differing = np.mean(is_hit != (theirs < 1e20))
    off = np.median(np.abs(theirs[is_hit] / distances[is_hit] - 1))
    if differing > 1e-3 or off > 1e-5:
        refuse(BENCH, f"{differing:.2%} of the rays meet something else than Embree's")
    case = f"rays of a picture of {name}, one thread"
    contenders = [Contender(OURS, ours), Contender(EMBREE, embree)]
    findings.rows += time_rows(case, time_in_turns(contenders, settings.repetitions))


def _time_pictures(
    findings: Findings, landmark: Landmark, shots: Sequence[Shot], settings: Settings, name: str
) -> None:
    threads = os.cpu_count() or 1
    rays = [rays_of(shot.camera) for shot in shots]
    moving = [movers(landmark, (0, 0), np.random.default_rng(k)) for k in range(len(shots))]

    def picture(repetition: int) -> object:
        n = repetition % len(shots)
        return render(
            landmark.world,
            shots[n].camera,
            shots[n].cam_from_world,
            moving=moving[n],
            rays=rays[n],
            num_threads=threads,
        )

    case = f"{name}, {threads} threads"
    seconds = time_in_turns([Contender(OURS, picture)], 2 * settings.repetitions)
    findings.rows += rate_rows(case, seconds, 1, "frames/s")
    rate = 1 / float(np.median(seconds[OURS]))
    if not settings.quick:
        verdict = "met" if rate >= LEAST_FRAMES_A_SECOND else "MISSED"
        findings.note(f"bar {verdict}: {case}, {rate:.1f} frames/s, asked 10")


def flat_shapes(shapes: Shapes) -> tuple[Shapes, Floats]:
    """Return the flat primitives in a hierarchy of their own, and as triangles [triangles, 3, 3]."""
    is_flat = (shapes.kinds != ELLIPSOID) & (np.abs(shapes.planes).sum(1) > 0)
    planes, kinds = shapes.planes[is_flat], shapes.kinds[is_flat]
    maps = np.stack([planes[:, :3], planes[:, 4:7], planes[:, 8:11]], 1)
    corners = []
    for u, v in ((0, 0), (1, 0), (0, 1)):
        goal = np.stack([planes[:, 3], u - planes[:, 7], v - planes[:, 11]], 1)
        corners.append(np.linalg.solve(maps, goal[..., None])[..., 0])
    first, one, two = corners
    is_wide = (kinds == PARALLELOGRAM)[:, None]
    last = np.where(is_wide, one + two - first, first)
    everything = np.stack([first, one, two, last], 1)
    tree = build_bvh(everything.min(1) - 1e-4, everything.max(1) + 1e-4)
    order = tree.order
    rows = {
        field: getattr(shapes, field)[is_flat][order] for field in shapes._fields if field != "tree"
    }
    wide = kinds == PARALLELOGRAM
    halves = np.stack([last, two, one], 1)[wide]
    triangles = np.concatenate([np.stack([first, one, two], 1), halves])
    return Shapes(tree=tree, **rows), triangles
