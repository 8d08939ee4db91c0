"""Triton bodies of plane_sweep: a program takes a tile of the reference's pixels at one hypothesis.

Images stay as they are: neighbours in the reference have neighbours as samples, so planar loads
coalesce. The gradient of a reference's features is summed in registers over views and hypotheses;
gradients of sources, and both of grey images, are summed by atomics, whose order changes from run
to run. Positions are in the dtype of the geometry, sums float32. Sums of a window are of
differences from its centre.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 128  # pixels of a program
CHANNELS = 8  # taken at a time


def plane_sweep(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor, groups: int
) -> Tensor:
    (batch, channels, *pixels), num_views = reference.shape, sources.shape[1]
    out = reference.new_empty(batch, num_views, groups, depths.shape[1], *pixels)
    if out.numel():
        size = channels // groups
        grid = (batch * num_views * depths.shape[1], triton.cdiv(pixels[0] * pixels[1], TILE))
        _correlate_kernel[grid](
            reference, sources, source_from_reference, depths, out, num_views, depths.shape[1],
            groups, size, *pixels, *sources.shape[3:], _is_plane(depths, pixels), *_tile(size),
        )  # fmt: skip
    return out


def plane_sweep_backward(
    grad: Tensor, reference: Tensor, sources: Tensor, source_from_reference: Tensor,
    depths: Tensor, groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (batch, channels, *pixels), num_views = reference.shape, sources.shape[1]
    reference_grad = torch.empty_like(reference)
    sources_grad = torch.zeros_like(sources, dtype=torch.float32)
    if reference.numel():
        size = channels // groups
        grid = (
            batch * groups * triton.cdiv(size, CHANNELS),
            triton.cdiv(pixels[0] * pixels[1], TILE),
        )
        _correlate_backward_kernel[grid](
            grad, reference, sources, source_from_reference, depths, reference_grad, sources_grad,
            num_views, depths.shape[1], groups, size, *pixels, *sources.shape[3:],
            _is_plane(depths, pixels), *_tile(size),
        )  # fmt: skip
    return reference_grad, sources_grad.to(sources.dtype)


def plane_sweep_zncc(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor,
    radius: int, epsilon: float,
) -> Tensor:  # fmt: skip
    (num_views, *extent), num_planes, pixels = sources.shape, depths.shape[0], reference.shape
    out = reference.new_empty(num_views, num_planes, *pixels)
    if out.numel():
        grid = (num_views * num_planes, triton.cdiv(pixels[0] * pixels[1], TILE))
        _compare_kernel[grid](
            reference, sources, source_from_reference, depths, out, num_planes, *pixels, *extent,
            radius, epsilon, _is_plane(depths, pixels), TILE,
        )  # fmt: skip
    return out


def plane_sweep_zncc_backward(
    grad: Tensor, reference: Tensor, sources: Tensor, source_from_reference: Tensor,
    depths: Tensor, radius: int, epsilon: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (num_views, *extent), num_planes, pixels = sources.shape, depths.shape[0], reference.shape
    grads = [torch.zeros_like(each, dtype=torch.float32) for each in (reference, sources)]
    if grad.numel():
        grid = (num_views * num_planes, triton.cdiv(pixels[0] * pixels[1], TILE))
        _compare_backward_kernel[grid](
            grad, reference, sources, source_from_reference, depths, *grads, num_planes, *pixels,
            *extent, radius, epsilon, _is_plane(depths, pixels), TILE,
        )  # fmt: skip
    return grads[0].to(reference.dtype), grads[1].to(sources.dtype)


def _is_plane(depths: Tensor, pixels: list[int]) -> bool:
    return list(depths.shape[-2:]) != list(pixels)


def _tile(size: int) -> tuple[int, int]:
    return min(triton.next_power_of_2(size), CHANNELS), TILE


@triton.jit
def _correlate_kernel(
    reference, sources, poses, depths, out, num_views, num_planes, groups, size,
    height, width, source_height, source_width,
    IS_PLANE: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    sheet = tl.program_id(0).to(tl.int64)
    pair, k = sheet // num_planes, sheet % num_planes
    b, num_pixels = pair // num_views, height * width
    pixel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_pixel = pixel < num_pixels
    x, y = _positions(
        poses + pair * 12, depths, b * num_planes + k, pixel, pixel, width, num_pixels, IS_PLANE
    )
    column, row, across, down, is_near = _corners(x, y, source_height, source_width)
    is_near = is_near & is_pixel
    for g in range(groups):
        total = tl.zeros([TILE], tl.float32)
        for first in range(0, size, CHANNELS):
            j = first + tl.arange(0, CHANNELS)  # [C]
            c = (g * size + j).to(tl.int64)
            is_taken = (j < size)[:, None] & is_near[None, :]
            plane = sources + (pair * groups * size + c)[:, None] * source_height * source_width
            warped = _bilinear(
                plane, column, row, across, down, source_height, source_width, is_taken
            )
            place = (b * groups * size + c)[:, None] * num_pixels + pixel[None, :]
            values = tl.load(reference + place, mask=is_taken, other=0.0).to(tl.float32)
            total += tl.sum(values * warped, 0)
        place = ((pair * groups + g) * num_planes + k) * num_pixels + pixel
        tl.store(out + place, total / size, mask=is_pixel)


@triton.jit
def _correlate_backward_kernel(
    grad, reference, sources, poses, depths, reference_grad, sources_grad,
    num_views, num_planes, groups, size, height, width, source_height, source_width,
    IS_PLANE: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Walk views and hypotheses for some channels of a group, at a tile of pixels."""
    blocks = tl.cdiv(size, CHANNELS)
    part = tl.program_id(0).to(tl.int64)
    b, g, num_pixels = part // (groups * blocks), part // blocks % groups, height * width
    j = part % blocks * CHANNELS + tl.arange(0, CHANNELS)  # [C]
    c = g * size + j
    pixel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_pixel = pixel < num_pixels
    is_written = (j < size)[:, None] & is_pixel[None, :]
    place = (b * groups * size + c)[:, None] * num_pixels + pixel[None, :]
    values = tl.load(reference + place, mask=is_written, other=0.0).to(tl.float32)
    total = tl.zeros([CHANNELS, TILE], tl.float32)
    for v in range(num_views):
        pair = b * num_views + v
        start = (pair * groups * size + c)[:, None] * source_height * source_width
        for k in range(num_planes):
            x, y = _positions(
                poses + pair * 12, depths, b * num_planes + k, pixel, pixel, width, num_pixels,
                IS_PLANE,
            )  # fmt: skip
            column, row, across, down, is_near = _corners(x, y, source_height, source_width)
            is_taken = is_written & is_near[None, :]
            at = ((pair * groups + g) * num_planes + k) * num_pixels + pixel
            slope = tl.load(grad + at, mask=is_pixel & is_near, other=0.0).to(tl.float32) / size
            warped = _bilinear(
                sources + start, column, row, across, down, source_height, source_width, is_taken
            )
            total += slope[None, :] * warped
            _spread_bilinear(
                sources_grad + start, slope[None, :] * values, column, row, across, down,
                source_height, source_width, is_taken,
            )  # fmt: skip
    tl.store(reference_grad + place, total, mask=is_written)


