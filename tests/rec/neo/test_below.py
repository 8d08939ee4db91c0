"""What the planner says of tiers: misses as a simulated cache has them, memory to the byte, time by hand."""

import json
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch

from cuesta.cli.main import main
from cuesta.errors import UserError
from cuesta.rec.neo.below import Below
from cuesta.rec.neo.cluster import GIB, Cluster
from cuesta.rec.neo.costs import Cost, Option, missed_rows, options
from cuesta.rec.neo.explain import explain
from cuesta.rec.neo.planner import PlannerSettings, make_plan
from cuesta.rec.neo.popularity import Popularity, fitted
from cuesta.rec.neo.row_cache import Policy, RowCache
from cuesta.rec.neo.row_store import TensorRows
from cuesta.rec.neo.steps import Conditions, step_of
from cuesta.rec.neo.workload import TableLoad, Workload

ROWS, IDS = 4000, 500
TABLE = TableLoad(name="t", num_rows=100_000, dim=128, ids=10.0, repeated=0.4)
WORK = Workload(name="w", tables=(TABLE,), batch_size=100)
FOUR = Cluster(world_size=4, ranks_per_node=2)


def batches(exponent: float, count: int = 200) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    shares = np.arange(1, ROWS + 1.0) ** -exponent
    return [draw.choice(ROWS, IDS, p=shares / shares.sum()) for _ in range(count)]


