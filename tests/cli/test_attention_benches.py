"""The benches of attention: their laws of lengths, who is proved, timed, left out and refused, and
that memory is measured.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cuesta.cli.bench import attention_gpu, gdpa, jagged_attention
from cuesta.cli.bench.attention_cases import (
    AttentionCase,
    Inputs,
    exponential_lengths,
    lengths_by_density,
)
from cuesta.cli.bench.attention_providers import (
    COPIED,
    CUESTA,
    DENSE,
    EVERYONE,
    FLEX,
    LOOP,
    MASKED,
    PADDED,
)
from cuesta.cli.bench.attention_trials import (
    FORWARD,
    MEMORY,
    STEP,
    TRUE_LENGTHS,
    BackwardBar,
    Footprint,
    Provider,
    RateBar,
    Trial,
    Work,
    check_rates,
    measure_trials,
    packed,
    padded,
    prove,
)
from cuesta.cli.bench.density_picture import draw_densities
from cuesta.cli.bench.harness import (
    Bar,
    Findings,
    Row,
    Settings,
    WrongAnswerError,
    check_bars,
    rate_rows,
    time_rows,
)
from cuesta.cli.bench.peak_memory import growths

QUICK = Settings(quick=True)
CASE = AttentionCase(num_rows=3, longest=20, mean=6, num_heads=2, dim=8, dtype=torch.float32)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("tenths", range(1, 11))
def test_lengths_by_density_keep_their_mean_and_range(tenths: int) -> None:
    density, longest = tenths / 10, 512
    lengths = lengths_by_density(density, longest, 20_000, _generator())
    assert abs(float(lengths.double().mean()) / longest - density) < 0.01
    low, high = {10: (512, 512), 9: (409, 511), 5: (0, 511), 1: (1, 101)}.get(tenths, (0, 511))
    assert low <= int(lengths.min()) <= int(lengths.max()) <= high
    if tenths in (1, 5, 9, 10):
        assert (int(lengths.min()), int(lengths.max())) == (low, high)


@pytest.mark.parametrize("mean", [8, 16, 32, 64])
def test_exponential_lengths_keep_their_mean_and_range(mean: int) -> None:
    lengths = exponential_lengths(mean, 512, 20_000, _generator()).double()
    assert int(lengths.min()) == 1
    assert int(lengths.max()) <= 512
    assert abs(float(lengths.mean()) / mean - 1) < 0.03
    assert abs(float((lengths > mean).double().mean()) - 1 / torch.e) < 0.03
    assert int(exponential_lengths(64, 100, 20_000, _generator()).max()) == 100


def test_a_case_has_the_same_numbers_every_time() -> None:
    first, second = CASE.inputs(), CASE.inputs()
    assert torch.equal(first.q.values, second.q.values)
    assert torch.equal(first.q.offsets, second.q.offsets)
    assert not torch.equal(first.q.values, first.k.values)


def test_packing_undoes_padding() -> None:
    rows = replace(CASE, density=0.5, mean=None).inputs().q
    assert torch.equal(packed(padded(rows.values, rows.offsets, 20), rows.offsets), rows.values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("provider", [MASKED, PADDED, LOOP], ids=lambda p: p.name)
def test_a_right_provider_is_proved_right(provider: Provider, dtype: torch.dtype) -> None:
    assert prove(replace(CASE, dtype=dtype), provider, CUESTA) == (None, None)


def test_the_forward_of_flex_attention_is_right_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda flex, **_: flex)
    with pytest.warns(UserWarning, match="without torch.compile"):
        assert prove(CASE, FLEX, CUESTA).forward is None  # backward it has none on a CPU


def test_who_sees_padding_is_right_on_full_rows_alone() -> None:
    assert prove(CASE, replace(PADDED, sees_padding=False), CUESTA).forward is not None


def _unscaled(inputs: Inputs) -> Work:
    """Attend to values that are too large by a thousandth."""
    right = CUESTA.prepare(inputs)
    return Work(right.leaves, right.grad, lambda: right.run() * 1.001)


def _careless(inputs: Inputs) -> Work:
    """Attend rightly, with another gradient of the values."""
    right = CUESTA.prepare(inputs)

    def run() -> Tensor:
        values = right.leaves[2]
        return right.run() + (values - values.detach())

    return Work(right.leaves, right.grad, run)


@pytest.mark.parametrize("what", [FORWARD, STEP])
def test_our_wrong_answer_stops_the_bench_before_any_time(what: str) -> None:
    broken = replace(CUESTA, prepare=_unscaled if what == FORWARD else _careless)
    trial = Trial(case=CASE, forward=(broken,), step=(broken,))
    name = "output" if what == FORWARD else "gradient of v"
    with pytest.raises(WrongAnswerError, match=rf"{name} has .*no time is printed"):
        measure_trials("jagged_attention", [trial], QUICK, oracle=CUESTA)


def test_a_wrong_peer_is_named_and_not_timed() -> None:
    broken = replace(LOOP, prepare=_careless)
    findings = _measured(broken)
    timed = {row.case for row in findings.rows if row.provider == broken.name}
    assert timed == {f"{CASE.name}: {FORWARD}", f"{CASE.name}: {FORWARD}, true lengths"}
    (note,) = [note for note in findings.notes if broken.name in note]
    assert note.startswith(f"not measured: {broken.name}, {STEP}: gradient of v has")
    assert CASE.name in note


def _measured(peer: Provider) -> Findings:
    both = (CUESTA, peer)
    trial = Trial(case=CASE, forward=both, step=both)
    return measure_trials("jagged_attention", [trial], QUICK, oracle=CUESTA)


def test_a_peer_that_does_not_run_is_named_with_the_reason() -> None:
    def prepare(inputs: Inputs) -> Work:
        raise NotImplementedError(f"no rows of {inputs.longest}\nfor nobody")

    findings = _measured(replace(LOOP, prepare=prepare))
    assert {row.provider for row in findings.rows} == {CUESTA.name}
    assert any("NotImplementedError: no rows of 20 (" in note for note in findings.notes)


def test_a_peer_that_needs_too_much_memory_is_left_out() -> None:
    findings = _measured(replace(LOOP, footprint=Footprint(padded=10**9)))
    assert {row.provider for row in findings.rows} == {CUESTA.name}
    assert any(note.startswith(f"left out: {LOOP.name}, {CASE.name}") for note in findings.notes)


def test_growth_of_memory_is_seen() -> None:
    samples = growths(lambda: torch.ones(16 << 20))
    assert all(60 < sample < 100 for sample in samples)


def test_every_bar_is_measured() -> None:
    everything = [
        (jagged_attention.bars(), jagged_attention.trials(Settings())),
        (list(gdpa.bars()), gdpa.trials(Settings())),
        (list(attention_gpu.bars()), list(attention_gpu.trials())),
        (list(gdpa.gpu_bars()), list(gdpa.gpu_trials())),
    ]
    for bars, trials in everything:
        assert bars
        measured = {
            (f"{trial.case.name}: {what}", provider.name)
            for trial in trials
            for what, own in ((FORWARD, trial.forward), (STEP, trial.step), (MEMORY, trial.memory))
            for provider in own
        }
        assert _asked(bars) <= measured


def _asked(bars: list[Bar]) -> set[tuple[str, str]]:
    return {(bar.case, provider) for bar in bars for provider in bar.providers}


def test_rates_are_asked_of_cases_that_are_measured() -> None:
    for bars, trials in (
        (attention_gpu.rate_bars(), attention_gpu.trials()),
        (gdpa.gpu_rate_bars(), gdpa.gpu_trials()),
    ):
        measured = {t.case.name for t in trials if CUESTA.name in {p.name for p in t.step}}
        asked = {bar.case for bar in bars}
        assert asked
        assert asked <= measured


@pytest.mark.parametrize(
    ("what", "provider", "theirs", "verdict"),
    [
        (STEP, PADDED, 2.41, "met"),
        (STEP, PADDED, 2.39, "MISSED"),
        (STEP, DENSE, 9.1, "met"),
        (STEP, DENSE, 8.9, "MISSED"),
        (STEP, FLEX, 0.88, "met"),
        (FORWARD, attention_gpu.VARLEN, 0.86, "MISSED"),
        (MEMORY, PADDED, 1 / 0.52, "met"),
        (MEMORY, PADDED, 1 / 0.54, "MISSED"),
        (MEMORY, DENSE, 21.0, "MISSED"),
    ],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_bars_of_a_gpu_are_those_of_the_issue(
    what: str, provider: Provider, theirs: float, verdict: str
) -> None:
    case = f"{_largest(0.5).name}: {what}"
    findings = Findings(rows=time_rows(case, {CUESTA.name: [1.0], provider.name: [theirs]}))
    check_bars(findings, attention_gpu.bars())
    (note,) = findings.notes
    assert note.startswith(f"bar {verdict}: {case}, ")


def test_our_rate_on_a_gpu_is_checked_on_true_lengths() -> None:
    for density, asked in ((1.0, 350), (0.5, 200)):
        case = _largest(density).name
        for tera, verdict in ((asked + 1, "met"), (asked - 1, "MISSED")):
            findings = Findings(rows=_measured_on_gpu(case, forward=1.0, step=5.0, tera=tera))
            check_rates(findings, attention_gpu.rate_bars())
            assert findings.notes == [
                f"bar {verdict}: {case}: forward, TFLOP/s on true lengths, {tera}, asked {asked}"
            ]


@pytest.mark.parametrize(("step", "verdict"), [(1 + 2.5 / 0.46, "met"), (7.0, "MISSED")])
def test_backward_is_what_a_step_takes_beyond_forward(step: float, verdict: str) -> None:
    rows = _measured_on_gpu("case", forward=1.0, step=step, tera=1.0)
    findings = Findings(rows=rows)
    check_rates(findings, [BackwardBar("case", 0.45), BackwardBar("not measured", 0.45)])
    (note,) = findings.notes
    assert note.startswith(f"bar {verdict}: case: FLOP/s of backward over those of forward, 0.4")


def test_rates_of_gdpa_are_those_of_the_specification() -> None:
    rates = {
        (case.num_keys, case.longest): bar.least
        for case in (trial.case for trial in gdpa.gpu_trials())
        for bar in gdpa.gpu_rate_bars()
        if isinstance(bar, RateBar) and bar.case == case.name
    }
    own = {(None, 256): 150, (None, 512): 220, (None, 1024): 280, (None, 2048): 330}
    assert rates == own | {(256, longest): 230 for _, longest in own}


def _largest(density: float) -> AttentionCase:
    """Return a case of a GPU on which every bar of this density stands."""
    return next(
        case
        for case in (trial.case for trial in attention_gpu.trials())
        if (case.dim, case.longest, case.density) == (128, 2048, density)
    )


def _measured_on_gpu(case: str, *, forward: float, step: float, tera: float) -> list[Row]:
    rate = {CUESTA.name: [1.0]}
    return [
        *time_rows(f"{case}: {FORWARD}", {CUESTA.name: [forward]}),
        *time_rows(f"{case}: {STEP}", {CUESTA.name: [step]}),
        *rate_rows(f"{case}: {FORWARD}, {TRUE_LENGTHS}", rate, 1e3 * tera, "GFLOP/s"),
    ]


def test_the_sweep_has_padding_with_and_without_copies_at_every_density() -> None:
    swept = [t for t in jagged_attention.trials(Settings()) if t.forward and t.case.density]
    assert {t.case.density for t in swept} == {tenths / 10 for tenths in range(1, 11)}
    assert all({PADDED, COPIED} <= set(t.forward) & set(t.step) for t in swept)


def test_densities_have_a_picture() -> None:
    cases = [replace(CASE, mean=None, density=density) for density in (0.5, 1.0)]
    seconds = {CUESTA.name: [0.001], PADDED.name: [0.002]}
    rows = [
        row for c in cases for w in (FORWARD, STEP) for row in time_rows(f"{c.name}: {w}", seconds)
    ]
    assert draw_densities(cases, rows).startswith(b"\x89PNG")


def test_providers_have_names_of_their_own() -> None:
    for providers in (EVERYONE, gdpa.EVERYONE, attention_gpu.EVERYONE):
        assert len({provider.name for provider in providers}) == len(providers)
