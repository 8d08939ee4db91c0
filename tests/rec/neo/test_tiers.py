"""Tiered tables against `EmbeddingBags`: the same bits whatever lies where; hit rates against one set of all lines."""

from __future__ import annotations

import errno
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags, Table
from cuesta.ops import SGD, Adagrad, PartialRowwiseAdam, RowwiseAdagrad, TableOptimizer
from cuesta.ragged import RaggedFeatures, offsets_from_lengths
from cuesta.rec.neo.row_cache import Policy, RowCache
from cuesta.rec.neo.row_store import TensorRows
from cuesta.rec.neo.tiers import TieredEmbeddingBags, Tiers

TABLES = (
    Table(name="item", num_rows=300, dim=8, pooled=("item", "seen"), unpooled=("history",)),
    Table(name="tag", num_rows=90, dim=4, pooled=("tag",), pooling="mean"),
    Table(name="user", num_rows=200, dim=8, pooled=("user",), pooling="mean"),
)
KEYS = ("tag", "history", "user", "seen", "item")
SIZES = {key: table.num_rows for table in TABLES for key in (*table.pooled, *table.unpooled)}
OPTIMIZERS = (SGD(lr=0.5), Adagrad(lr=0.5), RowwiseAdagrad(lr=0.5), PartialRowwiseAdam(lr=0.1))
Bags = EmbeddingBags | TieredEmbeddingBags


