"""What travels around a sharded lookup: ids to the ranks that hold their rows, and what these find, back.

After Neo (ISCA 2022), sections on partitioning and quantised communication. Ids go in two phases: first how many,
then lengths, ids and weights. What was found comes back as float32, or in 16 bits each way.
Gradients take the same way backwards, and autograd sees both: between sending and `Sent.wait` other work can
be done while numbers travel, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, final

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from cuesta.engine.waits import Wait, Waits
from cuesta.ragged import offsets_from_lengths
from cuesta.rec.neo.ranks import Arriving, Ranks

Precision = Literal["float32", "float16", "bfloat16"]
_MOST = {torch.float16: 65504.0}  # beyond, what is sent would become infinite


@final
@dataclass(frozen=True, kw_only=True)
class Wire:
    """Say how numbers travel: forward what was looked up, backward gradients.

    Gradients are multiplied by `loss_scale` before they are rounded and divided by it after, so that small ones
    do not vanish in float16; bfloat16 has the range of float32 and needs none. Sums are float32 after arrival.
    """

    forward: Precision = "float32"
    backward: Precision = "float32"
    loss_scale: float = 1.0


class Ids(NamedTuple):
    """Hold ids for slots, bag by bag: `lengths` [S, B], and a weight an id or None."""

    values: Int[Tensor, " found"]
    lengths: Int64[Tensor, "slots B"]
    weights: Float[Tensor, " found"] | None = None

    def offsets(self) -> Int64[Tensor, " slots*B+1"]:
        """Return where each bag begins, slot by slot."""
        return offsets_from_lengths(self.lengths.flatten())


class Received(NamedTuple):
    """Hold the ids that all ranks sent for this rank's slots, [S, all ranks' rows], rank after rank in each slot.

    `num_rows[r]` are rank r's rows, `counts[r]` its ids of each slot.
    """

    ids: Ids
    num_rows: list[int]
    counts: list[list[int]]


class Sending:
    """Send the ids of all ranks' slots, those of rank r `num_slots[r]` after another, to these ranks, in two phases.

    The first starts at once. Raises `ValueError` when it is over if some ranks' ids have weights and others' not.
    """

    def __init__(self, ranks: Ranks, ids: Ids, num_slots: Sequence[int]) -> None:
        self._ranks, self._ids, self._num_slots = ranks, ids, list(num_slots)
        totals = ids.lengths.sum(1).split(self._num_slots)
        about = ids.lengths.new_tensor([ids.lengths.shape[1], ids.weights is not None])
        self.counts: list[list[int]] = [
            each.tolist() for each in totals
        ]  # that each rank's slots get
        self._sizes = ranks.exchange(
            torch.cat([part for each in totals for part in (about, each)]),
            [len(each) + 2 for each in totals],
            [self._num_own + 2] * ranks.size,
        )
        self._arriving: list[Arriving] = []
        self._received: Received | None = None
        self._num_rows: list[int] = []
        self._their_counts: list[list[int]] = []

    @property
    def _num_own(self) -> int:
        return self._num_slots[self._ranks.rank]

    def start(self) -> None:
        """Start the second phase, once the sizes are known."""
        if self._arriving:
            return
        with self._ranks.waits.during("ids"):
            about_slots = self._sizes.wait()
        about = about_slots.view(self._ranks.size, -1).tolist()
        if len({is_weighted for _, is_weighted, *_ in about}) > 1:
            raise ValueError("some ranks' features have weights, others' have none")
        self._num_rows = [num_rows for num_rows, *_ in about]
        self._their_counts = [counts for _, _, *counts in about]
        values, lengths, weights = self._ids
        num_rows = lengths.shape[1]
        self._arriving = [
            self._ranks.exchange(
                lengths.to(torch.int32).flatten(),
                [slots * num_rows for slots in self._num_slots],
                [self._num_own * rows for rows in self._num_rows],
            )
        ]
        sizes = [sum(counts) for counts in self.counts], [sum(c) for c in self._their_counts]
        for each in (values, weights):
            if each is not None:
                self._arriving.append(self._ranks.exchange(each, *sizes))

    @property
    def is_started(self) -> bool:
        """Return whether the second phase is under way."""
        return bool(self._arriving)

    def wait(self) -> Received:
        """Return what all ranks sent to this one."""
        if self._received is None:
            self._received = self._receive()
        return self._received

    def _receive(self) -> Received:
        self.start()
        with self._ranks.waits.during("ids"):
            lengths, values, *weights = [each.wait() for each in self._arriving]
        parts = lengths.split([self._num_own * rows for rows in self._num_rows])
        shaped = [
            part.view(self._num_own, rows) for part, rows in zip(parts, self._num_rows, strict=True)
        ]
        ids = Ids(
            self._by_slot(values),
            torch.cat(shaped, 1).long(),
            self._by_slot(weights[0]) if weights else None,
        )
        return Received(ids, self._num_rows, self._their_counts)

    def _by_slot(self, values: Tensor) -> Tensor:
        """Return what came slot by slot from each rank, rank by rank in each slot."""
        sizes = [count for counts in self._their_counts for count in counts]
        parts = values.split(sizes)
        ordered = [part for slot in range(self._num_own) for part in parts[slot :: self._num_own]]
        return torch.cat(ordered) if ordered else values


class Route(Protocol):
    """Say how what was looked up becomes messages and is put together, and the same for gradients."""

    sizes: list[int]  # numbers sent to each rank
    their_sizes: list[int]  # and got from it

    def packed(self, values: Tensor) -> Tensor:
        """Return the messages to all ranks, one after another."""
        ...

    def unpacked(self, messages: Sequence[Tensor]) -> Tensor:
        """Return what all ranks' answers are together."""
        ...

    def packed_grad(self, grad: Tensor) -> Tensor:
        """Return the gradients of all ranks' answers, one after another."""
        ...

    def unpacked_grad(self, messages: Sequence[Tensor]) -> Tensor:
        """Return the gradient of what was looked up."""
        ...


