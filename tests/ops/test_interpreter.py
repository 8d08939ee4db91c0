"""Triton bodies in Triton's interpreter: the tests of `test_gpu_*.py` in one process, whose start takes long."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is for Linux")

# The interpreter multiplies with numpy, the reference with torch: both with kernels that are the same on
# every x86 processor, or one of them gains bits on some, and no twin can follow.
SAME_PRODUCTS = {"OPENBLAS_CORETYPE": "Nehalem", "MKL_CBWR": "COMPATIBLE"}
HERE = Path(__file__).parent


def test_triton_bodies_pass_in_the_interpreter() -> None:
    files = sorted(set(HERE.glob("test_gpu_*.py")) - {HERE / "test_gpu_compile.py"})
    environment = os.environ | SAME_PRODUCTS | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
