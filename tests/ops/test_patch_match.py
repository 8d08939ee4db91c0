"""PatchMatch: bodies are twins, costs are correlations walked pixel by pixel, the laws of contrast, units,
sources and colours, and a slanted plane that is found from random ones.
"""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch as replaced

import pytest
import torch
from torch import Tensor

from cuesta.ops import force_body
from cuesta.ops.patch_match import (
    NO_MATCH,
    Patch,
    PatchMatch,
    Search,
    patch_match,
)
from tests.ops.patch_cases import (
    NOISY,
    SEARCH,
    assert_sweeps_are_twins,
    case,
    costs_of,
    drifts,
    is_of,
    places,
    still,
    swept,
    texture,
    walked,
    wanted_of,
)
from tests.twins import assert_twins

BODY = pytest.mark.parametrize("body", ["reference", "cpu"])
COLOUR = pytest.mark.parametrize("colour", [0, 1], ids=["even", "odd"])


@pytest.mark.parametrize("radius_and_step", [(4, 2), (1, 1), (5, 2), (2, 3)], ids=str)
def test_costs_are_twins(radius_and_step: tuple[int, int]) -> None:
    radius, step = radius_and_step
    given = case((31, 66), ((31, 66), (40, 50), (20, 70)))
    patch = Patch(radius=radius, step=step, noise=10.0)

    def run(matrices: Tensor, planes: Tensor) -> Tensor:
        return costs_of(given._replace(matrices=matrices, planes=planes), patch)

    is_hidden = run(given.matrices, given.planes) == NO_MATCH
    assert bool((is_hidden.sum((1, 2)) > 20).all())
    assert is_hidden.float().mean() < 0.8
    assert_twins(run, given.matrices, given.planes)


@BODY
def test_costs_that_are_not_wanted_are_no_match_and_the_others_are_as_ever(body: str) -> None:
    given = case((31, 66), ((31, 66), (40, 50), (20, 70)))
    wanted = wanted_of(given)
    with force_body(body):
        all_of_them, some = costs_of(given), costs_of(given, wanted=wanted)
    assert torch.equal(some, torch.where(wanted, all_of_them, NO_MATCH))


@COLOUR
@pytest.mark.parametrize("is_geometric", [False, True], ids=["photometric", "geometric"])
@pytest.mark.parametrize("is_wide", [False, True], ids=["near", "wide"])
def test_sweeps_are_twins(colour: int, is_geometric: bool, is_wide: bool) -> None:
    given = case((31, 66), ((31, 66), (40, 50), (20, 70)))
    assert_sweeps_are_twins(given, colour, is_geometric=is_geometric, is_wide=is_wide)


@BODY
@COLOUR
def test_a_pixel_reports_the_cost_of_its_plane_and_takes_no_dearer_one(
    body: str, colour: int
) -> None:
    given = case(source_sizes=((17, 29),))
    with force_body(body):
        *planes, costs = swept(given, colour, is_geometric=False, num_trials=6)
        before = costs_of(given)[0]
        after = costs_of(given._replace(planes=torch.stack(planes)))[0]
    chosen = is_of(colour, costs)
    torch.testing.assert_close(costs[chosen], after[chosen])
    assert (after < before)[chosen].float().mean() > 0.5
    torch.testing.assert_close(torch.maximum(after, before), before)


@BODY
@COLOUR
def test_the_other_colour_is_left_and_does_not_see_its_own(body: str, colour: int) -> None:
    given = case()
    chosen = is_of(colour, given.costs)
    place = chosen.nonzero()[len(chosen) * 7]
    others = chosen.clone()
    others[tuple(place)] = False
    changed = given._replace(planes=given.planes.clone(), costs=given.costs.clone())
    changed.planes[:, place[0], place[1]] = torch.tensor([0.9, 0.0, 0.0])
    changed.costs[tuple(place)] = 0.0
    with force_body(body):
        out, other = swept(given, colour), swept(changed, colour)
    assert torch.equal(out[:3, ~chosen], given.planes[:, ~chosen])
    assert torch.equal(out[3, ~chosen], given.costs[~chosen])
    assert bool(
        (out[:, chosen] != torch.cat([given.planes, given.costs[None]])[:, chosen]).any(0).all()
    )
    assert torch.equal(out[:, others], other[:, others])


