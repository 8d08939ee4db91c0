"""What all bodies of PatchMatch share: whose planes a pixel tries, which planes of its own, constants.

A pixel takes one plane from each direction: near ones are wedges, far ones lines, of pixels of the
other colour of the checkerboard (Xu and Tao, CVPR 2019, section 3.1, with fewer and other pixels).
"""

from __future__ import annotations

import numpy as np

NO_MATCH = 2.0  # the cost of a view that does not see the point: the largest there is
LEAST_CHANCE = 1e-6  # what a view counts that matches nothing
NUM_NEAR = 4
REACH = 24  # px: further than any neighbour and any patch

_WEDGE = ((0, 1), (-1, 2), (1, 2), (-2, 3), (2, 3))  # across, along
_LINE = ((0, 3), (0, 5), (0, 9), (0, 15), (0, 23))
_AXES = ((0, -1), (0, 1), (-1, 0), (1, 0))
DIRECTIONS = np.array(
    [
        [(along * dx + across * dy, along * dy + across * dx) for across, along in pixels]
        for pixels in (_WEDGE, _LINE)
        for dx, dy in _AXES
    ],
    np.int64,
)  # [8, 5, 2]: right, down

SAME, NEARBY, ANYWHERE = 0, 1, 2
TRIALS = np.array(
    [
        (NEARBY, SAME),
        (SAME, NEARBY),
        (NEARBY, NEARBY),
        (ANYWHERE, SAME),
        (SAME, ANYWHERE),
        (ANYWHERE, ANYWHERE),
    ],
    np.int64,
)  # [6, 2]: where a trial takes inverse depth and slopes from
