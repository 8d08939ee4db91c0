"""A plan in words: per rank what it does and holds, per table how it is cut and what was rejected, and what binds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from cuesta.rec.neo.below import Below
from cuesta.rec.neo.cluster import GIB
from cuesta.rec.neo.costs import Cost, missed_rows
from cuesta.rec.neo.planner import Planned
from cuesta.rec.neo.steps import Conditions, step_of

_TERMS = (
    "lookups forward",
    "lookups backward",
    "exchange forward",
    "exchange backward",
    "rows moved",
)
_MOST_RANKS, _NUM_REJECTED = 16, 3


def explain(planned: Planned, *, num_tables: int = 20) -> str:
    """Return what a person wants to know of a plan, the `num_tables` costliest tables one by one."""
    return "\n".join(
        [
            *_head(planned),
            "",
            *_ranks(planned),
            "",
            *_tables(planned, num_tables),
            "",
            *_proposals(planned),
        ]
    )


def to_json(planned: Planned) -> dict[str, Any]:
    """Return the plan with its estimates in plain data; `plan` alone is what `read_plan` takes."""
    return {
        "plan": planned.plan.to_json(),
        "milliseconds": planned.rating,
        "balance": planned.balance,
        "step": step_of(planned, Conditions(overlaps=False, spread=0.0))._asdict(),
        "ranks": [
            {
                "cost": rank.cost._asdict(),
                "bytes": rank.num_bytes,
                "host_bytes": host,
                "file_bytes": files,
            }
            for rank, (host, files) in zip(planned.ranks, planned.held_below(), strict=True)
        ],
        "tables": {
            name: {
                "scheme": option.scheme,
                "cost": option.cost._asdict(),
                "bytes": option.num_bytes,
            }
            for name, option in planned.chosen.items()
        },
        "proposals": [
            {
                "name": each.name,
                "milliseconds": each.rating if not each.reason else None,
                "reason": each.reason,
            }
            for each in planned.proposals
        ],
    }


def _head(planned: Planned) -> Iterator[str]:
    workload, cluster = planned.workload, planned.cluster
    schemes = Counter(table.scheme for table in planned.plan.tables.values())
    nodes = f" in {cluster.num_nodes} nodes" if cluster.num_nodes > 1 else ""
    yield (
        f"{workload.name}: {len(workload.tables)} tables, {workload.num_parameters:,} parameters, "
        f"{workload.num_bytes / GIB:,.2f} GiB with their state, over {cluster.world_size} ranks{nodes}"
    )
    yield "cut by " + ", ".join(f"{scheme} ({count})" for scheme, count in schemes.most_common())
    busiest = max(range(len(planned.ranks)), key=lambda rank: planned.ranks[rank].cost.total)
    cost = planned.ranks[busiest].cost
    term = max(range(len(cost)), key=lambda place: cost[place])
    fullest = max(rank.num_bytes for rank in planned.ranks)
    yield (
        f"a step takes {cost.total:.3f} ms in rank {busiest}, {planned.balance:.3f} x the mean; what binds is "
        f"{_TERMS[term]}, {cost[term] / max(cost.total, 1e-12):.0%} of it"
    )
    if planned.workload.dense.parameters:
        step = step_of(planned, Conditions(overlaps=False, spread=0.0))
        yield (
            f"with dense layers {step.total:.3f} ms: {step.dense:.3f} of these, {step.all_reduce:.3f} of their sums "
            f"over ranks, {step.ids:.3f} of ids that nothing hides, {step.fixed:.3f} whatever is done"
        )
    yield (
        f"the fullest rank holds {fullest / GIB:.2f} GiB of the {cluster.room / GIB:.2f} GiB that it has for tables, "
        f"{max(planned.held()) / GIB:.2f} of them weights and their state"
    )
    if cluster.below.is_used:
        yield from _tiers(planned, cost)


def _tiers(planned: Planned, busiest: Cost) -> Iterator[str]:
    workload, below = planned.workload, planned.cluster.below
    host, files = (max(each) / GIB for each in zip(*planned.held_below(), strict=True))
    where = [f"{host:.2f} GiB of host memory"] * (host > 0) + [f"{files:.2f} GiB of files"] * (
        files > 0
    )
    yield (
        f"of its rows {below.fast_share:.0%} are in fast memory ({below.policy}), and below on the fullest rank "
        f"{' and '.join(where) or 'none'}; with `cuesta train`: {' '.join(_flags(below))}"
    )
    missed = sum(
        missed_rows(table, workload, planned.cluster)[0] * planned.plan.tables[table.name].columns
        for table in workload.tables
        if planned.plan.tables[table.name].scheme != "data"
    )
    counted = any(table.repeated for table in workload.tables)
    yield (
        f"a step misses {missed / planned.cluster.world_size:,.0f} rows a rank, {busiest.moved:.3f} ms of moving in "
        "the busiest beside the step, once the cache is full"
        + ("" if counted else "; ids are taken to be even, give --zipf")
    )


def _flags(below: Below) -> Iterator[str]:
    yield f"--fast-share {below.fast_share:g}"
    if below.has_files:
        yield "--table-files FOLDER"
        if below.host_share:
            yield f"--host-share {below.host_share:g}"
    if below.policy == "lfu":
        yield "--leaves-first least-often"


def _ranks(planned: Planned) -> Iterator[str]:
    names = _TERMS if planned.cluster.below.is_used else _TERMS[:-1]
    yield f"rank   {'   '.join(names)}    total, ms       GiB"
    order = sorted(range(len(planned.ranks)), key=lambda rank: -planned.ranks[rank].cost.total)
    for rank in sorted(order[:_MOST_RANKS]):
        load = planned.ranks[rank]
        terms = "   ".join(
            f"{value:{len(name)}.3f}" for name, value in zip(names, load.cost, strict=False)
        )
        yield f"{rank:4}   {terms}   {load.cost.total:10.3f}   {load.num_bytes / GIB:7.2f}"
    if len(order) > _MOST_RANKS:
        yield f"       (the {_MOST_RANKS} busiest of {len(order)})"


def _tables(planned: Planned, num_tables: int) -> Iterator[str]:
    cluster = planned.cluster
    order = sorted(planned.chosen, key=lambda name: -planned.chosen[name].work(cluster))
    width = max((len(name) for name in order[:num_tables]), default=0)
    for name in order[:num_tables]:
        option, table = planned.chosen[name], planned.plan.tables[name]
        ranks = ", ".join(map(str, table.ranks[:8])) + (", …" if len(table.ranks) > 8 else "")
        yield (
            f"{name:{width}}  {table.num_rows} x {table.dim}  {_cut(option.scheme, option.num_parts)}  rank {ranks}: "
            f"{option.cost.total:.3f} ms and {option.num_bytes / GIB:.3f} GiB a part, {_terms(option.cost)}"
        )
        others = sorted(planned.rejected[name], key=lambda each: each.work)[:_NUM_REJECTED]
        if others:
            told = "; ".join(
                f"{_cut(each.scheme, each.num_parts)} {each.largest:.3f} ms a part, {each.work:.3f} in all"
                for each in others
            )
            yield f"{'':{width}}  rather than {told} (this: {option.work(cluster):.3f} in all)"
    if len(order) > num_tables:
        yield f"(the {num_tables} costliest of {len(order)} tables)"


def _proposals(planned: Planned) -> Iterator[str]:
    yield "proposals, by the busiest rank:"
    for each in planned.proposals:
        told = f"no: {each.reason}" if each.reason else f"{each.rating:.3f} ms"
        yield f"  {each.name}: {told}"
    yield (
        f"  whole tables dealt out in turn would take {planned.naive:.3f} ms, memory aside: the plan takes "
        f"{1 - planned.rating / planned.naive:.0%} less"
    )


def _cut(scheme: str, count: int) -> str:
    return f"{scheme} x {count}" if count > 1 else scheme


def _terms(cost: Cost) -> str:
    told = " + ".join(f"{value:.3f}" for value in cost[:-1])
    return f"{told}, {cost.moved:.3f} of rows moved" if cost.moved else told
