"""`photograph`: what a real camera does to a picture: exposure, colour, vignetting, shake, noise.

The picture is taken back to linear light, changed there in the order light meets the parts of a
camera, and encoded again; compression is left to whoever writes the file (`jpeg_quality`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import cv2
import numpy as np
from numpy.typing import NDArray

from cuesta.errors import UserError


@final
@dataclass(frozen=True, kw_only=True)
class Photography:
    """Say how far pictures are from perfect; each is drawn anew within these bounds."""

    exposure_stops: float = 0.0  # standard deviation
    white_balance: float = 0.0  # standard deviation of the gains of red and blue
    vignetting: float = 0.0  # loss of light in the corners
    blur_px: float = 0.0  # longest motion during the exposure, at a width of 640
    photons: float = 0.0  # of a white pixel; 0: no noise
    read_noise: float = 0.0  # of a white pixel's brightness
    jpeg_quality: int = 97
    bend: float = 0.0  # the k of the lens, see `Lenses`


PRESETS: dict[str, Photography] = {
    "clean": Photography(),
    "mild": Photography(
        exposure_stops=0.12,
        white_balance=0.015,
        vignetting=0.12,
        blur_px=0.4,
        photons=12000.0,
        read_noise=0.001,
        jpeg_quality=94,
    ),
    "hard": Photography(
        exposure_stops=0.35,
        white_balance=0.05,
        vignetting=0.35,
        blur_px=2.0,
        photons=1500.0,
        read_noise=0.004,
        jpeg_quality=80,
        bend=-0.07,
    ),
}


def photography_of(name: str) -> Photography:
    """Return a preset; raise `UserError` with the known names for another."""
    if name not in PRESETS:
        raise UserError(f"no preset of photography {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def photograph(
    rgb: NDArray[np.uint8], settings: Photography, draw: np.random.Generator
) -> NDArray[np.uint8]:
    """Return a picture [Y, X, 3] (sRGB) as a camera with these settings takes it.

    The same generator state gives the same bytes. A perfect camera returns the picture as it is.
    """
    gains = 2.0 ** draw.normal(0, settings.exposure_stops) * np.ones(3)
    gains[[0, 2]] *= 1 + draw.normal(0, settings.white_balance, 2)
    length, angle = draw.uniform(0, settings.blur_px) * rgb.shape[1] / 640, draw.uniform(0, np.pi)
    if settings.exposure_stops == settings.photons == settings.blur_px == settings.vignetting == 0:
        return rgb
    linear: NDArray[np.float32] = _LINEAR[rgb]
    if length > 0.05:
        moved = cv2.filter2D(linear, -1, _motion(length, angle), borderType=cv2.BORDER_REFLECT)
        linear = np.asarray(moved, np.float32)
    linear *= _vignette(rgb.shape[0], rgb.shape[1], settings.vignetting)
    linear *= gains.astype(np.float32)
    if settings.photons > 0:
        spread = np.sqrt(np.maximum(linear, 0) / settings.photons + settings.read_noise**2)
        linear += spread * draw.standard_normal(linear.shape, dtype=np.float32)
    return _ENCODED[np.clip(linear * 4095 + 0.5, 0, 4095).astype(np.uint16)]


def _to_linear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def _to_srgb(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


_LINEAR = _to_linear(np.arange(256) / 255).astype(np.float32)
_ENCODED = np.rint(255 * _to_srgb(np.arange(4096) / 4095)).astype(np.uint8)


def _motion(length: float, angle: float) -> NDArray[np.float32]:
    """Return the kernel of a straight motion over `length` pixels, sampled finely."""
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for t in np.linspace(-length / 2, length / 2, 64):
        x, y = reach + t * np.cos(angle), reach + t * np.sin(angle)
        left, top = int(x), int(y)
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            kernel[row, column] += max(1 - abs(x - column), 0) * max(1 - abs(y - row), 0)
    return kernel / kernel.sum()


def _vignette(height: int, width: int, loss: float) -> NDArray[np.float32]:
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    square = ((x - width / 2) ** 2 + (y - height / 2) ** 2) / ((width**2 + height**2) / 4)
    return (1 - loss * square**1.5)[..., None].astype(np.float32)
