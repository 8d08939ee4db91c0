"""Layers on ragged rows: torch's own layers row by row as oracles, and the laws of rows."""

import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn import functional as F

from cuesta.nn import (
    JaggedAttention,
    JaggedEncoder,
    JaggedInteraction,
    SeedPooling,
    TargetPooling,
)
from cuesta.ops import Mask, jagged_dense_attention
from cuesta.ragged import Ragged
from tests.laws import permuted, raggeds, seeds

LENGTHS = [5, 0, 9, 1]


def events(width: int = 16) -> Ragged:
    return Ragged.from_lengths(torch.randn(sum(LENGTHS), width), LENGTHS)


def test_attention_equals_torchs_multi_head_attention_row_by_row() -> None:
    layer, rows = JaggedAttention(16, num_heads=4, mask=Mask(causal=True)), events()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = layer.joint.weight, layer.joint.bias
    theirs.out_proj.load_state_dict(layer.out.state_dict())
    out = layer(rows)
    for row in (0, 2, 3):
        x = rows.row(row)[None]
        hidden = torch.ones(len(rows.row(row)), len(rows.row(row))).triu(1).bool()
        expected, _ = theirs(x, x, x, attn_mask=hidden, need_weights=False)
        torch.testing.assert_close(out.row(row), expected[0])


def test_a_causal_encoder_does_not_see_what_comes_later() -> None:
    encoder = JaggedEncoder(16, num_layers=2, num_heads=2, mask=Mask(causal=True))
    rows = events()
    changed = rows.values.clone()
    changed[4] += 1.0  # the last event of row 0
    before, after = encoder(rows).values, encoder(rows.with_values(changed)).values
    assert torch.equal(before[:4], after[:4])
    assert not torch.equal(before[4], after[4])
    assert torch.equal(before[5:], after[5:])


def test_seed_pooling_equals_torchs_attention_of_its_seeds() -> None:
    layer, rows = SeedPooling(16, 3, num_heads=4), events()
    out = layer(rows)
    assert out.shape == (4, 3, 16)
    assert out[1].count_nonzero() == 0
    k, v = layer.joint(rows.row(2)).unflatten(1, (2, 4, 4)).unbind(1)
    q = layer.seeds.transpose(0, 1)
    pooled = F.scaled_dot_product_attention(q, k.transpose(0, 1), v.transpose(0, 1))
    torch.testing.assert_close(out[2], layer.out(pooled.transpose(0, 1).flatten(1)))


def test_target_pooling_attends_to_nothing_in_an_empty_row() -> None:
    layer = TargetPooling(6, 16, num_heads=2)
    out = layer(torch.randn(4, 6), events())
    assert out.shape == (4, 16)
    assert out[1].count_nonzero() == 0
    layer.null.data.fill_(1e4)
    assert layer(torch.randn(4, 6), events()).count_nonzero() == 0


def test_interaction_equals_fused_attention_of_the_features() -> None:
    layer, rows, features = JaggedInteraction(16), events(), torch.randn(4, 3, 16)
    keys = rows.with_values(rows.values[:, None])
    values = rows.with_values(layer.event(rows.values)[:, None])
    queries = layer.feature(features)[:, :, None]
    fused = jagged_dense_attention(queries, keys, values).flatten(2)
    torch.testing.assert_close(layer(features, rows), fused)


def test_layers_train_under_autocast() -> None:
    rows, target, features = events(), torch.randn(4, 6), torch.randn(4, 3, 16)
    attend, encode = JaggedAttention(16), JaggedEncoder(16)
    seed_pool, pool, interact = SeedPooling(16, 2), TargetPooling(6, 16), JaggedInteraction(16)
    runs = {
        attend: lambda: attend(rows).values,
        encode: lambda: encode(rows).values,
        seed_pool: lambda: seed_pool(rows),
        pool: lambda: pool(target, rows),
        interact: lambda: interact(features, rows),
    }
    for layer, run in runs.items():
        whole = run()
        with torch.autocast("cpu", torch.bfloat16):
            half = run()
        half.float().square().sum().backward()
        assert 0 < (half - whole).norm() < 4 * torch.finfo(torch.bfloat16).eps * whole.norm(), type(
            layer
        ).__name__
        assert all(bool(each.grad.isfinite().all()) for each in layer.parameters())


@given(rows=raggeds(dims=(16,)), seed=seeds)
def test_permuting_rows_permutes_what_layers_give(rows: Ragged, seed: int) -> None:
    torch.manual_seed(seed)
    order = permuted(len(rows), seed)
    turned = rows.select_rows(order)
    encoder = JaggedEncoder(16, num_heads=2)
    expected = encoder(rows).select_rows(order).values
    torch.testing.assert_close(encoder(turned).values, expected)
    features, target = torch.randn(len(rows), 2, 16), torch.randn(len(rows), 6)
    interact, pool = JaggedInteraction(16), TargetPooling(6, 16)
    torch.testing.assert_close(interact(features[order], turned), interact(features, rows)[order])
    torch.testing.assert_close(pool(target[order], turned), pool(target, rows)[order])
    seed_pool = SeedPooling(16, 2)
    torch.testing.assert_close(seed_pool(turned), seed_pool(rows)[order])


@pytest.mark.parametrize("num_heads", [0, 3])
def test_heads_that_do_not_divide_the_width_are_named(num_heads: int) -> None:
    with pytest.raises(ValueError, match=f"num_heads must divide the width 16, got {num_heads}"):
        JaggedAttention(16, num_heads=num_heads)
