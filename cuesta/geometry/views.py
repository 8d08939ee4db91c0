"""Relations between two views or more: essential and fundamental matrices, homographies of planes,
triangulation.

Hartley and Zisserman, "Multiple view geometry", 2nd edition: chapters 9 (epipolar geometry), 11.4.3
(Sampson distance), 12.2 (linear triangulation), 13.1 (plane homographies).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cuesta.geometry.transforms import Transform, cross_matrix


def essential_matrix(b_from_a: Transform) -> Float[Tensor, "*batch 3 3"]:
    """Return E with y_b^T E y_a = 0 for the two normalised images (x, y, 1) of any point."""
    return cross_matrix(b_from_a.translation) @ b_from_a.rotation


def fundamental_matrix(
    matrix_a: Float[Tensor, "*batch 3 3"],
    matrix_b: Float[Tensor, "*batch 3 3"],
    b_from_a: Transform,
) -> Float[Tensor, "*batch 3 3"]:
    """Return F with p_b^T F p_a = 0 for the two images (u, v, 1) in pixels of any point; matrices
    are the cameras' K.
    """
    return torch.linalg.solve(matrix_b.mT, essential_matrix(b_from_a) @ torch.linalg.inv(matrix_a))


def sampson_error(
    matrix: Float[Tensor, "*batch 3 3"],
    points_a: Float[Tensor, "*batch P 2"],
    points_b: Float[Tensor, "*batch P 2"],
) -> Float[Tensor, "*batch P"]:
    """Return the first-order squared distance of matches to the epipolar constraint of F or E.

    In squared pixels for F. Source: Hartley and Zisserman, equation 11.9.
    """
    a, b = _homogeneous(points_a), _homogeneous(points_b)
    line_b, line_a = a @ matrix.mT, b @ matrix
    residual = (b * line_b).sum(-1)
    slope = line_b[..., :2].square().sum(-1) + line_a[..., :2].square().sum(-1)
    return residual.square() / slope.clamp(min=torch.finfo(slope.dtype).tiny)


def pixels_from_pixels(
    matrix_a: Float[Tensor, "*batch 3 3"],
    matrix_b: Float[Tensor, "*batch 3 3"],
    b_from_a: Transform,
) -> Float[Tensor, "*batch 3 4"]:
    """Return [K_b R K_a^-1 | K_b t], which takes (u z, v z, z, 1) of camera a to the like of camera b."""
    turned = matrix_b @ b_from_a.rotation @ torch.linalg.inv(matrix_a)
    return torch.cat([turned, (matrix_b @ b_from_a.translation[..., None])], -1)


def plane_homography(
    matrix_a: Float[Tensor, "*batch 3 3"],
    matrix_b: Float[Tensor, "*batch 3 3"],
    b_from_a: Transform,
    *,
    normal: Float[Tensor, "*batch 3"],
    distance: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3 3"]:
    """Return H that maps pixels of a to pixels of b for points on the plane normal . x = distance.

    The plane is in the frame of camera a. Source: Hartley and Zisserman, 13.2, with n, d of opposite
    sign.
    """
    towards = b_from_a.translation[..., :, None] * normal[..., None, :]
    turned = b_from_a.scale[..., None, None] * b_from_a.rotation
    moved = turned + towards / distance[..., None, None]
    return matrix_b @ moved @ torch.linalg.inv(matrix_a)


def sweep_homographies(
    matrix_a: Float[Tensor, "*batch 3 3"],
    matrix_b: Float[Tensor, "*batch 3 3"],
    b_from_a: Transform,
    depths: Float[Tensor, "*batch planes"],
) -> Float[Tensor, "*batch planes 3 3"]:
    """Return the homographies of the planes z = depth in front of camera a: a plane sweep."""
    front = torch.tensor([0.0, 0.0, 1.0], dtype=depths.dtype, device=depths.device)
    every = Transform(
        b_from_a.rotation[..., None, :, :],
        b_from_a.translation[..., None, :],
        b_from_a.scale[..., None],
    )
    return plane_homography(
        matrix_a[..., None, :, :], matrix_b[..., None, :, :], every, normal=front, distance=depths
    )


def triangulate(
    projections: Float[Tensor, "*batch V 3 4"], pixels: Float[Tensor, "*batch V 2"]
) -> Float[Tensor, "*batch 3"]:
    """Return the point whose images are nearest to `pixels` in the algebraic sense (DLT).

    `projections` are K [R | t] of V views, two at least. Rows are scaled to unit length first. A
    point at infinity comes out with infinite coordinates. Source: Hartley and Zisserman, 12.2.
    """
    rows = pixels[..., None] * projections[..., 2:, :] - projections[..., :2, :]
    rows = torch.nn.functional.normalize(rows.flatten(-3, -2), dim=-1)  # [*batch, 2 V, 4]
    point = torch.linalg.svd(rows).Vh[..., -1, :]
    return point[..., :3] / point[..., 3:]


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], -1)
