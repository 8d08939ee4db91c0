"""plane_sweep and plane_sweep_zncc: bodies are twins with their gradients; the warp is torch's grid_sample;
laws of poses, planes, groups, views and units; gradient checks; what lies outside or behind.
"""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cuesta.ops import force_body
from cuesta.ops.plane_sweep import plane_sweep, plane_sweep_zncc
from tests.laws import seeds
from tests.twins import assert_twins, with_gradients

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDTHS = [(8, 4), (32, 8), (3, 1), (6, 3), (40, 20)]  # channels, groups
FORMS = pytest.mark.parametrize("is_plane", [True, False], ids=["planes", "pixels"])


class Case:
    """Hold a reference, sources of another size, poses that look past some of them, and depths."""

    def __init__(
        self, *lead: int, channels: int = 8, num_planes: int = 3, is_plane: bool = False,
        dtype: torch.dtype = torch.float32, seed: int = 0,
    ) -> None:  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        wide = torch.float64 if dtype is torch.float64 else torch.float32

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        features = (channels,) if len(lead) == 2 else ()
        self.reference = random(*lead[:-1], *features, 7, 12).to(dtype)
        self.sources = random(*lead, *features, 9, 14).to(dtype)
        turn = torch.eye(3, dtype=torch.float64) + 0.03 * random(*lead, 3, 3)
        turn[..., 2, :2] *= 0.1
        shift = random(*lead, 3) * torch.tensor([2.0, 2.0, 0.05]) + torch.tensor([1.0, 1.0, 0.0])
        self.poses = torch.cat([turn, shift[..., None]], -1).to(wide)
        pixels = () if is_plane else (7, 12)
        depths = random(*lead[:-1], num_planes, *pixels).abs() + 0.8
        self.depths = depths.to(wide)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.reference, self.sources, self.poses, self.depths


def by_groups(groups: int) -> Callable[..., Tensor]:
    return lambda a, b, poses, depths: plane_sweep(a, b, poses, depths=depths, groups=groups)


def by_windows(radius: int, epsilon: float = 1e-6) -> Callable[..., Tensor]:
    return lambda a, b, poses, depths: plane_sweep_zncc(
        a, b, poses, depths=depths, radius=radius, epsilon=epsilon
    )


def either(is_grey: bool, is_plane: bool, seed: int = 0) -> tuple[Callable[..., Tensor], Case]:
    """Return an op of few numbers and its case."""
    if is_grey:
        return by_windows(1), Case(3, is_plane=is_plane, seed=seed)
    return by_groups(2), Case(2, 3, is_plane=is_plane, seed=seed)


GREY = pytest.mark.parametrize("is_grey", [False, True], ids=["groups", "windows"])


@FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "groups"), WIDTHS)
def test_bodies_are_twins(channels: int, groups: int, dtype: torch.dtype, is_plane: bool) -> None:
    case = Case(2, 3, channels=channels, is_plane=is_plane, dtype=dtype)
    assert_twins(with_gradients(by_groups(groups), [0, 1]), *case.inputs)


@FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("radius", [1, 2, 4])
def test_bodies_of_windows_are_twins(radius: int, dtype: torch.dtype, is_plane: bool) -> None:
    case = Case(3, is_plane=is_plane, dtype=dtype)
    assert by_windows(radius)(*case.inputs).count_nonzero() > 20
    assert_twins(with_gradients(by_windows(radius), [0, 1]), *case.inputs)


def test_windows_far_from_zero_are_twins() -> None:
    case = Case(3, is_plane=True)
    raised = case.reference / 64 + 128, case.sources / 64 + 128
    assert_twins(with_gradients(by_windows(1), [0, 1]), *raised, case.poses, case.depths)


@FORMS
@GREY
@pytest.mark.parametrize("empty", ["views", "planes"])
def test_no_views_and_no_planes_are_legal(empty: str, is_grey: bool, is_plane: bool) -> None:
    run, case = either(is_grey, is_plane)
    a, b, poses, depths = case.inputs
    if empty == "planes":
        depths = depths[:0] if is_grey else depths[:, :0]
    else:
        b, poses = (b[:0], poses[:0]) if is_grey else (b[:, :0], poses[:, :0])
    assert_twins(with_gradients(run, [0, 1]), a, b, poses, depths)
    if not is_grey:
        assert_twins(with_gradients(run, [0, 1]), a[:0], b[:0], poses[:0], depths[:0])


