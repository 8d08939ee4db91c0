"""What the tests of PatchMatch share: views that look past each other or backwards, sweeps of one
colour, and oracles that walk pixel by pixel in plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cuesta.ops import force_body
from cuesta.ops.patch_match import NO_MATCH, Patch, PatchMatch, Search, patch_match_costs
from tests.twins import assert_twins

SEARCH = Search(low=0.2, high=1.0, steepest=0.02)
NOISY = Patch(noise=10.0)  # no patch is so flat that rounding decides


class Case(NamedTuple):
    """Hold images, views that look past each other or backwards, planes with costs, random numbers."""

    reference: Tensor
    sources: list[Tensor]
    matrices: Tensor
    planes: Tensor
    costs: Tensor
    noise: Tensor
    inverse_depths: list[Tensor]

    @property
    def start(self) -> PatchMatch:
        return PatchMatch(self.planes, self.costs)

    def in_double(self) -> Case:
        floats = (self.matrices, self.planes, self.costs, self.noise)
        depths = [each.double() for each in self.inverse_depths]
        return Case(
            self.reference, self.sources, *(each.double() for each in floats), inverse_depths=depths
        )


def case(
    size: tuple[int, int] = (13, 37),
    source_sizes: Sequence[tuple[int, int]] = ((13, 37), (17, 29), (9, 40)),
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def image(shape: tuple[int, int]) -> Tensor:
        coarse = random(1, 1, *(size // 3 + 2 for size in shape))
        smooth = interpolate(coarse, scale_factor=3, mode="bilinear")[0, 0]
        return (smooth[: shape[0], : shape[1]] * 256).to(torch.uint8)

    num_views = len(source_sizes)
    turn = torch.eye(3) + 0.04 * (random(num_views, 3, 3) - 0.5)
    turn[:, 2, :2] *= 0.05
    shift = (random(num_views, 3) - 0.5) * torch.tensor([12.0, 8.0, 0.1])
    if num_views > 1:
        shift[-1, 2] = -1.5  # what is near lies behind the last source
    slopes = (random(2, *size) - 0.5) * 0.02
    return Case(
        image(size),
        [image(each) for each in source_sizes],
        torch.cat([turn, shift[..., None]], -1),
        torch.cat([0.25 + 0.7 * random(1, *size), slopes]),
        random(*size),
        random(18, 35, 35),
        [0.25 + 0.7 * random(*each) * (random(*each) > 0.2) for each in source_sizes],
    )


def swept(
    case: Case,
    colour: int,
    *,
    search: Search = SEARCH,
    patch: Patch | None = None,
    is_geometric: bool = True,
    num_trials: int = 3,
) -> Tensor:
    """Return the state [4, Y, X] after the pixels of one colour have chosen."""
    patch = patch or Patch()
    numbers = [
        patch.spatial_sigma, patch.color_sigma, patch.noise, search.view_sigma, search.drift_weight,
        search.most_drift, search.low, search.high, search.steepest, search.near_depth,
        search.near_slope,
    ]  # fmt: skip
    return torch.ops.cuesta.patch_match_sweep(
        case.reference, case.sources, case.matrices,
        torch.cat([case.planes, case.costs[None]]), case.noise[: 3 * num_trials],
        case.inverse_depths if is_geometric else [], numbers, [patch.radius, patch.step],
        colour, search.is_wide,
    )  # fmt: skip


def assert_sweeps_are_twins(
    given: Case, colour: int, *, is_geometric: bool, is_wide: bool, body: str = "cpu"
) -> None:
    """Check that pixels choose the planes that the reference chooses in float64, but for the few that
    rounding leads elsewhere, and that costs of the same planes are twins.
    """
    search = Search(low=0.2, high=1.0, steepest=0.02, is_wide=is_wide)

    def chosen(case: Case) -> Tensor:
        return swept(
            case, colour, search=search, patch=NOISY, is_geometric=is_geometric,
            num_trials=6 if is_wide else 3,
        )  # fmt: skip

    with force_body("reference"):
        oracle = chosen(given.in_double())

    def run(*floats: Tensor) -> Tensor:
        depths = [each.to(floats[0].dtype) for each in given.inverse_depths]
        state = chosen(Case(given.reference, given.sources, *floats, inverse_depths=depths))
        is_same = torch.isclose(state[:3].double(), oracle[:3]).all(0)
        assert is_same.double().mean() > 0.98
        return torch.where(is_same, state[3], oracle[3].to(state.dtype))

    floats = given.matrices, given.planes, given.costs, given.noise
    assert_twins(run, *floats, body=body)


def is_of(colour: int, like: Tensor) -> Tensor:
    """Return which pixels [Y, X] are of a colour of the checkerboard."""
    y, x = (torch.arange(size) for size in like.shape)
    return (y[:, None] + x) % 2 == colour


def costs_of(case: Case, patch: Patch | None = None, wanted: Tensor | None = None) -> Tensor:
    return patch_match_costs(
        case.reference, case.sources, case.matrices, case.planes, patch, wanted
    )


def wanted_of(case: Case) -> Tensor:
    """Return pixels [V, Y, X] to ask for: here and there, a row of all, and none of the second source."""
    shape = (len(case.sources), *case.reference.shape)
    wanted = torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.03
    wanted[:, 2] = True
    wanted[1] = False
    return wanted


def walked(given: Case, patch: Patch) -> Tensor:
    """Return the costs [V, Y, X] by numpy's weighted covariances, one pixel after another."""
    image, planes = given.reference.numpy().astype(float), given.planes.double().numpy()
    views = list(zip(given.sources, given.matrices.double().numpy(), strict=True))
    out = np.full((len(views), *image.shape), NO_MATCH)
    for y, x in np.ndindex(image.shape):
        own, weights, offsets = weighted_patch(image, x, y, patch)
        for v, (source, matrix) in enumerate(views):
            around = affine(matrix, planes[:, y, x], x + 0.5, y + 0.5)
            if around is None or not (0 < around[0, 2] < source.shape[1]):
                continue
            if 0 < around[1, 2] < source.shape[0]:
                other = sampled(source.numpy().astype(float), *(around @ offsets))
                (a, c), (_, b) = np.cov(own, other, aweights=weights, ddof=0)
                out[v, y, x] = 1 - c / np.sqrt((a + patch.noise**2) * (b + patch.noise**2))
    return torch.from_numpy(out)


