"""The ways of pooled answers: straight to the ranks that ask, or summed inside a node first and then on across nodes.

The second is for tables whose rows are cut inside a node (Neo, ISCA 2022, hierarchical sharding). First the ranks of
the node exchange partial sums over the fast link: the one at place j gets the sums for the rows of all ranks that have
place j in their nodes. These then go to the ranks that asked, which have its own place, so that a vector crosses the
slow link once, and not once from each rank of the node. Gradients go the other way: across, then copied inside.

    node 0           node 1            ranks 0 and 1 hold rows of a table, and find a part of every sum
    rank 0  rank 1   rank 2  rank 3    inside: 1 sends to 0 its parts for 0 and 2, 0 sends to 1 its parts for 1 and 3
    place 0      1   place 0      1    across: 0 sends sums to 2, 1 sends sums to 3
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cuesta.rec.neo.exchange import Leg, Sent, Wire
from cuesta.rec.neo.ranks import Levels, Ranks
from cuesta.rec.neo.routes import PooledRoute
from cuesta.rec.neo.sharding import Columns, Layout, Sharding


class Bags(NamedTuple):
    """Say how many rows each rank has, how long this one's bags are, and what its gradients count."""

    num_rows: Sequence[int]
    lengths: Int64[Tensor, "F B"]
    share: float


class Way(Protocol):
    """Carry the answers of some slots; every rank of a group must send."""

    columns: list[Columns]  # that arrive, side by side

    def send(self, values: Float[Tensor, "_ _"], bags: Bags, wire: Wire) -> Sent:
        """Send [all ranks' rows, own slots' columns]."""
        ...


def ways_of(sharding: Sharding, ranks: Ranks) -> list[Way]:
    """Return the ways that a plan's pooled answers take between ranks, none if there are no such answers.

    What several ranks of one node sum together is summed there, all else goes straight.
    """
    slots = [[slot.columns for slot in own] for own in sharding.slots]
    asked = {columns for own in slots for columns in own}
    summed: set[Columns] = set()
    if ranks.levels is not None:
        size = ranks.levels.inside.size
        for answer in Layout.of(slots).answers:
            nodes = {piece.rank // size for piece in answer.pieces}
            if len(nodes) == 1 and len(answer.pieces) > 1:
                summed.add(answer.columns)
    found: list[Way] = []
    if ranks.levels is not None and summed:
        found.append(ByNode(slots, summed, sharding.divided, ranks, ranks.levels))
    if asked - summed:
        found.append(Straight(slots, asked - summed, sharding.divided, ranks))
    return found


@final
class Straight:
    """Send to every rank what it asked, which sums it: an exchange among all."""

    def __init__(
        self,
        slots: Sequence[Sequence[Columns]],
        taken: AbstractSet[Columns],
        divided: AbstractSet[int],
        ranks: Ranks,
    ) -> None:
        self._ranks, self._own, self._taken = ranks, slots[ranks.rank], taken
        self._layout = Layout.of([_only(each, taken) for each in slots], divided)
        self.columns = [answer.columns for answer in self._layout.answers]

    def send(self, values: Float[Tensor, "_ _"], bags: Bags, wire: Wire) -> Sent:
        """Send as `Way` says."""
        route = PooledRoute(self._ranks.rank, self._layout, *bags)
        own = _columns(values, self._own, self._taken)
        return Sent(own, [Leg(route, self._ranks)], wire, self._ranks.waits)


@final
class ByNode:
    """Sum inside the node, and send the sums to the ranks at the same place in other nodes."""

    def __init__(
        self,
        slots: Sequence[Sequence[Columns]],
        taken: AbstractSet[Columns],
        divided: AbstractSet[int],
        ranks: Ranks,
        levels: Levels,
    ) -> None:
        self._levels, self._waits = levels, ranks.waits
        self._own, self._taken = slots[ranks.rank], taken
        size = levels.inside.size
        given = [_only(each, taken) for each in slots]
        nodes = [Layout.of(given[first : first + size]) for first in range(0, ranks.size, size)]
        sums = [[answer.columns for answer in node.answers] for node in nodes]
        self._inside, self._across = nodes[levels.across.rank], Layout.of(sums, divided)
        self.columns = [answer.columns for answer in self._across.answers]

    def send(self, values: Float[Tensor, "_ _"], bags: Bags, wire: Wire) -> Sent:
        """Send as `Way` says."""
        inside, across = self._levels
        by_rank = _columns(values, self._own, self._taken).split(list(bags.num_rows))
        by_place = [by_rank[place :: inside.size] for place in range(inside.size)]
        rows = [bags.num_rows[place :: inside.size] for place in range(inside.size)]
        first = PooledRoute(inside.rank, self._inside, [sum(each) for each in rows])
        second = PooledRoute(across.rank, self._across, rows[inside.rank], bags.lengths, bags.share)
        return Sent(
            torch.cat([part for parts in by_place for part in parts]),
            [Leg(first, inside), Leg(second, across)], wire, self._waits,
        )  # fmt: skip


def _only(columns: Sequence[Columns], taken: AbstractSet[Columns]) -> list[Columns]:
    return [each for each in columns if each in taken]


def _columns(
    values: Float[Tensor, "_ _"], own: Sequence[Columns], taken: AbstractSet[Columns]
) -> Float[Tensor, "_ _"]:
    """Return those columns of a rank's answer that are taken."""
    if taken >= set(own):
        return values
    parts = values.split([each.width for each in own], 1)
    chosen = [part for part, each in zip(parts, own, strict=True) if each in taken]
    return torch.cat(chosen, 1) if chosen else values[:, :0]