@triton.jit
def _compare_kernel(
    reference, sources, poses, depths, out, num_planes, height, width,
    source_height, source_width, radius, epsilon,
    IS_PLANE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    sheet = tl.program_id(0).to(tl.int64)
    v, k, num_pixels = sheet // num_planes, sheet % num_planes, height * width
    pixel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_pixel = pixel < num_pixels
    count, _x, _y, a, b, covariance, _shift, _other = _windows(
        reference, sources + v * source_height * source_width, poses + v * 12, depths, k, pixel,
        height, width, source_height, source_width, radius, IS_PLANE, TILE,
    )  # fmt: skip
    similarity = covariance / tl.sqrt((a + epsilon) * (b + epsilon))
    similarity = tl.where(count > 0, similarity, 0.0)
    tl.store(out + sheet * num_pixels + pixel, similarity, mask=is_pixel)


@triton.jit
def _compare_backward_kernel(
    grad, reference, sources, poses, depths, reference_grad, sources_grad, num_planes,
    height, width, source_height, source_width, radius, epsilon,
    IS_PLANE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Add the gradients of c / sqrt(a b) of each window to those of its pixels, by atomics."""
    sheet = tl.program_id(0).to(tl.int64)
    v, k, num_pixels = sheet // num_planes, sheet % num_planes, height * width
    pixel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    start, poses = v * source_height * source_width, poses + v * 12
    count, mean, other_mean, a, b, covariance, shift, other_shift = _windows(
        reference, sources + start, poses, depths, k, pixel,
        height, width, source_height, source_width, radius, IS_PLANE, TILE,
    )  # fmt: skip
    is_taken = (count > 0) & (pixel < num_pixels)
    slope = tl.load(grad + sheet * num_pixels + pixel, mask=is_taken, other=0.0).to(tl.float32)
    a, b = a + epsilon, b + epsilon
    cross = slope / (tl.maximum(count, 1.0) * tl.sqrt(a * b))
    own, others = cross * covariance / a, cross * covariance / b
    for step in range((2 * radius + 1) * (2 * radius + 1)):
        place, is_there, x, y = _window_step(
            poses, depths, k, pixel, step, height, width, radius, IS_PLANE
        )
        is_there = is_there & is_taken
        column, row, across, down, _near = _border_corners(x, y, source_height, source_width)
        r = tl.load(reference + place, mask=is_there, other=0.0).to(tl.float32) - shift - mean
        s = _bilinear(
            sources + start, column, row, across, down, source_height, source_width,
            is_there[None, :],
        )  # fmt: skip
        s = tl.sum(s, 0) - other_shift - other_mean
        tl.atomic_add(reference_grad + place, cross * s - own * r, mask=is_there)
        moved = (cross * r - others * s)[None, :]
        _spread_bilinear(
            sources_grad + start, moved, column, row, across, down,
            source_height, source_width, is_there[None, :],
        )  # fmt: skip


@triton.jit
def _windows(
    reference, source, poses, depths, k, pixel, height, width, source_height, source_width, radius,
    IS_PLANE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return how many pixels the windows have, 0 if any is missing; means, variances and
    covariance of what lies above the centres; and those.
    """
    middle = 2 * radius * (radius + 1)
    shift, other_shift, _there, _inside = _pair(
        reference, source, poses, depths, k, pixel, middle, height, width,
        source_height, source_width, radius, IS_PLANE,
    )  # fmt: skip
    count = tl.zeros([TILE], tl.float32)
    total, squares, other, other_squares, products = count, count, count, count, count
    is_whole = pixel < height * width
    for step in range((2 * radius + 1) * (2 * radius + 1)):
        r, s, is_there, is_inside = _pair(
            reference, source, poses, depths, k, pixel, step, height, width,
            source_height, source_width, radius, IS_PLANE,
        )  # fmt: skip
        is_whole = is_whole & (is_inside | (is_there == 0))
        r, s = tl.where(is_there, r - shift, 0.0), tl.where(is_there, s - other_shift, 0.0)
        total += r
        other += s
        squares += r * r
        other_squares += s * s
        products += r * s
        count += is_there.to(tl.float32)
    scale = 1.0 / tl.maximum(count, 1.0)
    mean, other_mean = total * scale, other * scale
    is_whole = is_whole & (products == products)
    return (
        tl.where(is_whole, count, 0.0), mean, other_mean,
        tl.maximum(squares * scale - mean * mean, 0.0),
        tl.maximum(other_squares * scale - other_mean * other_mean, 0.0),
        products * scale - mean * other_mean, shift, other_shift,
    )  # fmt: skip


@triton.jit
def _pair(
    reference, source, poses, depths, k, pixel, step, height, width, source_height, source_width,
    radius, IS_PLANE: tl.constexpr,
):  # fmt: skip
    """Return a window's pixel and its sample; whether it exists, and whether the source has it."""
    place, is_there, x, y = _window_step(
        poses, depths, k, pixel, step, height, width, radius, IS_PLANE
    )
    column, row, across, down, is_inside = _border_corners(x, y, source_height, source_width)
    r = tl.load(reference + place, mask=is_there, other=0.0).to(tl.float32)
    taken = (is_there & is_inside)[None, :]
    s = _bilinear(source, column, row, across, down, source_height, source_width, taken)
    return r, tl.sum(s, 0), is_there, is_inside


@triton.jit
def _window_step(
    poses, depths, k, pixel, step, height, width, radius, IS_PLANE: tl.constexpr
):  # fmt: skip
    """Return the place of a pixel of each window, whether it exists, and where it is sampled."""
    side = 2 * radius + 1
    row, column = pixel // width + step // side - radius, pixel % width + step % side - radius
    is_there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    is_there = is_there & (pixel < height * width)
    place = tl.where(is_there, row * width + column, 0)
    x, y = _positions(poses, depths, k, place, pixel, width, height * width, IS_PLANE)
    return place, is_there, x, y


@triton.jit
def _positions(
    poses, depths, k, place, pixel, width, num_pixels, IS_PLANE: tl.constexpr
):  # fmt: skip
    """Return where the pixels at `place` lie in a source at the depth of `pixel`; NaN where not in
    front of both.
    """
    if IS_PLANE:  # loaded a pixel: Triton 3.6 does not compile the gradient if it is one number
        z = tl.load(depths + k + tl.zeros_like(pixel))
    else:
        z = tl.load(depths + k * num_pixels + pixel, mask=pixel < num_pixels, other=0.0)
    x, y = (place % width).to(z.dtype) + 0.5, (place // width).to(z.dtype) + 0.5
    is_known = z > 0
    z = tl.where(is_known, z, 1.0)
    w = _row(poses + 8, x, y, z)
    is_in_front = is_known & (w > 0)
    w = tl.where(is_in_front, w, 1.0)
    u = tl.where(is_in_front, _row(poses, x, y, z) / w, float("nan"))
    return u, tl.where(is_in_front, _row(poses + 4, x, y, z) / w, float("nan"))


@triton.jit
def _row(pose, x, y, z):
    """Return a row of [A | a] times (x, y, 1, 1 / z)."""
    ray = tl.load(pose) * x + tl.load(pose + 1) * y + tl.load(pose + 2)
    return ray + tl.load(pose + 3) / z


@triton.jit
def _corners(x, y, height, width):
    """Return column, row and weights of the first taps, and whether any tap is in the image."""
    x, y = x - 0.5, y - 0.5
    is_near = (x > -1) & (x < width) & (y > -1) & (y < height)
    x, y = tl.where(is_near, x, 0.0), tl.where(is_near, y, 0.0)
    column, row = tl.floor(x), tl.floor(y)
    across, down = (x - column).to(tl.float32), (y - row).to(tl.float32)
    return column.to(tl.int32), row.to(tl.int32), across, down, is_near


@triton.jit
def _border_corners(x, y, height, width):
    """Return `_corners` of places in an image whose border is repeated, and whether they are in
    it.
    """
    is_inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    x = tl.minimum(tl.maximum(tl.where(is_inside, x, 0.5), 0.5), width - 0.5)
    y = tl.minimum(tl.maximum(tl.where(is_inside, y, 0.5), 0.5), height - 0.5)
    column, row, across, down, _near = _corners(x, y, height, width)
    return column, row, across, down, is_inside


@triton.jit
def _bilinear(image, column, row, across, down, height, width, is_taken):
    """Return samples [C, tile] of images that begin at `image` [C, 1], or is one; 0 outside."""
    top = _tap(image, column, row, height, width, is_taken) * (1 - across)[None, :]
    top += _tap(image, column + 1, row, height, width, is_taken) * across[None, :]
    bottom = _tap(image, column, row + 1, height, width, is_taken) * (1 - across)[None, :]
    bottom += _tap(image, column + 1, row + 1, height, width, is_taken) * across[None, :]
    return top * (1 - down)[None, :] + bottom * down[None, :]


@triton.jit
def _tap(image, column, row, height, width, is_taken):
    is_inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.to(tl.int64) * width + column
    return tl.load(image + place[None, :], mask=is_taken & is_inside[None, :], other=0.0).to(
        tl.float32
    )


@triton.jit
def _spread_bilinear(image, value, column, row, across, down, height, width, is_taken):
    """Add values to the four taps of their samples."""
    top, bottom = value * (1 - down)[None, :], value * down[None, :]
    left, right = (1 - across)[None, :], across[None, :]
    _add_tap(image, top * left, column, row, height, width, is_taken)
    _add_tap(image, top * right, column + 1, row, height, width, is_taken)
    _add_tap(image, bottom * left, column, row + 1, height, width, is_taken)
    _add_tap(image, bottom * right, column + 1, row + 1, height, width, is_taken)


@triton.jit
def _add_tap(image, value, column, row, height, width, is_taken):
    is_inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.to(tl.int64) * width + column
    tl.atomic_add(image + place[None, :], value, mask=is_taken & is_inside[None, :])