def test_an_iteration_is_a_sweep_of_each_colour() -> None:
    given = case()
    first = swept(given, 0, is_geometric=True)
    second = swept(given._replace(planes=first[:3], costs=first[3]), 1)
    found = patch_match(
        given.reference, given.sources, given.matrices, start=given.start, noise=given.noise[:9],
        search=SEARCH, inverse_depths=given.inverse_depths,
    )  # fmt: skip
    assert torch.equal(torch.cat([found.planes, found.costs[None]]), second)


def test_costs_are_weighted_correlations_walked_pixel_by_pixel() -> None:
    given, patch = case((7, 15), ((9, 13), (8, 16))), Patch(radius=3, step=2, noise=3.0)
    torch.testing.assert_close(costs_of(given.in_double(), patch), walked(given, patch))


@BODY
def test_what_is_the_same_matches_and_what_is_flat_matches_nothing(body: str) -> None:
    image = case().reference
    flat = torch.full_like(image, 77)
    given = still(image, [image, flat])
    given.planes[1:] = 0
    noises = [0.1, 2.0, 30.0]
    with force_body(body):
        same, other = torch.stack([costs_of(given, Patch(noise=each)) for each in noises], 1)
        none = costs_of(given._replace(reference=flat))
    assert same[0].max() < 1e-2
    assert bool((same.diff(dim=0) > 0).all())
    assert same[2].min() > same[0].max()
    torch.testing.assert_close(other[2], torch.ones_like(other[2]))
    assert torch.equal(none, torch.ones_like(none))


