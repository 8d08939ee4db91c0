"""`cuesta bench embedding_bag`: lookup, and lookup with backward and update, against FBGEMM and
nn.EmbeddingBag.

Step means forward, backward and the optimiser. Batches are made beforehand; every repetition takes
a new one. The memory floor is the time that the bytes of a batch need at the copy bandwidth
measured in the same turns: every touched row read once (and written once in a step, with its
moment), ids and offsets read, outputs written. Where there is a GPU, its own cases run there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from cuesta.cli.bench.bags import (
    CUESTA,
    FBGEMM_TABLES,
    MODULE,
    TORCH,
    BagCase,
    BagProvider,
    Bags,
    CuestaOps,
)
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
    refuse,
    sample_rows,
    time_in_turns,
    time_rows,
    wrong_answer,
)
from cuesta.cli.bench.ids import IdBatch, num_distinct
from cuesta.cli.bench.peak_memory import growths
from cuesta.cli.bench.peers import FBGEMM, importable, quietly
from cuesta.ops import force_body

Item = TypeVar("Item")
BENCH = "embedding_bag"
COPY, FLOOR = "memory copy", "memory floor"
COPY_BYTES = 256 << 20
HEADLINE = "4 x 1M x 64, 20 ids, Zipf 1.2, float32"
HUNDRED = "100 x 100k x 32, 512 rows, 10 ids, Zipf 1.2, float32"
FORWARD, STEP = "forward", "forward + backward + Adagrad"
BARS = (
    Bar(f"{HEADLINE}: {FORWARD}", (FBGEMM_TABLES.name,), 1.2),
    Bar(f"{HEADLINE}: {STEP}", (FBGEMM_TABLES.name,), 3.5),
    Bar(f"{HEADLINE}: {STEP}", (TORCH.name,), 7.0),
    Bar(f"{HUNDRED}: {STEP}", (TORCH.name,), 4.0),
)
# Rows of the 26 categorical features of the Criteo logs, cut at a million and rounded.
CRITEO_ROWS = (
    1_500, 600, 1_000_000, 1_000_000, 300, 20, 12_000, 600, 10, 90_000, 5_000, 1_000_000, 3_000,
    30, 15_000, 1_000_000, 10, 5_600, 2_000, 10, 1_000_000, 20, 20, 300_000, 100, 140_000,
)  # fmt: skip


class Verdict(NamedTuple):
    """Say what is wrong with a provider's forward and step; None where right."""

    forward: str | None
    step: str | None


def measure(
    settings: Settings, providers: Sequence[BagProvider] = (CUESTA, MODULE, TORCH, FBGEMM_TABLES)
) -> Findings:
    """Prove and time every case."""
    findings = Findings()
    if FBGEMM not in importable([FBGEMM], findings, bench=BENCH):
        providers = [each for each in providers if each is not FBGEMM_TABLES]
    if uses_gpu := torch.cuda.is_available() and not settings.quick:
        providers = [each for each in providers if each is not FBGEMM_TABLES]
    for number, case in enumerate(cases := _gpu_cases() if uses_gpu else _cases(settings)):
        progress(f"{BENCH}: case {number + 1} of {len(cases)}: {case.name}")
        verdicts = {each.name: prove(case, each) for each in providers}
        for name, verdict in verdicts.items():
            _judge(findings, case, name, verdict)
        findings.rows += _time(case, providers, verdicts, settings)
        gc.collect()
    findings.note(
        "every provider timed was first compared with a float64 reference on a small instance of "
        "each case: outputs, and the weights after three updates"
    )
    if not settings.quick:
        check_bars(findings, BARS)
    return findings


