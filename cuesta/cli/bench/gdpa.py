"""`cuesta bench gdpa`: generalised dot-product attention, scale * act(Q K^T) V of each row, against
padded tensors and products row by row.

Queries attend to the keys of their own row, as many as there are queries, or to 256 keys made for
it: the feed-forward network personalised to a row of Kunlun, arXiv 2602.10016. The activation is
fast_gelu, the scale 1 / longest. On a machine with CUDA the GPU's cases run instead, those of the
published protocol. Padding queries and keys with zeros changes no answer, since the
activation of 0 is 0; so the padded providers need no mask.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from cuesta.cli.bench.attention_cases import DTYPES, AttentionCase, Inputs
from cuesta.cli.bench.attention_providers import packed_leaves, padded_leaves
from cuesta.cli.bench.attention_trials import (
    FORWARD,
    STEP,
    BackwardBar,
    Footprint,
    Provider,
    RateBar,
    Trial,
    Work,
    check_rates,
    measure_trials,
    padded,
)
from cuesta.cli.bench.harness import OURS, Bar, Findings, Settings, check_bars

BENCH = "gdpa"
LONGEST = (256, 512, 1024)
DENSITIES = (0.5, 1.0)
NUM_KEYS = 256
DIM = 64
GPU_DIM = 128
GPU_SELF_RATES = {256: 150.0, 512: 220.0, 1024: 280.0, 2048: 330.0}  # TFLOP/s by the longest
GPU_CROSS_RATE = 230.0
GPU_BACKWARD_SHARE = 0.45


def measure(settings: Settings) -> Findings:
    """Prove and measure every case."""
    findings = measure_trials(BENCH, trials(settings), settings, oracle=CUESTA)
    findings.note(
        f"{EAGER.name} and {MATERIALISED.name} have their rows padded to the longest that a case "
        "allows before the clock starts, and give padded rows"
    )
    if not settings.quick:
        check_bars(findings, bars())
        if torch.cuda.is_available():
            check_rates(findings, gpu_rate_bars())
    return findings


def trials(settings: Settings) -> list[Trial]:
    """Return what is measured."""
    if settings.quick:
        cases = [
            AttentionCase(num_rows=3, longest=40, density=0.5, num_keys=keys, dim=16, dtype=dtype)
            for keys in (None, 24)
            for dtype in DTYPES
        ]
        return [Trial(case=case, forward=EVERYONE, step=EVERYONE) for case in cases]
    if torch.cuda.is_available():
        return list(gpu_trials())
    timed = [Trial(case=case, forward=EVERYONE, step=EVERYONE) for case in _cases()]
    return [*timed, Trial(case=_case(512, 0.5, None, torch.float32), memory=EVERYONE)]


def bars() -> Iterator[Bar]:
    """Yield what issue and specification ask for on this machine, but for rates."""
    if torch.cuda.is_available():
        yield from gpu_bars()
        return
    for case in _cases():
        for what in (FORWARD, STEP):
            name = f"{case.name}: {what}"
            yield Bar(name, tuple(p.name for p in EVERYONE if p is not CUESTA), 1.0)
            if case.density == 0.5:
                yield Bar(name, (MATERIALISED.name,), 2.0)


def gpu_trials() -> Iterator[Trial]:
    """Yield the cases of a GPU; a loop over so many rows would take minutes."""
    for case in _gpu_cases():
        yield Trial(case=case, forward=ON_GPU, step=ON_GPU)


def gpu_bars() -> Iterator[Bar]:
    """Yield what the specification asks for against networks whose weights stand as matrices."""
    for case in _gpu_cases():
        if case.num_keys:
            for what in (FORWARD, STEP):
                yield Bar(f"{case.name}: {what}", (MATERIALISED.name,), 2.0)


def gpu_rate_bars() -> Iterator[RateBar | BackwardBar]:
    """Yield the rates of the specification's item 22."""
    for case in _gpu_cases():
        yield RateBar(case.name, GPU_CROSS_RATE if case.num_keys else GPU_SELF_RATES[case.longest])
        yield BackwardBar(case.name, GPU_BACKWARD_SHARE)


