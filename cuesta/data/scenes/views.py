"""`Views`: images with calibrated cameras and poses, the common part of every format of scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from cuesta.geometry import Camera, Transform


@final
@dataclass(frozen=True, eq=False)
class Views:
    """Hold V images by name, each with a camera and a pose.

    Names are relative to the folder of images and use forward slashes; `camera_ids` and
    `cam_from_world` [V] stand in the order of `names`. Cameras and poses are float64 by convention.
    Raises `ValueError` for lengths that differ, a name that is not unique or leaves its folder, or
    a camera that is not there.

    >>> camera = Camera("PINHOLE", torch.tensor([100.0, 100.0, 50.0, 40.0]), 100, 80)
    >>> pose = Transform.rigid(torch.eye(3)[None], torch.tensor([[0.0, 0.0, -2.0]]))
    >>> views = Views(("a.jpg",), {1: camera}, (1,), pose)
    >>> views.camera("a.jpg").width, views.centres()[0, 2].item()
    (100, 2.0)
    """

    names: tuple[str, ...]
    cameras: Mapping[int, Camera]
    camera_ids: tuple[int, ...]
    cam_from_world: Transform

    def __post_init__(self) -> None:
        num_poses = tuple(self.cam_from_world.scale.shape)
        if len(self.camera_ids) != len(self.names) or num_poses != (len(self.names),):
            raise ValueError(
                f"{len(self.names)} names need as many camera ids and poses, "
                f"got {len(self.camera_ids)} and {list(num_poses)}"
            )
        for name, count in Counter(self.names).items():
            if count > 1:
                raise ValueError(f"the image {name!r} is there {count} times")
            if not is_inside(name):
                raise ValueError(f"the image name {name!r} leads out of the folder of images")
        for name, camera_id in zip(self.names, self.camera_ids, strict=True):
            if camera_id not in self.cameras:
                raise ValueError(f"the image {name!r} names camera {camera_id}, which is not there")

    def __len__(self) -> int:
        return len(self.names)

    def camera(self, name: str) -> Camera:
        """Return the camera of an image."""
        return self.cameras[self.camera_ids[self.index(name)]]

    def pose(self, name: str) -> Transform:
        """Return `cam_from_world` of an image."""
        return self._poses([self.index(name)], squeeze=True)

    def index(self, name: str) -> int:
        """Return the place of an image. Raises `ValueError` where there is none of this name."""
        if name not in self.names:
            raise ValueError(f"no image is called {name!r}")
        return self.names.index(name)

    def centres(self) -> Float[Tensor, "V 3"]:
        """Return the cameras' centres in the world."""
        return self.cam_from_world.inverse().translation

    def select(self, names: Sequence[str]) -> Views:
        """Return the views of these names, in this order, with the cameras that they use."""
        places = [self.index(name) for name in names]
        ids = tuple(self.camera_ids[place] for place in places)
        cameras = {camera_id: self.cameras[camera_id] for camera_id in sorted(set(ids))}
        return Views(tuple(names), cameras, ids, self._poses(places))

    def moved(self, new_from_world: Transform) -> Views:
        """Return the same views in another world frame; a change of scale moves the centres."""
        cam_from_new = self.cam_from_world @ new_from_world.inverse()
        translation = cam_from_new.translation / cam_from_new.scale[..., None]
        poses = Transform.rigid(cam_from_new.rotation, translation)
        return Views(self.names, self.cameras, self.camera_ids, poses)

    def _poses(self, places: Sequence[int], *, squeeze: bool = False) -> Transform:
        poses = self.cam_from_world
        key = places[0] if squeeze else torch.tensor(list(places), dtype=torch.int64)
        return Transform(poses.rotation[key], poses.translation[key], poses.scale[key])


def is_inside(name: str) -> bool:
    """Return whether a name read from a file is a plain relative path that stays in its folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
