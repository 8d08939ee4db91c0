"""`make_depth` in a process of its own: how long it takes, and the most memory that the whole process holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from cuesta.cli.bench import PROCESS_ENVIRONMENT
from cuesta.cli.bench.peak_memory import peak_bytes
from cuesta.vision.terrasky3d import depth_recipes
from cuesta.vision.terrasky3d.depth import make_depth
from cuesta.vision.terrasky3d.settings import StereoSettings


class Run(NamedTuple):
    """Hold the seconds of `make_depth`, imports left out, and the peak of resident memory, all included."""

    seconds: float
    peak_mib: float


def run_depth(scene: Path, recipe: str, *, cache: Path | None = None) -> Run:
    """Give a scene depth by a recipe; `cache` is where compiled kernels are kept, an empty folder for a first
    run. Raises `RuntimeError` with the last line of a process that fails.
    """
    environment = {**os.environ, **PROCESS_ENVIRONMENT}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = str(cache)
    words = [sys.executable, "-W", "ignore", "-m", __name__, str(scene), recipe]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode != 0 or not lines:
        raise RuntimeError(lines[-1] if lines else f"ended with {done.returncode}")
    return Run(*json.loads(lines[-1]))


def _main(scene: str, recipe: str) -> None:
    settings: StereoSettings = getattr(depth_recipes, recipe)()
    begin = time.perf_counter()
    make_depth(scene, settings)
    print(json.dumps(Run(time.perf_counter() - begin, peak_bytes() / 2**20)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
