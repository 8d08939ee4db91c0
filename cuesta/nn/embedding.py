"""`EmbeddingBags`: all embedding tables of a model as one module, trained by an exact fused update.

This unsharded module is the specification that every sharded one must equal. After Neo (ISCA 2022):
one flat buffer, one lookup for all tables, and table gradients that are never materialised. A
backward pass leaves what it knows (ids and the gradient of the output) in `pending`; `step`
turns all of them into one update, so that gradient accumulation is exact, and a non-finite loss can
still be dropped before it reaches a table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cuesta.ops import (
    Lookup,
    TableLayout,
    TableOptimizer,
    TableState,
    embedding_bag,
    embedding_rows,
    embedding_update,
)
from cuesta.ragged import Ragged, RaggedFeatures

Storage = Literal["float32", "bfloat16", "float16"]
_is_unallocated: ContextVar[bool] = ContextVar("unallocated_tables", default=False)
CACHE_LINE = 64  # bytes
DRAWN_AT_ONCE = 1 << 20  # weights that are rounded


@final
@dataclass(frozen=True, kw_only=True)
class Table:
    """Describe one embedding table of `num_rows` x `dim` and the features that look it up.

    `pooled` features come out of `EmbeddingBags.forward`, one row a bag; `unpooled` ones of
    `EmbeddingBags.rows`, one row an id. Weights start uniform in ±sqrt(1 / num_rows), times
    `init_scale`.
    """

    name: str
    num_rows: int
    dim: int
    pooled: tuple[str, ...] = ()
    unpooled: tuple[str, ...] = ()
    pooling: Literal["sum", "mean"] = "sum"
    init_scale: float = 1.0


@contextmanager
def unallocated_tables() -> Iterator[None]:
    """Make `EmbeddingBags` without memory inside the context: descriptions, for tables that will lie elsewhere.

    They stay where they are when their model moves to a device.
    """
    token = _is_unallocated.set(True)
    try:
        yield
    finally:
        _is_unallocated.reset(token)


@final
class EmbeddingBags(nn.Module):
    """Look up many embedding tables at once, and train them with an exact fused optimiser.

    State-dict keys are `tables.<name>` [num_rows, dim], the optimiser's `moments.<name>.first` and
    `.second`, and `updates`, the number of updates so far: all that an exact resume needs.

    >>> from cuesta.ops import RowwiseAdagrad
    >>> bags = EmbeddingBags([Table(name="item", num_rows=5, dim=2, pooled=("item",))], RowwiseAdagrad(lr=0.1))
    >>> batch = RaggedFeatures.from_ragged({"item": Ragged.from_lengths(torch.tensor([1, 4]), [2, 0])})
    >>> out = bags(batch)
    >>> out.sum().backward(); bags.step()
    >>> out.shape, int(bags.updates)
    (torch.Size([2, 2]), 1)
    """

    def __init__(
        self,
        tables: Sequence[Table],
        optimizer: TableOptimizer,
        *,
        storage: Storage = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tables = tuple(tables)
        self.optimizer = optimizer
        self.storage: Storage = storage
        self.seed = seed
        self.pooled_keys = tuple(key for table in tables for key in table.pooled)
        self.unpooled_keys = tuple(key for table in tables for key in table.unpooled)
        self._pooled = self._layout_of("pooled")
        self.pending: list[Lookup] = []
        dtype: torch.dtype = getattr(torch, storage)
        if _is_unallocated.get():
            weight = torch.empty(self._pooled.storage, dtype=dtype, device="meta")
        else:
            weight = _initial(self.tables, dtype, seed)
        state = TableState.fresh(weight, self._pooled, optimizer)
        self.register_buffer("weight", state.weight)
        self.register_buffer("first", state.first)
        self.register_buffer("second", state.second)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.weight: Tensor
        self.first: Tensor
        self.second: Tensor
        self.updates: Tensor

    @property
    def width(self) -> int:
        """Return the number of columns of `forward`, the sum of the pooled features' dims."""
        return self._pooled.width

    def dims(self) -> tuple[int, ...]:
        """Return the dim of each pooled feature, in the order of `forward`'s columns."""
        return tuple(self._pooled.dims[table] for table in self._pooled.features)

    def num_bytes(self) -> int:
        """Return the bytes of all tables' weights, without the optimiser's state."""
        return self.weight.numel() * self.weight.itemsize

    def forward(self, features: RaggedFeatures) -> Float[Tensor, "B width"]:
        """Return the pooled rows of every pooled feature, side by side; bags weigh by
        `features.weights` if given.

        Raises `ValueError` naming the feature, the row and the id when an id is out of range.
        """
        return self._look_up(features.select(self.pooled_keys), self._pooled, is_pooled=True)

    def rows(self, features: RaggedFeatures, keys: Sequence[str]) -> list[Ragged]:
        """Return for each of these unpooled features, whose tables share a dim, its rows of
        embeddings [T, D].
        """
        chosen = features.select(keys)
        layout = self._layout_of("unpooled", tuple(keys))
        values = self._look_up(chosen, layout, is_pooled=False)
        offsets = chosen.offsets
        ends = offsets[:: chosen.num_rows].tolist() if chosen.num_rows else [0] * (len(keys) + 1)
        result = []
        for f, (begin, end) in enumerate(itertools.pairwise(ends)):
            own = offsets[f * chosen.num_rows : (f + 1) * chosen.num_rows + 1] - begin
            result.append(Ragged(values[begin:end], own))
        return result

    def step(self, lr_scale: float = 1.0) -> None:
        """Apply one exact update with all lookups since the last one, at the optimiser's lr times
        `lr_scale`.
        """
        pending, self.pending = self.pending, []
        if not pending:
            return
        self.updates += 1
        state = TableState(self.weight, self.first, self.second)
        embedding_update(
            state,
            pending,
            self.optimizer,
            step=int(self.updates),
            lr=self.optimizer.lr * lr_scale,
            seed=self.seed,
        )

    def drop_gradients(self) -> None:
        """Forget the lookups since the last update."""
        self.pending = []

    def table(self, name: str) -> Float[Tensor, "rows D"]:
        """Return the weights of table `name` as a view."""
        return self._views()[f"tables.{name}"]

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        return self if self.weight.is_meta else super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        shapes = ", ".join(f"{table.name} {table.num_rows}x{table.dim}" for table in self.tables)
        return f"{shapes}; {self.weight.dtype}, {self.optimizer}"

    def _layout_of(
        self, kind: Literal["pooled", "unpooled"], keys: tuple[str, ...] | None = None
    ) -> TableLayout:
        owners = {key: t for t, table in enumerate(self.tables) for key in getattr(table, kind)}
        if keys is None:
            keys = tuple(key for table in self.tables for key in getattr(table, kind))
        for key in keys:
            if key not in owners:
                raise ValueError(f"no {kind} feature {key!r}; the tables have {sorted(owners)}")
        return TableLayout(
            rows=tuple(table.num_rows for table in self.tables),
            dims=tuple(table.dim for table in self.tables),
            features=tuple(owners[key] for key in keys),
            poolings=tuple(self.tables[owners[key]].pooling for key in keys),
        )

    def _look_up(self, features: RaggedFeatures, layout: TableLayout, *, is_pooled: bool) -> Tensor:
        learns = torch.is_grad_enabled() and self.training
        try:
            return look_up(self, features, layout, is_pooled=is_pooled, learns=learns)
        except ValueError as error:
            raise ValueError(_with_names(str(error), features.keys)) from None

    def _views(self) -> dict[str, Tensor]:
        """Return state-dict names and the views of the flat buffers they name."""
        views = {}
        for t, table in enumerate(self.tables):
            start, end = self._pooled.starts[t : t + 2]
            first_row, last_row = self._pooled.row_starts[t : t + 2]
            views[f"tables.{table.name}"] = self.weight[start:end].view(table.num_rows, table.dim)
            for moment in ("first", "second"):
                flat = getattr(self, moment)
                if flat.numel() == self._pooled.storage:
                    views[f"moments.{table.name}.{moment}"] = flat[start:end].view(-1, table.dim)
                elif flat.numel():
                    views[f"moments.{table.name}.{moment}"] = flat[first_row:last_row]
        return views

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        for name, view in self._views().items():
            destination[prefix + name] = view if keep_vars else view.detach()
        destination[prefix + "updates"] = self.updates

    def _load_from_state_dict(  # type: ignore[no-untyped-def]
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        expected = {**self._views(), "updates": self.updates}
        load_views(expected, state_dict, prefix, strict, missing, unexpected, errors)


def load_views(
    expected: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], prefix: str, strict: bool,
    missing: list[str], unexpected: list[str], errors: list[str],
) -> None:  # fmt: skip
    """Copy a state dict into the views that it should have, and note what it lacks or has too much, as torch does."""
    for name, view in expected.items():
        given = state_dict.get(prefix + name)
        if given is None:
            missing.append(prefix + name)
        elif given.shape != view.shape:
            errors.append(
                f"{prefix}{name}: expected shape {tuple(view.shape)}, got {tuple(given.shape)}"
            )
        else:
            view.copy_(given)
    if strict:
        known = {prefix + name for name in expected}
        unexpected += [key for key in state_dict if key.startswith(prefix) and key not in known]


