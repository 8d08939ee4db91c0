"""A closed mesh through a fused cloud: screened Poisson reconstruction (Kazhdan and Hoppe, 2013) by
pycolmap.

COLMAP reads single precision, so the cloud goes to it about its middle and the mesh comes back in place.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap
import torch
from plyfile import PlyData, PlyElement

from cuesta.data.clouds import read_cloud
from cuesta.data.files import atomic_file
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.native import call


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Say how fine a mesh is: the depth of its octree, and the density of points, as a logarithm to base
    2 of the octree's, below which it is cut away; 0 cuts nothing.
    """

    depth: int = 10
    trim: float = 7.0


class MeshCounts(NamedTuple):
    """Count what a mesh holds."""

    num_vertices: int
    num_faces: int


def write_mesh(cloud: Path, out: Path, settings: MeshSettings | None = None) -> MeshCounts:
    """Write the mesh of a cloud with normals as .ply, atomically, and return its size.

    Vertices are double, with colours. Raises `UserError` where the cloud is not whole, has no normals,
    or no surface comes of it.
    """
    settings = settings or MeshSettings()
    points = read_cloud(cloud)
    if points.normals is None or not len(points):
        raise UserError(f"{cloud}: no points with normals; `cuesta fuse SCENE` writes them")
    has_normal = points.normals.any(1)
    middle = np.rint(points.positions.mean(0))
    table = np.empty(int(has_normal.sum()), _INPUT)
    for k in range(3):
        table["xyz"[k]] = (points.positions[:, k] - middle[k])[has_normal]
        table[_NORMALS[k]] = points.normals[has_normal, k]
        table[_COLORS[k]] = 0 if points.colors is None else points.colors[has_normal, k]
    with atomic_file(out) as temporary, tempfile.TemporaryDirectory(dir=out.parent) as folder:
        source, made = Path(folder) / "points.ply", Path(folder) / "mesh.ply"
        PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(source)
        _run(source, made, settings)
        mesh = PlyData.read(made) if made.is_file() else None
        if mesh is None or not len(mesh["face"].data):
            raise UserError(
                f"{cloud}: no surface comes of its {len(table)} points; mesh a denser one"
            )
        vertices = np.empty(len(mesh["vertex"].data), _OUTPUT)
        for k in range(3):
            vertices["xyz"[k]] = mesh["vertex"]["xyz"[k]].astype(np.float64) + middle[k]
            vertices[_COLORS[k]] = mesh["vertex"][_COLORS[k]]
        parts = [PlyElement.describe(vertices, "vertex"), mesh["face"]]
        PlyData(parts, byte_order="<").write(temporary)
        return MeshCounts(len(vertices), len(mesh["face"].data))


def _run(source: Path, made: Path, settings: MeshSettings) -> None:
    options = pycolmap.PoissonMeshingOptions()
    options.depth, options.trim = settings.depth, settings.trim
    options.num_threads = torch.get_num_threads()
    call(lambda _: pycolmap.poisson_meshing(source, made, options))


_NORMALS, _COLORS = ("nx", "ny", "nz"), ("red", "green", "blue")
_INPUT = [(name, "<f4") for name in ("x", "y", "z", *_NORMALS)] + [(name, "u1") for name in _COLORS]
_OUTPUT = [(name, "<f8") for name in ("x", "y", "z")] + [(name, "u1") for name in _COLORS]
