"""Where a bench ran: the hardware, the versions, and how busy the machine was with other work."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import final

import torch

from cuesta.cli.bench import PROCESS_ENVIRONMENT
from cuesta.engine.environment import describe_environment

_PEERS = ("fbgemm-gpu-cpu", "torchrec")


@final
@dataclass(frozen=True, kw_only=True)
class Machine:
    """Hold the machine, the software and the moment; `gpu` is empty where there is none."""

    processor: str
    gpu: str
    cores: int
    threads: int
    memory_gib: float | None
    system: str
    versions: dict[str, str]
    environment: dict[str, str]
    date: str
    commit: str

    @staticmethod
    def here() -> Machine:
        """Return this machine, now, with the versions of the peers that are installed."""
        known = describe_environment(torch.device("cpu"), from_step=0)
        versions = known["versions"]
        assert isinstance(versions, dict)
        memory = known["memory_gib"]
        return Machine(
            processor=str(known["processor"]),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            memory_gib=memory if isinstance(memory, float) else None,
            system=str(known["system"]),
            versions={**{name: str(v) for name, v in versions.items()}, **_peer_versions()},
            environment={name: os.environ.get(name, "") for name in PROCESS_ENVIRONMENT},
            date=str(known["started"]),
            commit=str(known["commit"]),
        )

    def slug(self) -> str:
        """Return the hardware as part of a file name: the GPU, or else the processor."""
        name = self.gpu or f"{self.processor} {self.cores} cores"
        return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@final
@dataclass(frozen=True, kw_only=True)
class Load:
    """Hold the load averages (1, 5, 15 min) before and after, and the share of all cores that other
    programs used in between.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    others: float | None


@contextmanager
def watch_load() -> Iterator[Callable[[], Load]]:
    """Yield a function that returns the load since the context was entered."""
    before, began = _load_average(), time.perf_counter()
    busy, own = _busy_seconds(), _own_seconds()

    def load() -> Load:
        wall = max(time.perf_counter() - began, 1e-9) * (os.cpu_count() or 1)
        others = None
        if busy is not None:
            elsewhere = (_busy_seconds() or busy) - busy - (_own_seconds() - own)
            others = min(max(elsewhere / wall, 0.0), 1.0)
        return Load(before=before, after=_load_average(), others=others)

    yield load


def _load_average() -> tuple[float, ...]:
    return tuple(round(x, 2) for x in os.getloadavg()) if hasattr(os, "getloadavg") else ()


def _own_seconds() -> float:
    """Return the seconds that cores have worked for this process and those of its children that have ended."""
    return sum(os.times()[:4])


def _busy_seconds() -> float | None:
    """Return the seconds that all cores have worked since the start (Linux; else None)."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft, stolen = (int(x) for x in line.split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _peer_versions() -> dict[str, str]:
    found = {}
    for package in _PEERS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
