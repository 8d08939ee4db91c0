"""Dense layers that several rankers share: the MLP, DCNv2's cross network, DLRM's dot
interaction.
"""

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


@final
class DotInteraction(nn.Module):
    """Return the dot product of every pair of F vectors (DLRM, Naumov et al., 2019, section 2.2).

    [B, F, D] in, [B, F (F - 1) / 2] out, pairs in row-major order of the strict lower triangle.
    """

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        pairs = torch.tril_indices(num_vectors, num_vectors, offset=-1)
        self.register_buffer("pairs", pairs[0] * num_vectors + pairs[1], persistent=False)
        self.pairs: Tensor

    def forward(self, vectors: Float[Tensor, "B F D"]) -> Float[Tensor, "B pairs"]:
        """Return the pairwise dot products."""
        products = torch.bmm(vectors, vectors.transpose(1, 2))  # [B, F, F]
        return products.flatten(1).index_select(1, self.pairs)