def prove(case: BagCase, provider: BagProvider) -> Verdict:
    """Compare a provider with the float64 reference on a small instance of `case`."""
    small = case.small()
    batches = [batch.to(case.device) for batch in small.ids.ragged_batches(3)]
    generator = torch.Generator().manual_seed(1)
    shape = (small.batch_size, small.layout.width)
    grads = [torch.randn(shape, generator=generator).to(case.device) for _ in batches]
    with force_body("reference"):
        oracle = CuestaOps(small, provider.optimizer, torch.float64)
        exact = _answers(oracle, batches, [grad.double() for grad in grads])
        reference = _answers(CuestaOps(small, provider.optimizer), batches, grads)
    try:
        with quietly():
            actual = _answers(provider.build(small), batches, grads)
    except NotImplementedError as error:
        reason = f"not supported ({str(error).splitlines()[0][:80]})"
        return Verdict(reason, reason)
    forward = wrong_answer(actual[:1], reference[:1], exact[:1])
    return Verdict(forward, wrong_answer(actual, reference, exact))


def _answers(bags: Bags, batches: Sequence[IdBatch], grads: Sequence[Tensor]) -> list[Answer]:
    """Return the outputs of some steps, then the weights of all tables."""
    outputs = []
    for number, (batch, grad) in enumerate(zip(batches, grads, strict=True)):
        output = bags.forward(batch)
        outputs.append(Answer(f"output {number}", output.detach().clone()))
        bags.step(batch, grad.to(output.dtype))
    return [*outputs, *(Answer(f"table {t}", table) for t, table in enumerate(bags.tables()))]


def _judge(findings: Findings, case: BagCase, name: str, verdict: Verdict) -> None:
    """Stop the bench where we are wrong; note what a peer gets wrong and so is not timed for."""
    for what, reason in zip((FORWARD, STEP), verdict, strict=True):
        if reason is not None and name.startswith(OURS):
            refuse(BENCH, f"{name}, {case.name}, {what}: {reason}")
        if reason is not None:
            findings.note(f"not timed: {name}, {case.name}, {what}: {reason}")


def _time(
    case: BagCase,
    providers: Sequence[BagProvider],
    verdicts: Mapping[str, Verdict],
    settings: Settings,
) -> list[Row]:
    drawn = case.ids.batches(WARM_UP + settings.repetitions)
    batches = [batch.to(case.device) for batch in drawn]
    grad = torch.randn(case.batch_size, case.layout.width, device=case.device)
    bags = {p.name: p.build(case) for p in providers if verdicts[p.name].forward is None}
    copy = _Copy(COPY_BYTES >> 8 if settings.quick else COPY_BYTES, case.device)
    with torch.no_grad():
        contenders = [
            Contender.over(name, _waiting(each.forward, case.device), batches)
            for name, each in bags.items()
        ]
        forward = time_in_turns([*contenders, copy.contender], settings.repetitions)
        grads = {name: grad.to(each.forward(batches[0]).dtype) for name, each in bags.items()}
    steps = {
        name: _waiting(partial(bags[name].step, grad=grads[name]), case.device)
        for name in bags
        if verdicts[name].step is None
    }
    contenders = [Contender.over(name, work, batches) for name, work in steps.items()]
    step = time_in_turns([*contenders, copy.contender], settings.repetitions)
    rows = []
    if case.weighs_memory:
        taken = {
            name: growths(partial(work, batches[0]), case.device) for name, work in steps.items()
        }
        rows += sample_rows(f"{case.name}: {STEP}, memory added at most", taken, "MiB")
    for what, seconds in ((FORWARD, forward), (STEP, step)):
        share = _bytes_moved(case, drawn, is_step=what == STEP) / copy.num_bytes
        seconds[FLOOR] = [share * each for each in seconds.pop(COPY)]
        rows += time_rows(f"{case.name}: {what}", seconds)
    return rows


def _waiting(work: Callable[[Item], Tensor], device: str) -> Callable[[Item], Tensor]:
    """Return `work` that ends when the device is done."""
    if device == "cpu":
        return work

    def run(item: Item) -> Tensor:
        output = work(item)
        torch.cuda.synchronize()
        return output

    return run


