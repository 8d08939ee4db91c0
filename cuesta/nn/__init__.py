"""Layers that at least two systems use: embedding tables, dense blocks, pooling of ragged
histories.
"""

from cuesta.nn.dense import MLP, CrossNetwork
from cuesta.nn.embedding import EmbeddingBags, Storage, Table
from cuesta.nn.history import TargetAttention, ragged_softmax

__all__ = [
    "MLP",
    "CrossNetwork",
    "EmbeddingBags",
    "Storage",
    "Table",
    "TargetAttention",
    "ragged_softmax",
]
