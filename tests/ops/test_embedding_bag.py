"""embedding_bag and embedding_rows: twins of the reference, torch's own EmbeddingBag, and the laws
of bags.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cuesta.ops import TableLayout, embedding_bag, embedding_rows
from cuesta.ragged import RaggedFeatures
from tests.laws import permuted, ragged_features, seeds
from tests.twins import assert_twins, with_gradients

MIXED = TableLayout(
    rows=(7, 30, 11),
    dims=(5, 64, 16),
    features=(0, 1, 1, 2),
    poolings=("sum", "mean", "sum", "mean"),
)
WIDE = TableLayout(rows=(9, 4), dims=(144, 70), features=(1, 0), poolings=("sum", "mean"))
SAME = TableLayout(rows=(7, 30), dims=(21, 21), features=(1, 0), poolings=("sum", "sum"))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def make(
    layout: TableLayout, num_rows: int, ids_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weight, ids, offsets and sample weights; one bag is long, some are empty."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 5, (len(layout.features), num_rows), generator=generator)
    if num_rows:
        lengths[:, -1] = 0
        lengths[0, 0] = 600
    ids = [
        torch.randint(0, layout.rows[table], (int(lengths[f].sum()),), generator=generator)
        for f, table in enumerate(layout.features)
    ]
    offsets = torch.zeros(lengths.numel() + 1, dtype=torch.int64)
    offsets[1:] = lengths.flatten().cumsum(0)
    weight = torch.randn(layout.storage, generator=generator)
    return (
        weight,
        torch.cat(ids).to(ids_dtype),
        offsets,
        torch.randn(len(torch.cat(ids)), generator=generator),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [MIXED, WIDE], ids=["mixed", "wide"])
@pytest.mark.parametrize("num_rows", [0, 1, 9])
def test_bags_are_twins(layout: TableLayout, num_rows: int, dtype: torch.dtype) -> None:
    weight, ids, offsets, sample = make(layout, num_rows, torch.int64)
    weight = weight.to(dtype)
    assert_twins(lambda w: embedding_bag(w, ids, offsets, layout=layout), weight)

    def weighted(weight: Tensor, sample: Tensor) -> Tensor:
        return embedding_bag(weight, ids, offsets, layout=layout, sample_weights=sample)

    assert_twins(with_gradients(weighted, [1]), weight, sample)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_twins_for_both_id_types(dtype: torch.dtype) -> None:
    for ids_dtype in (torch.int32, torch.int64):
        weight, ids, offsets, _ = make(SAME, 6, ids_dtype)
        assert_twins(
            lambda w, i=ids, o=offsets: embedding_rows(w, i, o, layout=SAME), weight.to(dtype)
        )
        assert_twins(
            lambda w, i=ids, o=offsets: embedding_bag(w, i, o, layout=SAME), weight.to(dtype)
        )


def test_bags_equal_torch() -> None:
    weight, ids, offsets, sample = make(MIXED, 9, torch.int64)
    out = embedding_bag(weight, ids, offsets, layout=MIXED, sample_weights=sample)
    starts = MIXED.starts
    for f, table in enumerate(MIXED.features):
        if MIXED.poolings[f] == "mean":
            continue
        begin, end = int(offsets[f * 9]), int(offsets[(f + 1) * 9])
        bag = torch.nn.functional.embedding_bag(
            ids[begin:end],
            weight[starts[table] : starts[table + 1]].view(MIXED.rows[table], -1),
            offsets[f * 9 : (f + 1) * 9] - begin,
            mode="sum",
            per_sample_weights=sample[begin:end],
        )
        torch.testing.assert_close(out[:, MIXED.columns[f] : MIXED.columns[f + 1]], bag)


def pooled(features: RaggedFeatures, weight: Tensor, layout: TableLayout) -> Tensor:
    return embedding_bag(
        weight, features.values, features.offsets, layout=layout, sample_weights=features.weights
    )


@given(features=ragged_features((7, 30, 30, 11)), seed=seeds)
def test_permuting_rows_permutes_the_result(features: RaggedFeatures, seed: int) -> None:
    weight = torch.randn(MIXED.storage)
    order = permuted(features.num_rows, seed)
    assert torch.equal(
        pooled(features.select_rows(order), weight, MIXED), pooled(features, weight, MIXED)[order]
    )


@given(features=ragged_features((7, 30, 30, 11)))
def test_concatenating_batches_concatenates_results(features: RaggedFeatures) -> None:
    weight = torch.randn(MIXED.storage)
    once = pooled(features, weight, MIXED)
    twice = pooled(RaggedFeatures.cat([features, features]), weight, MIXED)
    assert torch.equal(twice, torch.cat([once, once]))


@given(features=ragged_features((7, 30, 30, 11)))
def test_the_number_of_threads_changes_no_bit(features: RaggedFeatures) -> None:
    weight = torch.randn(MIXED.storage)
    torch.set_num_threads(1)
    alone = pooled(features, weight, MIXED)
    torch.set_num_threads(2)
    assert torch.equal(pooled(features, weight, MIXED), alone)


@given(bad=st.sampled_from([-1, 30, 2**40]), place=st.integers(0, 4))
def test_an_id_out_of_range_is_named(bad: int, place: int) -> None:
    ids = torch.tensor([1, 2, 3, 4, 5, 6])
    ids[place] = bad
    offsets = torch.tensor([0, 0, 3, 5, 5, 6, 6])
    layout = TableLayout(rows=(30, 7), dims=(4, 4), features=(0, 1), poolings=("sum", "sum"))
    row = {0: 1, 1: 1, 2: 1, 3: 2, 4: 2}[place]
    with pytest.raises(ValueError, match=rf"feature 0, row {row}: id {bad} is outside \[0, 30\)"):
        embedding_bag(torch.randn(layout.storage), ids, offsets, layout=layout)
    with pytest.raises(ValueError, match=rf"feature 0, row {row}: id {bad} is outside \[0, 30\)"):
        embedding_rows(torch.randn(layout.storage), ids, offsets, layout=layout)


def test_mistakes_are_named() -> None:
    weight, ids, offsets, sample = make(MIXED, 3, torch.int64)
    with pytest.raises(ValueError, match="flat with the layout's"):
        embedding_bag(weight[1:], ids, offsets, layout=MIXED)
    with pytest.raises(ValueError, match="never materialised"):
        embedding_bag(weight.requires_grad_(), ids, offsets, layout=MIXED)
    with pytest.raises(ValueError, match="one number an id"):
        embedding_bag(weight.detach(), ids, offsets, layout=MIXED, sample_weights=sample[1:])
    with pytest.raises(ValueError, match=r"share one dim, got \[5, 16, 64\]"):
        embedding_rows(weight.detach(), ids, offsets, layout=MIXED)
    with pytest.raises(ValueError, match="feature 0 names table 3 of 1"):
        TableLayout(rows=(1,), dims=(1,), features=(3,), poolings=("sum",))
