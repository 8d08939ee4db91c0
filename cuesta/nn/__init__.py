"""Layers that at least two systems use: embedding tables, dense blocks, attention on and pooling of
ragged histories.
"""

from cuesta.nn.dense import MLP, CrossNetwork
from cuesta.nn.embedding import EmbeddingBags, Storage, Table
from cuesta.nn.history import TargetAttention, ragged_softmax
from cuesta.nn.jagged import (
    JaggedAttention,
    JaggedEncoder,
    JaggedInteraction,
    SeedPooling,
    TargetPooling,
)

__all__ = [
    "MLP",
    "CrossNetwork",
    "EmbeddingBags",
    "JaggedAttention",
    "JaggedEncoder",
    "JaggedInteraction",
    "SeedPooling",
    "Storage",
    "Table",
    "TargetAttention",
    "TargetPooling",
    "ragged_softmax",
]
