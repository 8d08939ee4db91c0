"""Dense layers against their formulas."""

import torch

from cuesta.nn import MLP, CrossNetwork


def test_cross_network_is_its_formula() -> None:
    for rank in (None, 2):
        cross = CrossNetwork(5, 2, rank=rank)
        x = x0 = torch.randn(3, 5)
        for layer in cross.layers:
            x = x0 * layer(x) + x
        torch.testing.assert_close(cross(x0), x)


def test_mlp_ends_linear() -> None:
    out = MLP([4, 8, 2], dropout=0.5).eval()(torch.randn(1000, 4))
    assert out.shape == (1000, 2)
    assert bool((out < 0).any())
