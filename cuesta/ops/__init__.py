"""Kernels on ragged tensors: one op, one folder, one signature, three bodies.

`reference.py` is the specification, `cpu.py` the Numba body, `gpu.py` the Triton body; the folder's
`__init__.py` checks, documents and registers the op with torch (fake body, autograd, FLOP formula).
"""

from cuesta.ops.attended_rows import Mask
from cuesta.ops.bodies import force_body
from cuesta.ops.bucketize_ids import Bucketized, bucketize_ids
from cuesta.ops.consistency import Consistency, consistency
from cuesta.ops.copy_rows import copy_rows
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
from cuesta.ops.gdpa import gdpa
from cuesta.ops.jagged_attention import (
    jagged_attention,
    jagged_dense_attention,
    seed_attention,
)
from cuesta.ops.jagged_bmm import (
    array_jagged_bmm_jagged_out,
    jagged_dense_bmm,
    jagged_jagged_bmm,
    jagged_jagged_bmm_jagged_out,
)
from cuesta.ops.jagged_elementwise import (
    jagged_dense_elementwise_add,
    jagged_dense_elementwise_mul_jagged_out,
    jagged_self_subtraction_jagged_out,
)
from cuesta.ops.jagged_layout import dense_jagged_cat_jagged_out, jagged2_to_padded_dense
from cuesta.ops.jagged_softmax import jagged2_softmax, jagged_softmax
from cuesta.ops.pad import pad, unpad
from cuesta.ops.patch_match import Patch, PatchMatch, Search, patch_match, patch_match_costs
from cuesta.ops.plane_sweep import plane_sweep, plane_sweep_zncc
from cuesta.ops.row_cache import CacheTags, Found, Inserted, cache_find, cache_insert
from cuesta.ops.segment_reduce import segment_reduce, segment_spread
from cuesta.ops.zbuffer import ZBuffer, zbuffer

__all__ = [
    "SGD",
    "Adagrad",
    "Bucketized",
    "CacheTags",
    "Consistency",
    "Found",
    "Inserted",
    "Lookup",
    "Mask",
    "PartialRowwiseAdam",
    "Patch",
    "PatchMatch",
    "RowwiseAdagrad",
    "Search",
    "TableLayout",
    "TableOptimizer",
    "TableState",
    "ZBuffer",
    "array_jagged_bmm_jagged_out",
    "bucketize_ids",
    "cache_find",
    "cache_insert",
    "consistency",
    "copy_rows",
    "dense_jagged_cat_jagged_out",
    "dot_interaction",
    "embedding_bag",
    "embedding_rows",
    "embedding_update",
    "force_body",
    "gdpa",
    "jagged2_softmax",
    "jagged2_to_padded_dense",
    "jagged_attention",
    "jagged_dense_attention",
    "jagged_dense_bmm",
    "jagged_dense_elementwise_add",
    "jagged_dense_elementwise_mul_jagged_out",
    "jagged_jagged_bmm",
    "jagged_jagged_bmm_jagged_out",
    "jagged_self_subtraction_jagged_out",
    "jagged_softmax",
    "pad",
    "patch_match",
    "patch_match_costs",
    "plane_sweep",
    "plane_sweep_zncc",
    "seed_attention",
    "segment_reduce",
    "segment_spread",
    "unpad",
    "zbuffer",
]
