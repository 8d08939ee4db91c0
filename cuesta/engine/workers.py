"""Where the commands of a fleet run: in processes of this machine, or as tasks of a Ray cluster.

A command writes what it says to files. It is led by `leash`, so that it ends with the process that
started it, and it is alone in its process group, so that a signal reaches all that it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, final

from cuesta.errors import UserError

_PATIENCE_S = 10.0  # between asking a process to end and ending it
_TAIL = 4096  # bytes, of what a command said last


@final
@dataclass(frozen=True, kw_only=True)
class Command:
    """Hold an argument vector, the start of the names of its logs, and what it finds in its environment.

    What it says goes to `log` + `.out` and `log` + `.err`; attempts follow each other there.
    """

    arguments: tuple[str, ...]
    log: str
    environment: Mapping[str, str]


class Outcome(NamedTuple):
    """Hold how a command ended: its status (minus a signal that ended it), seconds, last words."""

    status: int
    seconds: float
    last_line: str


class Backend(Protocol):
    """Run commands, several at a time."""

    def start(self, command: Command) -> Future[Outcome]:
        """Return at once what the command will have come to."""
        ...

    def stop(self) -> None:
        """End all that runs, and start nothing any more."""
        ...


@final
class LocalBackend:
    """Run up to `workers` commands at a time in processes of this machine."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="scene")
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def start(self, command: Command) -> Future[Outcome]:
        """Queue the command."""
        return self._pool.submit(self._run, command)

    def stop(self) -> None:
        """Interrupt all processes as Ctrl-C does, and kill those that are there 10 s later."""
        with self._lock:
            self._is_stopped = True
            running = list(self._running)
        for process in running:
            _signal_group(process, signal.SIGINT)
        deadline = time.monotonic() + _PATIENCE_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, command: Command) -> Outcome:
        begin = time.monotonic()
        with self._lock:
            if self._is_stopped:
                return Outcome(-signal.SIGINT, 0.0, "not started")
            process = launch(command)
            self._running.add(process)
        process.wait()
        with self._lock:
            self._running.discard(process)
        return Outcome(process.returncode, time.monotonic() - begin, last_line(command.log))


@final
class RayBackend:
    """Run commands as tasks of Ray: of the cluster at RAY_ADDRESS, else on this machine.

    The cluster's machines need cuesta and the same paths. A task whose worker or machine dies is given
    by Ray to another, `retries` times. Raises `UserError` where Ray is not installed or does not start.
    """

    def __init__(self, workers: int, *, retries: int) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError(
                "Ray is not installed; pip install 'cuesta[ray]' brings it, or leave out --ray"
            ) from error
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _start(ray.init)
        self._ray = ray
        self._task = ray.remote(num_cpus=1, max_retries=retries)(run_command)
        self._waiters = ThreadPoolExecutor(workers, thread_name_prefix="ray")
        self._tasks: list[object] = []

    def start(self, command: Command) -> Future[Outcome]:
        """Hand the command to Ray when fewer than `workers` are there."""
        return self._waiters.submit(self._run, command)

    def stop(self) -> None:
        """End the workers of all tasks; the commands end with them."""
        for task in list(self._tasks):
            self._ray.cancel(task, force=True)
        self._waiters.shutdown(cancel_futures=True)
        if self._is_ours:
            self._ray.shutdown()

    def _run(self, command: Command) -> Outcome:
        begin = time.monotonic()
        task = self._task.remote(command)
        self._tasks.append(task)
        try:
            outcome: Outcome = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            words = str(error).splitlines()[0]
            return Outcome(-signal.SIGKILL, time.monotonic() - begin, f"Ray: {words}")
        finally:
            self._tasks.remove(task)
        return outcome


def run_command(command: Command) -> Outcome:
    """Return how the command ended."""
    begin = time.monotonic()
    process = launch(command)
    process.wait()
    return Outcome(process.returncode, time.monotonic() - begin, last_line(command.log))


def launch(command: Command) -> subprocess.Popen[bytes]:
    """Start the command, its words appended to its logs."""
    leash = [sys.executable, "-m", "cuesta.engine.leash", str(os.getpid())]
    Path(command.log).parent.mkdir(parents=True, exist_ok=True)
    with open(f"{command.log}.out", "ab") as out, open(f"{command.log}.err", "ab") as err:
        return subprocess.Popen(
            [*leash, *command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )


def last_line(log: str) -> str:
    """Return the last line that is not blank of what a command said as errors, else of all it said."""
    for suffix in (".err", ".out"):
        path = Path(f"{log}{suffix}")
        if path.is_file():
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                text = file.read().decode("utf-8", errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return lines[-1]
    return ""


def _start(init: Callable[..., object]) -> None:
    try:
        init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises the bare class where it does not come up in time
        raise UserError(
            f"Ray did not start ({(str(error) or type(error).__name__).splitlines()[0]}); name a cluster that runs by "
            "RAY_ADDRESS, or leave out --ray"
        ) from error


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, number)
