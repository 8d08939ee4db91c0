"""The `cuesta` command, and the benches. Modules here import torch and the systems only once a verb runs."""

from collections.abc import Mapping

# How idle OpenMP threads wait, read once, when torch is imported: a moment awake (some 0.1 ms), then
# asleep. A step has dozens of parallel loops, and to wake a sleeping thread costs 60 us; threads that
# spin without end slow the reader and whatever else runs.
THREAD_ENVIRONMENT: Mapping[str, str] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
