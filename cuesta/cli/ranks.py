"""`cuesta train --ranks N`: the same command as N ranks, in processes of this machine or, with `--ray`, over Ray.

Ranks find in their environment what `torchrun` gives, and meet in a store that this process keeps: it outlives them.
What each says is in a folder beside the run; what the first says is shown. When a rank fails, the others are ended,
and its error is this command's; up to `--max-restarts` times all start anew from the last checkpoint, unless the error
is the user's to mend.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, final

from cuesta.cli import tables
from cuesta.engine.workers import Backend, Command, LocalBackend, Outcome, RayBackend
from cuesta.errors import UserError

_SECONDS_BETWEEN_LOOKS = 0.2
_MISTAKE = 2  # the status of a command that ended by a `UserError`


class Failure(NamedTuple):
    """Hold which rank failed first, and how."""

    rank: int
    outcome: Outcome

    def words(self) -> str:
        """Return it in words."""
        status, _, last_line = self.outcome
        if status < 0:
            return f"rank {self.rank} was ended by {signal.Signals(-status).name}"
        words = last_line.removeprefix("cuesta: ")
        return words if words.startswith("rank ") else f"rank {self.rank} failed: {words}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `cuesta train` takes to start ranks."""
    parser.add_argument("--ranks", type=int, help="train on this many ranks, started here")
    parser.add_argument(
        "--ray", action="store_true", help="ranks run on Ray: RAY_ADDRESS, or this machine"
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="times that all ranks go on from the last checkpoint after one has failed (%(default)s)",
    )


def train_on_ranks(options: argparse.Namespace, folder: Path) -> int:
    """Run `cuesta train` with these options on `options.ranks` ranks. Raises `UserError` as `run_ranks` does."""
    if options.ranks < 1 or options.max_restarts < 0:
        raise UserError(
            f"--ranks must be at least 1 and --max-restarts at least 0, got {options.ranks} and "
            f"{options.max_restarts}"
        )
    if "WORLD_SIZE" in os.environ:
        raise UserError("this process is a rank already; leave out --ranks, or torchrun")
    folder = folder.resolve()
    logs = folder.with_name(f"{folder.name}-ranks")
    arguments = (sys.executable, "-m", "cuesta.cli.main", *_arguments(options, folder))
    run_ranks(
        arguments, logs, size=options.ranks, on_ray=options.ray, max_restarts=options.max_restarts
    )
    return 0


def run_ranks(
    arguments: Sequence[str], logs: Path, *, size: int, on_ray: bool, max_restarts: int
) -> None:
    """Run a command as ranks, and print what the first said: errors at once, the rest at the end.

    Raises `UserError` with the error of the rank that failed first.
    """
    for old in logs.glob("rank-*"):
        old.unlink()
    shown = _Shown(logs / "rank-0.err")
    restart = 0
    while (failure := _run(arguments, logs, shown, size, on_ray, restart)) is not None:
        if failure.outcome.status == _MISTAKE or restart == max_restarts:
            said = logs / f"rank-{failure.rank}.err"
            raise UserError(f"{failure.words()}; all that it said is in {said}")
        restart += 1
        print(f"{failure.words()}; all ranks start anew", file=sys.stderr, flush=True)
    print((logs / "rank-0.out").read_text(encoding="utf-8"), end="", flush=True)


def _arguments(options: argparse.Namespace, folder: Path) -> list[str]:
    """Return the arguments of a rank's command."""
    words = ["train", options.recipe, "--out", str(folder)]
    flags = ("resume", "overwrite", "wait_for_saves", "json")
    words += [f"--{flag.replace('_', '-')}" for flag in flags if getattr(options, flag)]
    if options.device is not None:
        words += ["--device", options.device]
    if options.plan is not None:
        words += ["--plan", str(Path(options.plan).resolve())]
    return [*words, *tables.words_of(options), *options.settings]


def _run(
    arguments: Sequence[str],
    logs: Path,
    shown: _Shown,
    size: int,
    on_ray: bool,
    restart: int,
) -> Failure | None:
    """Run all ranks once; return which failed first."""
    from torch.distributed import TCPStore

    backend: Backend = RayBackend(size, retries=0) if on_ray else LocalBackend(size)
    with _stopped_at_end(backend):
        host = _ray_host(size) if on_ray else "127.0.0.1"
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        ranks = {}
        for rank in range(size):
            ours = {
                "RANK": rank,
                "WORLD_SIZE": size,
                "LOCAL_RANK": 0 if on_ray else rank,
                **({} if on_ray else {"LOCAL_WORLD_SIZE": size}),  # on Ray, ranks find out
                "MASTER_ADDR": host,
                "MASTER_PORT": store.port,
                "TORCHELASTIC_USE_AGENT_STORE": True,
                "TORCHELASTIC_RESTART_COUNT": restart,
            }
            ranks[backend.start(_command(arguments, logs / f"rank-{rank}", ours))] = rank
        waiting = set(ranks)
        while waiting:
            ended, waiting = wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
            shown.show()
            for future in ended:
                if future.result().status != 0:
                    return Failure(ranks[future], future.result())
    return None


def _command(arguments: Sequence[str], log: Path, environment: Mapping[str, object]) -> Command:
    words = {name: str(value) for name, value in environment.items()}
    return Command(arguments=tuple(arguments), log=str(log), environment=words)


def _ray_host(size: int) -> str:
    """Return the address of this machine in Ray's cluster. Raises `UserError` if the cluster is too small."""
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < size:
        raise UserError(f"--ranks {size}: the Ray cluster has {cpus} CPUs, and a rank needs one")
    return str(ray.util.get_node_ip_address())


@contextmanager
def _stopped_at_end(backend: Backend) -> Iterator[None]:
    """Stop the backend when the block ends, by SIGTERM too."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        backend.stop()
        signal.signal(signal.SIGTERM, before)


@final
class _Shown:
    """Show what is added to a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._place = path, 0

    def show(self) -> None:
        """Print what is new."""
        if self._path.exists():
            with self._path.open(encoding="utf-8", errors="replace") as file:
                file.seek(self._place)
                text = file.read()
                self._place = file.tell()
            print(text, end="", file=sys.stderr, flush=True)
