"""Jagged Flash Attention in a ranker: recipes that train through it. Its kernels are
`ops.jagged_attention` and its kin, its layers those of `nn.jagged`.
"""

from cuesta.nn import (
    JaggedAttention,
    JaggedEncoder,
    JaggedInteraction,
    SeedPooling,
    TargetPooling,
)

__all__ = [
    "JaggedAttention",
    "JaggedEncoder",
    "JaggedInteraction",
    "SeedPooling",
    "TargetPooling",
]
