"""`Camera`: five of COLMAP's camera models, from points to pixels and back.

Models, parameters and their order are COLMAP's, and so are the formulas, which it shares with OpenCV.
A camera maps a point in two steps: onto the plane z = 1 and, by the lens, to another place of it;
then by focal lengths and principal point to pixels. Undistortion solves the first step by Newton's
method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

Model = Literal["PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"]
MODELS: dict[Model, tuple[str, ...]] = {
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
}
_MOST_STEPS = 100  # of Newton's method; a photograph's lens needs five


@final
@dataclass(frozen=True, eq=False)
class Camera:
    """Hold a model's name, its parameters and the size of its images in pixels.

    `params` [*batch, params] are in the order of `MODELS`; points and pixels are [*batch, P, ...].
    Raises `ValueError` for an unknown model, a wrong number of parameters, or a size below 1.

    >>> camera = Camera("PINHOLE", torch.tensor([100.0, 100.0, 50.0, 40.0]), 100, 80)
    >>> camera.project(torch.tensor([[1.0, 0.0, 2.0]])).tolist()
    [[100.0, 40.0]]
    """

    model: Model
    params: Float[Tensor, "*batch params"]
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"no camera model {self.model!r}; choose one of {', '.join(MODELS)}")
        names = MODELS[self.model]
        if self.params.shape[-1] != len(names):
            raise ValueError(
                f"{self.model} has {len(names)} parameters ({', '.join(names)}), "
                f"got {self.params.shape[-1]}"
            )
        if min(self.width, self.height) < 1:
            raise ValueError(f"an image is 1 pixel at least, got {self.width} x {self.height}")

    def focal(self) -> Float[Tensor, "*batch 2"]:
        """Return fx and fy in pixels."""
        return self.params[..., [0, 0 if MODELS[self.model][0] == "f" else 1]]

    def principal_point(self) -> Float[Tensor, "*batch 2"]:
        """Return cx and cy in pixels."""
        first = MODELS[self.model].index("cx")
        return self.params[..., first : first + 2]

    def matrix(self) -> Float[Tensor, "*batch 3 3"]:
        """Return K, which leaves distortion out."""
        (fx, fy), (cx, cy) = self.focal().unbind(-1), self.principal_point().unbind(-1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        rows = [fx, zero, cx, zero, fy, cy, zero, zero, one]
        return torch.stack(rows, -1).unflatten(-1, (3, 3))

    def project(self, points: Float[Tensor, "*batch P 3"]) -> Float[Tensor, "*batch P 2"]:
        """Return the pixels of points in the camera's frame; NaN where a point is not in front."""
        depth = points[..., 2:]
        is_front = depth > 0
        plane = points[..., :2] / torch.where(is_front, depth, 1.0)
        pixels = self.distort(plane) * self.focal()[..., None, :]
        return torch.where(is_front, pixels + self.principal_point()[..., None, :], torch.nan)

    def project_jacobian(
        self, points: Float[Tensor, "*batch P 3"]
    ) -> Float[Tensor, "*batch P 2 3"]:
        """Return the derivatives of `project` by the point: pixels a unit of length."""
        x, y, depth = points.unbind(-1)
        zero = torch.zeros_like(x)
        flatten = torch.stack([1 / depth, zero, -x / depth**2, zero, 1 / depth, -y / depth**2], -1)
        plane = points[..., :2] / points[..., 2:]
        distorted = self.distort_jacobian(plane) @ flatten.unflatten(-1, (2, 3))
        return self.focal()[..., None, :, None] * distorted

    def unproject(self, pixels: Float[Tensor, "*batch P 2"]) -> Float[Tensor, "*batch P 3"]:
        """Return for each pixel the point (x, y, 1) on its ray; times its depth, the point it shows.

        NaN where no ray before the camera meets the pixel.
        """
        plane = (pixels - self.principal_point()[..., None, :]) / self.focal()[..., None, :]
        rays = self.undistort(plane)
        return torch.cat([rays, torch.ones_like(rays[..., :1])], -1)

    def distort(self, plane: Float[Tensor, "*batch P 2"]) -> Float[Tensor, "*batch P 2"]:
        """Return where the lens puts points of the plane z = 1, on that plane."""
        if self.model == "PINHOLE":
            return plane
        square = plane.square().sum(-1, keepdim=True)
        result = plane * self._stretch(square)
        if self.model == "OPENCV":
            p = self.params[..., None, 6:8]
            result = result + 2 * plane * (plane * p.flip(-1)).sum(-1, keepdim=True)
            result = result + square * p.flip(-1)
        return result

    def distort_jacobian(self, plane: Float[Tensor, "*batch P 2"]) -> Float[Tensor, "*batch P 2 2"]:
        """Return the derivatives of `distort`."""
        square = plane.square().sum(-1, keepdim=True)
        eye = torch.eye(2, dtype=plane.dtype, device=plane.device)
        outer = plane[..., :, None] * plane[..., None, :]
        result = self._stretch(square)[..., None] * eye
        result = result + 2 * self._stretch_slope(square)[..., None] * outer
        if self.model == "OPENCV":
            p = self.params[..., None, 6:8].flip(-1)
            cross = plane[..., :, None] * p[..., None, :] + p[..., :, None] * plane[..., None, :]
            inner = (plane * p).sum(-1, keepdim=True)[..., None]
            result = result + 2 * (cross + inner * eye)
        return result

    def undistort(self, distorted: Float[Tensor, "*batch P 2"]) -> Float[Tensor, "*batch P 2"]:
        """Return the points of the plane z = 1 that `distort` puts there: its inverse, by Newton.

        Steps are halved while they do not bring a point nearer. Differentiable, also in the
        parameters (implicit function theorem: the last step carries the gradient). NaN where it does
        not converge: such a lens shows nothing there.
        """
        with torch.no_grad():
            plane, is_found = self._solve(distorted)
            slope = self.distort_jacobian(plane)
        step = _solve_pairs(slope, self.distort(plane) - distorted)
        return torch.where(is_found, plane - step, torch.nan)

    def resized(self, width: int, height: int) -> Camera:
        """Return the camera of its images scaled to this size.

        A model of one focal length scales it as the longer side. Raises `ValueError` where its images
        have another shape.
        """
        if "f" in MODELS[self.model] and not self.has_shape(width, height):
            raise ValueError(
                f"{self.model} has one focal length: scale {self.width} x {self.height} evenly, "
                f"not to {width} x {height}"
            )
        across, down = width / self.width, height / self.height
        longer = max(width, height) / max(self.width, self.height)
        scales = {"f": longer, "fx": across, "cx": across, "fy": down, "cy": down}
        each = [scales.get(name, 1.0) for name in MODELS[self.model]]
        params = self.params * torch.tensor(
            each, dtype=self.params.dtype, device=self.params.device
        )
        return replace(self, params=params, width=width, height=height)

    def has_shape(self, width: int, height: int) -> bool:
        """Return whether images of this size are the camera's scaled, up to a pixel of rounding."""
        longest = max(self.width, self.height, width, height)
        return abs(self.width * height - self.height * width) <= longest

    def to(self, target: torch.dtype | torch.device) -> Camera:
        """Return this camera with its parameters in another dtype or on another device."""
        return replace(self, params=self.params.to(target))

    def _radial(self) -> Tensor:
        """Return the radial coefficients [*batch, 1, ...] of r^2, r^4 and so on."""
        first, last = {
            "PINHOLE": (4, 4),
            "SIMPLE_RADIAL": (3, 4),
            "RADIAL": (3, 5),
            "OPENCV": (4, 6),
            "OPENCV_FISHEYE": (4, 8),
        }[self.model]
        return self.params[..., None, first:last]

    def _stretch(self, square: Tensor) -> Tensor:
        """Return what the lens multiplies a point at squared radius `square` with, radially."""
        if self.model != "OPENCV_FISHEYE":
            return 1 + square * _polynomial(self._radial(), square)
        radius = square.clamp(min=1e-24).sqrt()
        angle = radius.atan()
        bent = angle * (1 + angle.square() * _polynomial(self._radial(), angle.square()))
        return torch.where(square > 1e-24, bent / radius, 1.0)

    def _stretch_slope(self, square: Tensor) -> Tensor:
        """Return the derivative of `_stretch` by the squared radius."""
        radial = self._radial()
        order = torch.arange(1, radial.shape[-1] + 1, dtype=square.dtype, device=square.device)
        if self.model != "OPENCV_FISHEYE":
            return _polynomial(radial * order, square)
        radius = square.clamp(min=1e-12).sqrt()
        angle = radius.atan()
        even = angle.square()
        bent = angle * (1 + even * _polynomial(radial, even))
        slope = (1 + even * _polynomial(radial * (2 * order + 1), even)) / (1 + square)
        near = radial[..., :1] - 1 / 3  # of the series at radius 0
        return torch.where(square > 1e-12, (slope - bent / radius) / (2 * radius.square()), near)

    def _solve(self, distorted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the undistorted points, and [..., 1] whether each was found."""
        eps = torch.finfo(distorted.dtype).eps
        goal = 16 * eps * (1 + distorted.abs().amax(-1, keepdim=True))
        plane = distorted.clone()
        miss = self.distort(plane) - distorted
        for _ in range(_MOST_STEPS):
            error = torch.linalg.vector_norm(miss, dim=-1, keepdim=True)
            if bool((error <= goal).all()):
                break
            step = _solve_pairs(self.distort_jacobian(plane), miss)
            share = torch.ones_like(error)
            for _ in range(8):
                moved = plane - share * step
                new = self.distort(moved) - distorted
                is_nearer = torch.linalg.vector_norm(new, dim=-1, keepdim=True) < error
                if bool((is_nearer | (error <= goal)).all()):
                    break
                share = torch.where(is_nearer, share, share / 2)
            is_taken = is_nearer & (error > goal)
            if not bool(is_taken.any()):
                break
            plane, miss = torch.where(is_taken, moved, plane), torch.where(is_taken, new, miss)
        error = torch.linalg.vector_norm(miss, dim=-1, keepdim=True)
        is_front = torch.linalg.det(self.distort_jacobian(plane))[..., None] > 0
        return plane, (error <= 64 * goal) & is_front


def _polynomial(coefficients: Tensor, x: Tensor) -> Tensor:
    """Return c0 + c1 x + c2 x^2 + ... of coefficients [..., count] at x [..., 1]; 0 of none."""
    result = torch.zeros_like(x)
    for number in reversed(range(coefficients.shape[-1])):
        result = result * x + coefficients[..., number : number + 1]
    return result


def _solve_pairs(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the solutions of 2 x 2 systems, far off where a matrix is singular."""
    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    x, y = vector.unbind(-1)
    determinant = a * d - b * c
    tiny = torch.finfo(matrix.dtype).tiny
    determinant = torch.where(determinant.abs() < tiny, tiny, determinant)
    return torch.stack([d * x - b * y, a * y - c * x], -1) / determinant[..., None]
