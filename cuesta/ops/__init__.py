"""Kernels on ragged tensors: one op, one folder, one signature, three bodies.

`reference.py` is the specification, `cpu.py` the Numba body, `gpu.py` the Triton body; the folder's
`__init__.py` checks, documents and registers the op with torch (fake body, autograd, FLOP formula).
"""

from cuesta.ops.bodies import force_body
from cuesta.ops.dot_interaction import dot_interaction
from cuesta.ops.embedding_bag import TableLayout, embedding_bag, embedding_rows
from cuesta.ops.embedding_update import (
    SGD,
    Adagrad,
    Lookup,
    PartialRowwiseAdam,
    RowwiseAdagrad,
    TableOptimizer,
    TableState,
    embedding_update,
)
from cuesta.ops.pad import pad, unpad
from cuesta.ops.segment_reduce import segment_reduce, segment_spread

__all__ = [
    "SGD",
    "Adagrad",
    "Lookup",
    "PartialRowwiseAdam",
    "RowwiseAdagrad",
    "TableLayout",
    "TableOptimizer",
    "TableState",
    "dot_interaction",
    "embedding_bag",
    "embedding_rows",
    "embedding_update",
    "force_body",
    "pad",
    "segment_reduce",
    "segment_spread",
    "unpad",
]
