"""The cases of `cuesta bench jagged_attention` on a GPU: the shapes and bars of the published
protocol, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cuesta.cli.bench.attention_cases import AttentionCase, Inputs
from cuesta.cli.bench.attention_providers import CUESTA, DENSE, FLEX, PADDED, packed_leaves
from cuesta.cli.bench.attention_trials import (
    FORWARD,
    MEMORY,
    STEP,
    Provider,
    RateBar,
    Trial,
    Work,
)
from cuesta.cli.bench.harness import Bar

ROWS = (512, 1152)
DIMS = (64, 128)
LONGEST = (256, 512, 1024, 2048)
DENSITIES = (0.5, 1.0)


def varlen_flash(inputs: Inputs) -> Work:
    """Attend with torch's flash attention of variable lengths, on packed rows."""
    from torch.nn.attention.varlen import varlen_attn

    leaves, longest = packed_leaves(inputs), int(inputs.q.lengths().max())
    offsets = inputs.q.offsets.int()

    def run() -> Tensor:
        out = varlen_attn(*leaves, offsets, offsets, longest, longest)
        assert isinstance(out, Tensor)
        return out

    return Work(leaves, inputs.grad, run)


VARLEN = Provider(name="varlen flash", prepare=varlen_flash)
EVERYONE = (CUESTA, PADDED, DENSE, FLEX, VARLEN)


def trials() -> Iterator[Trial]:
    """Yield every case; providers that its memory cannot hold are left out of it."""
    for case in _cases():
        yield Trial(case=case, forward=EVERYONE, step=EVERYONE, memory=EVERYONE)


def bars() -> Iterator[Bar]:
    """Yield what the issue asks for at density 0.5; the specification, of memory at 2048."""
    for case in _cases():
        if case.density != 0.5 or case.longest < 512:
            continue
        yield Bar(f"{case.name}: {STEP}", (PADDED.name,), 2.4)
        yield Bar(f"{case.name}: {MEMORY}", (PADDED.name,), 1 / 0.53)
        for what in (FORWARD, STEP):
            yield Bar(f"{case.name}: {what}", (FLEX.name, VARLEN.name), 1 / 1.15)
        if case.longest >= 1024:
            yield Bar(f"{case.name}: {STEP}", (DENSE.name,), 9.0)
        if case.longest >= 2048:
            yield Bar(f"{case.name}: {MEMORY}", (DENSE.name,), 22.0)


def rate_bars() -> Iterator[RateBar]:
    """Yield the TFLOP/s that the issue asks for at density 1; the specification, at 0.5."""
    for case in _cases():
        if case.dim == 128 and case.longest == 2048:
            yield RateBar(case.name, 350.0 if case.density == 1.0 else 200.0)


def _cases() -> Iterator[AttentionCase]:
    for num_rows in ROWS:
        for dim in DIMS:
            for longest in LONGEST:
                for density in DENSITIES:
                    yield AttentionCase(
                        num_rows=num_rows,
                        longest=longest,
                        dim=dim,
                        density=density,
                        dtype=torch.bfloat16,
                        device="cuda",
                    )
