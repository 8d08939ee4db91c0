"""embedding_update: twins for every optimiser and storage, autograd as the oracle, exactness,
unbiased rounding.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from torch import Tensor

from cuesta.ops import (
    SGD,
    Adagrad,
    Lookup,
    PartialRowwiseAdam,
    RowwiseAdagrad,
    TableLayout,
    TableOptimizer,
    TableState,
    embedding_bag,
    embedding_update,
    force_body,
)
from cuesta.ops.embedding_bag import reference as bag_reference
from cuesta.ragged import RaggedFeatures
from tests.laws import ragged_features
from tests.ops.test_embedding_bag import MIXED, SAME, WIDE, make
from tests.twins import assert_twins

OPTIMIZERS: list[TableOptimizer] = [
    SGD(lr=0.1, weight_decay=0.01),
    SGD(lr=0.1, weight_decay=0.01, decay="decoupled"),
    Adagrad(lr=0.1, weight_decay=0.01),
    Adagrad(lr=0.1, weight_decay=0.01, decay="decoupled"),
    RowwiseAdagrad(lr=0.1),
    RowwiseAdagrad(lr=0.1, weight_decay=0.01),
    RowwiseAdagrad(lr=0.1, weight_decay=0.01, decay="decoupled"),
    PartialRowwiseAdam(lr=0.1, weight_decay=0.01),
    PartialRowwiseAdam(lr=0.1, weight_decay=0.01, decay="decoupled"),
]


def updated(
    weight: Tensor, lookups: list[Lookup], optimizer: TableOptimizer, steps: int = 2
) -> list[Tensor]:
    state = TableState.fresh(weight.clone(), lookups[0].layout, optimizer)
    for step in range(1, steps + 1):
        embedding_update(state, lookups, optimizer, step=step)
    return list(state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_bodies_are_twins(optimizer: TableOptimizer, dtype: torch.dtype) -> None:
    optimizer = replace(optimizer, stochastic_rounding=False)
    for layout, is_weighted in ((MIXED, False), (WIDE, True)):
        weight, ids, offsets, sample = make(layout, 9, torch.int64)
        grad = torch.randn(9, layout.width)

        def run(
            weight, grad, sample, layout=layout, ids=ids, offsets=offsets, is_weighted=is_weighted
        ):
            weights = sample if is_weighted else None
            lookup = Lookup(layout, ids, offsets, grad, sample_weights=weights)
            return updated(weight, [lookup], optimizer)

        assert_twins(run, weight.to(dtype), grad, sample)


def test_a_pooled_and_an_unpooled_lookup_of_the_same_tables_make_one_update() -> None:
    weight, ids, offsets, sample = make(SAME, 6, torch.int32)
    pooled, rows = torch.randn(6, SAME.width), torch.randn(ids.numel(), 21)

    def run(weight, pooled, rows, sample):
        first = Lookup(SAME, ids, offsets, pooled, sample_weights=sample)
        return updated(
            weight, [first, Lookup(SAME, ids, offsets, rows, is_pooled=False)], RowwiseAdagrad()
        )

    assert_twins(run, weight, pooled, rows, sample)


def test_summed_gradients_are_those_of_autograd() -> None:
    weight, ids, offsets, sample = make(MIXED, 9, torch.int64)
    leaf = weight.double().requires_grad_()
    out = bag_reference.embedding_bag(leaf, ids, offsets, sample.double(), MIXED.grid, MIXED.width)
    grad = torch.randn(out.shape, dtype=torch.float64)
    (dense,) = torch.autograd.grad(out, leaf, grad)

    def run(weight, grad, sample):
        lookup = Lookup(MIXED, ids, offsets, grad, sample_weights=sample)
        return updated(weight, [lookup], SGD(lr=1.0), steps=1)[0]

    assert_twins(run, weight, grad.float(), sample)
    moved = leaf.detach() - run(leaf.detach(), grad, sample.double())
    torch.testing.assert_close(moved, dense)


@given(features=ragged_features((7, 30, 30, 11)))
def test_the_number_of_threads_changes_no_bit(features: RaggedFeatures) -> None:
    weight = torch.randn(MIXED.storage)
    grad = torch.randn(features.num_rows, MIXED.width)
    lookup = Lookup(MIXED, features.values, features.offsets, grad, features.weights)
    torch.set_num_threads(1)
    alone = updated(weight, [lookup], PartialRowwiseAdam())
    torch.set_num_threads(2)
    for ours, theirs in zip(updated(weight, [lookup], PartialRowwiseAdam()), alone, strict=True):
        assert torch.equal(ours, theirs)


def test_large_sorts_are_exact_for_any_number_of_threads() -> None:
    layout = TableLayout(rows=(100_000, 3), dims=(8, 8), features=(0, 1), poolings=("sum", "sum"))
    generator = torch.Generator().manual_seed(0)
    ids = torch.cat([torch.randint(0, n, (20_000,), generator=generator) for n in layout.rows])
    offsets = torch.arange(2 * 1000 + 1) * 20
    lookup = Lookup(layout, ids, offsets, torch.randn(1000, 16, generator=generator))
    weight = torch.randn(layout.storage, generator=generator)
    torch.set_num_threads(1)
    alone = updated(weight, [lookup], RowwiseAdagrad())
    torch.set_num_threads(2)
    together = updated(weight, [lookup], RowwiseAdagrad())
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert_twins(
        lambda w, g: updated(w, [lookup._replace(grad=g)], RowwiseAdagrad()), weight, lookup.grad
    )


def test_strided_inputs_and_narrow_weights_are_read_as_what_they_hold() -> None:
    weight, ids, offsets, sample = make(MIXED, 6, torch.int64)
    grad = torch.randn(6, MIXED.width)

    def results(ids: Tensor, offsets: Tensor, sample: Tensor | None) -> list[Tensor]:
        out = embedding_bag(weight, ids, offsets, layout=MIXED, sample_weights=sample)
        lookup = Lookup(MIXED, ids, offsets, grad, sample_weights=sample)
        return [out, *updated(weight, [lookup], RowwiseAdagrad())]

    def strided(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, tensor + 7], 1)[:, 0]

    half = sample.bfloat16()
    for plain, other in (
        (results(ids, offsets, None), results(strided(ids), strided(offsets), None)),
        (results(ids, offsets, sample), results(ids, offsets, strided(sample))),
        (results(ids, offsets, half.float()), results(ids, offsets, half)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_rows_no_id_touched_never_change() -> None:
    weight, ids, offsets, _ = make(MIXED, 2, torch.int64)
    optimizer = RowwiseAdagrad(weight_decay=0.5)
    after = updated(weight, [Lookup(MIXED, ids, offsets, torch.randn(2, MIXED.width))], optimizer)[
        0
    ]
    assert not torch.equal(after, weight)
    for f, table in enumerate(MIXED.features):
        touched = set()
        for g, other in enumerate(MIXED.features):
            if other == table:
                touched |= set(ids[offsets[g * 2] : offsets[(g + 1) * 2]].tolist())
        untouched = [row for row in range(MIXED.rows[table]) if row not in touched]
        span = slice(MIXED.starts[table], MIXED.starts[table + 1])
        before_rows = weight[span].view(MIXED.rows[table], -1)[untouched]
        assert torch.equal(after[span].view(MIXED.rows[table], -1)[untouched], before_rows), f


def test_a_repeated_id_is_summed_before_its_one_update() -> None:
    layout = TableLayout(rows=(2,), dims=(1,), features=(0,), poolings=("sum",))
    lookup = Lookup(layout, torch.tensor([1, 1]), torch.tensor([0, 2]), torch.tensor([[3.0]]))
    state = TableState.fresh(torch.zeros(2), layout, RowwiseAdagrad())
    embedding_update(state, [lookup], RowwiseAdagrad(lr=1.0, eps=0.0), step=1)
    assert state.first.tolist() == [0.0, 36.0]
    assert state.weight.tolist() == [0.0, -1.0]


@pytest.mark.parametrize("body", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_stochastic_rounding_keeps_the_mean_where_nearest_stands_still(
    dtype: torch.dtype, body: str
) -> None:
    layout = TableLayout(rows=(1,), dims=(4096,), features=(0,), poolings=("sum",))
    steps, move = 100, 1e-5
    for is_random, expected in ((True, 1 + steps * move), (False, 1.0)):
        optimizer = SGD(lr=1.0, stochastic_rounding=is_random)
        state = TableState.fresh(torch.ones(4096, dtype=dtype), layout, optimizer)
        grad = torch.full((1, 4096), -move)
        lookup = Lookup(layout, torch.tensor([0]), torch.tensor([0, 1]), grad)
        with force_body(body):
            for step in range(1, steps + 1):
                embedding_update(state, [lookup], optimizer, step=step)
        mean = float(state.weight.double().mean())
        spread = (
            steps * move * torch.finfo(dtype).eps / 4096
        ) ** 0.5  # of the mean of 4096 weights
        assert abs(mean - expected) <= (5 * spread if is_random else 0)


@pytest.mark.parametrize("value", [3e-6, 1e-5, 6.1e-5, 1e-4, 0.3])
def test_stochastic_rounding_to_float16_is_unbiased_below_the_normal_range_too(
    value: float,
) -> None:
    layout = TableLayout(rows=(1,), dims=(1 << 16,), features=(0,), poolings=("sum",))
    state = TableState.fresh(torch.zeros(1 << 16, dtype=torch.float16), layout, SGD())
    value32 = float(torch.tensor(value))
    lookup = Lookup(
        layout, torch.tensor([0]), torch.tensor([0, 1]), torch.full((1, 1 << 16), -value32)
    )
    embedding_update(state, [lookup], SGD(lr=1.0), step=1)
    grid = max(2.0**-24, 2.0 ** (torch.tensor(value).log2().floor().item() - 10))
    assert abs(float(state.weight.double().mean()) - value32) <= 5 * grid / 2 / 256
    assert float((state.weight.double() - value32).abs().max()) <= grid


def test_both_bodies_draw_the_same_random_bits() -> None:
    layout = TableLayout(rows=(64,), dims=(48,), features=(0,), poolings=("sum",))
    weight = torch.randn(layout.storage).bfloat16()
    lookup = Lookup(layout, torch.arange(64), torch.arange(65), torch.randn(64, 48))
    results = []
    for body in ("reference", "cpu"):
        with force_body(body):
            results.append(updated(weight, [lookup], SGD(lr=0.125), steps=1)[0])
    assert torch.equal(*results)


def test_training_lowers_the_loss_of_its_own_forward() -> None:
    weight, ids, offsets, _ = make(MIXED, 9, torch.int64)
    goal = torch.randn(9, MIXED.width)
    state = TableState.fresh(weight, MIXED, Adagrad())
    losses = []
    for step in range(1, 60):
        error = embedding_bag(state.weight, ids, offsets, layout=MIXED) - goal
        losses.append(float(error.square().sum()))
        embedding_update(
            state, [Lookup(MIXED, ids, offsets, 2 * error)], Adagrad(lr=0.3), step=step
        )
    assert losses[-1] < losses[0] / 2


def test_an_update_between_a_forward_and_its_backward_is_noticed() -> None:
    weight, ids, offsets, sample = make(MIXED, 3, torch.int64)
    state = TableState.fresh(weight, MIXED, SGD())
    sample.requires_grad_()
    out = embedding_bag(state.weight, ids, offsets, layout=MIXED, sample_weights=sample)
    embedding_update(state, [Lookup(MIXED, ids, offsets, torch.ones_like(out))], SGD(), step=1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_mistakes_are_named() -> None:
    state = TableState.fresh(torch.zeros(MIXED.storage), MIXED, SGD())
    with pytest.raises(ValueError, match="step counts from 1, got 0"):
        embedding_update(state, [], SGD(), step=0)
    layout = TableLayout(rows=((1 << 32) + 1,), dims=(1,), features=(0,), poolings=("sum",))
    lookup = Lookup(layout, torch.tensor([0]), torch.tensor([0, 1]), torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"at most 2\*\*32 rows, got 1 and 4294967297"):
        embedding_update(state, [lookup], SGD(), step=1)