def weighted_patch(
    image: np.ndarray, x: int, y: int, patch: Patch
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a patch's values, weights and offsets (right, down, 1) from its centre."""
    count = patch.radius // patch.step
    line = np.arange(-count, count + 1) * patch.step
    right, down = (each.ravel() for each in np.meshgrid(line, line))
    rows = np.clip(y + down, 0, image.shape[0] - 1)
    values = image[rows, np.clip(x + right, 0, image.shape[1] - 1)]
    distance = (right**2 + down**2) / (2 * patch.spatial_sigma**2)
    weights = np.exp(-distance - (values - image[y, x]) ** 2 / (2 * patch.color_sigma**2))
    return values, weights, np.stack([right, down, np.ones_like(right)])


def affine(matrix: np.ndarray, plane: np.ndarray, x: float, y: float) -> np.ndarray | None:
    """Return [2, 3], by differences, of where a plane takes (right, down, 1); None behind the view."""
    small = 1e-5
    right, down = np.array([[0, small, -small, 0, 0], [0, 0, 0, small, -small]])
    w = plane[0] + plane[1] * right + plane[2] * down
    u, v, z = matrix @ np.stack([x + right, y + down, np.ones(5), w])
    if z[0] <= 0:
        return None
    places = np.stack([u, v]) / z
    slopes = (places[:, [1, 3]] - places[:, [2, 4]]) / (2 * small)
    return np.concatenate([slopes, places[:, :1]], 1)


def sampled(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return samples between pixels' centres; the border goes on."""
    height, width = image.shape
    column, row = np.clip(u - 0.5, 0, width - 1), np.clip(v - 0.5, 0, height - 1)
    across = np.stack([np.interp(column, np.arange(width), line) for line in image])  # [Y, places]
    return np.array(
        [np.interp(r, np.arange(height), line) for r, line in zip(row, across.T, strict=True)]
    )


def still(image: Tensor, sources: list[Tensor]) -> Case:
    """Return a case of cameras that all stand where the reference's does."""
    given = case(tuple(image.shape), [tuple(each.shape) for each in sources])
    matrices = torch.eye(3, 4).repeat(len(sources), 1, 1)
    return given._replace(reference=image, sources=sources, matrices=matrices)


def drifts(given: Case, w: Tensor, most: float) -> Tensor:
    """Return how far pixels at inverse depths w come back off their places by way of the first
    source, by walking there and back in plain numbers.
    """
    whole = np.eye(4)
    whole[:3] = given.matrices[0].double().numpy()
    back, theirs = np.linalg.inv(whole), given.inverse_depths[0].numpy()
    out = np.full(w.shape, most)
    for y, x in np.ndindex(out.shape):
        u, t, z, _ = whole @ [x + 0.5, y + 0.5, 1, float(w[y, x])]
        if z <= 0:
            continue
        column = min(max(int(u / z), 0), theirs.shape[1] - 1)
        known = float(theirs[min(max(int(t / z), 0), theirs.shape[0] - 1), column])
        x_back, y_back, z_back, _ = back @ [u / z, t / z, 1, known]
        if known > 0 and z_back > 0:
            off = np.hypot(x_back / z_back - x - 0.5, y_back / z_back - y - 0.5)
            out[y, x] = min(off, most)
    return torch.from_numpy(out).float()


def texture(u: Tensor, v: Tensor) -> Tensor:
    """Return grey levels at places of a pattern of waves 7 to 28 px long."""
    generator = torch.Generator().manual_seed(5)
    random = torch.rand(3, 40, generator=generator, dtype=torch.float64) * 2 * torch.pi
    rates = 2 * torch.pi / (7 * 4 ** (random[0] / (2 * torch.pi)))
    phase = rates * (u[..., None] * random[1].cos() + v[..., None] * random[1].sin()) + random[2]
    return (128 + 9 * phase.sin().sum(-1)).clamp(0, 255).to(torch.uint8)


def places(height: int, width: int) -> tuple[Tensor, Tensor]:
    y, x = torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5
    return y[:, None].expand(height, width), x.expand(height, width)
