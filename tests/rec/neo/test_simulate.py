"""Simulated steps: laws of links, latencies and waiting, and the paper's ladder, weak scaling and memory."""

import itertools
import json
from dataclasses import replace

import pytest

from cuesta.cli.main import main
from cuesta.errors import UserError
from cuesta.rec.neo.cluster import Cluster
from cuesta.rec.neo.planner import make_plan
from cuesta.rec.neo.simulate import (
    PAPER_CLUSTER,
    Simulated,
    SimulateRequest,
    ladder,
    memory,
    simulate,
    weak_scaling,
)
from cuesta.rec.neo.steps import Conditions, step_of
from cuesta.rec.neo.workload import Dense, TableLoad, Workload

WORK = Workload(
    name="w",
    tables=tuple(
        TableLoad(name=str(t), num_rows=1000 * (t + 1), dim=32 * (1 + t % 4), ids=1.0 + t)
        for t in range(12)
    ),
    batch_size=256,
    dense=Dense(mflops=5.0, activations=4000.0, parameters=1e6),
)
CLUSTER = replace(PAPER_CLUSTER, world_size=16)


@pytest.fixture(scope="module")
def rungs() -> list[Simulated]:
    return ladder(SimulateRequest(name="model-a"))


def test_the_ladder_climbs_as_the_papers(rungs: list[Simulated]) -> None:
    """The paper has about +87 % from below 700 thousand rows a second."""
    rates = [rung.rows_per_second for rung in rungs]
    assert len(rungs) == 5
    assert all(low < high for low, high in itertools.pairwise(rates))
    assert 1.6 <= rates[-1] / rates[0] <= 2.2
    assert rates[0] < 700_000


def test_weak_scaling_is_near_the_papers() -> None:
    """The paper has about 50 % from one node to sixteen."""
    few, many = weak_scaling(SimulateRequest(name="model-a", sizes=(8, 128)))
    assert 0.45 <= many.rows_per_second / few.rows_per_second / 16 <= 0.8


def test_memory_of_twelve_trillion_weights() -> None:
    naive, _, small = memory("model-f")
    assert naive.weights + naive.state == pytest.approx(96e12, rel=1e-6)
    assert small.weights == pytest.approx(24e12, rel=1e-6)
    assert small.state == pytest.approx(12e12 / 256 * 4, rel=1e-6)


@pytest.mark.parametrize("link", ["fast", "inside", "across", "ring_inside", "ring_across"])
@pytest.mark.parametrize("overlaps", [True, False])
def test_a_slower_link_makes_no_step_faster(link: str, overlaps: bool) -> None:
    """The plan is kept: another link may have another plan."""
    conditions = Conditions(overlaps=overlaps)
    times = []
    for times_slower in (1, 4, 64):
        slower = replace(CLUSTER, **{link: getattr(CLUSTER, link) / times_slower})
        planned = make_plan(WORK, slower)
        times.append(step_of(planned, conditions).total)
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_without_spread_nobody_waits_and_with_more_all_do_longer() -> None:
    planned = make_plan(WORK, CLUSTER)
    even, uneven, worse = (
        step_of(planned, Conditions(spread=spread)) for spread in (0.0, 0.05, 0.1)
    )
    assert even.waiting == 0
    assert 0 < uneven.waiting < worse.waiting
    assert even._replace(waiting=uneven.waiting) == uneven


def test_one_rank_exchanges_nothing_and_waits_for_nobody() -> None:
    step = simulate(WORK, Cluster(world_size=1, ranks_per_node=1)).step
    assert step.ids == step.answers == step.gradients == step.all_reduce == step.waiting == 0
    assert step.dense > 0
    assert step.lookups > 0


def test_what_hides_is_never_longer() -> None:
    planned = make_plan(WORK, CLUSTER)
    hidden, shown = (step_of(planned, Conditions(overlaps=each)) for each in (True, False))
    assert all(less <= more for less, more in zip(hidden, shown, strict=True))
    assert hidden.total < shown.total


def test_more_latency_is_felt_by_every_exchange() -> None:
    planned = make_plan(WORK, CLUSTER)
    slow = replace(planned.cluster.constants, latency_us=1e4)
    late = replace(planned, cluster=replace(planned.cluster, constants=slow))
    before, after = step_of(planned), step_of(late)
    for term in ("ids", "answers", "gradients", "all_reduce"):
        assert getattr(after, term) > getattr(before, term)


def test_the_command_says_that_it_simulates(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["simulate", "model-f"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("simulated: model-f")
    assert "96.00" in text
    with pytest.raises(SystemExit):
        main(["simulate", "dlrm.debug", "--sizes", "8", "4096", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["simulated"] is True
    assert [each["ranks"] for each in result["scaling"]] == [8, 4096]
    with pytest.raises(SystemExit):
        main(["simulate", "model-x"])
    assert "did you mean model-" in capsys.readouterr().err


def test_more_ranks_than_can_be_simulated_are_refused() -> None:
    with pytest.raises(UserError, match="4096 ranks can be simulated, got 8192"):
        simulate(WORK, replace(PAPER_CLUSTER, world_size=8192))
    with pytest.raises(UserError, match="spread must not be negative"):
        Conditions(spread=-0.1)
