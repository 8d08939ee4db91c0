"""The Numba kernels of band-limited noise: value noise on hashed lattices, octaves of it, filtered
joints. Counts and seeds are given as floats: Numba compiles what is given another literal integer anew.

`width` is the side of a pixel on the surface. A wave of length l is left out where l < 2 width and
whole where l > 4 width, so that a texture loses its detail before it could alias. Source for the
filtered joints: Ebert and others, "Texturing and modeling", 3rd edition, section 2.5.
"""

import numba
import numpy as np

from cuesta.ops.numba_decorators import FLAGS, FROM_KERNELS

texture_kernel = numba.njit(
    cache=True, nogil=True, error_model="numpy", fastmath=FLAGS, **FROM_KERNELS
)

X, Y, Z, SEED = 0x9E3779B97F4A7C1, 0x3C6EF372FE94F82B, 0x1B873593CC9E2D51, 0x2545F4914F6CDD1D
MIX = 0x5851F42D4C957F2D


@texture_kernel
def finish(h):
    """Return a number in [0, 1) of the linear hash `h`."""
    h = (h ^ (h >> 32)) * MIX
    h ^= h >> 29
    return ((h >> 20) & 0xFFFFFF) * (1.0 / 16777216.0)


@texture_kernel
def lattice(x, y, seed):
    """Return the number in [0, 1) of an integer place."""
    return finish(np.int64(x) * X + np.int64(y) * Y + np.int64(seed) * SEED)


@texture_kernel
def noise(u, v, seed):
    """Return value noise in [-1, 1] with waves about two units long, smooth to the first derivative."""
    x, y = np.floor(u), np.floor(v)
    a, b = u - x, v - y
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    h = np.int64(x) * X + np.int64(y) * Y + np.int64(seed) * SEED
    n00, n10, n01, n11 = finish(h), finish(h + X), finish(h + Y), finish(h + X + Y)
    low = n00 + a * (n10 - n00)
    return 2 * (low + b * (n01 + a * (n11 - n01) - low)) - 1


@texture_kernel
def noise_in_space(u, v, w, seed):
    """Return value noise in [-1, 1] of a point in space."""
    x, y, z = np.floor(u), np.floor(v), np.floor(w)
    a, b, c = u - x, v - y, w - z
    a, b, c = a * a * (3 - 2 * a), b * b * (3 - 2 * b), c * c * (3 - 2 * c)
    h = np.int64(x) * X + np.int64(y) * Y + np.int64(z) * Z + np.int64(seed) * SEED
    n00, n10, n01, n11 = finish(h), finish(h + X), finish(h + Y), finish(h + X + Y)
    low = n00 + a * (n10 - n00)
    low += b * (n01 + a * (n11 - n01) - low)
    h += Z
    n00, n10, n01, n11 = finish(h), finish(h + X), finish(h + Y), finish(h + X + Y)
    high = n00 + a * (n10 - n00)
    high += b * (n01 + a * (n11 - n01) - high)
    return 2 * (low + c * (high - low)) - 1


@texture_kernel
def presence(length, width):
    """Return how much of a detail of this length is left: 0 below 2 widths, 1 above 4."""
    return min(max(0.5 * length / width - 1, 0.0), 1.0)


@texture_kernel
def octaves(u, v, longest, gain, count, seed, width):
    """Return a sum of noises, each turned, 0.45 times as long and `gain` times as strong."""
    total, strength, length = 0.0, 1.0, longest
    for k in range(int(count)):
        left = presence(length, width)
        if left <= 0:
            break
        scale = 2 / length
        total += left * strength * noise(u * scale, v * scale, seed + k)
        u, v = 0.8 * u - 0.6 * v, 0.6 * u + 0.8 * v
        strength *= gain
        length *= 0.45
    return total


@texture_kernel
def octaves_in_space(x, y, z, longest, gain, count, seed, width):
    """Return the like of `octaves` for a point in space."""
    total, strength, length = 0.0, 1.0, longest
    for k in range(int(count)):
        left = presence(length, width)
        if left <= 0:
            break
        scale = 2 / length
        total += left * strength * noise_in_space(x * scale, y * scale, z * scale, seed + k)
        x, y, z = 0.8 * x - 0.6 * y, 0.6 * x + 0.8 * y, z + 0.37 * length
        strength *= gain
        length *= 0.45
    return total


@texture_kernel
def joint_integral(x, period, joint):
    """Return how much of [0, x] joints cover, one at each multiple of the period."""
    number = np.floor(x / period)
    return number * joint + min(x - number * period, joint)


@texture_kernel
def joints(x, period, joint, width):
    """Return the share of [x - width/2, x + width/2] in joints, which are centred on multiples."""
    x += joint / 2
    half = max(width, 1e-4) / 2
    whole = joint_integral(x + half, period, joint) - joint_integral(x - half, period, joint)
    return whole / (2 * half)
