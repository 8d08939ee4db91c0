"""Dense layers that several rankers share: the MLP and DCNv2's cross network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class MLP(nn.Sequential):
    """Map [B, widths[0]] to [B, widths[-1]]: linear layers with a ReLU and dropout after each but
    the last.
    """

    def __init__(self, widths: Sequence[int], *, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
        super().__init__(*layers[: -2 if dropout else -1])


@final
class CrossNetwork(nn.Module):
    """Cross the input with itself layer by layer: x <- x0 * (W x + b) + x (DCNv2, Wang et al., WWW
    2021, eq. 1).

    With a `rank`, W is U V of that rank (eq. 2 without experts). [B, D] in, [B, D] out.
    """

    def __init__(self, width: int, num_layers: int, *, rank: int | None = None) -> None:
        super().__init__()

        def weight() -> nn.Module:
            if rank is None:
                return nn.Linear(width, width)
            return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))

        self.layers = nn.ModuleList(weight() for _ in range(num_layers))

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return the crossed features."""
        crossed = features
        for layer in self.layers:
            crossed = torch.addcmul(crossed, features, layer(crossed))
        return crossed
