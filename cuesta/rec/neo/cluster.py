"""The cluster that a plan is for: ranks in nodes, what their memories and links move in a second, and what they hold.

The defaults are the public constants of TorchRec's planner (an A100-class rank, NVLink inside a node, one 100 Gb/s link
outside). Every one can be given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from cuesta.errors import UserError
from cuesta.rec.neo.below import Below
from cuesta.rec.neo.constants import Constants

MIB, GIB = 2**20, 2**30


@final
@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Describe `world_size` ranks, `ranks_per_node` of them a node.

    Bandwidths are in GiB/s and a rank's own: `fast` of the memory that computes (a GPU's, or DRAM where the CPU
    computes), `inside` between ranks of a node, `across` between nodes; the latter two of exchanges among all, and
    `ring_inside` and `ring_across` of all-reduces. `fast_capacity` is in GiB a rank, `reserved` the share of it that
    is left to everything else. `below` says what is not in fast memory; `constants` are what work takes beside.
    """

    world_size: int = 8
    ranks_per_node: int = 8
    fast: float = 897.0
    inside: float = 600.0
    across: float = 12.5
    ring_inside: float = 600.0
    ring_across: float = 12.5
    fast_capacity: float = 32.0
    reserved: float = 0.15
    below: Below = field(default_factory=Below)
    constants: Constants = field(default_factory=Constants)

    def __post_init__(self) -> None:
        if self.world_size < 1 or self.ranks_per_node < 1:
            raise UserError(
                f"a cluster has at least one rank, got world-size {self.world_size} and "
                f"ranks-per-node {self.ranks_per_node}"
            )
        if self.world_size > self.ranks_per_node and self.world_size % self.ranks_per_node:
            raise UserError(
                f"world-size {self.world_size} is no multiple of ranks-per-node {self.ranks_per_node}"
            )
        positive = ("fast", "inside", "across", "ring_inside", "ring_across", "fast_capacity")
        for name in positive:
            if not getattr(self, name) > 0:
                raise UserError(
                    f"cluster.{name.replace('_', '-')} must be above 0, got {getattr(self, name)}"
                )
        if not 0 <= self.reserved < 1:
            raise UserError(f"cluster.reserved must be in [0, 1), got {self.reserved}")

    @property
    def local_size(self) -> int:
        """Return how many ranks a node has."""
        return min(self.world_size, self.ranks_per_node)

    @property
    def num_nodes(self) -> int:
        """Return how many nodes there are."""
        return self.world_size // self.local_size

    @property
    def exchange(self) -> float:
        """Return the bandwidth of an exchange among all ranks, GiB/s: that of the slower link in it."""
        return self.inside if self.num_nodes == 1 else self.across

    @property
    def latency(self) -> float:
        """Return the milliseconds that an exchange among all ranks waits for its peers."""
        return self.constants.latency_us * (self.world_size - 1) / 1e3

    def all_reduce(self, num_bytes: float) -> float:
        """Return the milliseconds of a sum over all ranks: reduced inside nodes, across them, and spread inside."""
        local, nodes = self.local_size, self.num_nodes
        inside = milliseconds(2 * num_bytes * (local - 1) / local, self.ring_inside)
        across = milliseconds(2 * num_bytes / local * (nodes - 1) / nodes, self.ring_across)
        return inside + across + self.latency

    @property
    def room(self) -> float:
        """Return the bytes of a rank's fast memory that tables may take."""
        return self.fast_capacity * GIB * (1 - self.reserved)


def milliseconds(num_bytes: float, bandwidth: float) -> float:
    """Return how long bytes take at GiB/s."""
    return num_bytes / (bandwidth * GIB) * 1e3