class Leg(NamedTuple):
    """Say with which ranks numbers are exchanged, and how they are put together."""

    route: Route
    ranks: Ranks


class Sent:
    """Hold an answer that is on its way; `wait` returns it, and sends its gradient back in a backward pass.

    It goes leg after leg: what the first puts together is what the next one sends. The first leg starts here, others
    in `wait`; a gradient's last leg starts where the backward pass meets `wait`, others where it meets this.
    """

    def __init__(self, values: Tensor, legs: Sequence[Leg], wire: Wire, waits: Waits) -> None:
        self._job = _Job(legs, wire, waits)
        anchor = torch.empty(0, device=values.device, requires_grad=torch.is_grad_enabled())
        self._token = _Send.apply(anchor, values, self._job)

    def wait(self) -> Tensor:
        """Return the answer."""
        return _Wait.apply(self._token, self._job)


class _Job:
    """Hold the legs of a way and what is under way on one of them."""

    def __init__(self, legs: Sequence[Leg], wire: Wire, waits: Waits) -> None:
        self._legs, self._wire, self._waits = legs, wire, waits
        self._arriving: Arriving | None = None

    def send(self, values: Tensor) -> None:
        self._start(self._legs[0], values)

    def answer(self) -> Tensor:
        for leg, later in pairwise(self._legs):
            self._start(later, self._arrived(leg))
        return self._arrived(self._legs[-1])

    def send_grad(self, grad: Tensor) -> None:
        self._start_back(self._legs[-1], grad)

    def grad(self) -> Tensor:
        for leg, earlier in pairwise(reversed(self._legs)):
            self._start_back(earlier, self._arrived_back(leg))
        return self._arrived_back(self._legs[0])

    def _start(self, leg: Leg, values: Tensor) -> None:
        packed = _rounded(leg.route.packed(values), self._wire.forward)
        self._arriving = leg.ranks.exchange(packed, leg.route.sizes, leg.route.their_sizes)

    def _arrived(self, leg: Leg) -> Tensor:
        return leg.route.unpacked(self._waited("answers").float().split(leg.route.their_sizes))

    def _start_back(self, leg: Leg, grad: Tensor) -> None:
        scaled = leg.route.packed_grad(grad) * self._wire.loss_scale
        packed = _rounded(scaled, self._wire.backward)
        self._arriving = leg.ranks.exchange(packed, leg.route.their_sizes, leg.route.sizes)

    def _arrived_back(self, leg: Leg) -> Tensor:
        arrived = self._waited("gradients").float() / self._wire.loss_scale
        return leg.route.unpacked_grad(arrived.split(leg.route.sizes))

    def _waited(self, wait: Wait) -> Tensor:
        assert self._arriving is not None
        arriving, self._arriving = self._arriving, None
        with self._waits.during(wait):
            return arriving.wait()


class _Send(torch.autograd.Function):
    """Start to send; the token that comes out carries the order of things to `_Wait`, and no numbers."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, values: Tensor, job: _Job) -> Tensor:
        ctx.job = job
        job.send(values)
        return torch.empty_like(anchor)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, ctx.job.grad(), None


class _Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, job: _Job) -> Tensor:
        del token
        ctx.job = job
        return job.answer()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.job.send_grad(grad)
        return grad.new_empty(0), None


def _rounded(values: Tensor, precision: Precision) -> Tensor:
    dtype: torch.dtype = getattr(torch, precision)
    if dtype in _MOST:
        values = values.clamp(-_MOST[dtype], _MOST[dtype])
    return values.to(dtype)
