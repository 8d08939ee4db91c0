"""Attention on a processor of a laptop: without AVX-512 and AMX, compiled for and run in a process of
its own, since Numba compiles for one processor a process.
"""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

_TESTS = Path(__file__).parent


def test_kernels_are_twins_without_wide_registers() -> None:
    features = llvm.get_host_cpu_features()
    if not features.get("avx2"):
        pytest.skip("this processor has no AVX2 to fall back on")
    for name in features:
        if name.startswith(("avx512", "amx", "avx10")):
            features[name] = False
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        str(_TESTS / "test_jagged_attention.py"), "-k", "test_bodies_are_twins and float32",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env={**os.environ, "NUMBA_CPU_FEATURES": features.flatten()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