class Lines(Protocol):
    """Be a flat buffer of weights that lookups read, and a list of those that its next update will make."""

    @property
    def weight(self) -> Tensor:
        """Return the weights."""
        ...

    @property
    def pending(self) -> list[Lookup]:
        """Return the list."""
        ...


def look_up(
    lines: Lines, features: RaggedFeatures, layout: TableLayout, *, is_pooled: bool, learns: bool
) -> Float[Tensor, "_ _"]:
    """Return what `embedding_bag` or `embedding_rows` does; if it `learns`, its backward adds to `lines.pending`."""
    if not learns:
        return _forward(lines.weight, features, layout, is_pooled)
    anchor = torch.empty(0, device=lines.weight.device, requires_grad=True)
    return _Lookup.apply(anchor, features.weights, lines, features, layout, is_pooled)


class _Lookup(torch.autograd.Function):
    """A lookup whose backward leaves a pending update on the module instead of a table gradient."""

    @staticmethod
    def forward(ctx, anchor, sample_weights, module, features, layout, is_pooled):  # type: ignore[no-untyped-def]
        ctx.module, ctx.features, ctx.layout, ctx.is_pooled = module, features, layout, is_pooled
        return _forward(module.weight, features, layout, is_pooled)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        features, module = ctx.features, ctx.module
        weights = features.weights if ctx.is_pooled else None
        grad = grad.contiguous()
        module.pending.append(
            Lookup(ctx.layout, features.values, features.offsets, grad, weights, ctx.is_pooled)
        )
        sample_grad = None
        if ctx.needs_input_grad[1] and ctx.is_pooled:
            grid = ctx.layout.grid.to(grad.device)
            sample_grad = torch.ops.cuesta.sample_weight_grad(
                grad, module.weight, features.values, features.offsets, grid
            )
        return None, sample_grad, None, None, None, None


