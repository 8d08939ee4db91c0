"""Transform: the axioms of a group, exp against the matrix exponential, quaternions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cuesta.geometry import Transform
from cuesta.geometry.transforms import cross_matrix
from tests.laws import seeds

SIZES = st.sampled_from([6, 7])
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tangents(size: int, seed: int, num: int = 5, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return tangents with angles below pi."""
    tangent = random(num, size, seed=seed, dtype=dtype)
    angle = tangent[:, 3:6].norm(dim=1, keepdim=True)
    tangent[:, 3:6] *= angle.clamp(max=3.1) / angle
    return tangent


def assert_same(ours: Transform, theirs: Transform) -> None:
    assert_close(ours.matrix(), theirs.matrix())


def assert_near(ours: Tensor, theirs: Tensor, *, size: Tensor) -> None:
    """Compare [B, ...] up to 16 roundings, in the dtype they share, of numbers as large as `size` [B]."""
    assert ours.dtype is theirs.dtype
    off = (ours - theirs).abs().flatten(1).amax(1)
    assert (off <= 16 * torch.finfo(ours.dtype).eps * size).all()


def norm(transform: Transform) -> Tensor:
    return torch.linalg.matrix_norm(transform.matrix(), ord=torch.inf)


@both_dtypes
@given(size=SIZES, seed=seeds)
def test_transforms_are_a_group(dtype: torch.dtype, size: int, seed: int) -> None:
    a, b, c = (Transform.exp(tangents(size, seed + i, dtype=dtype)) for i in range(3))
    one = Transform.identity(5, dtype=dtype)
    there_and_back = norm(a) * norm(a.inverse())
    for ours, theirs, largest in (
        ((a @ b) @ c, a @ (b @ c), norm(a) * norm(b) * norm(c)),
        (a @ one, a, norm(a)),
        (one @ a, a, norm(a)),
        (a @ a.inverse(), one, there_and_back),
        (a.inverse() @ a, one, there_and_back),
        (
            (a @ b).inverse(),
            b.inverse() @ a.inverse(),
            there_and_back * norm(b) * norm(b.inverse()),
        ),
    ):
        assert_near(ours.matrix(), theirs.matrix(), size=largest)


@given(size=SIZES, seed=seeds)
def test_composing_moves_points_one_after_the_other(size: int, seed: int) -> None:
    a, b = (Transform.exp(tangents(size, seed + i)) for i in range(2))
    points = random(5, 4, 3, seed=seed + 2)
    assert_close((a @ b) @ points, a @ (b @ points))
    ones = torch.ones(5, 4, 1, dtype=points.dtype)
    homogeneous = torch.cat([points, ones], -1) @ a.matrix().mT
    assert_close(a @ points, homogeneous[..., :3])


@given(size=SIZES, seed=seeds)
def test_exp_is_the_exponential_of_the_matrix(size: int, seed: int) -> None:
    tangent = tangents(size, seed)
    generator = torch.zeros(5, 4, 4, dtype=torch.float64)
    generator[:, :3, :3] = cross_matrix(tangent[:, 3:6])
    if size == 7:
        generator[:, :3, :3] += tangent[:, 6, None, None] * torch.eye(3, dtype=torch.float64)
    generator[:, :3, 3] = tangent[:, :3]
    assert_close(Transform.exp(tangent).matrix(), torch.linalg.matrix_exp(generator))


@given(seed=seeds)
def test_log_undoes_exp(seed: int) -> None:
    tangent = tangents(7, seed)
    assert_close(Transform.exp(tangent).log(), tangent)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 1e-3, 3.14159, torch.pi])
def test_log_undoes_exp_at_small_and_at_straight_angles(angle: float) -> None:
    tangent = torch.tensor([0.3, -2.0, 1.0, 0.0, 0.6 * angle, -0.8 * angle, 0.0])
    turned = Transform.exp(tangent.double())
    assert_same(Transform.exp(turned.log()), turned)


@pytest.mark.parametrize("size", [6, 7])
def test_exp_and_log_have_gradients_also_at_the_identity(size: int) -> None:
    def matrix(tangent: Tensor) -> Tensor:
        return Transform.exp(tangent).matrix()

    for tangent in (torch.zeros(2, size, dtype=torch.float64), tangents(size, 0)):
        torch.autograd.gradcheck(matrix, tangent.requires_grad_())
    torch.autograd.gradcheck(lambda t: Transform.exp(t).log(), tangents(size, 1).requires_grad_())


@given(seed=seeds)
def test_quaternions_come_back_with_w_first_and_not_negative(seed: int) -> None:
    quaternion = torch.nn.functional.normalize(random(20, 4, seed=seed), dim=-1)
    there = Transform.from_quaternion(quaternion, torch.zeros(20, 3, dtype=torch.float64))
    sign = torch.where(quaternion[:, :1] < 0, -1.0, 1.0)
    assert_close(there.quaternion(), quaternion * sign)
    assert_close(torch.linalg.det(there.rotation), torch.ones(20, dtype=torch.float64))


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    half = 0.5**0.5
    turn = Transform.from_quaternion(torch.tensor([half, 0.0, 0.0, half]), torch.zeros(3))
    assert_close(turn @ torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))


def test_a_matrix_comes_back_with_its_scale() -> None:
    transform = Transform.exp(tangents(7, 0))
    again = Transform.from_matrix(transform.matrix())
    assert_close(again.scale, transform.scale)
    assert_same(again, transform)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \(3, 3\), \(2, 3\) and \(2,\)"):
        Transform.rigid(torch.eye(3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="a tangent has 6 numbers, or 7 with scale, got 5"):
        Transform.exp(torch.zeros(5))
