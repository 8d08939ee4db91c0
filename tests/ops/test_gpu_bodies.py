"""The Triton bodies of tables, reductions of rows, padding and interactions of vectors, and the random
bits of stochastic rounding.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cuesta.ops import (
    SGD,
    Adagrad,
    CacheTags,
    Lookup,
    PartialRowwiseAdam,
    RowwiseAdagrad,
    TableLayout,
    TableOptimizer,
    bucketize_ids,
    cache_find,
    cache_insert,
    copy_rows,
    dot_interaction,
    embedding_bag,
    embedding_rows,
    force_body,
    pad,
    segment_reduce,
    unpad,
)
from cuesta.ragged import Ragged
from tests.ops.gpu_rungs import (
    DEVICE,
    DTYPES,
    HAS_GPU,
    ragged,
    random,
    runs,
    tells_nothing_of_fusion,
)
from tests.ops.gpu_tables import ALIGNED, KINDS, MIXED, SAME, lookup, updated
from tests.twins import assert_twins

pytest.importorskip("triton", reason="Triton is for Linux")
import triton
import triton.language as tl

from cuesta.ops.embedding_update import gpu, reference

random_bits = gpu.random_bits
pytestmark = tells_nothing_of_fusion

LAYOUTS = pytest.mark.parametrize("layout", [ALIGNED, MIXED], ids=["aligned", "mixed"])
LENGTHS = [3, 0, 260, 1]  # an empty row, and one of several runs


@runs
@pytest.mark.parametrize("wants_places", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0], []], ids=str)
def test_ids_are_bucketized_as_by_the_reference(lengths: list[int], wants_places: bool) -> None:
    ids = torch.arange(sum(lengths), dtype=torch.int32) * 7 % 31
    rows = Ragged.from_lengths(ids, lengths)
    blocks = torch.tensor([[0, 0, 16], [1, 16, 31], [0, 16, 31], [1, 3, 3]])
    found = []
    for body, device in (("reference", "cpu"), ("gpu", DEVICE)):
        with force_body(body):
            parts = bucketize_ids(
                rows.values.to(device), rows.offsets.to(device), blocks.to(device),
                num_features=2, wants_places=wants_places,
            )  # fmt: skip
        found.append([part.cpu() for part in parts])
    assert all(torch.equal(a, b) and a.dtype is b.dtype for a, b in zip(*found, strict=True))


@runs
def test_rows_are_found_as_by_the_reference() -> None:
    line_of = torch.arange(3000, dtype=torch.int32) % 7 - 1
    rows = torch.arange(2500) * 11 % 3000
    found = []
    for body, device in (("reference", "cpu"), ("gpu", DEVICE)):
        stamps = torch.zeros(6, dtype=torch.int64, device=device)
        with force_body(body):
            lines, missed = cache_find(line_of.to(device), stamps, rows.to(device), now=5)
        found.append([lines.cpu(), missed.cpu(), stamps.cpu()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@runs
@pytest.mark.parametrize("random_key", [None, 2**40 + 7])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_copied_as_by_the_reference(dtype: torch.dtype, random_key: int | None) -> None:
    source, places = random(40, 21), torch.arange(40)
    found = []
    for body, device in (("reference", "cpu"), ("gpu", DEVICE)):
        target = torch.zeros(50, 24, dtype=dtype, device=device)[:, 3:]
        back = torch.zeros(50, 21, device=device)
        with force_body(body):
            copy_rows(
                target, (places + 9).to(device), source.to(device), places.flip(0).to(device),
                random_key=random_key,
            )  # fmt: skip
            copy_rows(back, places.to(device), target, (places + 3).to(device))
        found.append([target.cpu(), back.cpu()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.skipif(not HAS_GPU, reason="host memory is pinned for a GPU")
def test_rows_are_copied_from_and_to_pinned_host_memory() -> None:
    rows, source = torch.arange(40, device=DEVICE), random(40, 21).cpu()
    pinned = source.pin_memory()
    there, back = torch.zeros(50, 21, device=DEVICE), torch.zeros(60, 21, device="cpu").pin_memory()
    copy_rows(there, rows + 9, pinned, rows.flip(0))
    copy_rows(back, rows + 5, there, rows + 9)
    torch.cuda.synchronize()
    assert torch.equal(back[5:45], source.flip(0))
    assert not back[:5].any()
    assert not back[45:].any()


@runs
@pytest.mark.parametrize("num_ways", [3, 32])
def test_rows_get_the_lines_that_the_reference_gives_them(num_ways: int) -> None:
    found = []
    for body, device in (("reference", "cpu"), ("gpu", DEVICE)):
        tags, seen = CacheTags.empty(3, num_ways, device), []
        with force_body(body):
            for now in range(3):
                rows = torch.arange(now, 200, 3, device=device)
                inserted = cache_insert(tags, rows, rows * 7 % 5 + now, now=now, oldest=now - 1)
                seen += [*inserted, *(each.clone() for each in tags)]
        found.append([each.cpu() for each in seen])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", ["sum", "mean", "max"])
@pytest.mark.parametrize(("lengths", "dim"), [(LENGTHS, 21), ([2, 0, 5], 64), ([0, 0], 3), ([], 1)])
def test_segment_reduce_is_a_twin(
    lengths: list[int], dim: int, how: str, dtype: torch.dtype
) -> None:
    rows = ragged(lengths, dim, dtype)

    def run(values: Tensor, slope: Tensor) -> list[Tensor]:
        leaf = values.detach().requires_grad_()
        out = segment_reduce(rows.with_values(leaf), how)
        return [out, *torch.autograd.grad(out, leaf, slope)]

    assert_twins(run, rows.values, random(len(lengths), dim, seed=1).to(dtype), body="gpu")


@runs
def test_the_largest_value_is_nan_if_there_is_one() -> None:
    values = torch.tensor([[1.0], [float("nan")], [2.0], [-float("inf")]], device=DEVICE)
    values.requires_grad_()
    with force_body("gpu"):
        out = segment_reduce(Ragged.from_lengths(values, [3, 1]), "max")
        out.sum().backward()
    assert out[0].isnan()
    assert out[1] == -float("inf")
    assert values.grad.flatten().tolist() == [0, 1, 0, 1]


@runs
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize(("lengths", "dim"), [(LENGTHS, 21), ([0, 0], 64), ([], 1)])
@pytest.mark.parametrize("longest", [None, 2])
def test_pad_and_unpad_are_twins(
    lengths: list[int], dim: int, longest: int | None, dtype: torch.dtype
) -> None:
    rows = ragged(lengths, dim, dtype)

    def run(values: Tensor) -> list[Tensor]:
        padded = pad(rows.with_values(values), longest=longest, padding=1.0)
        return [padded, unpad(padded, rows.offsets).values]

    assert_twins(run, rows.values, body="gpu")


@runs
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_rows", [0, 5])
def test_embedding_bag_is_a_twin(layout: TableLayout, num_rows: int, dtype: torch.dtype) -> None:
    part = lookup(layout, num_rows)
    weight = random(layout.storage).to(dtype)

    def run(weight: Tensor, sample: Tensor, slope: Tensor) -> list[Tensor]:
        leaf = sample.detach().requires_grad_()
        plain = embedding_bag(weight, part.ids, part.offsets, layout=layout)
        out = embedding_bag(weight, part.ids, part.offsets, layout=layout, sample_weights=leaf)
        return [plain, out, *torch.autograd.grad(out, leaf, slope)]

    assert_twins(run, weight, part.sample_weights, part.grad, body="gpu")


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64], ids=str)
def test_embedding_rows_is_a_twin(ids_dtype: torch.dtype, dtype: torch.dtype) -> None:
    for layout in (SAME, replace(ALIGNED, dims=(16, 16))):
        part = lookup(layout, 5)
        ids = part.ids.to(ids_dtype)
        weight = random(layout.storage).to(dtype)
        assert_twins(
            lambda w, i=ids, p=part: embedding_rows(w, i, p.offsets, layout=p.layout),
            weight,
            body="gpu",
        )


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 26, 64), (2, 40, 70), (2, 1, 5), (0, 2, 8), (3, 0, 5)])
def test_dot_interaction_is_a_twin(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    dense, sparse = random(shape[0], shape[2]).to(dtype), random(*shape, seed=1).to(dtype)
    slope = random(shape[0], shape[2] + shape[1] * (shape[1] + 1) // 2, seed=2).to(dtype)

    def run(dense: Tensor, sparse: Tensor, slope: Tensor) -> list[Tensor]:
        leaves = [dense.detach().requires_grad_(), sparse.detach().requires_grad_()]
        out = dot_interaction(*leaves)
        return [out, *torch.autograd.grad(out, leaves, slope)]

    assert_twins(run, dense, sparse, slope, body="gpu")


@runs
def test_ids_outside_their_table_read_as_zeros_and_move_no_row() -> None:
    layout = TableLayout(rows=(3, 3), dims=(4, 4), features=(0, 1), poolings=("sum", "sum"))
    ids, offsets = torch.tensor([-1, 3, 1, 2**40]), torch.tensor([0, 1, 2, 3, 4])
    ids, offsets, weight = ids.to(DEVICE), offsets.to(DEVICE), random(24)
    with force_body("gpu"):
        out = embedding_bag(weight, ids, offsets, layout=layout)
        rows = embedding_rows(weight, ids, offsets, layout=layout)
        new = updated(weight, [Lookup(layout, ids, offsets, torch.ones_like(out))], SGD())[0]
    assert out.count_nonzero() == rows.count_nonzero() == 4
    assert torch.equal(rows[2], weight[16:20])
    assert (new != weight).nonzero().flatten().tolist() == [16, 17, 18, 19]


@runs
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_embedding_update_is_a_twin(
    kind: type[TableOptimizer], dtype: torch.dtype, layout: TableLayout
) -> None:
    decay = "decoupled" if kind in (Adagrad, PartialRowwiseAdam) else "l2"
    optimizer = kind(lr=0.1, weight_decay=0.01, decay=decay, stochastic_rounding=False)
    part = lookup(layout, 5)

    def run(weight: Tensor, grad: Tensor, sample: Tensor | None) -> list[Tensor]:
        return updated(weight, [part._replace(grad=grad, sample_weights=sample)], optimizer)

    weight = random(layout.storage).to(dtype)
    assert_twins(run, weight, part.grad, part.sample_weights, body="gpu")
    assert_twins(lambda w, g: run(w, g, None), weight, part.grad, body="gpu")


@runs
@pytest.mark.parametrize("num_ids", [600, *([200_000] if HAS_GPU else [])])
def test_a_row_of_many_occurrences_is_summed_by_runs_into_the_same_bits_every_time(
    num_ids: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = (torch.rand(num_ids, generator=generator) ** 8 * 300).long().to(DEVICE)
    offsets = torch.tensor([0, num_ids, num_ids], device=DEVICE)
    part = Lookup(SAME, ids, offsets, random(num_ids, 21), is_pooled=False)

    def run(weight: Tensor, grad: Tensor) -> list[Tensor]:
        return updated(weight, [part._replace(grad=grad)], RowwiseAdagrad())

    weight = random(SAME.storage)
    assert_twins(run, weight, part.grad, body="gpu")
    if HAS_GPU:
        with force_body("gpu"):
            once, again = run(weight, part.grad), run(weight, part.grad)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@triton.jit(do_not_specialize=["key", "first"])
def store_random_bits(out, key, first, SIZE: tl.constexpr):  # noqa: N803
    i = tl.arange(0, SIZE)
    tl.store(out + i, random_bits(key, first + i.to(tl.int64)).to(tl.int64))


@runs
@pytest.mark.parametrize("key", [0, 1, -1, 0x1234567890ABCDEF, -(2**63)])
@pytest.mark.parametrize("first", [0, 2**40])
def test_random_bits_are_those_of_the_reference(key: int, first: int) -> None:
    out = torch.empty(64, dtype=torch.int64, device=DEVICE)
    store_random_bits[(1,)](out, key, first, 64)
    assert torch.equal(out, reference.random_bits(key, torch.arange(64, device=DEVICE) + first))


@runs
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("size", [1.0, 2.0**-16], ids=["normal", "subnormal"])
def test_stochastic_rounding_gives_the_bits_of_the_reference(
    size: float, dtype: torch.dtype
) -> None:
    weight = (random(SAME.storage) * size).to(dtype)
    part = Lookup(
        SAME,
        torch.arange(300, device=DEVICE),
        torch.tensor([0, 300, 300], device=DEVICE),
        random(300, 21, seed=1).bfloat16().float() * size,  # lr * g is exact, and so is w - lr * g
        is_pooled=False,
    )
    results = []
    for body in ("reference", "gpu"):
        with force_body(body):
            results.append(updated(weight, [part], SGD(lr=2.0**-6))[0])
    assert not torch.equal(results[0], weight)
    assert torch.equal(*results)
