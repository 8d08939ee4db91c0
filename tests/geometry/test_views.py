"""Relations between views, on points whose images are known."""

import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from cuesta.geometry import (
    Camera,
    Transform,
    essential_matrix,
    fundamental_matrix,
    pixels_from_pixels,
    plane_homography,
    sampson_error,
    sweep_homographies,
    triangulate,
)
from tests.geometry.test_transforms import assert_near, both_dtypes, random
from tests.laws import seeds

CAMERA_A = Camera("PINHOLE", torch.tensor([500.0, 510.0, 320.0, 240.0]).double(), 640, 480)
CAMERA_B = Camera("PINHOLE", torch.tensor([700.0, 690.0, 310.0, 250.0]).double(), 640, 480)


def motion(seed: int, *, dtype: torch.dtype = torch.float64) -> Transform:
    """Return a step and a turn so small that what a sees is before b."""
    return Transform.exp(0.2 * random(6, seed=seed, dtype=dtype).tanh())


def points_of(seed: int, num: int = 8) -> Tensor:
    return random(num, 3, seed=seed) * 0.5 + torch.tensor([0.0, 0.0, 4.0])


def homogeneous(pixels: Tensor) -> Tensor:
    return torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)


def warped(homography: Tensor, pixels: Tensor) -> Tensor:
    moved = homogeneous(pixels) @ homography.mT
    return moved[..., :2] / moved[..., 2:]


@given(seed=seeds)
def test_images_of_a_point_meet_the_epipolar_constraint(seed: int) -> None:
    b_from_a, points_a = motion(seed), points_of(seed + 1)
    points_b = b_from_a @ points_a
    rays_a, rays_b = points_a / points_a[:, 2:], points_b / points_b[:, 2:]
    residual = ((rays_b @ essential_matrix(b_from_a)) * rays_a).sum(-1)
    assert_close(residual, torch.zeros_like(residual))
    fundamental = fundamental_matrix(CAMERA_A.matrix(), CAMERA_B.matrix(), b_from_a)
    pixels_a, pixels_b = CAMERA_A.project(points_a), CAMERA_B.project(points_b)
    assert float(sampson_error(fundamental, pixels_a, pixels_b).max()) < 1e-18


@given(seed=seeds)
def test_pixels_times_depth_go_to_those_of_the_other_camera(seed: int) -> None:
    b_from_a, points_a = motion(seed), points_of(seed + 1)
    points_b = b_from_a @ points_a
    matrix = pixels_from_pixels(CAMERA_A.matrix(), CAMERA_B.matrix(), b_from_a)
    moved = homogeneous(homogeneous(CAMERA_A.project(points_a)) * points_a[:, 2:]) @ matrix.mT
    assert_close(moved, homogeneous(CAMERA_B.project(points_b)) * points_b[:, 2:])


@given(seed=seeds)
def test_the_sampson_error_is_the_squared_distance_of_small_displacements(seed: int) -> None:
    """Move both pixels along the constraint's gradient by a little: the error is that length squared."""
    b_from_a, points_a = motion(seed), points_of(seed + 1)
    matrix = fundamental_matrix(CAMERA_A.matrix(), CAMERA_B.matrix(), b_from_a)
    a, b = CAMERA_A.project(points_a), CAMERA_B.project(b_from_a @ points_a)
    line_a = (homogeneous(b) @ matrix)[:, :2]
    line_b = (homogeneous(a) @ matrix.mT)[:, :2]
    slope = torch.cat([line_a, line_b], 1)
    move = 1e-3 * slope / slope.norm(dim=1, keepdim=True)
    error = sampson_error(matrix, a + move[:, :2], b + move[:, 2:])
    assert_close(error, torch.full_like(error, 1e-6), rtol=1e-2, atol=0)
    assert_close(sampson_error(-7 * matrix, a + 1, b), sampson_error(matrix, a + 1, b))


def plane(seed: int, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the normal and the distance of a plane in front of camera a."""
    front = torch.tensor([0.0, 0.0, 1.0], dtype=dtype)
    tilt = 0.2 * random(3, seed=seed, dtype=dtype).tanh()
    return torch.nn.functional.normalize(front + tilt, dim=0), torch.tensor(4.0, dtype=dtype)


@both_dtypes
@given(seed=seeds)
def test_a_homography_moves_the_images_of_its_plane(dtype: torch.dtype, seed: int) -> None:
    a, b, b_from_a = CAMERA_A.to(dtype), CAMERA_B.to(dtype), motion(seed, dtype=dtype)
    normal, distance = plane(seed + 1, dtype=dtype)
    pixels = random(9, 2, seed=seed + 2, dtype=dtype).sigmoid() * 400 + 50
    rays = a.unproject(pixels)
    points = b_from_a @ (rays * (distance / (rays @ normal))[:, None])
    homography = plane_homography(
        a.matrix(), b.matrix(), b_from_a, normal=normal, distance=distance
    )
    expected = b.project(points)
    assert_near(warped(homography, pixels), expected, size=torch.full_like(distance, 640))


def test_homographies_have_gradients() -> None:
    normal, distance = plane(1, dtype=torch.float64)
    tangent, depths = 0.2 * random(6, seed=0), torch.tensor([2.0, 3.0], dtype=torch.float64)

    def homography(tangent: Tensor, normal: Tensor, distance: Tensor) -> Tensor:
        pose = Transform.exp(tangent)
        matrices = CAMERA_A.matrix(), CAMERA_B.matrix()
        return plane_homography(*matrices, pose, normal=normal, distance=distance)

    def sweep(tangent: Tensor, depths: Tensor) -> Tensor:
        pose = Transform.exp(tangent)
        return sweep_homographies(CAMERA_A.matrix(), CAMERA_B.matrix(), pose, depths)

    for leaf in (tangent, normal, distance, depths):
        leaf.requires_grad_()
    torch.autograd.gradcheck(homography, (tangent, normal, distance))
    torch.autograd.gradcheck(sweep, (tangent, depths))


@given(seed=seeds)
def test_a_sweep_holds_the_homography_of_every_depth(seed: int) -> None:
    b_from_a, depths = motion(seed), torch.tensor([2.0, 3.0, 9.0]).double()
    sweep = sweep_homographies(CAMERA_A.matrix(), CAMERA_B.matrix(), b_from_a, depths)
    pixels = torch.tensor([[100.0, 50.0], [320.0, 300.0]]).double()
    for depth, homography in zip(depths, sweep, strict=True):
        points = CAMERA_A.unproject(pixels) * depth
        assert_close(warped(homography, pixels), CAMERA_B.project(b_from_a @ points))


@given(seed=seeds)
def test_triangulation_finds_the_point_again(seed: int) -> None:
    points = points_of(seed)
    poses = [Transform.identity(dtype=torch.float64), *(motion(seed + i) for i in (1, 2))]
    cameras = [CAMERA_A, CAMERA_B, CAMERA_A]
    pairs = list(zip(cameras, poses, strict=True))
    projections = torch.stack([c.matrix() @ pose.matrix()[:3] for c, pose in pairs])
    pixels = torch.stack([c.project(pose @ points) for c, pose in pairs], 1)
    assert_close(triangulate(projections.expand(8, 3, 3, 4), pixels), points)