def batch(seed: int, num_rows: int = 12, *, weighted: bool = False) -> RaggedFeatures:
    """Return ids by a law that favours low ones, bags of 0 to 4."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, (len(KEYS), num_rows), generator=draw)
    ids = [
        (torch.rand(int(own.sum()), generator=draw) ** 2 * SIZES[key]).long()
        for key, own in zip(KEYS, lengths, strict=True)
    ]
    values = torch.cat(ids)
    weights = torch.rand(values.shape, generator=draw) if weighted else None
    return RaggedFeatures(KEYS, values, offsets_from_lengths(lengths.flatten()), weights)


def train(bags: Bags, batches: Sequence[RaggedFeatures], *, is_ahead: bool = False) -> list[Tensor]:
    """Return what lookups gave, pooled and unpooled, step after step."""
    outputs = []
    for step, features in enumerate(batches):
        pooled, (history,) = bags(features), bags.rows(features, ["history"])
        if is_ahead and isinstance(bags, TieredEmbeddingBags) and step + 1 < len(batches):
            bags.prefetch(batches[step + 1])
        (pooled.square().sum() + history.values.square().sum()).backward()
        bags.step(lr_scale=0.9**step)
        outputs += [pooled.detach(), history.values.detach()]
    return outputs


def assert_same(ours: Bags, theirs: Bags) -> None:
    mine, other = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(other)
    for name, values in mine.items():
        assert torch.equal(values, other[name]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize(
    ("fast", "host", "in_files", "policy"),
    [(0.1, 0.0, False, "lru"), (0.3, 0.0, True, "lfu"), (0.1, 0.4, True, "lru"), (1.0, 0.0, False, "lfu")],
)  # fmt: skip
def test_training_has_the_bits_of_training_without_tiers(
    optimizer: TableOptimizer, fast: float, host: float, in_files: bool, policy: Policy,
    is_ahead: bool, tmp_path: Path,
) -> None:  # fmt: skip
    batches = [batch(seed, weighted=seed % 2 == 1) for seed in range(8)]
    tiers = Tiers(
        fast=fast, host=host, folder=tmp_path if in_files else None, policy=policy, halve_every=3
    )
    plain = EmbeddingBags(TABLES, optimizer, seed=3)
    tiered = TieredEmbeddingBags(TABLES, optimizer, tiers, seed=3)
    assert_same(tiered, plain)
    expected, found = train(plain, batches), train(tiered, batches, is_ahead=is_ahead)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    counts = tiered.counts()
    assert counts.ids == sum(each.values.numel() for each in batches)
    assert counts.conflicts > 0 or fast > 0.1
    assert_same(tiered, plain)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_larger_than_the_cache_is_exact() -> None:
    batches = [batch(seed, 200) for seed in range(3)]
    plain = EmbeddingBags(TABLES, Adagrad(lr=0.5))
    tiered = TieredEmbeddingBags(TABLES, Adagrad(lr=0.5), Tiers(fast=0.01))
    expected, found = train(plain, batches), train(tiered, batches, is_ahead=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert_same(tiered, plain)


def test_gradients_add_up_until_the_step_and_lookups_without_one_change_nothing() -> None:
    plain = EmbeddingBags(TABLES, Adagrad(lr=0.5))
    tiered = TieredEmbeddingBags(TABLES, Adagrad(lr=0.5), Tiers(fast=0.1))
    for bags in (plain, tiered):
        for seed in range(3):
            bags(batch(seed)).square().sum().backward()
        with torch.no_grad():
            bags(batch(9))
        bags.step()
        bags(batch(4)).sum().backward()
        bags.drop_gradients()
        bags.eval()
        bags.rows(batch(5), ["history"])
        bags.train()
    assert_same(tiered, plain)


def test_gradients_of_bag_weights_are_those_without_tiers() -> None:
    grads = []
    plain = EmbeddingBags(TABLES, SGD())
    for bags in (plain, TieredEmbeddingBags(TABLES, SGD(), Tiers(fast=0.1))):
        features = batch(1, weighted=True)
        assert features.weights is not None
        weights = features.weights.requires_grad_()
        bags(RaggedFeatures(KEYS, features.values, features.offsets, weights)).sum().backward()
        grads.append(weights.grad)
    assert grads[0] is not None
    assert grads[1] is not None
    assert torch.equal(grads[0], grads[1])


def test_lookups_do_not_wait_for_the_rows_of_the_next_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = TABLES[1:2]
    plain = EmbeddingBags(tables, Adagrad(lr=0.5))
    tiered = TieredEmbeddingBags(tables, Adagrad(lr=0.5), Tiers(fast=0.4))
    store, may_go_on, waited = tiered._groups[0].store, threading.Event(), []
    load = store.load

    def later(*what: Tensor) -> None:
        if may_go_on.is_set() or not waited:  # all but the second batch's
            waited.append(True)
        else:
            waited.append(may_go_on.wait(10))
        load(*what)

    monkeypatch.setattr(store, "load", later)
    ours = [batch(seed).select(["tag"]) for seed in range(2)]
    for features in ours:
        tiered.prefetch(features)
    for features in ours:
        outputs = [bags(features) for bags in (tiered, plain)]
        assert torch.equal(*outputs)
        for bags, out in zip((tiered, plain), outputs, strict=True):
            out.square().sum().backward()
            bags.step()
        may_go_on.set()
    assert waited == [True, True]
    assert_same(tiered, plain)


def test_state_dicts_are_those_of_embedding_bags_both_ways(tmp_path: Path) -> None:
    plain = EmbeddingBags(TABLES, RowwiseAdagrad(lr=0.5), seed=1)
    tiered = TieredEmbeddingBags(
        TABLES, RowwiseAdagrad(lr=0.5), Tiers(fast=0.2, folder=tmp_path), seed=2
    )
    train(plain, [batch(0)])
    tiered.prefetch(batch(7))
    tiered.load_state_dict(plain.state_dict())
    assert_same(tiered, plain)
    train(tiered, [batch(1), batch(2)])
    train(plain, [batch(1)])
    plain.load_state_dict(tiered.state_dict())
    assert_same(tiered, plain)
    assert torch.equal(tiered.table("tag"), plain.table("tag"))


def test_tables_are_not_read_between_a_lookup_and_its_update() -> None:
    tiered = TieredEmbeddingBags(TABLES, SGD(), Tiers())
    tiered(batch(0)).sum().backward()
    with pytest.raises(ValueError, match=r"rows are in use; call step\(\) or drop_gradients\(\)"):
        tiered.state_dict()
    tiered.step()
    tiered.state_dict()


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_small_updates_of_hot_rows_are_kept_above_16_bits(storage: str) -> None:
    table = Table(name="item", num_rows=64, dim=4, pooled=("item",))
    features = RaggedFeatures(("item",), torch.zeros(1).long(), torch.tensor([0, 1]))
    tiered = TieredEmbeddingBags([table], SGD(lr=1e-4), Tiers(), storage=storage)
    tiered.load_state_dict({**tiered.state_dict(), "tables.item": torch.ones(64, 4)})
    for _ in range(100):
        tiered(features).sum().backward()
        tiered.step()
    ulp = 2.0**-11 if storage == "float16" else 2.0**-8  # below 1
    values = tiered.table("item").float()
    assert (values[0] - 0.99).abs().max() < ulp  # 1e-4 alone would be lost
    assert torch.equal(values[1:], torch.ones(63, 4))


def test_what_leaves_for_16_bits_is_rounded_without_bias() -> None:
    value = 1 + 2.0**-14
    means = {}
    for by_chance in (True, False):
        store = TensorRows([(4000, 8)], [torch.float16], rounds_by_chance=by_chance)
        every = torch.arange(4000)
        store.save(every, (torch.full((4000, 8), value),), every, key=5)
        means[by_chance] = float(store.parts[0].double().mean())
    assert means[False] == 1.0
    assert abs(means[True] - value) < 4 * 2.0**-10 * (1 / 16) ** 0.5 / 32000**0.5


def zipf(seed: int, num_rows: int, count: int, exponent: float = 1.05) -> Tensor:
    """Return distinct rows of one batch."""
    mass = np.cumsum(np.arange(1, num_rows + 1.0) ** -exponent)
    drawn = np.searchsorted(mass / mass[-1], np.random.default_rng(seed).random(count))
    rows = np.random.default_rng(99).permutation(num_rows)[np.minimum(drawn, num_rows - 1)]
    return torch.from_numpy(np.unique(rows))


def hit_rate(policy: Policy, share: float) -> float:
    """Return the share of distinct rows of a batch that are there, once the cache is full."""
    size = 20_000
    cache = RowCache(
        TensorRows([(size, 1)], [torch.float32]), size, int(share * size), policy=policy
    )
    rows = misses = 0
    for step in range(150):
        own, before = zipf(step, size, 2048), cache.counts.misses
        number, _ = cache.place(own)
        cache.wait()
        cache.done(number)
        if step >= 100:
            rows, misses = rows + len(own), misses + cache.counts.misses - before
    return 1 - misses / rows


def hit_rate_of_one_set(share: float) -> float:
    """Return the same for a cache in which a row may lie anywhere."""
    size, hits, rows = 20_000, 0, 0
    held: OrderedDict[int, None] = OrderedDict()
    for step in range(150):
        own = zipf(step, size, 2048).tolist()
        hits += sum(row in held for row in own) if step >= 100 else 0
        rows += len(own) if step >= 100 else 0
        for row in own:
            held[row] = None
            held.move_to_end(row)
        while len(held) > share * size:
            held.popitem(last=False)
    return hits / rows


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_32_ways_are_nearly_one_set_and_counts_are_better_where_nothing_drifts(
    share: float,
) -> None:
    """Bar N8 of the paper's specification."""
    lru = hit_rate("lru", share)
    assert abs(lru - hit_rate_of_one_set(share)) < 0.015
    assert hit_rate("lfu", share) >= lru + 0.08


