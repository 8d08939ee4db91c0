"""Recipes of a reconstruction, from seconds on small pictures to the sizes of the paper's data set."""

from __future__ import annotations

from cuesta.vision.terrasky3d.settings import FeatureSettings, MatchSettings, Settings

COLMAP_PEAK_THRESHOLD = 0.02 / 3


def debug() -> Settings:
    """Return the settings for pictures of 640 px in seconds."""
    features = FeatureSettings(
        max_image_size=640, max_num_features=2048, peak_threshold=COLMAP_PEAK_THRESHOLD
    )
    return Settings(name="debug", features=features)


def laptop() -> Settings:
    """Return the settings for a folder of photos on a laptop's CPU."""
    return Settings(name="laptop")


def paper() -> Settings:
    """Return the settings of the data set's authors: features at 4000 px, pairs of 30 inliers."""
    return Settings(
        name="paper",
        features=FeatureSettings(max_image_size=4000, peak_threshold=COLMAP_PEAK_THRESHOLD),
        matching=MatchSettings(min_num_inliers=30),
    )
