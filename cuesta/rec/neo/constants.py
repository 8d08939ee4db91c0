"""What work costs beside bytes over bandwidths: the constants of the planner's model, all of which can be given.

The defaults of the first part are those of TorchRec's public performance model, for GPUs. The second part is what that
model has not: it is nothing by default, and measured by `cuesta plan --calibrate`. The third is for the dense layers of
whole steps; its defaults are of an A100-class rank.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, final

from cuesta.errors import UserError


@final
@dataclass(frozen=True, kw_only=True)
class Constants:
    """Hold the constants of the planner's model.

    A read brings at least `least_width` columns; reads of rows under 64 columns take `narrow` times as long, under 128
    `medium` times. The update takes `backward` times the bytes of forward, with weights of ids `weighted` times more.
    Beside every byte of answers that a rank exchanges it moves `copy_forward`, of their gradients `copy_backward`;
    where answers are sums over ranks, `sum_forward` and `sum_backward` more. A copied table moves `table_update`
    bytes a byte of its gradient if copies are `reduced`; if they are `gathered`, ids and gradients of all ranks travel,
    `copy_gathered` bytes being moved beside each, and are applied by each rank, which is what `ShardedEmbeddingBags`
    does. `input_copies` batches of ids are held.

    An id takes `id_ns` in the lookup and `update_ns` in the update beside its bytes; those of rows that are in the
    cache, `cache_mib` a rank or repeated in a batch, take the shares `cached` and `cached_update` of all that. An id
    asked of a rank takes `asked_ns`, a bag `bag_ns`, a part of a table `part_us` on each of its ranks. An exchange
    waits `latency_us` a peer, and a step takes `step_ms` whatever it does.

    Matrix products run at `gflops` (10^9 a second); of each number between layers, forward and backward move
    `activation_bytes`, and of each dense weight, with its optimiser, `parameter_bytes`.
    """

    least_width: int = 32
    narrow: float = 1.75
    medium: float = 1.15
    backward: float = 2.0
    weighted: float = 1.1
    sum_forward: float = 0.0
    sum_backward: float = 2.455
    table_update: float = 9.22
    copies: Literal["reduced", "gathered"] = "reduced"
    input_copies: float = 2.0

    copy_forward: float = 0.0
    copy_backward: float = 0.0
    copy_gathered: float = 0.0
    id_ns: float = 0.0
    update_ns: float = 0.0
    cached: float = 1.0
    cached_update: float = 1.0
    cache_mib: float = 0.0
    asked_ns: float = 0.0
    bag_ns: float = 0.0
    part_us: float = 0.0
    latency_us: float = 0.0
    step_ms: float = 0.0

    gflops: float = 78_000.0
    activation_bytes: float = 12.0
    parameter_bytes: float = 32.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not value >= 0:
                raise UserError(f"{item.name.replace('_', '-')} must not be negative, got {value}")
        if self.least_width < 1 or self.gflops <= 0:
            raise UserError(
                f"least-width must be at least 1 and gflops above 0, got {self.least_width} and {self.gflops}"
            )
