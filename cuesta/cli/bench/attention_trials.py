"""What the benches of attention share: providers prove their answers, are timed in turns, and have
their memory measured.

A provider turns the inputs of a case into `Work` before any clock runs: leaves q, k and v in the
layout that it wants, and a function from them to the output. Layouts are ours, packed [T, H, D],
or padded [B, H, L, D].
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from cuesta.cli.bench.attention_cases import AttentionCase, Inputs
from cuesta.cli.bench.harness import (
    OURS,
    Answer,
    Contender,
    Findings,
    Row,
    Settings,
    progress,
    rate_rows,
    refuse,
    sample_rows,
    time_in_turns,
    time_rows,
    wrong_answer,
)
from cuesta.cli.bench.peak_memory import peaks_of
from cuesta.cli.bench.peers import Peer, importable, quietly
from cuesta.ops import force_body

FORWARD, STEP = "forward", "forward + backward"
MEMORY = f"peak memory, {STEP}"
TRUE_LENGTHS = "true lengths"  # those that a rate counts the FLOPs of
STEP_PRODUCTS = 3.5  # matrix products of forward + backward over those of forward
HOST_BYTES = 4_000_000_000  # what a provider may need to be timed
DEVICE_SHARE = 0.8  # of a GPU's memory
SLOW_S, SLOW_EVERY = 0.1, 4  # who takes as long runs in each fourth repetition


@final
@dataclass(frozen=True, eq=False)
class Work:
    """Hold a provider's leaves q, k and v, the gradient of its output, and how it computes."""

    leaves: tuple[Tensor, Tensor, Tensor]
    grad: Tensor
    run: Callable[[], Tensor]

    def forward(self) -> Tensor:
        """Return the output."""
        with torch.no_grad():
            return self.run()

    def step(self) -> tuple[Tensor, ...]:
        """Return the output and the gradients of the leaves."""
        output = self.run()
        return output, *torch.autograd.grad(output, self.leaves, self.grad)


class Footprint(NamedTuple):
    """Count what forward holds at once: padded tensors [B, H, L, D] and scores [B, H, L, L]. Backward
    doubles the former and adds scores once more. Where `is_cut`, rows are padded to the longest of
    the batch.
    """

    padded: int = 0
    scores: int = 0
    is_cut: bool = False

    def num_bytes(self, inputs: Inputs, what: str) -> int:
        """Return the bytes that a forward or a step needs, roughly."""
        inputs = inputs.cut() if self.is_cut else inputs
        if what == FORWARD:
            return self.padded * inputs.padded_bytes + self.scores * inputs.scores_bytes
        scores = self.scores + 1 if self.scores else 0
        return 2 * self.padded * inputs.padded_bytes + scores * inputs.scores_bytes


LITTLE = Footprint()


@final
@dataclass(frozen=True, kw_only=True)
class Provider:
    """Name who attends, how it prepares, and what is known of it beforehand.

    One that `sees_padding` is right on full rows alone, and is proved on those. One of a `peer` is
    left out where that cannot be imported.
    """

    name: str
    prepare: Callable[[Inputs], Work]
    footprint: Footprint = LITTLE
    sees_padding: bool = False
    peer: Peer | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Trial:
    """Say who is measured in a case, in what."""

    case: AttentionCase
    forward: tuple[Provider, ...] = ()
    step: tuple[Provider, ...] = ()
    memory: tuple[Provider, ...] = ()


class RateBar(NamedTuple):
    """Ask for at least `least` TFLOP/s of our forward, on true lengths, in a case."""

    case: str
    least: float

    def reached(self, rows: Sequence[Row]) -> float | None:
        """Return the TFLOP/s, None where not measured."""
        rate = _median_of_ours(f"{self.case}: {FORWARD}, {TRUE_LENGTHS}", rows)
        return None if rate is None else rate / 1e3

    def __str__(self) -> str:
        return f"{self.case}: {FORWARD}, TFLOP/s on {TRUE_LENGTHS}"


class BackwardBar(NamedTuple):
    """Ask for at least `least` of the FLOP/s of our forward in our backward, a step less a forward."""

    case: str
    least: float

    def reached(self, rows: Sequence[Row]) -> float | None:
        """Return the share, None where not measured."""
        forward, step = (_median_of_ours(f"{self.case}: {what}", rows) for what in (FORWARD, STEP))
        if forward is None or step is None:
            return None
        return (STEP_PRODUCTS - 1) * forward / (step - forward)

    def __str__(self) -> str:
        return f"{self.case}: FLOP/s of backward over those of forward"


