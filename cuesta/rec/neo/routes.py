"""How what a rank looked up becomes messages to all ranks, and what these sent becomes its own answer, and back.

Two `Route`s: pooled answers, a row of columns a row of the batch, and unpooled ones, a row an id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cuesta.rec.neo.exchange import Received
from cuesta.rec.neo.sharding import Answers, Layout, Slot


@final
class PooledRoute:
    """Take [all ranks' rows, own slots' columns] to [own rows, all columns of `layout`].

    `rank` is this one's number among those that exchange, `num_rows` are the rows of each of them, `lengths` [F, B]
    those of this rank's bags, if sums are to be divided by them. Gradients are multiplied by `share`.
    """

    def __init__(
        self,
        rank: int,
        layout: Layout,
        num_rows: Sequence[int],
        lengths: Int64[Tensor, "F B"] | None = None,
        share: float = 1.0,
    ) -> None:
        self._layout, self._lengths, self._share = layout, lengths, share
        self._num_rows, self._all_rows = num_rows[rank], sum(num_rows)
        self._own_width = layout.widths[rank]
        self.sizes = [rows * self._own_width for rows in num_rows]
        self.their_sizes = [self._num_rows * width for width in layout.widths]

    def packed(self, values: Float[Tensor, "_ _"]) -> Tensor:
        """Return the rows, those of each rank after another as they lie."""
        return values.flatten()

    def unpacked(self, messages: Sequence[Tensor]) -> Float[Tensor, "B width"]:
        """Return columns side by side, each the sum over the ranks that have some of its rows."""
        parts = [
            message.view(self._num_rows, width)
            for message, width in zip(messages, self._layout.widths, strict=True)
        ]
        columns = []
        for answer in self._layout.answers:
            width = answer.columns.width
            pieces = [parts[rank].narrow(1, start, width) for rank, start in answer.pieces]
            total = pieces[0]
            for piece in pieces[1:]:
                total = total + piece
            columns.append(self._mean(total, answer))
        return torch.cat(columns, 1) if columns else messages[0].new_empty(self._num_rows, 0)

    def packed_grad(self, grad: Float[Tensor, "B width"]) -> Tensor:
        """Return for each rank the gradients of its slots' columns."""
        widths = [answer.columns.width for answer in self._layout.answers]
        parts: list[list[tuple[int, Tensor]]] = [[] for _ in self._layout.widths]
        scaled = grad.float() if self._share == 1 else grad.float() * self._share
        for answer, column in zip(self._layout.answers, scaled.split(widths, 1), strict=True):
            for rank, start in answer.pieces:
                parts[rank].append((start, self._mean(column, answer)))
        rows = [[column for _, column in sorted(each, key=lambda part: part[0])] for each in parts]
        messages = [torch.cat(each, 1).flatten() for each in rows if each]
        return torch.cat(messages) if messages else scaled.new_empty(0)

    def unpacked_grad(self, messages: Sequence[Tensor]) -> Float[Tensor, "_ _"]:
        """Return the gradient of the rows of all ranks."""
        return torch.cat(list(messages)).view(self._all_rows, self._own_width)

    def _mean(self, total: Tensor, answer: Answers) -> Tensor:
        if not answer.divides:
            return total
        assert self._lengths is not None
        return total / self._lengths[answer.columns.feature].clamp(min=1)[:, None]


@final
class RowsRoute:
    """Take [ids of own slots, D of a part] to [own ids, D], in the order of the ids.

    `slots[r]` are rank r's, `counts[r]` how many of this rank's ids each of them gets, `places` which ones,
    slot after slot, rank after rank. Gradients are multiplied by `share`.
    """

    def __init__(
        self,
        slots: Sequence[Sequence[Slot]],
        counts: Sequence[Sequence[int]],
        places: Int64[Tensor, " found"],
        received: Received,
        shape: tuple[int, int],
        part: int,
        share: float,
    ) -> None:
        self._shape, self._part, self._share = shape, part, share
        flat = [count for each in counts for count in each]
        columns = [slot.shard.columns for each in slots for slot in each]
        self._targets = list(zip(places.split(flat), columns, strict=True))
        self._flat = flat
        self._received = received.counts
        self.sizes = [sum(each) * part for each in received.counts]
        self.their_sizes = [sum(each) * part for each in counts]

    def packed(self, values: Float[Tensor, "_ _"]) -> Tensor:
        """Return the rows rank by rank: they lie slot by slot."""
        by_slot = [count for slot in zip(*self._received, strict=True) for count in slot]
        return self._turned(values, by_slot, len(self._received))

    def unpacked(self, messages: Sequence[Tensor]) -> Float[Tensor, "T D"]:
        """Return each row where its id was, and each part of its columns."""
        rows = torch.cat(list(messages)).view(-1, self._part).split(self._flat)
        out = rows[0].new_empty(self._shape) if rows else messages[0].new_empty(self._shape)
        for (places, (left, right)), part in zip(self._targets, rows, strict=True):
            out[places, left:right] = part
        return out

    def packed_grad(self, grad: Float[Tensor, "T D"]) -> Tensor:
        """Return the gradients in the order of the ids that were sent."""
        scaled = grad.float() * self._share
        parts = [scaled[places, left:right].flatten() for places, (left, right) in self._targets]
        return torch.cat(parts) if parts else scaled.new_empty(0)

    def unpacked_grad(self, messages: Sequence[Tensor]) -> Float[Tensor, "_ _"]:
        """Return the gradient of the rows, slot by slot."""
        by_rank = [count for rank in self._received for count in rank]
        values = torch.cat(list(messages)).view(-1, self._part)
        num_slots = len(self._received[0])
        return self._turned(values, by_rank, num_slots).view(-1, self._part)

    def _turned(self, values: Tensor, counts: list[int], inner: int) -> Tensor:
        """Return rows that lie in groups of `inner` parts with the order of both exchanged, flat."""
        parts = values.split(counts)
        ordered = [part for place in range(inner) for part in parts[place::inner]]
        return torch.cat(ordered).flatten() if ordered else values.flatten()
