"""How much memory a call takes at most, beyond what stood before it: the growth of the peak of
resident memory, in a fresh process for each provider; on a GPU that of torch's allocator.

The process has imported everything, made its inputs and done a step on a small instance before it
is watched; so compiled code and the stacks of threads do not count. Outputs, gradients and what is
kept for backward do.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cuesta.cli.bench import PROCESS_ENVIRONMENT
from cuesta.cli.bench.harness import Settings

if TYPE_CHECKING:
    from cuesta.cli.bench.attention_cases import AttentionCase
    from cuesta.cli.bench.attention_trials import Provider, Trial

NUM_SAMPLES = 3
MOST_SECONDS = 900
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peaks_of(
    bench: str, case: AttentionCase, provider: Provider, settings: Settings
) -> list[float]:
    """Return in MiB what a few steps of `provider` take in a process of their own.

    The process finds case and provider by their names among the trials of `bench`. Raises
    `RuntimeError` with its last line where it fails.
    """
    if case.device != "cpu":
        return growths(provider.prepare(case.inputs()).step, case.device)
    words = [sys.executable, "-W", "ignore", "-m", __name__, bench, case.name, provider.name]
    words += ["--quick"] if settings.quick else []
    environment = {**os.environ, **PROCESS_ENVIRONMENT}
    try:
        done = subprocess.run(
            words,
            env=environment,
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took more than {MOST_SECONDS} s") from error
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode != 0 or not lines:
        raise RuntimeError(lines[-1] if lines else f"ended with {done.returncode}")
    return [float(sample) for sample in json.loads(lines[-1])]


def growths(call: Callable[[], object], device: str = "cpu") -> list[float]:
    """Return in MiB what each of a few calls adds to the memory of this process, or of its GPU."""
    if device != "cpu":
        return _device_peaks(call)
    samples = []
    for _ in range(NUM_SAMPLES):
        gc.collect()
        _give_back()
        can_repeat = _reset_peak()
        before = peak_bytes()
        kept = call()
        samples.append((peak_bytes() - before) / 2**20)
        del kept
        if not can_repeat:  # the peak never falls again
            break
    return samples


def _device_peaks(call: Callable[[], object]) -> list[float]:
    samples = []
    for _ in range(NUM_SAMPLES):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call()
        samples.append((torch.cuda.max_memory_allocated() - before) / 2**20)
        del kept
    return samples


def _give_back() -> None:
    """Let the allocator return what is free, so that a call cannot hide in it (glibc)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _reset_peak() -> bool:
    """Set the peak to what is resident now; return whether that was possible."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """Return the bytes of the peak of resident memory."""
    lines = _STATUS.read_text(encoding="ascii").splitlines() if _STATUS.exists() else []
    for line in lines:
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _main(words: list[str]) -> None:
    bench, case, provider = words[:3]
    trials: Iterable[Trial] = importlib.import_module(f"cuesta.cli.bench.{bench}").trials(
        Settings(quick="--quick" in words)
    )
    trial = next(t for t in trials if t.case.name == case and t.memory)
    prepare = next(p.prepare for p in trial.memory if p.name == provider)
    for _ in range(2):
        prepare(trial.case.small().inputs()).step()
    print(json.dumps(growths(prepare(trial.case.inputs()).step)))


if __name__ == "__main__":
    _main(sys.argv[1:])
