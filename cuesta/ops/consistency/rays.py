"""What the bodies of `consistency` share: the jump that no surface makes from pixel to pixel, the ray
along which a point moves, the angle of two numbers.

A point x = (u z, v z, z) that the other view puts at s times its depth there lies on that view's ray,
at x" = o + s (x - o), o being the other camera's centre in the pixels of this one. So
z" - z = (s - 1) (z - o_z) and u" - u = (s - 1) (u o_z - o_u) / z": the kernels need no matrix on the
way back, and nothing is lost where the two places nearly agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAME_SURFACE = 1.02  # of depths of adjacent pixels: the largest over the smallest

# arctan t / t in powers of t^2, highest first: interpolation at Chebyshev's points of t^2 in [0, 1].
# It is within 6e-7 degrees, and 2e-8 of small angles.
ARCTAN = (
    2.76628350273e-3, -0.0157312491259, 0.042137623595, -0.0745685482648, 0.106183706372,
    -0.141977977941, 0.199918720291, -0.333330367093, 0.999999981789,
)  # fmt: skip


def other_centre(matrix: Tensor) -> Tensor:
    """Return the other camera's centre as (u z, v z, z), float64, of [A | b]: -A^-1 b.

    Nothing finite if A has no inverse: then no pixel can be checked.
    """
    return torch.linalg.solve_ex(matrix[:, :3], -matrix[:, 3]).result
