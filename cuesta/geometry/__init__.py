"""Cameras, poses and the relations between views: plain torch, batched, differentiable, float32 and
float64.

Conventions are those of docs/conventions.md: OpenCV camera axes, pixel centres at 0.5, poses named
`a_from_b`, quaternions w first.
"""

from cuesta.geometry.alignment import umeyama
from cuesta.geometry.cameras import MODELS, Camera
from cuesta.geometry.transforms import Transform
from cuesta.geometry.views import (
    essential_matrix,
    fundamental_matrix,
    pixels_from_pixels,
    plane_homography,
    sampson_error,
    sweep_homographies,
    triangulate,
)

__all__ = [
    "MODELS",
    "Camera",
    "Transform",
    "essential_matrix",
    "fundamental_matrix",
    "pixels_from_pixels",
    "plane_homography",
    "sampson_error",
    "sweep_homographies",
    "triangulate",
    "umeyama",
]
