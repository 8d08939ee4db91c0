"""Depth maps against true ones: relative error, RMSE, thresholds, completeness; with a mask or without.

Only pixels with a true depth count; of an estimate elsewhere nothing is known. A mask takes estimates
away, so that within it `within_k` is its precision and `complete` the share of pixels that it keeps.
Sums are over pixels, so maps of a scene add up, whatever their sizes. Scale is compared as it is;
aligning medians is a separate step that has to be asked for. Measures are those of Eigen, Puhrsch and
Fergus (NeurIPS 2014) and the inlier ratios of robust multi-view depth (Schroeppel et al., 3DV 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from cuesta.errors import UserError

WITHIN = (0.01, 0.02, 0.05, 0.1)  # of the true depth
FACTORS = (1.25, 1.25**2, 1.25**3)

Depth = Float32[np.ndarray, "Y X"]


@final
@dataclass(frozen=True, eq=False)
class DepthSums:
    """Hold the sums over pixels that the measures are made of; those of two maps add up.

    `num_true` pixels have a true depth, `num_both` an estimate too, which `relative` and `square` sum
    the errors of; `within` and `factors` count those that meet each of `WITHIN` and `FACTORS`.
    """

    num_true: int
    num_both: int
    relative: float
    square: float
    within: NDArray[np.int64]
    factors: NDArray[np.int64]

    def __add__(self, other: DepthSums) -> DepthSums:
        return DepthSums(
            self.num_true + other.num_true,
            self.num_both + other.num_both,
            self.relative + other.relative,
            self.square + other.square,
            self.within + other.within,
            self.factors + other.factors,
        )

    def values(self) -> dict[str, float | int]:
        """Return the measures by name; errors are inf where nothing was estimated.

        abs_rel = mean |d - t| / t; rmse = root mean |d - t|^2; within_k: share with |d - t| <= k % of t;
        delta_k: share with max(d / t, t / d) < 1.25^k; all of the pixels with an estimate. complete:
        share of the true pixels with an estimate; complete_k: with one within k %.
        """
        num_both, num_true = self.num_both, self.num_true
        shares = {
            f"{100 * share:g}": count
            for share, count in zip(WITHIN, self.within.tolist(), strict=True)
        }
        return {
            "pixels": num_true,
            "complete": _share(num_both, num_true),
            "abs_rel": self.relative / num_both if num_both else np.inf,
            "rmse": float(np.sqrt(self.square / num_both)) if num_both else np.inf,
            **{f"within_{name}": _share(count, num_both) for name, count in shares.items()},
            **{
                f"delta_{power}": _share(count, num_both)
                for power, count in enumerate(self.factors.tolist(), 1)
            },
            **{f"complete_{name}": _share(count, num_true) for name, count in shares.items()},
        }


NOTHING = DepthSums(0, 0, 0.0, 0.0, np.zeros(len(WITHIN), np.int64), np.zeros(3, np.int64))


def compare_depth(
    estimate: Depth, truth: Depth, *, keep: Bool[np.ndarray, "Y X"] | None = None
) -> DepthSums:
    """Return the sums of a depth map against the true one of the same size.

    Depths that are 0, negative or not finite are none; `keep` takes estimates away where it is false.
    Raises `ValueError` for sizes that differ.

    >>> truth = np.array([[2.0, 4.0, 0.0]], np.float32)
    >>> sums = compare_depth(np.array([[2.0, 5.0, 1.0]], np.float32), truth)
    >>> sums.num_true, sums.num_both, sums.relative, sums.within.tolist()
    (2, 2, 0.25, [1, 1, 1, 1])
    """
    if estimate.shape != truth.shape or (keep is not None and keep.shape != truth.shape):
        shapes = [list(values.shape) for values in (estimate, truth, keep) if values is not None]
        raise ValueError(f"estimate, truth and mask must have one size, got {shapes}")
    has_truth = _is_depth(truth)
    has_both = has_truth & _is_depth(estimate)
    if keep is not None:
        has_both &= keep
    d, t = estimate[has_both].astype(np.float64), truth[has_both].astype(np.float64)
    off = np.abs(d - t)
    ratio = np.maximum(d / t, t / d)
    return DepthSums(
        int(has_truth.sum()),
        len(d),
        float((off / t).sum()),
        float(np.square(off).sum()),
        np.array([(off <= share * t).sum() for share in WITHIN], np.int64),
        np.array([(ratio < factor).sum() for factor in FACTORS], np.int64),
    )


def median_scale(estimate: Depth, truth: Depth) -> float:
    """Return what brings the estimate's median ratio to the truth to 1; 1 where they never meet."""
    has_both = _is_depth(truth) & _is_depth(estimate)
    ratio = truth[has_both].astype(np.float64) / estimate[has_both]
    return float(np.median(ratio)) if len(ratio) else 1.0


def at_size(values: NDArray[np.generic], shape: tuple[int, ...], name: str) -> NDArray[np.generic]:
    """Return a map at the size [Y, X] of the truth, by the nearest pixel; `name` is for the error.

    Raises `UserError` where its shape is another one.
    """
    height, width = values.shape
    if abs(width * shape[0] - shape[1] * height) > max(width, height, *shape):
        raise UserError(
            f"{name}: {width} x {height}, where the true map is {shape[1]} x {shape[0]}; "
            "name maps of the same images"
        )
    rows = ((np.arange(shape[0]) + 0.5) * height / shape[0]).astype(np.int64)
    columns = ((np.arange(shape[1]) + 0.5) * width / shape[1]).astype(np.int64)
    return values[rows[:, None], columns]


def _is_depth(values: Depth) -> NDArray[np.bool_]:
    return np.isfinite(values) & (values > 0)


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0
