"""Triton body of `consistency`: a program checks a block of pixels, in float64, and brings them back
along the other view's ray.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.consistency.rays import ARCTAN, SAME_SURFACE, other_centre

PIXELS = 256  # of a program
_ARCTAN, _SAME_SURFACE = tl.constexpr(ARCTAN), tl.constexpr(SAME_SURFACE)
_NUM_POWERS = tl.constexpr(len(ARCTAN))
_INFINITY = tl.constexpr(float("inf"))
_RIGHT_ANGLE = tl.constexpr(90.0)
_DEGREES = tl.constexpr(57.29577951308232)


def consistency(
    depth: Tensor,
    other_depth: Tensor,
    matrix: Tensor,
    normal: Tensor | None,
    other_normal: Tensor | None,
    rotation: Tensor | None,
) -> Tensor:
    out = depth.new_empty(2 if normal is None else 3, *depth.shape)
    _check_kernel[(triton.cdiv(depth.numel(), PIXELS),)](
        depth, other_depth, matrix, other_centre(matrix), normal, other_normal, rotation, out,
        depth.numel(), depth.shape[1], *other_depth.shape, PIXELS,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["num_pixels", "width", "other_height", "other_width"])
def _check_kernel(
    depth, other_depth, matrix, centre, normal, other_normal, rotation, out,
    num_pixels, width, other_height, other_width, SIZE: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # [Y * X]
    mask = pixel < num_pixels
    u, v = (pixel % width).to(tl.float64) + 0.5, (pixel // width).to(tl.float64) + 0.5
    z = tl.load(depth + pixel, mask=mask, other=0.0).to(tl.float64)
    is_valid = (z > 0) & (z < _INFINITY)
    z = tl.where(is_valid, z, 1.0)
    there_u, there_v, there_z = _turned(matrix, 4, u, v, u * 0 + 1)
    other_z = z * there_z + tl.load(matrix + 11)
    is_valid = is_valid & (other_z > 0)
    other_z = tl.where(is_valid, other_z, 1.0)
    other_u = (z * there_u + tl.load(matrix + 3)) / other_z
    other_v = (z * there_v + tl.load(matrix + 7)) / other_z
    is_valid = is_valid & (other_u >= 0) & (other_u < other_width)
    is_valid = is_valid & (other_v >= 0) & (other_v < other_height)
    other_u, other_v = tl.where(is_valid, other_u, 0.5), tl.where(is_valid, other_v, 0.5)
    place = other_v.to(tl.int64) * other_width + other_u.to(tl.int64)
    seen = _depth_at(
        other_depth, other_u, other_v, place, is_valid, other_height, other_width, z * 0
    )
    from_centre, share = z - tl.load(centre + 2), seen / other_z - 1
    back_z = z + share * from_centre
    is_valid = is_valid & (seen > 0) & (back_z > 0)
    ray_u = u * tl.load(centre + 2) - tl.load(centre)
    ray_v = v * tl.load(centre + 2) - tl.load(centre + 1)
    distance = tl.sqrt(ray_u * ray_u + ray_v * ray_v) / tl.where(is_valid, back_z, 1.0)
    distance = tl.abs(share) * distance
    tl.store(out + pixel, tl.where(is_valid, distance, _INFINITY), mask=mask)
    relative = tl.where(is_valid, tl.abs(share * from_centre) / z, _INFINITY)
    tl.store(out + num_pixels + pixel, relative, mask=mask)
    if normal is not None:
        angle = _angle(normal + 3 * pixel, other_normal + 3 * place, rotation, is_valid)
        tl.store(out + 2 * num_pixels + pixel, tl.where(is_valid, angle, _INFINITY), mask=mask)


@triton.jit
def _turned(matrix, stride: tl.constexpr, x, y, z):
    """Return the product of the first three columns of three rows with (x, y, z)."""
    a = tl.load(matrix) * x + (tl.load(matrix + 1) * y + tl.load(matrix + 2) * z)
    matrix += stride
    b = tl.load(matrix) * x + (tl.load(matrix + 1) * y + tl.load(matrix + 2) * z)
    matrix += stride
    c = tl.load(matrix) * x + (tl.load(matrix + 1) * y + tl.load(matrix + 2) * z)
    return a, b, c


@triton.jit
def _depth_at(depth, u, v, place, mask, height, width, none):
    """Return the depth at places inside the image, `none` where there is none."""
    left, top = tl.floor(u - 0.5), tl.floor(v - 0.5)
    is_within = mask & (left >= 0) & (left < width - 1) & (top >= 0) & (top < height - 1)
    corner = depth + top.to(tl.int64) * width + left.to(tl.int64)
    a = tl.load(corner, mask=is_within, other=0.0).to(tl.float64)
    b = tl.load(corner + 1, mask=is_within, other=0.0).to(tl.float64)
    c = tl.load(corner + width, mask=is_within, other=0.0).to(tl.float64)
    d = tl.load(corner + width + 1, mask=is_within, other=0.0).to(tl.float64)
    low, high = tl.minimum(tl.minimum(a, b), tl.minimum(c, d)), tl.maximum(a, b)
    high = tl.maximum(high, tl.maximum(c, d))
    is_surface = (low > 0) & (high <= _SAME_SURFACE * low) & (a + b + c + d < _INFINITY)
    a, b = tl.where(is_surface, a, 1.0), tl.where(is_surface, b, 1.0)
    c, d = tl.where(is_surface, c, 1.0), tl.where(is_surface, d, 1.0)
    x, y, ab, cd = u - 0.5 - left, v - 0.5 - top, a * b, c * d
    per_depth = (1 - y) * cd * ((1 - x) * b + x * a) + y * ab * ((1 - x) * d + x * c)
    held = tl.load(depth + place, mask=mask, other=0.0).to(tl.float64)
    held = tl.where((held > 0) & (held < _INFINITY), held, none)
    return tl.where(is_surface, ab * cd / per_depth, held)


@triton.jit
def _angle(normal, other_normal, rotation, mask):
    """Return the degrees between two normals, infinite if either has no length."""
    x, y, z = _three(normal, mask)
    x, y, z = _turned(rotation, 3, x, y, z)
    p, q, r = _three(other_normal, mask)
    cosine = x * p + y * q + z * r
    p, q, r = y * r - z * q, z * p - x * r, x * q - y * p
    sine, length = tl.sqrt(p * p + q * q + r * r), tl.abs(cosine)
    size = tl.maximum(sine, length)
    ratio = tl.minimum(sine, length) / tl.where(size > 0, size, 1.0)
    square = ratio * ratio
    series = square * 0
    for i in tl.static_range(_NUM_POWERS):
        series = series * square + _ARCTAN[i]
    angle = _DEGREES * ratio * series
    angle = tl.where(sine > length, _RIGHT_ANGLE - angle, angle)
    angle = tl.where(cosine < 0, 2 * _RIGHT_ANGLE - angle, angle)
    return tl.where(size > 0, angle, _INFINITY)


@triton.jit
def _three(vectors, mask):
    x = tl.load(vectors, mask=mask, other=0.0).to(tl.float64)
    y = tl.load(vectors + 1, mask=mask, other=0.0).to(tl.float64)
    z = tl.load(vectors + 2, mask=mask, other=0.0).to(tl.float64)
    return x, y, z
