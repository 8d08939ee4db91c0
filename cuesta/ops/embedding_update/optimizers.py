"""The optimisers that embedding_update applies to a touched row with its deduplicated gradient g.

Formulas after FBGEMM's exact optimisers (Neo, ISCA 2022): epsilon stands outside the root. With
weight decay `l2`, g + weight_decay * w takes g's place in the moments and in the step; with
`decoupled`, w is first multiplied by 1 - lr * weight_decay. Rows that no id touched never change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

Decay = Literal["l2", "decoupled"]
SGD_CODE, ADAGRAD_CODE, ROWWISE_ADAGRAD_CODE, PARTIAL_ROWWISE_ADAM_CODE = range(4)


@final
@dataclass(frozen=True, kw_only=True)
class SGD:
    """w <- w - lr * g. No state."""

    code: ClassVar[int] = SGD_CODE
    lr: float = 0.01
    weight_decay: float = 0.0
    decay: Decay = "l2"
    stochastic_rounding: bool = True

    def scalars(self, lr: float, step: int) -> list[float]:
        """Return what the bodies read: lr, eps, beta1, beta2, both bias corrections, decay, 1 for
        decoupled.
        """
        del step
        return [lr, 0.0, 0.0, 0.0, 1.0, 1.0, self.weight_decay, self.decay == "decoupled"]


@final
@dataclass(frozen=True, kw_only=True)
class Adagrad:
    """v <- v + g^2; w <- w - lr * g / (sqrt(v) + eps), element by element. State: v, a number an
    element.
    """

    code: ClassVar[int] = ADAGRAD_CODE
    lr: float = 0.01
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay: Decay = "l2"
    stochastic_rounding: bool = True

    def scalars(self, lr: float, step: int) -> list[float]:
        """Return what the bodies read, as `SGD.scalars`."""
        del step
        return [lr, self.eps, 0.0, 0.0, 1.0, 1.0, self.weight_decay, self.decay == "decoupled"]


@final
@dataclass(frozen=True, kw_only=True)
class RowwiseAdagrad:
    """v <- v + mean(g^2); w <- w - lr * g / (sqrt(v) + eps). State: v, a number a row."""

    code: ClassVar[int] = ROWWISE_ADAGRAD_CODE
    lr: float = 0.01
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay: Decay = "l2"
    stochastic_rounding: bool = True

    def scalars(self, lr: float, step: int) -> list[float]:
        """Return what the bodies read, as `SGD.scalars`."""
        del step
        return [lr, self.eps, 0.0, 0.0, 1.0, 1.0, self.weight_decay, self.decay == "decoupled"]


@final
@dataclass(frozen=True, kw_only=True)
class PartialRowwiseAdam:
    """m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) mean(g^2); w <- w - lr * m^ / (sqrt(v^) + eps).

    m^ = m / (1 - b1^t) and v^ = v / (1 - b2^t), with t the number of updates of the tables, not of
    the row. State: m, a number an element, and v, a number a row.
    """

    code: ClassVar[int] = PARTIAL_ROWWISE_ADAM_CODE
    lr: float = 0.001
    eps: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decay: Decay = "l2"
    stochastic_rounding: bool = True

    def scalars(self, lr: float, step: int) -> list[float]:
        """Return what the bodies read, as `SGD.scalars`."""
        (first, second), decoupled = self.betas, self.decay == "decoupled"
        corrections = [1 - first**step, 1 - second**step]
        return [lr, self.eps, first, second, *corrections, self.weight_decay, decoupled]


TableOptimizer = SGD | Adagrad | RowwiseAdagrad | PartialRowwiseAdam