class Verdict(NamedTuple):
    """Say what is wrong with a provider's forward and step; None where right."""

    forward: str | None
    step: str | None


def measure_trials(
    bench: str, trials: Sequence[Trial], settings: Settings, *, oracle: Provider
) -> Findings:
    """Prove and measure every trial; the oracle's op under its reference body is the truth."""
    findings = Findings()
    everyone = {p.name: p for t in trials for p in (*t.forward, *t.step, *t.memory)}
    peers = {p.peer: None for p in everyone.values() if p.peer is not None}
    present = importable(list(peers), findings, bench=bench)
    faults: dict[str, list[str]] = {}
    for number, trial in enumerate(trials):
        progress(f"{bench}: case {number + 1} of {len(trials)}: {trial.case.name}")
        named = {p.name: p for p in (*trial.forward, *trial.step, *trial.memory)}
        here = [p for p in named.values() if p.peer is None or p.peer in present]
        with quietly():
            verdicts = {p.name: prove(trial.case, p, oracle) for p in here}
        _judge(bench, trial, verdicts, faults)
        _time(findings, trial, verdicts, faults, settings)
        _weigh(findings, bench, trial, verdicts, faults, settings)
        gc.collect()
    for fault, cases in faults.items():
        findings.note(f"not measured: {fault} ({'; '.join(cases)})")
    findings.note(
        "every provider measured was first compared with a float64 reference on a small instance "
        "of each case: the output, and the gradients of queries, keys and values"
    )
    return findings


def check_rates(findings: Findings, bars: Iterable[RateBar | BackwardBar]) -> None:
    """Note for every bar whether it is met, where its case was measured."""
    for bar in bars:
        reached = bar.reached(findings.rows)
        if reached is not None:
            verdict = "met" if reached >= bar.least else "MISSED"
            findings.note(f"bar {verdict}: {bar}, {reached:.3g}, asked {bar.least:g}")


def _median_of_ours(case: str, rows: Sequence[Row]) -> float | None:
    return next((r.median for r in rows if r.case == case and r.provider == OURS), None)


def prove(case: AttentionCase, provider: Provider, oracle: Provider) -> Verdict:
    """Compare a provider with the float64 reference on a small instance of `case`."""
    small = case.small()
    inputs = (small.full() if provider.sees_padding else small).inputs()
    with force_body("reference"):
        exact = _answers(oracle.prepare(inputs.to(torch.float64)), inputs, STEP)
        reference = _answers(oracle.prepare(inputs), inputs, STEP)
    reasons: list[str | None] = []
    for what, count in ((FORWARD, 1), (STEP, len(exact))):
        try:
            actual = _answers(provider.prepare(inputs), inputs, what)
        except Exception as error:  # whatever a peer raises is told in the result
            if provider.name == OURS:
                raise
            reasons.append(_fault(error))
            continue
        reasons.append(wrong_answer(actual, reference[:count], exact[:count]))
    return Verdict(*reasons)


def _answers(work: Work, inputs: Inputs, what: str) -> list[Answer]:
    """Return the output, and in a step the gradients, all packed [T, H, D]."""
    found = work.step() if what == STEP else (work.forward(),)
    names = ("output", "gradient of q", "gradient of k", "gradient of v")
    ours = (inputs.q, inputs.q, inputs.k, inputs.v)
    return [
        Answer(name, packed(tensor.detach(), own.offsets))
        for name, tensor, own in zip(names, found, ours, strict=False)
    ]


