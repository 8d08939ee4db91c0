"""Recipes of depth: the quality of a laptop's minutes, a fast one, and one for tests."""

from __future__ import annotations

from cuesta.ops.patch_match import Patch
from cuesta.vision.terrasky3d.settings import StereoSettings


def laptop() -> StereoSettings:
    """Return the settings for good depth, some ten seconds an image of a thousand px on two cores."""
    return StereoSettings(name="laptop")


def fast() -> StereoSettings:
    """Return the settings for a third of the time: fewer sources, iterations and passes."""
    return StereoSettings(
        name="fast",
        num_sources=3,
        coarse_iterations=3,
        iterations=1,
        geometric_passes=1,
        patch=Patch(radius=3),
    )


def debug() -> StereoSettings:
    """Return the settings for small pictures in seconds."""
    return StereoSettings(name="debug", max_image_size=320, num_sources=3, iterations=1)
