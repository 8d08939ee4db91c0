"""The settings of a reconstruction, one dataclass a stage; defaults are those of the TerraSky3D
pipeline where its authors' helper states them, but for sizes that suit a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cuesta.errors import UserError
from cuesta.ops.patch_match import Patch


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """Say which photos and frames of videos are kept.

    A video gives its sharpest frame in each 1 / `frames_per_second` seconds. Dropped are images with
    less than `min_sharpness` of the median sharpness of their camera, with more than `max_clipped`
    of their pixels black or white, and those which moved less than `min_motion` of their width
    against an earlier one. `keep_all` reports these and keeps them.
    """

    frames_per_second: float = 1.0
    min_sharpness: float = 0.1
    max_clipped: float = 0.9
    min_motion: float = 0.005
    keep_all: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.frames_per_second <= 240:
            raise UserError(
                f"ingest.frames-per-second must be above 0 and at most 240, "
                f"got {self.frames_per_second}"
            )


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings:
    """Say what is known of the lenses; `intrinsics` or `board`, not both.

    `intrinsics` is a file that gives them: `K.txt` (three rows of three numbers), `cameras.txt` or
    `cameras.bin` of COLMAP, `transforms.json`, or a `calibration.json` of ours. `board` is a folder
    of photos or clips of a target, with a subfolder for each folder of photos, or one for all;
    `target` describes it: `charuco:COLUMNSxROWS:SQUARE_M:MARKER_M` or
    `checkerboard:COLUMNSxROWS:SQUARE_M` (counted in squares). Without either, `model` is fitted to
    the photos, from the focal length in their EXIF where that is plausible.
    """

    intrinsics: Path | None = None
    board: Path | None = None
    target: str = "charuco:8x11:0.02:0.015"
    model: Literal["PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"] = (
        "SIMPLE_RADIAL"
    )
    trust_exif: bool = True

    def __post_init__(self) -> None:
        if self.intrinsics is not None and self.board is not None:
            raise UserError(
                f"calibrate.intrinsics ({self.intrinsics}) and calibrate.board ({self.board}) both "
                "give the lenses; give one"
            )


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """Say how SIFT features are found; images are shrunk to `max_image_size` px for it.

    `peak_threshold` is half of COLMAP's: more weak features, for a fifth more time, and more accurate
    cameras and points where images are small.
    """

    max_image_size: int = 1600
    max_num_features: int = 8192
    peak_threshold: float = 0.0033


@dataclass(frozen=True, kw_only=True)
class MatchSettings:
    """Say which pairs are matched, and how many verified inliers make a pair.

    `auto` matches all pairs of up to `exhaustive_up_to` images. Above, it takes the `overlap` next
    frames of the same clip or folder and those 2, 4, 8, ... further on; the `neighbours` nearest by
    GPS within `max_distance_m`; and the `retrieved` most similar images.
    """

    method: Literal["auto", "exhaustive", "sequential", "spatial", "retrieval"] = "auto"
    exhaustive_up_to: int = 300
    overlap: int = 15
    neighbours: int = 30
    max_distance_m: float = 100.0
    retrieved: int = 20
    min_num_inliers: int = 15


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """Say how cameras and points are found: image by image, or all at once."""

    method: Literal["incremental", "global"] = "incremental"
    min_model_size: int = 3


@dataclass(frozen=True, kw_only=True)
class ScaleSettings:
    """Give a known distance in metres between the cameras of two photos; GPS is used without it."""

    first: str = ""
    second: str = ""
    metres: float = 0.0

    def check(self) -> None:
        """Refuse a distance that is given in part; flags set one field after the other."""
        given = [bool(self.first), bool(self.second), self.metres > 0]
        if any(given) and not all(given):
            raise UserError("a known distance needs scale.first, scale.second and scale.metres > 0")


@dataclass(frozen=True, kw_only=True)
class UndistortSettings:
    """Say how large the images of the scene may be, in px."""

    max_image_size: int = 3840


@dataclass(frozen=True, kw_only=True)
class StereoSettings:
    """Say how depth is found: images shrunk to `max_image_size` px (0: as they are), `num_sources` others
    for each, `coarse_iterations` at the smallest size and `iterations` at the others, then
    `geometric_passes` in which views confirm each other.

    `patch` says what is compared, `view_sigma` how sharply sources that do not match are left out. With
    `fills`, depth that no view confirms is continued from what is near and looks alike
    (`fill_sigma` grey levels, `fill_reach` px). Last, each plane becomes the mean of those within
    `smooth_radius` px that pass within `smooth_tolerance` of its inverse depth. `nearest` and `farthest`
    bound depth, in the model's unit; 0 takes them from the points that an image sees.
    """

    name: str
    max_image_size: int = 0
    num_sources: int = 6
    coarse_iterations: int = 4
    iterations: int = 2
    geometric_passes: int = 1
    patch: Patch = field(default_factory=Patch)
    view_sigma: float = 0.3
    fills: bool = True
    fill_sigma: float = 6.0
    fill_reach: float = 30.0
    smooth_radius: int = 3
    smooth_tolerance: float = 0.01
    nearest: float = 0.0
    farthest: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_sources", "coarse_iterations", "iterations", "view_sigma", "fill_sigma"):
            if not getattr(self, name) > 0:
                flag = name.replace("_", "-")
                raise UserError(f"{flag} must be above 0, got {getattr(self, name)}")
        for name in (
            *("max_image_size", "geometric_passes", "fill_reach", "smooth_radius"),
            *("smooth_tolerance", "nearest", "farthest"),
        ):
            if not getattr(self, name) >= 0:
                flag = name.replace("_", "-")
                raise UserError(f"{flag} must be 0 or above, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settle one reconstruction; `seed` is that of every random choice."""

    name: str
    ingest: IngestSettings = field(default_factory=IngestSettings)
    calibrate: CalibrateSettings = field(default_factory=CalibrateSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    matching: MatchSettings = field(default_factory=MatchSettings)
    mapping: MapSettings = field(default_factory=MapSettings)
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    undistort: UndistortSettings = field(default_factory=UndistortSettings)
    seed: int = 0
