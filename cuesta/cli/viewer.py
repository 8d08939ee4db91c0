"""`cuesta view`: a scene, a COLMAP model or a cloud in the browser, by viser, on this machine only.

Points are drawn in their colours and photos as frusta with their picture; a click on one looks
through its camera.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import viser
from numpy.typing import NDArray
from PIL import Image

from cuesta.data.clouds import Cloud, read_cloud
from cuesta.data.scenes.colmap import cloud_of, read_reconstruction
from cuesta.data.scenes.read import model_folder, read_views
from cuesta.data.scenes.scene import Scene, open_scene
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Transform

MOST_POINTS = 2_000_000
_PICTURE_PX = 200
CAMERA_SHARE, POINT_SHARE = 35, 350  # the scene's size over that of a drawn camera and point
_CAMERA_COLOUR = (217, 102, 31)
_GREY = 150


def start_viewer(
    path: str | Path, *, host: str = "127.0.0.1", port: int = 8080
) -> viser.ViserServer:
    """Return a server that shows what is at `path`; it runs until its `stop`.

    The port is the first free one from `port` on. Raises `UserError` where there is nothing to show.
    """
    path = Path(path)
    _check_address(host, port)
    views, cloud, frame = _load(path)
    views, cloud = _centred(views, cloud)
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # of tabs that were closed
    server = viser.ViserServer(host=host, port=port, label=path.name, verbose=False)
    server.gui.configure_theme(dark_mode=True, show_logo=False)
    middle, size = _extent(views, cloud)
    up = _up(views)
    server.scene.set_up_direction(up)
    points = _add_cloud(server, cloud, size)
    frusta = [] if views is None else _add_cameras(server, views, frame, size)
    _add_controls(server, points, frusta, camera_scale=size / CAMERA_SHARE)
    place = _first_place(views, middle, size, up)

    @server.on_client_connect
    def _(client: viser.ClientHandle) -> None:
        client.camera.up_direction = up
        client.camera.position = place
        client.camera.look_at = middle

    return server


def _check_address(host: str, port: int) -> None:
    """Refuse an address that is not ours, for the server would wait for it without end."""
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: a port is 1 to 65535")
    try:
        socket.create_server((host, 0)).close()
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror or error}; 127.0.0.1 is here") from error


def _centred(views: Views | None, cloud: Cloud) -> tuple[Views | None, Cloud]:
    """Return both with the middle of the points at 0: float32 is too coarse for maps in UTM."""
    places = cloud.positions if len(cloud) or views is None else views.centres().numpy()
    middle = np.median(places, axis=0) if len(places) else np.zeros(3)
    here_from_world = Transform.rigid(
        torch.eye(3, dtype=torch.float64), torch.from_numpy(-middle).double()
    )
    moved = None if views is None else views.moved(here_from_world)
    return moved, replace(cloud, positions=cloud.positions - middle)


def _load(path: Path) -> tuple[Views | None, Cloud, Callable[[str], Path] | None]:
    """Return what there is of posed images, points, and where an image's file is."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a scene, a COLMAP model or a cloud")
    if path.is_file() and path.suffix.lower() != ".json":
        return None, read_cloud(path), None
    if Scene(path).manifest.exists():
        scene = open_scene(path)
        return read_views(path), cloud_of(read_reconstruction(scene.model)), scene.frame
    views, model = read_views(path), model_folder(path)
    empty = Cloud(np.empty((0, 3)))
    cloud = empty if model is None else cloud_of(read_reconstruction(model))
    root = path if path.is_dir() else path.parent
    folders = (root / "images", root / "frames", root)

    def frame(name: str) -> Path:
        return next((f / name for f in folders if (f / name).exists()), root / name)

    return views, cloud, frame


def _add_cloud(server: viser.ViserServer, cloud: Cloud, size: float) -> viser.PointCloudHandle:
    chosen = np.random.default_rng(0).permutation(len(cloud.positions))[:MOST_POINTS]
    colors = cloud.colors
    if colors is None:
        colors = np.full((len(cloud.positions), 3), _GREY, np.uint8)
    return server.scene.add_point_cloud(
        "/points",
        cloud.positions[chosen].astype(np.float32),
        colors[chosen],
        point_size=size / POINT_SHARE,
        point_shape="circle",
        precision="float32",
    )


