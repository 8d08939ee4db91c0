"""The optimiser of a whole model: AdamW over the dense parameters, and every table's own exact
update.

Embedding tables never have gradients; a module that `UpdatesItself` gathers its lookups during
backward and applies one fused update (Neo, ISCA 2022, section 4.1). Both halves follow one
learning-rate schedule. AdamW is Loshchilov & Hutter, ICLR 2019; weight decay spares parameters of
one dimension (biases, norms), as is usual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from cuesta.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Hold the dense optimiser's settings; tables have their own, of which only the schedule is
    shared.

    The learning rate rises linearly over `warmup_steps`, then stays, or falls to 0 at the last step
    along a cosine or a line. `tables_lr_scale` multiplies the tables' own learning rate.
    `clip_norm` bounds the norm of the dense gradients; None leaves them.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 0
    clip_norm: float | None = None
    tables_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr >= 0:
            raise UserError(f"optim.lr must not be negative, got {self.lr}")
        if self.warmup_steps < 0:
            raise UserError(f"optim.warmup-steps must not be negative, got {self.warmup_steps}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"optim.clip-norm must be positive or None, got {self.clip_norm}")


@runtime_checkable
class UpdatesItself(Protocol):
    """Be a module that trains its own parameters instead of handing gradients to an optimiser."""

    def step(self, lr_scale: float) -> None:
        """Apply everything gathered since the last step, at the own rate times `lr_scale`."""
        ...

    def drop_gradients(self) -> None:
        """Forget everything gathered since the last step."""
        ...


def embedding_bytes(model: nn.Module) -> int:
    """Return the bytes of all embedding tables, with the state by which they update themselves."""
    kinds = (nn.Embedding, nn.EmbeddingBag, UpdatesItself)
    modules = [module for module in model.modules() if isinstance(module, kinds)]
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def schedule_scale(config: OptimConfig, step: int, num_steps: int) -> float:
    """Return what the learning rate of update `step` (0-based, of `num_steps`) is multiplied by.

    >>> config = OptimConfig(schedule="linear", warmup_steps=2)
    >>> [schedule_scale(config, step, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1)
    match config.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))


def build_optimizer(model: nn.Module, config: OptimConfig, *, num_steps: int) -> Optimizer:
    """Return the optimiser of all that trains in `model`, for a run of `num_steps` updates."""
    tables = [module for module in model.modules() if isinstance(module, UpdatesItself)]
    theirs = {id(parameter) for table in tables for parameter in table.parameters()}
    dense = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in theirs
    }
    groups = [
        {"params": [p for p in dense.values() if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in dense.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    return Optimizer(config, num_steps, dense, adamw, tables)


@final
class Optimizer:
    """Update the dense parameters and every table; made by `build_optimizer`."""

    def __init__(
        self,
        config: OptimConfig,
        num_steps: int,
        dense: Mapping[str, nn.Parameter],
        adamw: torch.optim.AdamW,
        tables: Sequence[UpdatesItself],
    ) -> None:
        self._config = config
        self._num_steps = num_steps
        self._dense = dense
        self._adamw = adamw
        self._tables = tables

    def clip_gradients(self) -> float:
        """Return the norm of the dense gradients; then bound it by `clip_norm` if that is set."""
        gradients = [p.grad for p in self._dense.values() if p.grad is not None]
        if not gradients:
            return 0.0
        norm = nn.utils.get_total_norm(gradients)
        if self._config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._dense.values(), self._config.clip_norm, norm)
        return float(norm)

    def step(self, step: int) -> float:
        """Apply update `step` (0-based), forget the gradients, return the dense learning rate."""
        scale = schedule_scale(self._config, step, self._num_steps)
        lr = self._config.lr * scale
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()
        self._adamw.zero_grad()
        for table in self._tables:
            table.step(lr_scale=scale * self._config.tables_lr_scale)
        return lr

    def state_dict(self) -> dict[str, Tensor]:
        """Return AdamW's state as `<parameter>.<name>`; tables keep theirs in the model."""
        state = self._adamw.state
        return {
            f"{name}.{key}": value
            for name, parameter in self._dense.items()
            for key, value in state.get(parameter, {}).items()
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned; raises `ValueError` for an unknown parameter."""
        self._adamw.state.clear()
        for path, tensor in tensors.items():
            name, _, key = path.rpartition(".")
            if name not in self._dense:
                raise ValueError(
                    f"optimiser state for {name!r}, which is no dense parameter of the model"
                )
            parameter = self._dense[name]
            self._adamw.state[parameter][key] = tensor.to(parameter.device, copy=True)