def simulated(drawn: list[np.ndarray], num_lines: int) -> float:
    """Return the rows that a batch misses in the second half, in a cache that keeps what was used last."""
    draw = np.random.default_rng(1)
    held: OrderedDict[int, None] = OrderedDict()
    missed = []
    for batch in drawn:
        rows = np.unique(batch)
        missed.append(sum(row not in held for row in rows.tolist()))
        for row in draw.permutation(rows).tolist():
            held.pop(row, None)
            held[row] = None
        while len(held) > num_lines:
            held.popitem(last=False)
    return float(np.mean(missed[len(missed) // 2 :]))


@pytest.mark.parametrize("exponent", [0.0, 0.9, 1.2])
def test_misses_are_those_of_a_simulated_cache(exponent: float) -> None:
    """The law is fitted to one number, the repeated ids of a batch, as in a plan."""
    drawn = batches(exponent)
    distinct = float(np.mean([len(np.unique(batch)) for batch in drawn]))
    law = fitted(ROWS, IDS, 1 - distinct / IDS)
    for share in (0.02, 0.1, 0.2, 0.5):
        num_lines = int(share * ROWS)
        expected = simulated(drawn, num_lines)
        assert law.misses(IDS, num_lines) == pytest.approx(expected, abs=0.015 * distinct)
    assert law.misses(IDS, ROWS) == 0


def test_misses_are_those_of_the_cache_itself() -> None:
    drawn = batches(1.05, 120)
    law = Popularity(ROWS, 1.05)
    for policy in ("lru", "lfu"):
        store = TensorRows([(ROWS, 1)], [torch.float32])
        cache = RowCache(store, ROWS, ROWS // 5, policy=policy)
        missed = []
        order = torch.from_numpy(np.random.default_rng(2).permutation(ROWS))
        for batch in drawn:
            before = cache.counts.misses
            number, _ = cache.place(order[torch.from_numpy(batch)])
            cache.wait()
            cache.done(number)
            missed.append(cache.counts.misses - before)
        distinct = law.distinct(IDS)
        expected = law.misses(IDS, ROWS // 5, policy)
        assert expected == pytest.approx(np.mean(missed[60:]), abs=0.04 * distinct)


def test_more_batches_meet_as_many_rows_as_were_drawn() -> None:
    drawn = batches(1.1)
    distinct = float(np.mean([len(np.unique(batch)) for batch in drawn]))
    law = fitted(ROWS, IDS, 1 - distinct / IDS)
    four = [len(np.unique(np.concatenate(drawn[at : at + 4]))) for at in range(0, 200, 4)]
    assert law.distinct(4 * IDS) == pytest.approx(np.mean(four), rel=0.02)


@pytest.mark.parametrize("policy", ["lru", "lfu"])
@pytest.mark.parametrize("share", [0.003, 0.2, 0.9])
def test_fast_bytes_are_those_of_the_cache(policy: Policy, share: float) -> None:
    """Weights in 16 bits are float32 in their lines; row-wise Adagrad has a number a row."""
    num_rows, dim = 3001, 8
    store = TensorRows([(num_rows, dim), (num_rows, 1)], [torch.float16, torch.float32])
    cache = RowCache(store, num_rows, int(share * num_rows), policy=policy)
    kept = [*cache.lines, cache._line_of, cache._uses, cache._row_of, cache._stamps]
    kept += [cache._worths] if policy == "lfu" else []
    expected = sum(each.nbytes for each in kept)
    assert Below(fast_share=share, policy=policy).fast_bytes(num_rows, dim, 4) == expected
    host, files = Below(fast_share=share).slow_bytes(num_rows, dim, 2, 4)
    assert (host, files) == (sum(each.nbytes for each in store.parts), 0)


def test_files_keep_a_row_in_whole_slots() -> None:
    below = Below(fast_share=0.1, host_share=0.0)
    assert below.slow_bytes(1000, 128, 4, 4) == (0, 1000 * 1024)
    assert below.slow_bytes(1000, 127, 4, 4) == (0, 1000 * 512)
    host, files = replace(below, host_share=0.5).slow_bytes(1000, 127, 4, 4)
    assert files == 1000 * 512
    assert host == Below(fast_share=0.5).fast_bytes(1000, 127, 4)


def option_of(below: Below, scheme: str, parts: int = 1) -> Option:
    found = options(TABLE, WORK, replace(FOUR, below=below), least_columns=32)
    return next(each for each in found if (each.scheme, each.num_parts) == (scheme, parts))


def test_rows_that_miss_move_there_and_back() -> None:
    below = Below(fast_share=0.2, bandwidth=1e6 / GIB, host_share=1.0)
    missed, none = missed_rows(TABLE, WORK, replace(FOUR, below=below))
    assert 0 < missed < 4000
    assert none == 0
    whole = option_of(below, "table").cost.moved
    assert whole == pytest.approx(2 * missed * (128 * 4 + 4) / 1000)
    assert option_of(below, "row").cost.moved == pytest.approx(whole / 4)
    assert option_of(below, "table_row").cost.moved == pytest.approx(whole / 2)
    assert option_of(below, "column", 2).cost.moved == pytest.approx(
        2 * missed * (64 * 4 + 4) / 1000
    )
    assert option_of(below, "data").cost.moved == 0


def test_rows_in_files_are_read_and_written() -> None:
    below = Below(fast_share=0.2, host_share=0.0, reads=1000, writes=500)
    missed, from_files = missed_rows(TABLE, WORK, replace(FOUR, below=below))
    assert missed == from_files
    assert option_of(below, "table").cost.moved == pytest.approx(missed * 3)
    between = replace(below, host_share=0.5)
    fewer = missed_rows(TABLE, WORK, replace(FOUR, below=between))
    assert fewer[0] == missed
    assert 0 < fewer[1] < missed


def test_a_step_takes_what_is_slower() -> None:
    assert Cost(1.0, 2.0, 3.0, 4.0, 5.0).total == 10
    assert Cost(1.0, 2.0, 3.0, 4.0, 50.0).total == 50
    conditions = Conditions(overlaps=False, spread=0.0)
    steps = {}
    for reads in (1.0, 1e12):
        below = Below(fast_share=0.2, host_share=0.0, reads=reads, writes=reads)
        cluster = replace(FOUR, below=below)
        planned = make_plan(WORK, cluster, PlannerSettings(schemes=("row",)))
        steps[reads] = step_of(planned, conditions)
        assert min(each.rating for each in planned.proposals) == pytest.approx(planned.rating)
        slowest = max(rank.cost.moved for rank in planned.ranks)
        assert steps[reads].total == pytest.approx(
            max(slowest, steps[reads]._replace(tiers=0.0).total)
        )
    assert steps[1e12].tiers == 0 < steps[1.0].tiers


def test_what_has_no_room_fits_in_tiers() -> None:
    small = replace(FOUR, fast_capacity=0.02, ranks_per_node=2)
    settings = PlannerSettings(schemes=("row",))
    big = replace(WORK, tables=(replace(TABLE, num_rows=400_000),))
    with pytest.raises(UserError, match="fits nowhere"):
        make_plan(big, small, settings)
    below = Below(fast_share=0.1, host_share=0.0)
    planned = make_plan(big, replace(small, below=below), settings)
    assert max(planned.held()) < 0.02 * GIB
    assert planned.held_below() == [(0.0, 100_000 * 1024.0)] * 4
    text = explain(planned)
    assert "0.10 GiB of files" in text
    assert "--fast-share 0.1 --table-files FOLDER" in text


def test_the_command_takes_tiers(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "model-i", "--cluster.below.fast-share", "0.1", "--zipf", "1.05"]
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--json", "--schemes", "row"])
    assert exit_.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert all(each["cost"]["moved"] > 0 for each in result["ranks"])
    assert all(each["host_bytes"] > each["bytes"] for each in result["ranks"])
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "--cluster.below.host-share" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"fast-share must be in \(0, 1\]"):
        Below(fast_share=0.0)
