"""Attention, and reads of lanes, on processors of laptops: without AVX-512 and AMX, and without AVX2,
compiled for and run in a process of their own, since Numba compiles for one processor a process.
"""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

_TESTS = Path(__file__).parent


WIDE = ("avx512", "amx", "avx10")


def test_kernels_are_twins_and_lanes_read_the_same_without_wide_registers() -> None:
    if not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2 to fall back on")
    selected = "test_lane_gather or (test_bodies_are_twins and float32)"
    assert_passes_without(WIDE, "test_lane_gather.py", "test_jagged_attention.py", "-k", selected)


def test_lanes_read_the_same_without_avx2() -> None:
    assert_passes_without((*WIDE, "avx2", "fma"), "test_lane_gather.py")


def assert_passes_without(missing: tuple[str, ...], *arguments: str) -> None:
    """Run tests as on a processor without the features that begin as `missing` do."""
    features = llvm.get_host_cpu_features()
    for feature in features:
        if feature.startswith(missing):
            features[feature] = False
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=_TESTS,
        env={**os.environ, "NUMBA_CPU_FEATURES": features.flatten()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
