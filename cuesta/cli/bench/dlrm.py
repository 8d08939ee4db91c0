"""`cuesta bench dlrm`: whole training steps of one DLRM, against TorchRec with FBGEMM and plain
PyTorch.

A step is forward, loss, backward and both optimisers: AdamW (fused) on the dense part for all;
exact row-wise Adagrad on the tables for us and for TorchRec, element-wise Adagrad, which is what
torch has for sparse gradients, for plain PyTorch. Batches are prepared outside the clock, each in
its library's own form: `RaggedFeatures`, `KeyedJaggedTensor`, ids and offsets of each feature.

The proof: from the same initial weights, with SGD on the dense part, the logits of four steps and
the tables after them equal those of a float64 reference of the same table optimiser.
"""

from __future__ import annotations

import gc
import operator
from collections.abc import Sequence

import torch

from cuesta.cli.bench.harness import (
    OURS,
    WARM_UP,
    Answer,
    Bar,
    Contender,
    Findings,
    Row,
    Settings,
    check_bars,
    progress,
    rate_rows,
    refuse,
    time_in_turns,
    wrong_answer,
)
from cuesta.cli.bench.models import (
    CUESTA_MODEL,
    TORCH_MODEL,
    CuestaModel,
    ModelBatch,
    ModelCase,
    ModelProvider,
    Trainer,
)
from cuesta.cli.bench.peers import FBGEMM, TORCHREC, importable, quietly
from cuesta.ops import force_body

BENCH = "dlrm"
PROOF_STEPS = 4
LEEWAY = 10.0  # rounding grows from step to step; a wrong formula is off by thousands of times


def measure(
    settings: Settings, providers: Sequence[ModelProvider] = (CUESTA_MODEL, TORCH_MODEL)
) -> Findings:
    """Prove and time every case, with TorchRec if it can be imported."""
    findings = Findings()
    peers = []
    if len(importable([FBGEMM, TORCHREC], findings, bench=BENCH)) == 2:
        from cuesta.cli.bench.torchrec_model import leave_process_group, torchrec_providers

        peers = torchrec_providers()
    try:
        for number, case in enumerate(cases := _cases(settings)):
            progress(f"{BENCH}: case {number + 1} of {len(cases)}: {case.name}")
            right = [each for each in (*providers, *peers) if _is_right(findings, case, each)]
            findings.rows += _time(case, right, settings)
            gc.collect()
    finally:
        if peers:
            leave_process_group()
    findings.note(
        "equality proved before every case: same initial weights, SGD on the dense part, logits of "
        f"{PROOF_STEPS} steps and all tables after them against a float64 reference"
    )
    if not settings.quick:
        names = tuple(each.name for each in peers)
        for case in cases:
            bars = [Bar(case.name, names, 2.0), Bar(case.name, (TORCH_MODEL.name,), 3.0)]
            check_bars(findings, bars)
    return findings


def _is_right(findings: Findings, case: ModelCase, provider: ModelProvider) -> bool:
    reason = prove(case, provider)
    if reason is None:
        return True
    if provider.name == OURS:
        refuse(BENCH, f"{case.name}: {reason}")
    findings.note(f"not timed: {provider.name}, {case.name}: {reason}")
    return False


def prove(case: ModelCase, provider: ModelProvider) -> str | None:
    """Return what is wrong with a provider's training of a small instance of `case`, or None."""
    small = case.small()
    batches = ModelBatch.draw(small, small.ids.ragged_batches(PROOF_STEPS))
    with force_body("reference"):
        oracle = CuestaModel(small, "sgd", provider.optimizer, torch.float64)
        exact = _answers(oracle, batches)
        reference = _answers(CuestaModel(small, "sgd", provider.optimizer), batches)
    with quietly():
        actual = _answers(provider.build(small, "sgd"), batches)
    return wrong_answer(actual, reference, exact, leeway=LEEWAY)


def _answers(trainer: Trainer, batches: Sequence[ModelBatch]) -> list[Answer]:
    """Return the logits of all steps together, and all tables together."""
    logits = [trainer.prepare(batch)() for batch in batches]
    return [
        Answer("logits", torch.stack(logits)),
        Answer("tables after training", torch.stack(trainer.tables())),
    ]


def _time(case: ModelCase, providers: Sequence[ModelProvider], settings: Settings) -> list[Row]:
    batches = ModelBatch.draw(case, case.ids.batches(WARM_UP + settings.repetitions))
    contenders = []
    for provider in providers:
        trainer = provider.build(case, "adamw")
        steps = [trainer.prepare(batch) for batch in batches]
        contenders.append(Contender.over(provider.name, operator.call, steps))
    seconds = time_in_turns(contenders, settings.repetitions)
    return rate_rows(case.name, seconds, case.batch_size, "examples/s")


def _cases(settings: Settings) -> list[ModelCase]:
    if settings.quick:
        return [
            ModelCase(
                name="4 tables of 1k x 8, 3 ids, MLP 16 / 16",
                num_tables=4,
                rows=1000,
                dim=8,
                ids_per_bag=3,
                bottom=(16,),
                top=(16,),
                num_dense=3,
                batch_size=64,
            )
        ]
    classic = "MLP 512-256 / 512-256"
    return [
        *(
            ModelCase(name=f"26 x 100k x 64, {ids} ids, {classic}", ids_per_bag=ids)
            for ids in (1, 10, 20)
        ),
        ModelCase(name=f"26 x 1M x 16, 10 ids, {classic}", rows=1_000_000, dim=16, ids_per_bag=10),
        *(
            ModelCase(
                name=f"26 x 100k x 16, {ids} ids, MLP 64 / 64-32",
                dim=16,
                ids_per_bag=ids,
                bottom=(64,),
                top=(64, 32),
            )
            for ids in (1, 20)
        ),
    ]
