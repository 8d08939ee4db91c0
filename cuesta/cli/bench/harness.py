"""What every bench shares: prove the answers, time all contenders in turns, say how they compare.

A repetition runs every contender once, in an order drawn anew each time, on the same batch; so a
machine that slows down for a while slows all of them. Medians are compared; low and high are the
10th and 90th percentile.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from cuesta.cli.bench.machine import Load, Machine, watch_load

Item = TypeVar("Item")
OURS = "cuesta"
WARM_UP = 3  # repetitions before those that count: compilation, page faults, caches


class WrongAnswerError(RuntimeError):
    """Say that our own answer is wrong, so that nothing is timed."""


@final
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Say how much to measure."""

    quick: bool = False

    @property
    def repetitions(self) -> int:
        """Return how many repetitions count."""
        return 2 if self.quick else 20


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold what one provider needed for one case.

    `speedup_of_ours` is the provider's median over ours for times and bytes, ours over the
    provider's for rates: above 1, we are the better one.
    """

    case: str
    provider: str
    median: float
    low: float
    high: float
    unit: str
    speedup_of_ours: float


@final
@dataclass
class Findings:
    """Gather rows, in words what was proved, what could not run and what to know, and pictures (PNG)
    by their names.
    """

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Add a note unless it is there."""
        if text not in self.notes:
            self.notes.append(text)


@final
@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Hold what a bench found and where; `report` writes it."""

    bench: str
    quick: bool
    machine: Machine
    load: Load
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    pictures: Mapping[str, bytes]


Measure = Callable[[Settings], Findings]


def run(name: str, measure: Measure, settings: Settings) -> BenchResult:
    """Return the result of one bench, with the machine and its load before and after."""
    machine = Machine.here()
    with watch_load() as load:
        findings = measure(settings)
    return BenchResult(
        bench=name,
        quick=settings.quick,
        machine=machine,
        load=load(),
        rows=tuple(findings.rows),
        notes=tuple(findings.notes),
        pictures=findings.pictures,
    )


def progress(text: str) -> None:
    """Say on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


class Answer(NamedTuple):
    """Name one tensor that a contender computed."""

    name: str
    value: Tensor


def wrong_answer(
    actual: Sequence[Answer],
    reference: Sequence[Answer],
    oracle: Sequence[Answer],
    *,
    leeway: float = 1.0,
) -> str | None:
    """Return what is wrong with `actual`, or None: the twin rule, times `leeway`.

    Against the float64 oracle, its max error may be twice and its RMS error 1.5 times that of the
    reference run in the dtype of storage, rounded as `actual` is; the slack is eps * max|oracle|, a
    quarter of it on RMS.
    """
    for mine, same, exact in zip(actual, reference, oracle, strict=True):
        if mine.value.shape != exact.value.shape:
            return (
                f"{mine.name} has shape {tuple(mine.value.shape)}, not {tuple(exact.value.shape)}"
            )
        if not bool(mine.value.isfinite().all()):
            return f"{mine.name} is not finite"
        truth = exact.value.double()
        ours = (mine.value.double() - truth).abs()
        theirs = (same.value.to(mine.value.dtype).double() - truth).abs()
        slack = torch.finfo(mine.value.dtype).eps * float(truth.abs().max())
        for kind, got, allowed in (
            ("max", float(ours.max()), leeway * (2 * float(theirs.max()) + slack)),
            ("RMS", _rms(ours), leeway * (1.5 * _rms(theirs) + slack / 4)),
        ):
            if not got <= allowed:
                return f"{mine.name} has {kind} error {got:.1e}, allowed {allowed:.1e}"
    return None


@final
@dataclass(frozen=True)
class Contender:
    """Name a provider and what it does in repetition i; what it returns is dropped.

    A slow one may take part in each `every`-th repetition only.
    """

    provider: str
    run: Callable[[int], object]
    every: int = 1

    @staticmethod
    def over(provider: str, work: Callable[[Item], object], items: Sequence[Item]) -> Contender:
        """Return the contender that works on item i in repetition i."""
        return Contender(provider, lambda repetition: work(items[repetition]))


def time_in_turns(
    contenders: Sequence[Contender], repetitions: int, *, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Return the seconds of every provider's repetitions, after `warm_up` that do not count.

    `run` is called with 0 .. warm_up + repetitions - 1. The collector of garbage is off meanwhile.
    """
    seconds: dict[str, list[float]] = {contender.provider: [] for contender in contenders}
    draw = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for repetition in range(warm_up + repetitions):
            present = [each for each in contenders if repetition % each.every == 0]
            for contender in draw.sample(present, len(present)):
                began = time.perf_counter()
                kept = contender.run(repetition)
                ended = time.perf_counter()
                del kept
                if repetition >= warm_up:
                    seconds[contender.provider].append(ended - began)
    finally:
        gc.enable()
    return seconds


def time_rows(case: str, seconds: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return a row in ms a provider; the first of ours is what `speedup_of_ours` compares with."""
    return _rows(case, {name: [1e3 * s for s in each] for name, each in seconds.items()}, "ms")


def rate_rows(
    case: str, seconds: Mapping[str, Sequence[float]], amount: float, unit: str
) -> list[Row]:
    """Return a row a provider of `amount` per second in `unit`."""
    rates = {name: [amount / s for s in each] for name, each in seconds.items()}
    return _rows(case, rates, unit, is_rate=True)


def sample_rows(
    case: str, samples: Mapping[str, Sequence[float]], unit: str, *, is_more_better: bool = False
) -> list[Row]:
    """Return a row a provider of numbers of which less is better, unless `is_more_better`."""
    return _rows(case, samples, unit, is_rate=is_more_better)


def check_bars(findings: Findings, bars: Iterable[Bar]) -> None:
    """Note for every bar whether it is met, where its case and provider were measured."""
    for bar in bars:
        met = [
            row.speedup_of_ours
            for row in findings.rows
            if row.case == bar.case and row.provider in bar.providers
        ]
        if met:
            verdict = "met" if min(met) >= bar.least else "MISSED"
            findings.note(
                f"bar {verdict}: {bar.case}, {min(met):.2f}x {' or '.join(bar.providers)}, "
                f"asked {bar.least:g}x"
            )


@final
@dataclass(frozen=True)
class Bar:
    """Ask for a speedup of at least `least` over the best of `providers` in a case."""

    case: str
    providers: tuple[str, ...]
    least: float


def refuse(bench: str, what: str) -> None:
    """Raise `WrongAnswerError`: our own answer is wrong."""
    raise WrongAnswerError(
        f"{bench}: {OURS} gives a wrong answer ({what}); no time is printed; run `pytest tests`"
    )


def _rows(
    case: str, samples: Mapping[str, Sequence[float]], unit: str, *, is_rate: bool = False
) -> list[Row]:
    ours = float(np.median(samples[OURS]))
    rows = []
    for provider, values in samples.items():
        low, median, high = np.percentile(values, (10, 50, 90)).tolist()
        better = 1.0 if provider == OURS else ours / median if is_rate else median / ours
        rows.append(
            Row(
                case=case,
                provider=provider,
                median=median,
                low=low,
                high=high,
                unit=unit,
                speedup_of_ours=better,
            )
        )
    return rows


def _rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())
