"""`cuesta bench depth`: depth of posed photographs, against OpenCV's semi-global matching and a plane sweep.

Ours is `make_depth`, and on hololens the same steps on the sources that the peers are given. A case is judged
by true depth, generated or measured; by how much of the textured pixels any two other views confirm; and by
triangulated points. Peers get the sources of ours, ranges as tight as the points allow, and no completion.
Times are of single images, matched in turns; the bars' are of a whole run with its files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cuesta.cli.bench.depth_cases import (
    TINY,
    DepthCase,
    PosedCase,
    fountain_case,
    generated_case,
    generated_scenes,
    hololens_case,
    real_data,
    refined_case,
)
from cuesta.cli.bench.depth_passes import Passes
from cuesta.cli.bench.depth_run import Run, run_depth
from cuesta.cli.bench.depth_scores import (
    Mask,
    Score,
    consistent_share,
    cross_checked,
    score,
    track_shares,
)
from cuesta.cli.bench.harness import (
    OURS,
    Contender,
    Findings,
    Settings,
    progress,
    refuse,
    sample_rows,
    time_in_turns,
)
from cuesta.cli.bench.stereo_peers import PEERS, Matcher
from cuesta.data.maps import Map, read_map
from cuesta.data.scenes.scene import Scene
from cuesta.vision.terrasky3d.dense_maps import DepthView, open_dense
from cuesta.vision.terrasky3d.depth import make_depth
from cuesta.vision.terrasky3d.depth_recipes import fast, laptop
from cuesta.vision.terrasky3d.geometric_masks import MaskSettings, geometric_mask
from cuesta.vision.terrasky3d.source_views import source_views

BENCH = "depth"
FAST = "cuesta, fast"
_NUM_COMPARED = 4  # images of a generated scene that peers match
_NUM_TIMED = 4
_MOST_MEDIAN = 0.1  # of depth: above, our answer is wrong
_FIRST_RUN = slice(4, 7)  # the images of fountain-P11 that a first run is measured with


class Bar(NamedTuple):
    """Say what was measured, and what is asked of it: at most, or at least, `bound`."""

    what: str
    value: float
    bound: float
    is_least: bool = False

    @property
    def verdict(self) -> str:
        """Return whether it is met."""
        is_met = self.value >= self.bound if self.is_least else self.value <= self.bound
        return "met" if is_met else "MISSED"


def measure(settings: Settings) -> Findings:
    """Judge our depth and the peers' in every case, and time them in turns on fountain-P11."""
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="cuesta-bench-") as temporary:
        scratch = Path(temporary)
        for route, true in generated_scenes(scratch, TINY if settings.quick else "mini").items():
            progress(f"{BENCH}: generated landmark, {route}")
            posed = generated_case(route, true, scratch)
            _generated(findings, posed, settings)
            if settings.quick:
                _time(findings, posed.case)
                return findings
        if (folder := real_data("hololens", findings)) is not None:
            progress(f"{BENCH}: hololens")
            case = hololens_case(folder)
            _hololens(findings, case)
            progress(f"{BENCH}: hololens, poses refined")
            _refined(findings, refined_case(case, folder, scratch))
        if (folder := real_data("fountain-P11", findings)) is not None:
            progress(f"{BENCH}: fountain-P11")
            _fountain(findings, folder, scratch)
    return findings


def _generated(findings: Findings, posed: PosedCase, settings: Settings) -> None:
    """Judge a scene with true depth: raw and within the geometric masks, and some images against peers."""
    case = posed.case
    make_depth(posed.scene.root, laptop())
    maps = _maps(posed.scene, case)
    raw, masked = score(case, maps), score(case, maps, _geometric_masks(posed.scene, case))
    if not raw.median <= _MOST_MEDIAN:
        refuse(BENCH, f"{case.name}: depth is off by {raw.median:.0%} in the median")
    findings.note(
        f"{case.name}: raw {_words(raw, 0.01)}; in the geometric mask {_words(masked, 0.01)}"
    )
    if not settings.quick:
        _judge(
            findings,
            case.name,
            Bar("raw abs-rel", raw.mean, 0.01),
            Bar("raw share within 1 %", raw.within[0.01] * raw.complete, 0.75, is_least=True),
            Bar("abs-rel in the mask", masked.mean, 0.003),
            Bar("share within 1 % in the mask", masked.within[0.01], 0.97, is_least=True),
            Bar("share of pixels kept", masked.complete, 0.65, is_least=True),
        )
    places = np.linspace(0, len(case.references) - 1, _NUM_COMPARED).round().astype(int)
    some = replace(case, references=tuple(case.references[place] for place in places))
    scores = {OURS: score(some, maps)}
    for provider, matcher in PEERS.items():
        scores[provider] = score(some, _peer_maps(some, matcher, some.references))
    _compare(findings, f"{case.name}, raw, {_NUM_COMPARED} images", scores, 0.01)


