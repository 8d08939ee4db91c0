"""A calibration in a file: what `cuesta plan --calibrate` measured, of which machine and when, and back from JSON.

`calibrate` starts the ranks as processes of this machine, over gloo.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import torch
import torch.distributed as dist

from cuesta.data.files import atomic_file
from cuesta.errors import UserError
from cuesta.rec.neo.below import Below
from cuesta.rec.neo.calibrate import measure
from cuesta.rec.neo.cluster import Cluster
from cuesta.rec.neo.constants import Constants
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.timing import Sizes

Result = TypeVar("Result")
_VERSION = 1
_KIND = "cuesta calibration"


@final
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Hold a machine's cluster of one node, in words what machine it is, and when it was measured."""

    cluster: Cluster
    machine: str
    date: str


class Measured(NamedTuple):
    """Hold one number of a calibration beside its default."""

    name: str
    value: object
    default: object


def calibrate(world_size: int, sizes: Sizes | None = None) -> Calibration:
    """Return what this machine does with so many ranks on it, each a process with its share of the cores."""
    cluster = on_ranks(world_size, partial(measure, sizes=sizes or Sizes()))
    cores = torch.get_num_threads()
    name = platform.processor() or platform.machine()
    return Calibration(
        cluster=cluster,
        machine=f"{name}, {cores} threads, torch {torch.__version__}",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def compared(calibration: Calibration) -> Iterator[Measured]:
    """Yield every number that differs from the default of a cluster of the same size."""
    found = calibration.cluster
    usual = Cluster(world_size=found.world_size, ranks_per_node=found.ranks_per_node)
    for item in dataclasses.fields(Cluster):
        if item.name in ("constants", "below"):
            continue
        if getattr(found, item.name) != getattr(usual, item.name):
            yield Measured(item.name, getattr(found, item.name), getattr(usual, item.name))
    for item in dataclasses.fields(Constants):
        mine, other = getattr(found.constants, item.name), getattr(usual.constants, item.name)
        if mine != other:
            yield Measured(f"constants.{item.name}", mine, other)


def write_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write a calibration as JSON, whole or not at all."""
    content = {"kind": _KIND, "version": _VERSION, **dataclasses.asdict(calibration)}
    with atomic_file(Path(path)) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_calibration(path: str | Path) -> Calibration:
    """Return the calibration in a file. Raises `UserError` naming the file and what is wrong in it."""
    again = f"`cuesta plan --calibrate --out {path}` makes one"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {again}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no calibration ({error}); {again}") from error
    try:
        return _parsed(content)
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path}: no calibration of this version ({error}); {again}") from error


def _parsed(content: Any) -> Calibration:
    if content["kind"] != _KIND or content["version"] != _VERSION:
        raise ValueError(f"{content['kind']!r}, version {content['version']!r}")
    given = dict(content["cluster"])
    constants = Constants(**_checked(given.pop("constants"), Constants()))
    below = Below(**_checked(given.pop("below", {}), Below()))
    cluster = Cluster(**_checked(given, Cluster()), constants=constants, below=below)
    return Calibration(cluster=cluster, machine=str(content["machine"]), date=str(content["date"]))


def _checked(given: Mapping[str, Any], usual: Cluster | Constants | Below) -> dict[str, Any]:
    """Return fields whose values have the types of the usual ones, whole numbers being numbers too."""
    for name, value in given.items():
        kind = type(getattr(usual, name, None))
        allowed: tuple[type, ...] = (int, float) if kind is float else (kind,)
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
    return dict(given)


def on_ranks(world_size: int, work: Callable[[Ranks], Result]) -> Result:
    """Return what `work` returns on the first of so many processes of this machine, each with its share of the cores.

    `work` travels to the processes: it must be a function of a module, or a partial of one.
    """
    if world_size == 1:
        return work(Ranks())
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="cuesta-ranks-") as folder:
        meeting_point = (Path(folder) / "group").as_uri()
        workers = [
            context.Process(target=_rank, args=(rank, world_size, meeting_point, work, results))
            for rank in range(world_size)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            if worker.exitcode:
                for other in workers:
                    other.terminate()
                raise RuntimeError(f"a rank of {world_size} failed; its error is above")
    found: Result = results.get()
    return found


def _rank(
    rank: int,
    world_size: int,
    meeting_point: str,
    work: Callable[[Ranks], Result],
    results: torch.multiprocessing.SimpleQueue,
) -> None:
    torch.set_num_threads(max(torch.get_num_threads() // world_size, 1))
    dist.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=world_size)
    found = work(Ranks(dist.group.WORLD))
    if rank == 0:
        results.put(found)
    dist.destroy_process_group()
