"""What is continued lies on the surface that it is part of: planes stay planes, confident ones stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cuesta.vision.terrasky3d.completion import complete, smoothed

SHAPE = (9, 11)
PLANE = (0.4, 0.003, -0.002)  # inverse depth at the corner, its slopes a px


def plane(shape: tuple[int, int] = SHAPE) -> Tensor:
    """Return one plane [3, Y, X]."""
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in shape), indexing="ij")
    w, across, down = PLANE
    return torch.stack([w + across * x + down * y, x * 0 + across, x * 0 + down])


def solved(values: np.ndarray, likeness: np.ndarray, step: float) -> np.ndarray:
    """Return (1 + step L)^-1 of the values [N], L the Laplacian of a line with those likenesses [N - 1]."""
    matrix = np.eye(len(values))
    for k, share in enumerate(likeness):
        matrix[k : k + 2, k : k + 2] += step * share * np.array([[1, -1], [-1, 1]])
    return np.linalg.solve(matrix, values)


def by_dense_solves(
    planes: Tensor, confidence: Tensor, picture: Tensor, sigma: float, reach: float
) -> np.ndarray:
    """Return continued inverse depth by dense linear systems, a row or a column each, three times."""
    weights, grey = confidence.double().numpy(), picture.double().numpy()
    both = [planes[0].double().numpy() * weights, weights]
    for turn in (1, 2, 3):
        step = 1.5 * 4.0 ** (3 - turn) / (4.0**3 - 1) * reach**2
        for axis in (1, 0):
            likeness = np.exp(-np.abs(np.diff(grey, axis=axis)) / sigma) + 1e-4
            for values in both:
                lines, shares = (values, likeness) if axis == 1 else (values.T, likeness.T)
                for line, share in zip(lines, shares, strict=True):
                    line[:] = solved(line, share, step)
    return both[0] / both[1]


def test_it_is_the_dense_solution() -> None:
    planes = torch.rand(3, *SHAPE) + 0.2
    confidence = torch.rand(SHAPE) * (torch.rand(SHAPE) > 0.6)
    picture = (torch.rand(SHAPE) * 40).to(torch.uint8)
    found = complete(planes, confidence, picture, sigma=6.0, reach=5.0)
    expected = by_dense_solves(planes, confidence, picture, 6.0, 5.0)
    is_filled = (confidence == 0).numpy()
    np.testing.assert_allclose(found[0].numpy()[is_filled], expected[is_filled], rtol=1e-5)
    slopes = np.gradient(expected)
    for filled, slope in zip((found[2], found[1]), slopes, strict=True):
        np.testing.assert_allclose(filled.numpy()[is_filled], slope[is_filled], atol=1e-5)


def test_what_is_confident_stays_bit_for_bit() -> None:
    planes = torch.rand(3, *SHAPE) + 0.2
    confidence = torch.rand(SHAPE) * (torch.rand(SHAPE) > 0.5)
    found = complete(
        planes, confidence, torch.zeros(SHAPE, dtype=torch.uint8), sigma=6.0, reach=9.0
    )
    is_kept = confidence > 0
    assert torch.equal(found[:, is_kept], planes[:, is_kept])
    assert not torch.equal(found[:, ~is_kept], planes[:, ~is_kept])


def test_a_constant_is_continued_exactly_and_an_edge_ends_it() -> None:
    planes = torch.zeros(3, 20, 40)
    planes[0, :, :20], planes[0, :, 20:] = 0.25, 0.75
    picture = torch.zeros(20, 40, dtype=torch.uint8)
    picture[:, 20:] = 200
    confidence = torch.zeros(20, 40)
    confidence[10, [2, 37]] = 1.0
    scrambled = torch.where(confidence > 0, planes, torch.rand(3, 20, 40))
    found = complete(scrambled, confidence, picture, sigma=6.0, reach=30.0)
    assert (found[0] - planes[0]).abs().max() < 0.01
    through = complete(scrambled, confidence, picture * 0, sigma=6.0, reach=30.0)
    assert (through[0] - planes[0]).abs().max() > 0.05


def test_between_evidence_on_both_sides_a_plane_goes_on() -> None:
    planes = plane((31, 31))
    confidence = torch.ones(31, 31)
    confidence[12:19, 12:19] = 0
    scrambled = torch.where(confidence > 0, planes, torch.rand(3, 31, 31))
    grey = torch.zeros(31, 31, dtype=torch.uint8)
    found = complete(scrambled, confidence, grey, sigma=6.0, reach=10.0)
    assert (found[0] - planes[0]).abs().max() < 0.02 * (planes[0].max() - planes[0].min())
    assert abs(float(found[0, 15, 15] - planes[0, 15, 15])) < 1e-6  # by symmetry


def test_without_evidence_nothing_changes() -> None:
    planes = torch.rand(3, *SHAPE)
    none = complete(
        planes, torch.zeros(SHAPE), torch.zeros(SHAPE, dtype=torch.uint8), sigma=6.0, reach=9.0
    )
    assert torch.equal(none, planes)


def test_smoothing_keeps_a_plane_and_quiets_noise() -> None:
    planes = plane((15, 17))
    kept = smoothed(planes, radius=2, tolerance=0.02)
    assert (kept - planes).abs().max() < 1e-6
    noisy = planes.clone()
    noisy[0] *= 1 + 0.005 * torch.randn(15, 17)
    quiet = smoothed(noisy, radius=2, tolerance=0.05)
    assert (quiet[0] - planes[0]).std() < 0.4 * (noisy[0] - planes[0]).std()


def test_smoothing_stops_at_a_step() -> None:
    planes = torch.zeros(3, 12, 12)
    planes[0, :, :6], planes[0, :, 6:] = 0.2, 0.3
    assert (smoothed(planes, radius=3, tolerance=0.02) - planes).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 7), (70, 2), (3, 130)])
def test_any_shape_is_filled(shape: tuple[int, int]) -> None:
    planes = torch.full((3, *shape), 0.5)
    confidence = torch.zeros(shape)
    confidence[0, 0] = 1.0
    found = complete(
        planes * 0 + 0.5, confidence, torch.zeros(shape, dtype=torch.uint8), sigma=6.0, reach=500.0
    )
    assert (found[0] - 0.5).abs().max() < 1e-5