def _forward(
    weight: Tensor, features: RaggedFeatures, layout: TableLayout, is_pooled: bool
) -> Tensor:
    ids, offsets = features.values, features.offsets
    if is_pooled:
        return embedding_bag(weight, ids, offsets, layout=layout, sample_weights=features.weights)
    return embedding_rows(weight, ids, offsets, layout=layout)


def draw_rows(
    tables: Sequence[Table], seed: int
) -> Iterator[tuple[Table, int, Float[Tensor, "rows D"]]]:
    """Yield the weights that `EmbeddingBags` starts with, before they are rounded: table after table, rows from one on.

    Rows are overwritten by the next ones, so that the memory is small whatever the tables.
    """
    generator = torch.Generator().manual_seed(seed)
    scratch = torch.empty(max([DRAWN_AT_ONCE, *(table.dim for table in tables)]))
    for table in tables:
        at_once = scratch.numel() // table.dim
        for first in range(0, table.num_rows, at_once):
            rows = min(at_once, table.num_rows - first)
            drawn = scratch[: rows * table.dim].view(rows, table.dim)
            yield table, first, _drawn(drawn, table, generator)


def draw_into(tables: Sequence[Table], views: Sequence[Float[Tensor, "rows D"]], seed: int) -> None:
    """Write the weights that `EmbeddingBags` starts with into tensors of its storage's dtype."""
    generator = torch.Generator().manual_seed(seed)
    for table, view in zip(tables, views, strict=True):
        _drawn(view, table, generator)


def _drawn(values: Tensor, table: Table, generator: torch.Generator) -> Tensor:
    """Draw float32 numbers, whatever they are rounded to."""
    bound = table.init_scale * table.num_rows**-0.5
    if values.dtype is torch.float32 and values.is_contiguous():
        return values.uniform_(-bound, bound, generator=generator)
    for part in values.split(max(DRAWN_AT_ONCE * len(values) // max(values.numel(), 1), 1)):
        part.copy_(torch.empty(part.shape).uniform_(-bound, bound, generator=generator))
    return values


def _initial(tables: Sequence[Table], dtype: torch.dtype, seed: int) -> Tensor:
    """Return the flat buffer of all tables.

    numpy asks for huge pages, which random rows of big tables need. It aligns to 16 bytes only; from
    a whole cache line on, a row of 16 floats is one line and not two, unless a table before it ends
    inside one.
    """
    generator = torch.Generator().manual_seed(seed)
    total = sum(table.num_rows * table.dim for table in tables)
    memory = np.empty(total * dtype.itemsize + CACHE_LINE, np.uint8)
    skipped = -memory.ctypes.data % CACHE_LINE
    flat = torch.from_numpy(memory[skipped : skipped + total * dtype.itemsize]).view(dtype)
    start = 0
    for table in tables:
        end = start + table.num_rows * table.dim
        _drawn(flat[start:end], table, generator)
        start = end
    return flat


def _with_names(message: str, keys: tuple[str, ...]) -> str:
    """Put the feature's name into an op's message, which knows its number only."""
    for number, key in enumerate(keys):
        if message.startswith((f"feature {number},", f"feature {number}:")):
            return message.replace(f"feature {number}", f"feature {key!r}", 1)
    return message