def test_brightness_changes_nothing_and_contrast_counts_as_it_stands_out_of_the_noise() -> None:
    given = case().in_double()
    halved = given._replace(sources=[each // 2 for each in given.sources])
    brighter = halved._replace(sources=[each + 100 for each in halved.sources])
    doubled = halved._replace(sources=[each * 2 for each in halved.sources])
    costs, more, twice = (costs_of(each) for each in (halved, brighter, doubled))
    torch.testing.assert_close(more, costs)
    is_clear = (costs != NO_MATCH) & ((1 - costs).abs() > 0.01)
    share = ((1 - twice) / (1 - costs))[is_clear]
    assert share.min() > 1
    assert share.max() < 2
    sharp = Patch(noise=1e-6)
    costs, twice = costs_of(halved, sharp), costs_of(doubled, sharp)
    torch.testing.assert_close(twice[is_clear], costs[is_clear])


@BODY
def test_twice_the_contrast_with_twice_the_noise_changes_no_bit(body: str) -> None:
    given = case()
    halved = given._replace(
        reference=given.reference // 2, sources=[each // 2 for each in given.sources]
    )
    doubled = given._replace(
        reference=halved.reference * 2, sources=[each * 2 for each in halved.sources]
    )
    with force_body(body):
        costs = costs_of(halved, Patch(noise=2.0, color_sigma=16.0))
        other = costs_of(doubled, Patch(noise=4.0, color_sigma=32.0))
    assert torch.equal(costs, other)


@BODY
def test_what_no_source_sees_costs_the_most_and_keeps_its_plane(body: str) -> None:
    given = case()
    behind = given._replace(sources=given.sources[:2], matrices=-given.matrices[:2])
    outside = given._replace(matrices=given.matrices.clone())
    outside.matrices[:, :2, 3] += 1e3
    nowhere = given._replace(planes=given.planes * torch.nan)
    with force_body(body):
        for each in (behind, outside, nowhere):
            costs = costs_of(each)
            assert torch.equal(costs, torch.full_like(costs, NO_MATCH))
        out = swept(outside, 0, is_geometric=False)
    assert torch.equal(out[:3], given.planes)
    costs = out[3][is_of(0, given.costs)]
    torch.testing.assert_close(costs, torch.full_like(costs, NO_MATCH))


@BODY
@COLOUR
def test_permuting_sources_permutes_costs_and_leaves_the_choice(body: str, colour: int) -> None:
    given, order = case(), [2, 0, 1]
    permuted = given._replace(
        sources=[given.sources[i] for i in order],
        matrices=given.matrices[order],
        inverse_depths=[given.inverse_depths[i] for i in order],
    )
    with force_body(body):
        assert torch.equal(costs_of(permuted), costs_of(given)[order])
        torch.testing.assert_close(swept(permuted, colour)[3], swept(given, colour)[3])


@BODY
@COLOUR
@pytest.mark.parametrize("exponent", [-7, 5])
def test_a_world_in_another_unit_looks_the_same(body: str, colour: int, exponent: int) -> None:
    given, unit = case(), 2.0**exponent
    scaled = given._replace(
        matrices=given.matrices * torch.tensor([1.0, 1.0, 1.0, unit]),
        planes=given.planes / unit,
        inverse_depths=[each / unit for each in given.inverse_depths],
    )
    search = Search(low=SEARCH.low / unit, high=SEARCH.high / unit, steepest=SEARCH.steepest)
    with force_body(body):
        assert torch.equal(costs_of(scaled), costs_of(given))
        *planes, costs = swept(given, colour, num_trials=6)
        *others, other = swept(scaled, colour, search=search, num_trials=6)
    torch.testing.assert_close(other, costs)
    torch.testing.assert_close(torch.stack(others) * unit, torch.stack(planes))


@BODY
def test_the_geometric_term_is_the_drift_walked_pixel_by_pixel(body: str) -> None:
    given = case(source_sizes=((17, 29),))
    given = given._replace(reference=torch.full_like(given.reference, 9))
    search = replace(SEARCH, most_drift=0.2, drift_weight=0.5)
    with force_body(body):
        out = swept(given, 0, search=search)
        seen = costs_of(given._replace(planes=out[:3]))[0]
    chosen = is_of(0, given.costs)
    drift = drifts(given, out[0], search.most_drift)
    assert 0.1 < (drift[chosen] < search.most_drift).float().mean() < 0.95
    torch.testing.assert_close(out[3][chosen], (seen + search.drift_weight * drift)[chosen])


def test_the_geometric_term_pulls_to_the_depth_of_the_sources() -> None:
    flat, truth = torch.full((24, 32), 128, dtype=torch.uint8), 0.6
    given = still(flat, [flat, flat])
    given.matrices[:, 0, 3] = torch.tensor([20.0, -20.0])
    depths = [torch.full(flat.shape, truth)] * 2
    found, pulled = given.start, given.start
    for turn in range(4):
        noise = torch.rand(18, 32, 32, generator=torch.Generator().manual_seed(turn))
        found, pulled = (
            patch_match(
                flat, given.sources, given.matrices, start=start, noise=noise, search=SEARCH,
                inverse_depths=maps,
            )
            for start, maps in ((found, []), (pulled, depths))
        )  # fmt: skip
    free, near = ((each.planes[0] / truth - 1).abs() < 0.02 for each in (found, pulled))
    assert near.float().mean() > 0.9
    assert free.float().mean() < 0.3


def test_the_plane_of_a_slanted_wall_is_found_from_random_planes() -> None:
    height, width = 36, 48
    y, x = places(height, width)
    w, slope_x, slope_y = 0.5, 0.002, -0.0015  # at the corner, and a px
    shifts = torch.tensor([[20.0, 2, 0.02], [-21, 4, -0.02], [3, 18, 0], [-2, -20, 0.03]]).double()
    matrices = torch.cat([torch.eye(3).double().expand(4, 3, 3), shifts[..., None]], -1)
    sources = []
    for matrix in matrices:
        wall = torch.tensor([slope_x, slope_y, w]).double()
        back = torch.linalg.inv(matrix[:, :3] + matrix[:, 3:] * wall)
        a, b, c = torch.einsum("ij,jyx->iyx", back, torch.stack([x, y, torch.ones_like(x)]))
        sources.append(texture(a / c, b / c))
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(3, height, width, generator=generator)
    planes = torch.stack([0.25 + 0.75 * random[0], *(random[1:] - 0.5) * 0.01])
    found = PatchMatch(planes, torch.zeros(height, width))
    truth = w + slope_x * x + slope_y * y
    for turn in range(5):
        found = patch_match(
            texture(x, y), sources, matrices.float(), start=found,
            noise=torch.rand(18, 32, 32, generator=generator),
            search=Search(low=0.25, high=1, steepest=0.01, near_depth=0.04 / 2**turn),
        )  # fmt: skip
    before, after = (
        ((each[0] / truth - 1).abs() < 0.01)[4:-4, 4:-4].float().mean()  # whole patches
        for each in (planes, found.planes)
    )
    assert before < 0.1
    assert after > 0.9


def test_the_number_of_threads_changes_no_bit() -> None:
    given = case()
    both = [lambda: swept(given, 0), lambda: costs_of(given)]
    torch.set_num_threads(1)
    alone = [run() for run in both]
    torch.set_num_threads(2)
    shared = [[run() for run in both]]
    for num_tasks in (3, 16):
        with replaced("cuesta.ops.patch_match.cpu.num_threads", return_value=num_tasks):
            shared.append([run() for run in both])
    for other in shared:
        assert all(torch.equal(a, b) for a, b in zip(other, alone, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (5, 1), (3, 66)], ids=str)
def test_images_of_few_pixels_are_twins(size: tuple[int, int]) -> None:
    given = case(size, (size, (1, 1)))

    assert_twins(
        lambda matrices, planes: costs_of(given._replace(matrices=matrices, planes=planes)),
        given.matrices,
        given.planes,
    )
    with force_body("reference"):
        expected = [swept(given.in_double(), colour, patch=NOISY)[3] for colour in (0, 1)]
    for colour, costs in enumerate(expected):
        actual = swept(given, colour, patch=NOISY)[3]
        torch.testing.assert_close(actual, costs.float())


def test_strided_tensors_are_understood() -> None:
    given = case()
    strided = given._replace(
        reference=given.reference.mT.contiguous().mT,
        sources=[each.mT.contiguous().mT for each in given.sources],
        matrices=given.matrices.mT.contiguous().mT,
        planes=given.planes.mT.contiguous().mT,
        inverse_depths=[each.mT.contiguous().mT for each in given.inverse_depths],
        noise=given.noise[:9].mT.contiguous().mT,
    )
    assert torch.equal(costs_of(strided), costs_of(given))
    found, other = (
        patch_match(
            each.reference, each.sources, each.matrices, start=each.start, noise=each.noise[:9],
            search=SEARCH, inverse_depths=each.inverse_depths,
        )
        for each in (given, strided)
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(found, other, strict=True))


def test_mistakes_are_named() -> None:
    given = case()

    def assert_named(message: str, **changed: object) -> None:
        start = changed.pop("start", given.start)
        each = given._replace(**{"noise": given.noise[:9], **changed})
        with pytest.raises(ValueError, match=message):
            patch_match(
                each.reference, each.sources, each.matrices, start=start, noise=each.noise,
                search=SEARCH, inverse_depths=each.inverse_depths,
            )  # fmt: skip

    planes, costs = given.start
    assert_named(r"images must be uint8 \[Y, X\], got .*float32", reference=given.reference.float())
    assert_named(r"images must be uint8 \[Y, X\], got", sources=[given.reference[None]] * 3)
    assert_named(r"images must have pixels, got .*\(0, 37\)", sources=[given.reference[:0]] * 3)
    assert_named(r"one at least, got \(3, 3, 4\) of 0", sources=[], inverse_depths=[])
    assert_named(r"one at least, got \(2, 3, 4\) of 3", matrices=given.matrices[1:])
    assert_named(
        r"planes must be \[3, Y, X\] .* got \(3, 12, 37\)", start=PatchMatch(planes[:, 1:], costs)
    )
    assert_named(r"both be float32 or both float64", matrices=given.matrices.double())
    assert_named(
        r"costs must be \[Y, X\] .* got \(13, 36\)", start=PatchMatch(planes, costs[:, 1:])
    )
    assert_named(r"costs must be .* torch\.float64", start=PatchMatch(planes, costs.double()))
    for noise in (
        given.noise,
        given.noise[:9, :31, :31],
        given.noise[:8],
        given.noise[:9].double(),
    ):
        if noise is not given.noise:
            assert_named(r"noise must be torch\.float32 \[9 or 18, N, N\] with N at", noise=noise)
    assert_named(
        r"inverse_depths must be one map a source", inverse_depths=given.inverse_depths[1:]
    )
    maps = [each.double() for each in given.inverse_depths]
    assert_named(r"inverse_depths must be .* got .*float64", inverse_depths=maps)
    with pytest.raises(ValueError, match=r"planes must be \[3, Y, X\]"):
        costs_of(given._replace(planes=torch.cat([planes, planes[:1]])))
    with pytest.raises(ValueError, match=r"wanted must be bool \[V, Y, X\], \(3, .* got .*float32"):
        costs_of(given, wanted=wanted_of(given).float())
    with pytest.raises(ValueError, match=r"radius must be 1 to 23 px .* got 24 and 2"):
        Patch(radius=24)
    with pytest.raises(ValueError, match=r"noise must be above 0"):
        Patch(noise=0.0)
    with pytest.raises(ValueError, match=r"0 < low < high is needed, got 1\.0 and 0\.5"):
        Search(low=1.0, high=0.5, steepest=0.1)