def _add_cameras(
    server: viser.ViserServer,
    views: Views,
    frame: Callable[[str], Path] | None,
    size: float,
) -> list[viser.CameraFrustumHandle]:
    world_from_cam = views.cam_from_world.inverse()
    turns, places = world_from_cam.quaternion().numpy(), world_from_cam.translation.numpy()
    frusta = []
    for number, name in enumerate(views.names):
        camera = views.camera(name)
        fov = 2 * np.arctan(camera.height / 2 / float(camera.focal()[1]))
        frustum = server.scene.add_camera_frustum(
            f"/cameras/{name}",
            fov=float(fov),
            aspect=camera.width / camera.height,
            scale=size / CAMERA_SHARE,
            color=_CAMERA_COLOUR,
            image=None if frame is None else _picture(frame(name)),
            wxyz=turns[number],
            position=places[number],
        )
        frustum.on_click(_look_through(frustum))
        frusta.append(frustum)
    return frusta


def _look_through(
    frustum: viser.CameraFrustumHandle,
) -> Callable[[viser.SceneNodePointerEvent[viser.CameraFrustumHandle]], None]:
    def jump(event: viser.SceneNodePointerEvent[viser.CameraFrustumHandle]) -> None:
        if event.client is not None:
            with event.client.atomic():
                event.client.camera.wxyz = frustum.wxyz
                event.client.camera.position = frustum.position
                event.client.camera.fov = frustum.fov

    return jump


def _add_controls(
    server: viser.ViserServer,
    points: viser.PointCloudHandle,
    frusta: list[viser.CameraFrustumHandle],
    *,
    camera_scale: float,
) -> None:
    point_size = server.gui.add_slider("point size", 0.2, 5.0, 0.1, 1.0)
    usual = points.point_size

    @point_size.on_update
    def _(_: object) -> None:
        points.point_size = usual * point_size.value

    if not frusta:
        return
    is_shown = server.gui.add_checkbox("cameras", True)
    camera_size = server.gui.add_slider("camera size", 0.1, 4.0, 0.1, 1.0)

    @is_shown.on_update
    def _(_: object) -> None:
        for frustum in frusta:
            frustum.visible = is_shown.value

    @camera_size.on_update
    def _(_: object) -> None:
        for frustum in frusta:
            frustum.scale = camera_scale * camera_size.value


def _picture(path: Path) -> NDArray[np.uint8] | None:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * _PICTURE_PX, 2 * _PICTURE_PX))
            small = image.convert("RGB")
            small.thumbnail((_PICTURE_PX, _PICTURE_PX))
            return np.asarray(small)
    except OSError:  # the camera is drawn without its picture
        return None


def _extent(views: Views | None, cloud: Cloud) -> tuple[NDArray[np.float64], float]:
    """Return the middle of what is shown, and the size of most of it."""
    parts = [cloud.positions] if views is None else [cloud.positions, views.centres().numpy()]
    everything = np.concatenate(parts)
    if not len(everything):
        raise UserError("there is neither a camera nor a point in it; name another")
    middle = np.median(cloud.positions if len(cloud.positions) else everything, axis=0)
    distance = np.linalg.norm(everything - middle, axis=1)
    return middle, float(2 * np.quantile(distance, 0.9)) or 1.0


def _up(views: Views | None) -> NDArray[np.float64]:
    """Return where the cameras' own up points in the mean; z for clouds."""
    if views is None:
        return np.array([0.0, 0.0, 1.0])
    up = -views.cam_from_world.rotation[:, 1].mean(0)
    return torch.nn.functional.normalize(up, dim=0).numpy()


def _first_place(
    views: Views | None, middle: NDArray[np.float64], size: float, up: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a place from which cameras and points are seen: behind the cameras, a little above."""
    if views is None:
        return middle + np.array([0.6, -0.9, 0.5]) * size
    towards = views.cam_from_world.rotation[:, 2].mean(0).numpy()
    behind = -towards / max(float(np.linalg.norm(towards)), 1e-6)
    return views.centres().mean(0).numpy() + 0.4 * size * behind + 0.25 * size * up
