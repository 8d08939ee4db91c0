"""What a run ran on: the commit, the command, the hardware and the versions, kept in
`environment.json`.

A resumed run may go on elsewhere, so the file lists one entry per session. Host and user names are
left out: run folders are shared.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

import cuesta
from cuesta.engine.recipe import Json

_PACKAGES = ("torch", "numpy", "numba", "triton", "pyarrow", "polars", "safetensors")


def describe_environment(device: torch.device, *, from_step: int) -> dict[str, Json]:
    """Return one session's entry; `from_step` is the step it began or went on at."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "started": now.isoformat(timespec="seconds"),
        "from_step": from_step,
        "command": _command(),
        "commit": _commit(),
        "device": _device_name(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"cuesta": cuesta.__version__, **_versions()},
    }


def _command() -> str:
    """Return the command line as one would type it again."""
    program, *args = sys.argv
    if "cuesta" in (Path(program).name, Path(program).parent.name):  # installed, or python -m
        return shlex.join(["cuesta", *args])
    return shlex.join(["python", program, *args])


def _commit() -> str:
    """Return the source's commit, `+changes` when files differ from it, `unknown` elsewhere."""
    here = Path(cuesta.__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD").strip()
        changes = _git(here, "status", "--porcelain", "--", str(here)).strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}+changes" if changes else commit


def _git(folder: Path, *args: str) -> str:
    command = ["git", "-C", str(folder), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _versions() -> dict[str, Json]:
    found: dict[str, Json] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