def _hololens(findings: Findings, case: DepthCase) -> None:
    """Judge all pixels, and those that two sources confirm."""
    maps = {OURS: Passes(case, laptop()).maps()}
    for provider, matcher in PEERS.items():
        maps[provider] = _peer_maps(case, matcher, list(case.sources))
    dense = {provider: score(case, each) for provider, each in maps.items()}
    checked = {
        provider: score(case, each, cross_checked(case, each)) for provider, each in maps.items()
    }
    for provider in maps:
        findings.note(
            f"{case.name}: {provider}: dense {_words(dense[provider], 0.05)}; "
            f"cross-checked {_words(checked[provider], 0.05)}"
        )
    _compare(findings, f"{case.name}, dense", dense, 0.05)
    _compare(findings, f"{case.name}, cross-checked", checked, 0.05)
    ours, kept = dense[OURS], checked[OURS]
    _judge(
        findings,
        case.name,
        Bar("completeness", ours.complete, 1.0, is_least=True),
        Bar("dense abs-rel", ours.mean, 0.20),
        Bar("dense share within 5 %", ours.within[0.05] * ours.complete, 0.62, is_least=True),
        Bar("cross-checked share kept", kept.complete, 0.48, is_least=True),
        Bar("cross-checked abs-rel", kept.mean, 0.031),
        Bar("cross-checked share within 5 %", kept.within[0.05], 0.85, is_least=True),
    )


def _refined(findings: Findings, case: DepthCase) -> None:
    """State what better poses bring."""
    maps = Passes(case, laptop()).maps()
    dense, checked = score(case, maps), score(case, maps, cross_checked(case, maps))
    findings.note(
        f"{case.name}: {OURS}: dense {_words(dense, 0.05)}; cross-checked {_words(checked, 0.05)}; "
        f"{dense.within[0.01]:.1%} and {checked.within[0.01]:.1%} within 1%"
    )
    _compare(findings, f"{case.name}, dense", {OURS: dense}, 0.05)
    _compare(findings, f"{case.name}, cross-checked", {OURS: checked}, 0.05)


def _fountain(findings: Findings, folder: Path, scratch: Path) -> None:
    """Judge how well views agree with one another and with points; time and memory."""
    posed = fountain_case(folder, scratch)
    case = posed.case
    maps: dict[str, dict[str, Map]] = {}
    runs: dict[str, Run] = {}
    for provider, recipe in ((OURS, "laptop"), (FAST, "fast")):
        runs[provider] = run_depth(posed.scene.root, recipe)
        maps[provider] = _maps(posed.scene, case)
    for provider, matcher in PEERS.items():
        maps[provider] = _peer_maps(case, matcher, case.references)
    consistent = {provider: consistent_share(case, each) for provider, each in maps.items()}
    tracks = {provider: track_shares(case, each, posed.points) for provider, each in maps.items()}
    for provider in maps:
        shares = " / ".join(f"{share:.3f}" for share in tracks[provider].values())
        findings.note(
            f"{case.name}: {provider}: {consistent[provider].consistent:.3f} of textured pixels "
            f"({consistent[provider].textured:.0%}) consistent, points within 0.25 / 0.5 / 1 %: {shares}"
        )
    row = partial(_row, findings, case.name)
    row(
        "consistent",
        {name: 100 * each.consistent for name, each in consistent.items()},
        is_more=True,
    )
    for limit in (0.0025, 0.01):
        shares_of = {name: 100 * each[limit] for name, each in tracks.items()}
        row(f"points within {limit:.2%}", shares_of, is_more=True)
    row("peak memory", {name: each.peak_mib for name, each in runs.items()}, unit="MiB")
    _time(findings, case, maps[OURS])
    seconds = {name: each.seconds / len(case.references) for name, each in runs.items()}
    row("seconds of a whole run an image", seconds, unit="s")
    first = fountain_case(folder, scratch / "first", _FIRST_RUN).scene
    begun = run_depth(first.root, "laptop", cache=scratch / "compiled")
    findings.note(
        f"{case.name}: a first run, which compiles, holds {begun.peak_mib:.0f} MiB at most and takes "
        f"{begun.seconds:.0f} s for three images"
    )
    _judge(
        findings,
        case.name,
        Bar("consistent", consistent[OURS].consistent, 0.90, is_least=True),
        Bar("points within 0.25 %", tracks[OURS][0.0025], 0.945, is_least=True),
        Bar("seconds an image", seconds[OURS], 10.0),
        Bar("MB at most", runs[OURS].peak_mib * 2**20 / 1e6, 700.0),
        Bar("fast, consistent", consistent[FAST].consistent, 0.86, is_least=True),
        Bar("fast, seconds an image", seconds[FAST], 3.0),
    )


