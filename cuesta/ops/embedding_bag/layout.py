"""`TableLayout`: where each feature's table lies in the one flat weight buffer, and its columns in
the output.

Many tables in one buffer is what lets one call serve them all (table-batched embedding, Neo, ISCA
2022, "horizontal fusion").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, final

import torch
from jaxtyping import Int64
from torch import Tensor

Pooling = Literal["sum", "mean"]


@final
@dataclass(frozen=True)
class TableLayout:
    """Describe tables of `rows[t]` x `dims[t]` in one flat buffer, and the table and pooling of
    each feature.

    ```
    storage   | table 0: rows[0] * dims[0] | table 1: rows[1] * dims[1] | ...
    output    | feature 0: dims of its table | feature 1 | ...              [B, width]
    ```

    `features[f]` is the table of feature f; several features may share one. Raises `ValueError`
    when a table or a pooling is unknown.

    >>> layout = TableLayout(rows=(10, 20), dims=(4, 8), features=(0, 1, 1), poolings=("sum", "mean", "sum"))
    >>> layout.storage, layout.width, layout.num_rows
    (200, 20, 30)
    """

    rows: tuple[int, ...]
    dims: tuple[int, ...]
    features: tuple[int, ...]
    poolings: tuple[Pooling, ...]

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.dims) or min((*self.rows, *self.dims), default=0) < 1:
            raise ValueError(
                f"every table needs a positive number of rows and dim, got rows {self.rows} and dims {self.dims}"
            )
        if len(self.features) != len(self.poolings):
            raise ValueError(
                f"every feature needs one pooling, got {len(self.features)} and {len(self.poolings)}"
            )
        for feature, (table, pooling) in enumerate(zip(self.features, self.poolings, strict=True)):
            if not 0 <= table < len(self.rows):
                raise ValueError(f"feature {feature} names table {table} of {len(self.rows)}")
            if pooling not in ("sum", "mean"):
                raise ValueError(f"feature {feature}: pooling must be sum or mean, got {pooling!r}")

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Return where each table starts in the flat buffer, in elements."""
        sizes = (rows * dim for rows, dim in zip(self.rows, self.dims, strict=True))
        return tuple(accumulate(sizes, initial=0))

    @cached_property
    def row_starts(self) -> tuple[int, ...]:
        """Return the number of each table's first row when all tables' rows are counted through."""
        return tuple(accumulate(self.rows, initial=0))

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """Return the first output column of each feature, and the width after the last."""
        return tuple(accumulate((self.dims[table] for table in self.features), initial=0))

    @property
    def storage(self) -> int:
        """Return the number of elements of the flat buffer."""
        return self.starts[-1]

    @property
    def num_rows(self) -> int:
        """Return the number of rows of all tables."""
        return self.row_starts[-1]

    @property
    def width(self) -> int:
        """Return the number of output columns, the sum of the features' dims."""
        return self.columns[-1]

    @cached_property
    def grid(self) -> Int64[Tensor, "F 6"]:
        """Return what kernels read, a row a feature: start, first row, rows, dim, column, 1 for
        mean.
        """
        return torch.tensor(
            [
                (
                    self.starts[table],
                    self.row_starts[table],
                    self.rows[table],
                    self.dims[table],
                    self.columns[feature],
                    self.poolings[feature] == "mean",
                )
                for feature, table in enumerate(self.features)
            ],
            dtype=torch.int64,
        ).view(-1, 6)

    @cached_property
    def tables(self) -> Int64[Tensor, "K 4"]:
        """Return, a row a table: start, first row, rows, dim."""
        columns = zip(self.starts, self.row_starts, self.rows, self.dims, strict=False)
        return torch.tensor(list(columns), dtype=torch.int64).view(-1, 4)
