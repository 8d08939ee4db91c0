"""`cuesta bench jagged_attention`: softmax attention of ragged rows with themselves, against what
people use on them.

Forward, and forward + backward, in float32 and bfloat16: over short and long rows, over the
densities of the published protocol (Jagged Flash Attention, RecSys 2024, arXiv 2409.15373), and
how much memory a step takes. Padded providers get rows padded to the longest that the case allows,
as the protocol does; FLOPs are those of true lengths. On a machine with CUDA the GPU's cases run
instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from cuesta.cli.bench import attention_gpu
from cuesta.cli.bench.attention_cases import DTYPES, AttentionCase
from cuesta.cli.bench.attention_providers import (
    COPIED,
    CUESTA,
    DENSE,
    EVERYONE,
    FBGEMM_JAGGED,
    FBGEMM_PADDED,
    FITTED,
    FLEX,
    LOOP,
    MASKED,
    NESTED,
    PADDED,
    UNFUSED,
)
from cuesta.cli.bench.attention_trials import (
    FORWARD,
    MEMORY,
    STEP,
    Provider,
    Trial,
    check_rates,
    measure_trials,
)
from cuesta.cli.bench.density_picture import draw_densities
from cuesta.cli.bench.harness import Bar, Findings, Settings, check_bars

BENCH = "jagged_attention"
DENSITIES = tuple(tenths / 10 for tenths in range(1, 11))
MEANS = (8, 16, 32)
ON_SHORT_ROWS = (CUESTA, LOOP, FITTED, UNFUSED)  # the others need seconds and gigabytes a call
SWEPT = (CUESTA, PADDED, COPIED, LOOP)
AT_HALF = (DENSE, FLEX, FBGEMM_PADDED, FBGEMM_JAGGED)  # too slow, or to compile, for every density
WEIGHED = (CUESTA, PADDED, MASKED, DENSE, LOOP, UNFUSED)


_WHERE_FEW = (
    f"{NESTED.name} takes seconds a call and is measured at mean 64 alone; "
    f"{', '.join(p.name for p in AT_HALF)} are measured there and at density 0.5, "
    f"{DENSE.name} at density 1 too, so that the bench ends within ten minutes; "
    f"{PADDED.name} and {COPIED.name} differ by the copies from packed rows and back"
)


def measure(settings: Settings) -> Findings:
    """Prove and measure every case."""
    chosen = trials(settings)
    findings = measure_trials(BENCH, chosen, settings, oracle=CUESTA)
    findings.note(
        f"{PADDED.name} has no key mask: its queries see the padding too, so its answer was compared "
        "on rows that are all full; its rows are padded before the clock starts"
    )
    findings.note(
        "rows are padded to the longest that a case allows, whatever its batch holds; "
        f"{FITTED.name}, pads to the longest row of the batch"
    )
    swept = [trial.case for trial in chosen if trial.forward and trial.case.mean is None]
    if len(swept) > 1:
        findings.pictures["density"] = draw_densities(swept, findings.rows)
    if not settings.quick:
        check_bars(findings, bars())
        if torch.cuda.is_available():
            check_rates(findings, attention_gpu.rate_bars())
        else:
            findings.note(_WHERE_FEW)
    return findings


def trials(settings: Settings) -> list[Trial]:
    """Return what this machine measures."""
    if settings.quick:
        return list(_quick_trials())
    if torch.cuda.is_available():
        return list(attention_gpu.trials())
    return list(_trials())


def bars() -> list[Bar]:
    """Return what issue and specification ask for on this machine."""
    return list(attention_gpu.bars() if torch.cuda.is_available() else _bars())


def _headline(dtype: torch.dtype) -> AttentionCase:
    return AttentionCase(num_rows=64, longest=512, mean=64, dtype=dtype)


def _short(mean: float, dtype: torch.dtype) -> AttentionCase:
    return AttentionCase(num_rows=2048, longest=512, mean=mean, dtype=dtype)


def _dense(density: float, dtype: torch.dtype) -> AttentionCase:
    return AttentionCase(num_rows=32, longest=512, density=density, dtype=dtype)


def _big(dtype: torch.dtype) -> AttentionCase:
    return AttentionCase(num_rows=64, longest=512, density=0.5, dtype=dtype)


def _long(dtype: torch.dtype) -> AttentionCase:
    return AttentionCase(num_rows=4, longest=2048, dim=32, density=0.5, dtype=dtype)


def _trials() -> Iterator[Trial]:
    for dtype in DTYPES:
        yield Trial(case=_headline(dtype), forward=EVERYONE, step=EVERYONE)
    for mean in MEANS:
        for dtype in DTYPES:
            yield Trial(case=_short(mean, dtype), forward=ON_SHORT_ROWS, step=(CUESTA, LOOP))
    for dtype in DTYPES:
        for density in DENSITIES:
            swept = (*SWEPT, *_more(density))
            yield Trial(case=_dense(density, dtype), forward=swept, step=swept)
    for dtype in DTYPES:
        yield Trial(case=_long(dtype), memory=WEIGHED)
        yield Trial(case=_big(dtype), memory=WEIGHED)


def _more(density: float) -> tuple[Provider, ...]:
    if density == 0.5:
        return AT_HALF
    return (DENSE,) if density == 1.0 else ()


def _quick_trials() -> Iterator[Trial]:
    for density in (0.5, 1.0):
        case = AttentionCase(num_rows=4, longest=40, dim=16, density=density, dtype=torch.float32)
        yield Trial(case=case, forward=SWEPT, step=SWEPT)
    small = AttentionCase(num_rows=5, longest=40, mean=12, num_heads=2, dim=16, dtype=DTYPES[0])
    quick = tuple(p for p in EVERYONE if p is not FLEX)  # it would compile
    yield Trial(case=small, forward=quick, step=quick)
    half = replace(small, dtype=DTYPES[1])
    yield Trial(case=half, forward=(CUESTA, MASKED), step=(CUESTA, MASKED))
    weighed = AttentionCase(num_rows=8, longest=256, density=1.0, dtype=DTYPES[0])
    yield Trial(case=weighed, memory=(CUESTA, DENSE))


def _bars() -> Iterator[Bar]:
    single, half = DTYPES
    for dtype, padded, loop in ((single, 14.0, 1.5), (half, 7.0, 1.3)):
        case = f"{_headline(dtype).name}: {FORWARD}"
        yield Bar(case, (DENSE.name,), 60.0)
        yield Bar(case, (PADDED.name,), padded)
        yield Bar(case, (LOOP.name,), loop)
    yield Bar(f"{_headline(single).name}: {FORWARD}", (NESTED.name,), 100.0)
    for dtype in DTYPES:
        for mean in MEANS:
            yield Bar(f"{_short(mean, dtype).name}: {FORWARD}", (LOOP.name,), 5.0)
        yield Bar(f"{_dense(1.0, dtype).name}: {FORWARD}", (PADDED.name,), 1 / 1.05)
        yield Bar(f"{_dense(0.5, dtype).name}: {STEP}", (PADDED.name,), 2.5)
        yield Bar(f"{_big(dtype).name}: {MEMORY}", (PADDED.name,), 1 / 0.55)
        yield Bar(f"{_long(dtype).name}: {MEMORY}", (DENSE.name,), 22.0)
