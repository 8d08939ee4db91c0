"""What lies below fast memory, for the planner: which share of rows is in it, and what moving the others takes.

Neo (ISCA 2022), the memory hierarchy, as `tiers.py` has it; after TorchRec's model of prefetching: expected misses,
bytes a row, over a bandwidth. Rows that leave were trained, so each miss writes one row back. Files keep a row with its
state in one slot: a read a miss, a write a row that leaves, whatever its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from cuesta.errors import UserError
from cuesta.rec.neo.direct_io import SECTOR
from cuesta.rec.neo.popularity import Popularity
from cuesta.rec.neo.row_cache import SPARE_SHARE, WAYS, Policy

_GIB = 2**30
_MAP, _TAGS, _COUNT, _WORTH = 4, 16, 4, 8  # bytes a row, a line, and more of both for `lfu`


@final
@dataclass(frozen=True, kw_only=True)
class Below:
    """Say that fast memory holds `fast_share` of a part's rows, float32 with their state, and where all of them lie.

    In host memory, which moves `bandwidth` GiB/s; if that holds only `host_share` of them, in files on an SSD, which a
    rank asks for `reads` and `writes` a second. `policy` says which row leaves. `fast_share` 1 is no tiers at all.
    """

    fast_share: float = 1.0
    host_share: float = 1.0
    policy: Policy = "lru"
    bandwidth: float = 32.0
    reads: float = 60_000.0
    writes: float = 50_000.0

    def __post_init__(self) -> None:
        if not 0 < self.fast_share <= 1 or not 0 <= self.host_share <= 1:
            raise UserError(
                "cluster.below: fast-share must be in (0, 1] and host-share in [0, 1], got "
                f"{self.fast_share} and {self.host_share}"
            )
        for name in ("bandwidth", "reads", "writes"):
            if not getattr(self, name) > 0:
                raise UserError(f"cluster.below.{name} must be above 0, got {getattr(self, name)}")

    @property
    def is_used(self) -> bool:
        """Return whether there are tiers."""
        return self.fast_share < 1

    @property
    def has_files(self) -> bool:
        """Return whether rows lie in files."""
        return self.host_share < 1

    def missed(self, law: Popularity, ids: float, num_rows: int) -> tuple[float, float]:
        """Return how many rows a batch of `ids` is expected to miss in fast memory, and to need from an SSD."""
        fast = law.misses(ids, self.fast_share * num_rows, self.policy)
        if not self.has_files:
            return fast, 0.0
        if self.host_share <= self.fast_share:
            return fast, fast
        return fast, law.misses(ids, self.host_share * num_rows, self.policy)

    def milliseconds(self, missed: float, from_files: float, row_bytes: float) -> float:
        """Return how long rows take to come, and others to leave for them."""
        files = from_files * (1 / self.reads + 1 / self.writes)
        host = 2 * missed * row_bytes / (self.bandwidth * _GIB) if self.host_share else 0.0
        return (files + host) * 1e3

    def fast_bytes(self, num_rows: float, dim: int, state_bytes: float) -> float:
        """Return the fast memory of so many rows: lines of float32 weights and state, spare ones too, and the maps."""
        return self._cached(self.fast_share, num_rows, dim, state_bytes)

    def slow_bytes(
        self, num_rows: float, dim: int, weight_bytes: float, state_bytes: float
    ) -> tuple[float, float]:
        """Return the bytes of host memory, and of files, that hold so many rows."""
        row = dim * weight_bytes + state_bytes
        if not self.has_files:
            return num_rows * row, 0.0
        slots = num_rows * -(-row // SECTOR) * SECTOR
        if not self.host_share:
            return 0.0, slots
        return self._cached(self.host_share, num_rows, dim, state_bytes), slots

    def _cached(self, share: float, num_rows: float, dim: int, state_bytes: float) -> float:
        counted = self.policy == "lfu"
        lines = max(-(-int(share * num_rows) // WAYS), 1) * WAYS
        lines += max(int(lines * SPARE_SHARE), WAYS)
        line = dim * 4 + state_bytes + _TAGS + _WORTH * counted
        return num_rows * (_MAP + _COUNT * counted) + lines * line