def _time(findings: Findings, case: DepthCase, maps: Mapping[str, Map] | None = None) -> None:
    """Match some images in turns, all passes; the sources' own depth is there, but in quick runs."""
    matched = [name for name in case.references if name in case.sources]
    places = np.linspace(0, len(matched) - 1, _NUM_TIMED).round().astype(int)
    chosen = [matched[place] for place in places]
    inverse = {name: 1 / torch.from_numpy(depth) for name, depth in (maps or {}).items()}

    def peer(matcher: Matcher) -> Callable[[str], object]:
        return lambda name: matcher(
            case.pictures[name], case.of(case.sources[name]), case.ranges[name]
        )

    contenders = [
        Contender.over(OURS, lambda name: Passes(case, laptop()).one(name, inverse), chosen),
        Contender.over(FAST, lambda name: Passes(case, fast()).one(name, inverse), chosen),
        *(Contender.over(name, peer(matcher), chosen) for name, matcher in PEERS.items()),
    ]
    seconds = time_in_turns(contenders, len(chosen), warm_up=0)
    findings.rows += sample_rows(f"{case.name}: seconds an image", seconds, "s")


def _maps(scene: Scene, case: DepthCase) -> dict[str, Map]:
    """Return the depth maps of a scene; an image that was refused has estimated nothing."""
    return {
        name: read_map(path) if (path := scene.depth_map(name)).is_file() else _nothing(case, name)
        for name in case.references
    }


def _peer_maps(case: DepthCase, matcher: Matcher, names: Sequence[str]) -> dict[str, Map]:
    return {
        name: matcher(case.pictures[name], case.of(case.sources[name]), case.ranges[name])
        if name in case.sources
        else _nothing(case, name)
        for name in names
    }


def _nothing(case: DepthCase, name: str) -> Map:
    return np.zeros(tuple(case.pictures[name].grey.shape), np.float32)


def _geometric_masks(scene: Scene, case: DepthCase) -> dict[str, Mask]:
    """Return what the default geometric mask keeps."""
    settings, dense = MaskSettings(), open_dense(scene.root)
    sources = source_views(dense, settings.num_sources, read=dense.read)
    kept: dict[str, Mask] = {name: _nothing(case, name) > 0 for name in case.references}

    def grey(view: DepthView) -> Tensor:
        return case.pictures[view.name].grey

    for name, others in sources.items():
        kept[name] = geometric_mask(
            dense.read(name), map(dense.read, others), settings, grey
        ).numpy()
    return kept


def _words(found: Score, limit: float) -> str:
    return (
        f"abs-rel {found.mean:.2%} (median {found.median:.2%}), {found.within[limit]:.1%} of the estimates "
        f"within {limit:.0%}, completeness {found.complete:.1%}"
    )


def _compare(findings: Findings, case: str, scores: Mapping[str, Score], limit: float) -> None:
    """Add the rows of scores: errors of what is estimated, shares of all pixels with a true depth."""
    row = partial(_row, findings, case)
    row("abs-rel", {name: 100 * each.mean for name, each in scores.items()})
    shares = {name: 100 * each.within[limit] * each.complete for name, each in scores.items()}
    row(f"share within {limit:.0%}", shares, is_more=True)
    row("completeness", {name: 100 * each.complete for name, each in scores.items()}, is_more=True)


def _row(
    findings: Findings,
    case: str,
    what: str,
    values: Mapping[str, float],
    *,
    unit: str = "%",
    is_more: bool = False,
) -> None:
    """Add a row a provider; one that has nothing to be compared with is left out."""
    samples = {
        name: [value] for name, value in values.items() if name == OURS or 0 < value < np.inf
    }
    findings.rows += sample_rows(f"{case}: {what}", samples, unit, is_more_better=is_more)


def _judge(findings: Findings, case: str, *bars: Bar) -> None:
    for bar in bars:
        findings.note(f"bar {bar.verdict}: {case}, {bar.what} {bar.value:.4g}, asked {bar.bound:g}")