class _Copy:
    """Copy one big buffer to another: the bandwidth that memory gives to all threads."""

    def __init__(self, size: int, device: str) -> None:
        source, target = (torch.ones(size // 4, device=device) for _ in range(2))
        self.num_bytes = 2 * size
        copy = _waiting(lambda _: target.copy_(source), device)
        self.contender = Contender(COPY, copy)


def _bytes_moved(case: BagCase, batches: Sequence[IdBatch], *, is_step: bool) -> float:
    """Return the fewest bytes that a forward or step must move, the mean over the batches."""
    row_bytes = np.array(case.dims) * case.storage.itemsize
    touched = np.mean([num_distinct(batch) for batch in batches], axis=0)
    rows = float(touched @ row_bytes)
    features = batches[0].features
    ids = 8 * (features.values.numel() + features.offsets.numel())
    output = 4 * case.batch_size * case.layout.width
    if not is_step:
        return rows + ids + output
    return 2 * rows + 8 * float(touched.sum()) + ids + 2 * output


def _cases(settings: Settings) -> list[BagCase]:
    if settings.quick:
        return [
            BagCase(name="2 x 2k x 16", rows=(2000,) * 2, dims=(16,) * 2, batch_size=64),
            BagCase(
                name="2 x 2k x 12, bfloat16",
                rows=(2000,) * 2,
                dims=(12,) * 2,
                batch_size=64,
                storage=torch.bfloat16,
            ),
        ]
    million = (1_000_000,) * 4
    cases = [
        BagCase(name=HEADLINE, rows=million, dims=(64,) * 4),
        BagCase(
            name="4 x 1M x 64, 20 ids, uniform, float32", rows=million, dims=(64,) * 4, zipf=None
        ),
    ]
    for rows, dim in ((1_000_000, 16), (1_000_000, 128), (500_000, 256)):
        name = f"4 x {rows // 1000}k x {dim}, 20 ids, Zipf 1.2, float32"
        cases.append(BagCase(name=name, rows=(rows,) * 4, dims=(dim,) * 4))
    for storage in (torch.float16, torch.bfloat16):
        name = HEADLINE.replace("float32", str(storage).removeprefix("torch."))
        cases.append(BagCase(name=name, rows=million, dims=(64,) * 4, storage=storage))
    dims = tuple(16 if rows < 1_000 else 32 if rows < 100_000 else 64 for rows in CRITEO_ROWS)
    for ids in (1, 10):
        name = f"26 tables of 10 to 1M rows, dims 16 to 64, {ids} ids, Zipf 1.2, float32"
        cases.append(BagCase(name=name, rows=CRITEO_ROWS, dims=dims, ids_per_bag=ids))
    hundred = BagCase(
        name=HUNDRED, rows=(100_000,) * 100, dims=(32,) * 100, batch_size=512, ids_per_bag=10,
        weighs_memory=True,
    )  # fmt: skip
    return [*cases, hundred]


def _gpu_cases() -> list[BagCase]:
    cases = []
    for zipf in (1.2, None):
        law = "uniform" if zipf is None else f"Zipf {zipf}"
        for storage in (torch.float32, torch.float16):
            dtype = str(storage).removeprefix("torch.")
            cases.append(
                BagCase(
                    name=f"26 x 1M x 128, 8192 rows, 20 ids, {law}, {dtype}, GPU",
                    rows=(1_000_000,) * 26,
                    dims=(128,) * 26,
                    batch_size=8192,
                    zipf=zipf,
                    storage=storage,
                    device="cuda",
                    weighs_memory=True,
                )
            )
    for dim in (32, 128):
        cases.append(
            BagCase(
                name=f"100 x 100k x {dim}, 2048 rows, 10 ids, Zipf 1.2, float32, GPU",
                rows=(100_000,) * 100,
                dims=(dim,) * 100,
                ids_per_bag=10,
                device="cuda",
                weighs_memory=True,
            )
        )
    return cases