def padded(packed: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """Return packed [T, H, D] as padded [B, H, L, D], zeros behind each row."""
    is_there = torch.arange(longest, device=packed.device) < offsets.diff()[:, None]
    out = packed.new_zeros(*is_there.shape, *packed.shape[1:])
    out[is_there] = packed
    return out.transpose(1, 2).contiguous()


def packed(tensor: Tensor, offsets: Tensor) -> Tensor:
    """Return packed [T, H, D] of the same, or of padded [B, H, L, D]."""
    if tensor.dim() == 3:
        return tensor
    is_there = torch.arange(tensor.shape[2], device=tensor.device) < offsets.diff()[:, None]
    return tensor.transpose(1, 2)[is_there]


def _judge(
    bench: str,
    trial: Trial,
    verdicts: Mapping[str, Verdict],
    faults: dict[str, list[str]],
) -> None:
    """Stop the bench where we are wrong; add to `faults` what peers get wrong, with the case."""
    for name, verdict in verdicts.items():
        for what, reason in zip((FORWARD, STEP), verdict, strict=True):
            if reason is not None and name == OURS:
                refuse(bench, f"{trial.case.name}, {what}: {reason}")
            if reason is not None and name in {p.name for p in _providers(trial, what)}:
                faults.setdefault(f"{name}, {what}: {reason}", []).append(trial.case.name)


def _providers(trial: Trial, what: str) -> tuple[Provider, ...]:
    return trial.forward if what == FORWARD else (*trial.step, *trial.memory)


def _time(
    findings: Findings,
    trial: Trial,
    verdicts: Mapping[str, Verdict],
    faults: dict[str, list[str]],
    settings: Settings,
) -> None:
    if not (trial.forward or trial.step):
        return
    inputs = trial.case.inputs()
    works: dict[str, Work] = {}
    for what, providers in ((FORWARD, trial.forward), (STEP, trial.step)):
        contenders = []
        with quietly():
            for provider in providers:
                if not _is_right(verdicts, provider, what):
                    continue
                if not _fits(findings, trial.case, provider, inputs, what):
                    continue
                try:
                    work = works.get(provider.name) or provider.prepare(inputs)
                    works[provider.name] = work
                    call = work.forward if what == FORWARD else work.step
                    contenders.append(_contender(provider, call, inputs.q.values.device))
                except Exception as error:  # right on a small instance, and yet not here
                    _blame(faults, trial, provider, what, error)
            if contenders:
                seconds = time_in_turns(contenders, settings.repetitions)
                share = 1.0 if what == FORWARD else STEP_PRODUCTS
                case, amount = f"{trial.case.name}: {what}", share * inputs.num_products / 1e9
                findings.rows += time_rows(case, seconds)
                findings.rows += rate_rows(f"{case}, {TRUE_LENGTHS}", seconds, amount, "GFLOP/s")


def _is_right(verdicts: Mapping[str, Verdict], provider: Provider, what: str) -> bool:
    if provider.name not in verdicts:
        return False
    verdict = verdicts[provider.name]
    return (verdict.forward if what == FORWARD else verdict.step) is None


def _blame(
    faults: dict[str, list[str]], trial: Trial, provider: Provider, what: str, error: Exception
) -> None:
    """Add to `faults` why a peer does not run; what we raise goes on."""
    if provider.name == OURS:
        raise error
    fault = f"{provider.name}, {what}: {_fault(error)}"
    faults.setdefault(fault, []).append(trial.case.name)


def _contender(provider: Provider, call: Callable[[], object], device: torch.device) -> Contender:
    """Return the contender, after two calls that show whether it is slow."""

    def run(_: int = 0) -> object:
        kept = call()
        if device.type != "cpu":
            torch.cuda.synchronize(device)
        return kept

    run()
    began = time.perf_counter()
    run()
    is_slow = time.perf_counter() - began > SLOW_S
    return Contender(provider.name, run, SLOW_EVERY if is_slow else 1)


def _fits(
    findings: Findings, case: AttentionCase, provider: Provider, inputs: Inputs, what: str
) -> bool:
    """Note a provider that would need too much memory to be timed."""
    needed, limit = provider.footprint.num_bytes(inputs, what), HOST_BYTES
    if case.device != "cpu":
        limit = int(DEVICE_SHARE * torch.cuda.get_device_properties(case.device).total_memory)
    if needed > limit:
        findings.note(
            f"left out: {provider.name}, {case.name}, {what}: "
            f"needs some {needed / 2**30:.1f} GiB, more than {limit / 2**30:.1f} GiB"
        )
    return needed <= limit


def _weigh(
    findings: Findings,
    bench: str,
    trial: Trial,
    verdicts: Mapping[str, Verdict],
    faults: dict[str, list[str]],
    settings: Settings,
) -> None:
    """Add rows of how much memory a step of each provider takes beyond its inputs."""
    if not trial.memory:
        return
    inputs = trial.case.inputs()
    samples = {}
    for provider in trial.memory:
        if not _is_right(verdicts, provider, STEP):
            continue
        if not _fits(findings, trial.case, provider, inputs, MEMORY):
            continue
        try:
            samples[provider.name] = peaks_of(bench, trial.case, provider, settings)
        except RuntimeError as error:
            _blame(faults, trial, provider, MEMORY, error)
    findings.rows += sample_rows(f"{trial.case.name}: {MEMORY}", samples, "MiB")


def _fault(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
    return f"does not run: {type(error).__name__}: {text.strip()[:120]}"
