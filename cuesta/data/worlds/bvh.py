"""A bounding-volume hierarchy over boxes, built top down by the surface-area heuristic over 16 bins.

Source: Wald, "On fast construction of SAH-based bounding volume hierarchies", 2007. A node holds the
boxes of both its children, so that a ray decides at the parent which child to enter first. Boxes are
float32, rounded outward; nothing exact depends on them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cuesta.data.worlds.bvh_kernels import build_nodes


class Bvh(NamedTuple):
    """Hold a hierarchy; node 0 is the root and always there.

    A child c >= 0 is node c; a child c < 0 is a leaf of (~c & 7) boxes, the first at place ~c >> 3
    of `order`, which lists all boxes by number.
    """

    bounds: NDArray[np.float32]  # [nodes, 12]: left low, left high, right low, right high
    children: NDArray[np.int32]  # [nodes, 2]
    order: NDArray[np.int32]  # [boxes]


def build_bvh(low: NDArray[np.float64], high: NDArray[np.float64]) -> Bvh:
    """Return the hierarchy of boxes from `low` to `high`, both [boxes, 3]; none at all is legal."""
    num_boxes = len(low)
    bounds = np.zeros((max(num_boxes, 1), 12), np.float32)
    children = np.full((max(num_boxes, 1), 2), -1, np.int32)
    order = np.arange(num_boxes, dtype=np.int32)
    num_nodes = build_nodes(low, high, bounds, children, order)
    return Bvh(bounds[:num_nodes].copy(), children[:num_nodes].copy(), order)
