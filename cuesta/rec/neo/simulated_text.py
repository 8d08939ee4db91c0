"""Simulated steps in words and in plain data, each of which says that nothing of it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cuesta.rec.neo.simulate import Memory, Simulated, SimulateRequest
from cuesta.rec.neo.steps import Step

_TERMS = {
    "dense": "dense",
    "lookups": "lookups",
    "waiting": "waits",
    "ids": "ids",
    "answers": "answers",
    "gradients": "grads",
    "all_reduce": "sums",
    "fixed": "fixed",
}


def in_words(
    request: SimulateRequest,
    rungs: Sequence[Simulated],
    grown: Sequence[Simulated],
    sizes: Sequence[Memory],
) -> str:
    """Return tables that a person can read."""
    return "\n".join(
        [
            *_head(request),
            *(_ladder(rungs) if rungs else ()),
            *(_scaling(grown) if grown else _too_large(request, sizes)),
            *(_memory(sizes) if sizes else ()),
        ]
    )


def to_json(
    rungs: Sequence[Simulated], grown: Sequence[Simulated], sizes: Sequence[Memory]
) -> dict[str, Any]:
    """Return the same in plain data."""
    return {
        "simulated": True,
        "ladder": [_plain(each) for each in rungs],
        "scaling": [_plain(each) for each in grown],
        "memory": [each._asdict() for each in sizes],
    }


def _plain(each: Simulated) -> dict[str, Any]:
    return {
        "name": each.name,
        "ranks": each.planned.cluster.world_size,
        "rows_per_second": each.rows_per_second,
        "milliseconds": each.step.total,
        "step": each.step._asdict(),
    }


def _head(request: SimulateRequest) -> Iterator[str]:
    cluster, conditions = request.cluster, request.conditions
    yield f"simulated: {request.name}; no number here was measured"
    yield (
        f"a rank: lookups {cluster.fast:.0f} GiB/s, products {cluster.constants.gflops / 1e3:.0f} TFLOP/s; links "
        f"{cluster.inside:.0f} GiB/s inside nodes of {cluster.ranks_per_node}, {cluster.across:.1f} across, "
        f"{cluster.constants.latency_us:g} us a peer"
    )
    yield f"ranks' times deviate by {conditions.spread:.1%}; of exchanges, below is what nothing hides:"
    if conditions.overlaps:
        yield "ids hide behind the top layers' forward of the batch before, answers and gradients behind the bottom"
        yield "layers, sums of dense gradients behind all layers' backward"
    else:
        yield "nothing hides"


def _columns(step: Step) -> str:
    return " ".join(f"{value:8.1f}" for value in step)


def _header(width: int) -> str:
    return f"{'':{width}} {'rows/s':>12} {'':>8} " + " ".join(
        f"{words:>8}" for words in _TERMS.values()
    )


def _ladder(rungs: Sequence[Simulated]) -> Iterator[str]:
    width = max(len(each.name) for each in rungs)
    yield ""
    yield f"simulated ladder, {rungs[0].planned.cluster.world_size} ranks, each step with those before (ms)"
    yield _header(width)
    before = rungs[0].rows_per_second
    for each in rungs:
        gain = f"{each.rows_per_second / before - 1:+.0%}" if each is not rungs[0] else ""
        before = each.rows_per_second
        yield f"{each.name:{width}} {each.rows_per_second:12,.0f} {gain:>8} {_columns(each.step)}"
    total = rungs[-1].rows_per_second / rungs[0].rows_per_second - 1
    yield f"together {total:+.0%} (simulated); the paper about +87 %"


def _scaling(grown: Sequence[Simulated]) -> Iterator[str]:
    width = max(len(each.name) for each in grown)
    yield ""
    yield "simulated weak scaling: rows a second a rank against the smallest number of ranks (ms)"
    yield _header(width)
    first = grown[0].rows_per_second / grown[0].planned.cluster.world_size
    for each in grown:
        share = each.rows_per_second / each.planned.cluster.world_size / first
        yield f"{each.name:{width}} {each.rows_per_second:12,.0f} {share:8.0%} {_columns(each.step)}"


def _too_large(request: SimulateRequest, sizes: Sequence[Memory]) -> Iterator[str]:
    cluster, least = request.cluster, sizes[-1]
    yield ""
    yield (
        f"no step: {(least.weights + least.state) / 1e12:.1f} TB are more than the "
        f"{cluster.world_size * cluster.room / 1e12:.1f} TB that {cluster.world_size} ranks have for tables; the paper "
        "keeps the rest in slower memory, which is not simulated"
    )


def _memory(sizes: Sequence[Memory]) -> Iterator[str]:
    width = max(len(each.name) for each in sizes)
    yield ""
    yield "memory of all tables, computed (TB)"
    yield f"{'':{width}} {'weights':>9} {'state':>9} {'sum':>9}"
    for each in sizes:
        parts = (each.weights, each.state, each.weights + each.state)
        yield f"{each.name:{width}} " + " ".join(f"{part / 1e12:9.2f}" for part in parts)
