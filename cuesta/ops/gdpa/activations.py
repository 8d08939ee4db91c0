"""The activations of `gdpa` by their published names, and the eight formulas behind them.

Names that differ only in how a GPU approximates the same function share its formula.
`fast_gelu_bf16` has the constant sqrt(2 / pi) rounded to bfloat16, in both directions. All give 0
for 0.
"""

from __future__ import annotations

from typing import Literal, get_args

Activation = Literal[
    "raw",
    "gelu",
    "gelu_approx",
    "fast_gelu",
    "taylor_gelu",
    "fast_gelu_bf16",
    "relu",
    "leaky_relu",
    "relu_squared",
    "silu",
    "fast_silu",
    "hardswish",
]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
SAME_AS = {"fast_gelu": "gelu_approx", "taylor_gelu": "gelu_approx", "fast_silu": "silu"}
FORMULAS = tuple(name for name in ACTIVATIONS if name not in SAME_AS)  # a body's number for each

GELU_RATE = 0.7978845608028654  # sqrt(2 / pi)
GELU_RATE_BF16 = 0.796875
GELU_CUBIC = 0.044715
LEAK = 0.01