def test_what_was_popular_leaves_once_counts_are_halved() -> None:
    misses = {}
    for halve_every in (0, 2):
        store = TensorRows([(1000, 1)], [torch.float32])
        cache = RowCache(store, 1000, 64, policy="lfu", halve_every=halve_every)
        for first, times in ((0, 40), (500, 20)):
            for _ in range(times):
                before = cache.counts.misses
                number, _ = cache.place(torch.arange(first, first + 40))
                cache.wait()
                cache.done(number)
        misses[halve_every] = cache.counts.misses - before
    assert misses[0] > 0
    assert misses[2] == 0


def test_what_the_store_cannot_do_is_raised_and_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    tiered = TieredEmbeddingBags(TABLES, SGD(), Tiers(fast=0.1))
    store = tiered._groups[0].store

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(store, "save", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        train(tiered, [batch(seed, 60) for seed in range(4)])


def test_wrong_ids_and_settings_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiered = TieredEmbeddingBags(TABLES, SGD(), Tiers())
    features = batch(0)
    values = features.values.clone()
    bag = features.offsets.diff().view(len(KEYS), -1)[2].nonzero()[0, 0]
    values[features.offsets[2 * 12 + bag]] = 200
    with pytest.raises(
        ValueError, match=rf"feature 'user', row {bag}: id 200 is out of range .* 200 rows"
    ):
        tiered(RaggedFeatures(KEYS, values, features.offsets))
    with pytest.raises(UserError, match=r"tiers.fast must be in \(0, 1\]"):
        Tiers(fast=0.0)
    with pytest.raises(UserError, match=r"name a tiers.folder too"):
        Tiers(host=0.5)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"no room for 0.00 GiB of tables in .*: No space left"):
        TieredEmbeddingBags(TABLES, SGD(), Tiers(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []
