"""Strata of pairs: where the two cameras were, and how much of one image the other shows.

TerraSky3D names the folders of drones' cameras with "aerial"; benchmarks report ground, aerial and
mixed pairs apart, and overlaps of 0.1 to 0.3, 0.3 to 0.5 and 0.5 to 0.7.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

Kind = Literal["ground", "aerial", "mixed"]
KINDS: tuple[Kind, ...] = ("ground", "aerial", "mixed")
LIMITS = (0.1, 0.3, 0.5, 0.7)
OVERLAPS = (
    f"below {LIMITS[0]}",
    *(f"{low}-{high}" for low, high in pairwise(LIMITS)),
    f"above {LIMITS[-1]}",
)


def is_aerial(image: str) -> bool:
    """Return whether an image was taken from the air, by its name.

    >>> is_aerial("cam_2_aerial/frame_000000.jpg"), is_aerial("cam_0/frame_000000.jpg")
    (True, False)
    """
    return "aerial" in image


def kind_of(image_a: str, image_b: str) -> Kind:
    """Return the stratum of a pair by where its cameras were.

    >>> kind_of("cam_0/a.jpg", "cam_1_aerial/a.jpg")
    'mixed'
    """
    count = is_aerial(image_a) + is_aerial(image_b)
    return ("ground", "mixed", "aerial")[count]


def overlap_of(share: float) -> str:
    """Return the stratum of a pair by its overlap; a limit belongs to the stratum above it.

    >>> overlap_of(0.05), overlap_of(0.3), overlap_of(0.7)
    ('below 0.1', '0.3-0.5', 'above 0.7')
    """
    return OVERLAPS[sum(share >= limit for limit in LIMITS)]


def count_strata(pairs: Iterable[tuple[str, float]]) -> dict[str, dict[str, int]]:
    """Return how many of (kind, overlap) pairs each stratum has, every stratum named."""
    found = Counter((kind, overlap_of(share)) for kind, share in pairs)
    return {kind: {overlap: found[kind, overlap] for overlap in OVERLAPS} for kind in KINDS}