def ours(inputs: Inputs) -> Work:
    """Attend on packed rows with our op."""
    from cuesta.ops import gdpa

    leaves, scale = packed_leaves(inputs), _scale(inputs)
    rows = (inputs.q, inputs.k, inputs.v)

    def run() -> Tensor:
        q, k, v = (own.with_values(leaf) for own, leaf in zip(rows, leaves, strict=True))
        return gdpa(q, k, v, activation="fast_gelu", scale=scale).values

    return Work(leaves, inputs.grad, run)


def padded_eager(inputs: Inputs) -> Work:
    """Attend by the formula on padded rows."""
    leaves, scale = padded_leaves(inputs), _scale(inputs)
    q, k, v = leaves
    grad = padded(inputs.grad, inputs.q.offsets, inputs.longest)
    return Work(leaves, grad, lambda: _activated(q @ k.transpose(2, 3)) @ v * scale)


def looped(inputs: Inputs) -> Work:
    """Attend row by row on views; outputs are packed again."""
    leaves, scale = packed_leaves(inputs), _scale(inputs)
    lengths = inputs.q.lengths().tolist(), inputs.k.lengths().tolist(), inputs.v.lengths().tolist()

    def run() -> Tensor:
        outs = []
        for q, k, v in zip(
            *(x.split(n) for x, n in zip(leaves, lengths, strict=True)), strict=True
        ):
            scores = q.transpose(0, 1) @ k.permute(1, 2, 0)
            outs.append((_activated(scores) @ v.transpose(0, 1)).transpose(0, 1))
        return torch.cat(outs) * scale

    return Work(leaves, inputs.grad, run)


def materialised(inputs: Inputs) -> Work:
    """Run a two-layer network a row and head, whose weights stand as matrices, on padded queries."""
    q, k, v = padded_leaves(inputs)
    first = k.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()  # W1 = K^T
    scale = _scale(inputs)
    grad = padded(inputs.grad, inputs.q.offsets, inputs.longest)

    def run() -> Tensor:
        x, w1, w2 = q.flatten(0, 1), first.transpose(2, 3).flatten(0, 1), v.flatten(0, 1)
        out = torch.bmm(_activated(torch.bmm(x, w1)), w2) * scale
        return out.unflatten(0, q.shape[:2])

    return Work((q, first, v), grad, run)


def _activated(scores: Tensor) -> Tensor:
    return F.gelu(scores, approximate="tanh")


def _scale(inputs: Inputs) -> float:
    return 1 / inputs.longest


CUESTA = Provider(name=OURS, prepare=ours)
EAGER = Provider(name="padded eager", prepare=padded_eager, footprint=Footprint(padded=4, scores=2))
LOOP = Provider(name="loop of matmuls", prepare=looped)
MATERIALISED = Provider(
    name="materialised per-sample bmm",
    prepare=materialised,
    footprint=Footprint(padded=4, scores=2),
)
EVERYONE = (CUESTA, EAGER, LOOP, MATERIALISED)
ON_GPU = (CUESTA, EAGER, MATERIALISED)


def _case(longest: int, density: float, num_keys: int | None, dtype: torch.dtype) -> AttentionCase:
    return AttentionCase(
        num_rows=16,
        longest=longest,
        density=density,
        num_keys=num_keys,
        key_scale=DIM**-0.5,  # scores of variance 1
        dim=DIM,
        dtype=dtype,
    )


def _cases() -> Iterator[AttentionCase]:
    for num_keys in (None, NUM_KEYS):
        for longest in LONGEST:
            for density in DENSITIES:
                for dtype in DTYPES:
                    yield _case(longest, density, num_keys, dtype)


def _gpu_cases() -> Iterator[AttentionCase]:
    for num_keys in (None, NUM_KEYS):
        for longest in GPU_SELF_RATES:
            yield AttentionCase(
                num_rows=1152,
                longest=longest,
                density=0.5,
                num_keys=num_keys,
                key_scale=GPU_DIM**-0.5,
                dim=GPU_DIM,
                dtype=torch.bfloat16,
                device="cuda",
            )