@FORMS
def test_the_warp_is_grid_sample(is_plane: bool) -> None:
    case = Case(2, 3, channels=4, is_plane=is_plane, dtype=torch.float64)
    leaves = [case.reference.requires_grad_(), case.sources.requires_grad_()]
    ours = by_groups(2)(*leaves, case.poses, case.depths)
    expected = leaves[0][:, None, :, None] * sampled(case, padding="zeros")
    theirs = expected.unflatten(2, (2, 2)).mean(3)
    slope = ours.detach().cos()
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        *(torch.autograd.grad(out, leaves, slope) for out in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_windows_are_correlations_of_grid_samples() -> None:
    case, radius = Case(3, is_plane=True, dtype=torch.float64), 1
    ours = by_windows(radius, 1e-12)(*case.inputs)
    grey = Case(1, 3, channels=1, is_plane=True, dtype=torch.float64)
    grey.sources, grey.poses, grey.depths = (
        case.sources[None, :, None], case.poses[None], case.depths[None],
    )  # fmt: skip
    warped, is_inside = sampled(grey, padding="border")[0, :, 0], inside(grey)[0]
    num_seen = 0
    for v, k, y, x in torch.cartesian_prod(*(torch.arange(n) for n in ours.shape)).tolist():
        window = (slice(max(y - radius, 0), y + 2), slice(max(x - radius, 0), x + 2))
        pair = torch.stack([case.reference[window].flatten(), warped[v, k][window].flatten()])
        is_seen = bool(is_inside[v, k][window].all())
        num_seen += is_seen
        expected = torch.corrcoef(pair)[0, 1] if is_seen else torch.zeros(()).double()
        torch.testing.assert_close(ours[v, k, y, x], expected)
    assert 50 < num_seen < ours.numel() - 50


def positions(case: Case) -> Tensor:
    """Return where every pixel at every hypothesis lies in the sources [B, V, K, Y, X, 2]."""
    y, x = torch.meshgrid(torch.arange(7) + 0.5, torch.arange(12) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1).double()
    depths = case.depths if case.depths.dim() == 4 else case.depths[..., None, None]
    points = rays * depths[..., None]  # [B, K, Y, X, 3]
    turned = torch.einsum("bvij,bkyxj->bvkyxi", case.poses[..., :3], points)
    seen = turned + case.poses[:, :, None, None, None, :, 3]
    return seen[..., :2] / seen[..., 2:]


def sampled(case: Case, padding: str) -> Tensor:
    """Return torch's samples [B, V, C, K, Y, X] of the sources."""
    images = case.sources.flatten(0, 1)
    grid = 2 * positions(case) / torch.tensor([14.0, 9.0]) - 1
    grid = grid.flatten(0, 1).flatten(1, 2)  # [B V, K Y, X, 2]
    out = F.grid_sample(images, grid, padding_mode=padding, align_corners=False)
    num_planes = case.depths.shape[1]
    return out.view(*case.sources.shape[:3], num_planes, 7, 12)


def inside(case: Case) -> Tensor:
    at = positions(case)
    return ((at >= 0) & (at <= torch.tensor([14.0, 9.0]))).all(-1)


@FORMS
@GREY
def test_gradients_pass_gradcheck(is_grey: bool, is_plane: bool) -> None:
    lead = (2,) if is_grey else (1, 2)
    case = Case(*lead, channels=4, num_planes=2, is_plane=is_plane, dtype=torch.float64)
    run = by_windows(1, 1e-2) if is_grey else by_groups(2)
    leaves = [case.reference.requires_grad_(), case.sources.requires_grad_()]
    torch.autograd.gradcheck(
        lambda a, b: run(a, b, case.poses, case.depths), leaves, fast_mode=True
    )


def test_a_still_camera_sees_its_own_features_at_any_depth() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randint(-4, 5, (2, 8, 5, 7), generator=generator).float()
    still = torch.eye(3, 4).expand(2, 3, 3, 4)
    depths = torch.tensor([[0.01, 1.0, float("inf")], [3.0, 1e4, 1e-4]])
    sources = features[:, None].expand(-1, 3, -1, -1, -1)
    out = plane_sweep(features, sources, still, depths=depths, groups=4)
    own = features.square().unflatten(1, (4, 2)).mean(2)
    assert torch.equal(out, own[:, None, :, None].expand_as(out))


def test_a_still_camera_sees_its_own_windows_but_for_brightness_and_contrast() -> None:
    image = Case(1).reference.double()
    sources = torch.stack([image, 3 * image - 5, -image])
    depths = torch.tensor([0.5, 8.0]).double()
    still = torch.eye(3, 4).double().expand(3, 3, 4)
    out = plane_sweep_zncc(image, sources, still, depths=depths, radius=2, epsilon=1e-12)
    signs = torch.tensor([1.0, 1.0, -1.0]).double().view(3, 1, 1, 1)
    torch.testing.assert_close(out, signs.expand_as(out))


@FORMS
@given(seed=seeds, order=st.permutations(range(4)))
@settings(max_examples=5)
def test_permuting_channels_of_a_group_changes_nothing(
    is_plane: bool, seed: int, order: list[int]
) -> None:
    case = Case(1, 2, is_plane=is_plane, dtype=torch.float64, seed=seed)
    mixed = [order[i] + first for first in (0, 4) for i in range(4)]
    out = by_groups(2)(*case.inputs)
    other = by_groups(2)(
        case.reference[:, mixed], case.sources[:, :, mixed], case.poses, case.depths
    )
    torch.testing.assert_close(out, other)
    swapped = [*range(4, 8), *range(4)]
    other = by_groups(2)(
        case.reference[:, swapped], case.sources[:, :, swapped], case.poses, case.depths
    )
    assert torch.equal(out.flip(2), other)


@FORMS
@GREY
@given(seed=seeds, order=st.permutations(range(3)))
@settings(max_examples=5)
def test_permuting_sources_and_hypotheses_permutes_the_result(
    is_grey: bool, is_plane: bool, seed: int, order: list[int]
) -> None:
    run, case = either(is_grey, is_plane, seed)
    a, b, poses, depths = case.inputs
    out = run(*case.inputs)
    if is_grey:
        other, expected = run(a, b[order], poses[order], depths[order]), out[order][:, order]
    else:
        other = run(a, b[:, order], poses[:, order], depths[:, order])
        expected = out[:, order][:, :, :, order]
    assert torch.equal(other, expected)


@FORMS
@GREY
@given(seed=seeds, exponent=st.integers(-8, 8))
@settings(max_examples=5)
def test_a_world_in_another_unit_looks_the_same(
    is_grey: bool, is_plane: bool, seed: int, exponent: int
) -> None:
    run, case = either(is_grey, is_plane, seed)
    poses = case.poses.clone()
    poses[..., 3] *= 2.0**exponent
    other = run(case.reference, case.sources, poses, case.depths * 2.0**exponent)
    assert torch.equal(run(*case.inputs), other)


def test_planes_are_hypotheses_that_are_equal_in_all_pixels() -> None:
    case = Case(2, 3, is_plane=True)
    pixels = case.depths[..., None, None].expand(-1, -1, 7, 12)
    runs = [
        with_gradients(by_groups(2), [0, 1])(*case.inputs[:3], d) for d in (case.depths, pixels)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    grey = Case(3, is_plane=True)
    pixels = grey.depths[:, None, None].expand(-1, 7, 12)
    out, other = (by_windows(1)(*grey.inputs[:3], d) for d in (grey.depths, pixels))
    torch.testing.assert_close(out, other)


@FORMS
def test_zeros_right_of_and_below_the_sources_change_nothing(is_plane: bool) -> None:
    case = Case(2, 3, is_plane=is_plane)
    padded = F.pad(case.sources, (0, 5, 0, 3))
    out, *grads = with_gradients(by_groups(2), [0, 1])(*case.inputs)
    other, *others = with_gradients(by_groups(2), [0, 1])(
        case.reference, padded, case.poses, case.depths
    )
    assert torch.equal(out, other)
    assert torch.equal(grads[0], others[0])
    assert torch.equal(grads[1], others[1][..., :9, :14])


@FORMS
@GREY
def test_what_is_behind_either_camera_or_has_no_depth_counts_nothing(
    is_grey: bool, is_plane: bool
) -> None:
    run, case = either(is_grey, is_plane)
    for depths in (torch.zeros(()), torch.tensor(-1.0), torch.tensor(torch.nan)):
        outputs = with_gradients(run, [0, 1])(*case.inputs[:3], depths.expand_as(case.depths))
        assert all(each.count_nonzero() == 0 for each in outputs)
    behind = case.poses * torch.tensor([-1.0, -1.0, -1.0])[:, None]  # the same ratios
    assert run(case.reference, case.sources, behind, case.depths).count_nonzero() == 0


@pytest.mark.parametrize("body", ["cpu", "reference"])
@FORMS
def test_windows_with_a_nan_count_nothing_and_move_nothing(is_plane: bool, body: str) -> None:
    image = Case(1).reference
    holed, still = image.clone(), torch.eye(3, 4)[None]
    holed[3, 5] = torch.nan
    depths = torch.ones(2) if is_plane else torch.ones(2, 7, 12)
    near, sampled_near = torch.zeros(2, 7, 12, dtype=torch.bool)
    near[1:6, 3:8] = True  # windows of radius 2 that hold the pixel
    sampled_near[:6, 2:8] = True  # or a sample that has it among its taps
    with force_body(body):
        for zeros, *pair in ((near, holed, image[None]), (sampled_near, image, holed[None])):
            out, *grads = with_gradients(by_windows(2), [0, 1])(*pair, still, depths)
            assert torch.equal(out == 0, zeros.expand_as(out))
            assert all(grad.isfinite().all() and grad.count_nonzero() for grad in grads)


@FORMS
@GREY
def test_the_number_of_threads_changes_no_bit(is_grey: bool, is_plane: bool) -> None:
    run, case = either(is_grey, is_plane)
    both = with_gradients(run, [0, 1])
    torch.set_num_threads(1)
    alone = both(*case.inputs)
    torch.set_num_threads(2)
    shared = [both(*case.inputs)]
    for num_tasks in (3, 16):
        with patch("cuesta.ops.plane_sweep.cpu.num_threads", return_value=num_tasks):
            shared.append(both(*case.inputs))
    for other in shared:
        assert all(torch.equal(a, b) for a, b in zip(other, alone, strict=True))


@GREY
def test_strided_images_and_an_expanded_gradient_are_understood(is_grey: bool) -> None:
    run, case = either(is_grey, is_plane=True)
    a, b = case.reference.mT.contiguous().mT, case.sources.mT.contiguous().mT
    assert torch.equal(run(a, b, case.poses, case.depths), run(*case.inputs))
    leaves = [case.reference.requires_grad_(), case.sources.requires_grad_()]
    out = run(*leaves, case.poses, case.depths)
    slope = torch.ones_like(out)
    expanded, full = (
        torch.autograd.grad(out, leaves, g, retain_graph=True)
        for g in (torch.ones(()).expand_as(out), slope)
    )
    assert all(torch.equal(x, y) for x, y in zip(expanded, full, strict=True))


def test_flops_count_samples() -> None:
    case, grey = Case(2, 3), Case(3)
    counts = []
    for run, each in ((by_groups(2), case), (by_windows(1), grey)):
        with FlopCounterMode(display=False) as counter:
            with_gradients(run, [0, 1])(*each.inputs)
        counts.append(counter.get_total_flops())
    assert counts[0] == 3 * 10 * case.sources[..., 0, 0].numel() * 3 * 7 * 12
    assert counts[1] == 3 * 18 * 3 * 3 * 7 * 12 * 9


def test_mistakes_are_named() -> None:
    a, b, poses, depths = Case(2, 3).inputs
    with pytest.raises(ValueError, match=r"groups must divide the 8 channels .* got 3"):
        by_groups(3)(a, b, poses, depths)
    with pytest.raises(ValueError, match=r"reference must be \[B, C, Y, X\], got \(8, 7, 12\)"):
        by_groups(2)(a[0], b, poses, depths)
    with pytest.raises(ValueError, match=r"sources must be \[B, V, C, height, width\].*\(2, 3, 4,"):
        by_groups(2)(a, b[:, :, :4], poses, depths)
    with pytest.raises(ValueError, match=r"must be \[2, 3, 3, 4\], got \(2, 2, 3, 4\)"):
        by_groups(2)(a, b, poses[:, 1:], depths)
    with pytest.raises(
        ValueError, match=r"must be \[B, K\] or \[B, K, Y, X\].* got \(2, 3, 6, 12\)"
    ):
        by_groups(2)(a, b, poses, depths[:, :, 1:])
    with pytest.raises(ValueError, match=r"reference and sources must be of one dtype"):
        by_groups(2)(a, b.half(), poses, depths)
    with pytest.raises(ValueError, match=r"must be float32 or float64 .* got torch\.float16"):
        by_groups(2)(a, b, poses.half(), depths.half())
    a, b, poses, depths = Case(3).inputs
    with pytest.raises(ValueError, match=r"sources must be \[V, height, width\]"):
        by_windows(1)(a, b[0], poses, depths)
    with pytest.raises(ValueError, match=r"depths must be \[K\] or \[K, Y, X\]"):
        by_windows(1)(a, b, poses, depths[:, 0])
    with pytest.raises(ValueError, match=r"radius must be at least 1 .* got 0 and 1e-06"):
        by_windows(0)(a, b, poses, depths)
