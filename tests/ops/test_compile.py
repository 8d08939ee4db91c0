"""What registration buys: opcheck of every op, torch.compile, torch.export, FLOPs counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from cuesta.ops import (
    Mask,
    TableLayout,
    array_jagged_bmm_jagged_out,
    dense_jagged_cat_jagged_out,
    dot_interaction,
    embedding_bag,
    embedding_rows,
    gdpa,
    jagged2_softmax,
    jagged2_to_padded_dense,
    jagged_attention,
    jagged_dense_attention,
    jagged_dense_bmm,
    jagged_dense_elementwise_add,
    jagged_dense_elementwise_mul_jagged_out,
    jagged_jagged_bmm,
    jagged_jagged_bmm_jagged_out,
    jagged_self_subtraction_jagged_out,
    jagged_softmax,
    pad,
    plane_sweep,
    plane_sweep_zncc,
    seed_attention,
    segment_reduce,
    unpad,
)
from cuesta.ragged import Ragged

LAYOUT = TableLayout(rows=(7, 5), dims=(4, 4), features=(0, 1), poolings=("sum", "mean"))
OFFSETS = torch.tensor([0, 2, 2, 5])
BAGS = torch.tensor([0, 2, 2, 5, 6, 6, 6])  # F = 2, B = 3
IDS = torch.tensor([1, 6, 0, 3, 3, 4])


def numbers(*shape: int, learns: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).requires_grad_(learns)


def turned(tensor: Tensor) -> Tensor:
    """Return the tensor with its dimensions in memory the other way round."""
    order = list(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


def samples() -> dict[str, tuple[object, ...]]:
    """Return arguments of every registered op, by its name and a form if there are several."""
    grid, tables, width = LAYOUT.grid, LAYOUT.tables, LAYOUT.width
    winner = torch.tensor([[0, 1], [-1, -1], [4, 2]])
    sources = torch.arange(6, dtype=torch.int32)
    update = [
        IDS,
        sources,
        IDS * 4,
        torch.ones(6),
        numbers(24),
        2,
        [0.1, 1e-8, 0, 0, 1, 1, 0, 0],
        7,
    ]
    storage = numbers(LAYOUT.storage)
    vectors = (numbers(3, 4, learns=True), numbers(3, 2, 4, learns=True))
    return {
        "dot_interaction": vectors,
        "dot_interaction_backward": (numbers(3, 7), *(each.detach() for each in vectors)),
        "segment_sum": (numbers(5, 2, learns=True), OFFSETS, True),
        "segment_sum_backward": (numbers(3, 2, learns=True), OFFSETS, 5, True),
        "segment_max": (numbers(5, 2, learns=True), OFFSETS),
        "segment_max_backward": (numbers(3, 2), winner, 5),
        "pad": (numbers(5, 2, learns=True), OFFSETS, 4, 0.0),
        "unpad": (numbers(3, 4, 2, learns=True), OFFSETS, 5),
        "bucketize_ids": (IDS, BAGS, torch.tensor([[1, 0, 2], [0, 1, 9]]), 2, True),
        "cache_find": (
            torch.tensor([0, -1, 1], dtype=torch.int32),
            torch.zeros(2).long(),
            torch.tensor([2, 1, 2]),
            4,
        ),
        "copy_rows": (
            numbers(3, 4),
            torch.tensor([2, 0]),
            numbers(2, 4),
            torch.tensor([0, 1]),
            None,
        ),
        "cache_insert": (
            *torch.full((3, 2, 4), -1),
            torch.tensor([0, 0, 1]),
            *torch.arange(6).view(2, 3),
            1,
            1,
        ),
        "embedding_bag": (storage, IDS, BAGS, numbers(6, learns=True), grid, width),
        "embedding_rows": (storage, IDS, BAGS, grid, 4),
        "sample_weight_grad": (numbers(3, width), storage, IDS, BAGS, grid),
        "embedding_occurrences": (IDS, BAGS, numbers(6), grid, width),
        "embedding_update": (storage, torch.zeros(12), torch.zeros(0), tables, *update),
        **samples_of_attention(),
        **samples_of_squares(),
        **samples_of_maps(),
        **samples_of_sweeps(),
        **samples_of_patches(),
    }


def samples_of_attention() -> dict[str, tuple[object, ...]]:
    """Return arguments of attention and gdpa: as they lie, strided, and in their other forms."""
    attended = [numbers(*shape) for shape in ((4, 2, 3), (5, 2, 3), (5, 2, 3))]
    leaves = [each.clone().requires_grad_() for each in attended]
    strided = [turned(each) for each in attended]
    strided_leaves = [each.detach().requires_grad_() for each in strided]
    results = [numbers(4, 2, 3), numbers(4, 2)]  # of attention, or their gradients
    strided_results = [turned(each) for each in results]
    rows = (torch.tensor([0, 1, 3, 4]), OFFSETS)  # 1 x 2, 2 x 0 and 1 x 3 pairs
    bias, pairs, band = numbers(2, 5), torch.tensor([0, 2, 2, 5]), (2, 1, True, 0.5)
    biased = (*rows, bias, pairs, *band)
    plain = (*rows, None, None, *band, 0)
    shared = (None, OFFSETS, None, None, *band, 0)
    shared_results = [numbers(12, 2, 3), numbers(12, 2)]
    strided_biased = (*rows, turned(bias), pairs, *band, 0)
    forward, backward = "jagged_attention", "jagged_attention_backward"
    return {
        forward: (*leaves, *rows, bias.clone().requires_grad_(), pairs, *band, 0),
        f"{forward}: strided": (*strided_leaves, *strided_biased),
        f"{forward}: shared queries": (*leaves, *shared),
        f"{forward}: no bias": (*leaves, *plain),
        f"{forward}: longest": (*leaves, *biased, 2),
        backward: (*results, *attended, *results, *biased, 0),
        f"{backward}: strided": (*strided_results, *strided, *strided_results, *strided_biased),
        f"{backward}: shared queries": (*shared_results, *attended, *shared_results, *shared),
        f"{backward}: no bias": (*results, *attended, *results, *plain),
        f"{backward}: longest": (*results, *attended, *results, *biased, 2),
        "gdpa": (*leaves, *rows, 2, *band),
        "gdpa: strided": (*strided_leaves, *rows, 2, *band),
        "gdpa_backward": (results[0], *attended, *rows, 2, *band),
        "gdpa_backward: strided": (strided_results[0], *strided, *rows, 2, *band),
    }


def samples_of_maps() -> dict[str, tuple[object, ...]]:
    """Return arguments of the ops on depth maps and on points seen by cameras."""
    maps = (numbers(3, 4).exp(), numbers(2, 5).exp(), torch.eye(3, 4, dtype=torch.float64))
    normals = (numbers(3, 4, 3), numbers(2, 5, 3), torch.eye(3, dtype=torch.float64))
    return {
        "consistency": (*maps, None, None, None),
        "consistency: normals": (*maps, *normals),
        "zbuffer": (numbers(5, 3), OFFSETS, 2, 3),
    }


def samples_of_squares() -> dict[str, tuple[object, ...]]:
    """Return arguments of the ops on ragged rows and flat squares: sides 2, 0 and 3."""
    values, flat = numbers(5, learns=True), numbers(13, learns=True)
    factor, dense = numbers(4, 4, learns=True), numbers(3, 4, 2, learns=True)
    return {
        "jagged_bmm": (flat, numbers(10, learns=True), OFFSETS, -1, 2, -1, False, False, 10),
        "jagged_softmax": (numbers(10, learns=True), OFFSETS, 2, False),
        "jagged_softmax_backward": (numbers(13), flat.detach(), OFFSETS, -1, True),
        "jagged_dense_add": (numbers(5, 2, learns=True), dense, OFFSETS),
        "jagged_dense_mul": (flat, factor, OFFSETS),
        "jagged_dense_mul_backward": (numbers(13, learns=True), flat, OFFSETS, 4),
        "jagged_self_subtraction": (values, OFFSETS, 5),
        "jagged_self_subtraction_backward": (numbers(5, learns=True), OFFSETS, 5),
        "pad_squares": (flat, OFFSETS, 4, 0.0),
        "unpad_squares": (numbers(3, 4, 4, learns=True), OFFSETS, 13),
        "dense_jagged_cat": (numbers(3, learns=True), values, OFFSETS),
        "dense_jagged_split": (numbers(8, learns=True), OFFSETS),
    }


def samples_of_sweeps() -> dict[str, tuple[object, ...]]:
    """Return arguments of plane sweeps: planes and hypotheses of pixels, features and grey images."""
    poses = torch.eye(3, 4) + numbers(2, 3, 4) / 50
    planes, pixels = torch.tensor([1.0, 2.0]), numbers(2, 4, 5).abs() + 1
    features = (numbers(1, 4, 4, 5, learns=True), numbers(1, 2, 4, 4, 6, learns=True))
    grey = (numbers(4, 5, learns=True), numbers(2, 4, 6, learns=True))
    geometry, grey_geometry = (poses[None], pixels[None]), (poses, planes[:, None, None])
    known = [each.detach() for each in features]
    known_grey = [each.detach() for each in grey]
    slopes, grey_slopes = numbers(1, 2, 2, 2, 4, 5), numbers(2, 2, 4, 5)
    return {
        "plane_sweep": (*features, *geometry, 2),
        "plane_sweep: planes": (*features, poses[None], planes[None, :, None, None], 2),
        "plane_sweep: strided": (*(turned(each) for each in known), *geometry, 2),
        "plane_sweep_backward": (slopes, *known, *geometry, 2),
        "plane_sweep_zncc": (*grey, *grey_geometry, 1, 1e-3),
        "plane_sweep_zncc: pixels": (*grey, poses, pixels, 1, 1e-3),
        "plane_sweep_zncc_backward": (grey_slopes, *known_grey, *grey_geometry, 1, 1e-3),
    }


def samples_of_patches() -> dict[str, tuple[object, ...]]:
    """Return arguments of PatchMatch: sources of two sizes, with their own depths and without."""
    image = torch.arange(35, dtype=torch.uint8).reshape(5, 7) * 7
    views = (image, [image, image[:, :4].contiguous()], torch.eye(3, 4).repeat(2, 1, 1))
    planes, noise = numbers(3, 5, 7).abs(), numbers(9, 32, 32).sigmoid()
    depths = [each.float() / 255 for each in views[1]]
    patch, search = [5.0, 20.0, 2.0], [0.3, 0.2, 3.0, 0.1, 1.0, 0.05, 0.02, 0.1]
    state, rest = torch.cat([planes, planes[:1]]), ([*patch, *search], [2, 1], 1)
    return {
        "patch_match_costs": (*views, planes, None, patch, [2, 1]),
        "patch_match_costs: some": (*views, planes, planes[:2] > 0.5, patch, [2, 1]),
        "patch_match_sweep": (*views, state, noise, [], *rest, True),
        "patch_match_sweep: geometric": (*views, state, noise, depths, *rest, False),
    }


def registered() -> set[str]:
    """Return the names of the project's ops that torch knows."""
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("cuesta::") for name in names if name.startswith("cuesta::")}


def test_every_registered_op_has_a_sample() -> None:
    assert registered() == {name.partition(":")[0] for name in samples()}


@pytest.mark.parametrize("name", samples())
def test_schema_fake_body_and_autograd_agree_with_the_op(name: str) -> None:
    op = getattr(torch.ops.cuesta, name.partition(":")[0])
    torch.library.opcheck(op.default, samples()[name])


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_segment_reduce_and_pad_compile_without_a_graph_break(how: str) -> None:
    def run(values: Tensor, offsets: Tensor) -> Tensor:
        ragged = Ragged(values.sin(), offsets)
        padded = pad(ragged).square()
        return segment_reduce(unpad(padded, offsets), how) + segment_reduce(ragged, how)

    assert_compiles(run, numbers(5, 2, learns=True), OFFSETS)


def test_embedding_bag_compiles_without_a_graph_break() -> None:
    def run(sample: Tensor, weight: Tensor) -> Tensor:
        pooled = embedding_bag(weight, IDS, BAGS, layout=LAYOUT, sample_weights=sample.exp())
        rows = embedding_rows(weight, IDS, BAGS, layout=LAYOUT)
        return pooled.sum() + (rows * sample[:, None]).sum()

    assert_compiles(run, numbers(6, learns=True), numbers(LAYOUT.storage))


def test_attention_compiles_without_a_graph_break() -> None:
    def run(values: Tensor, offsets: Tensor) -> Tensor:
        rows = Ragged(values.sin().view(5, 2, 3), offsets)
        context = jagged_attention(rows, rows, rows, mask=Mask(causal=True))
        pooled = seed_attention(values[:2].view(2, 2, 3), context, rows)
        return pooled.sum() + gdpa(rows, context, rows).values.square().sum()

    assert_compiles(run, numbers(5, 6, learns=True), OFFSETS)


def test_attention_with_biases_and_nulls_compiles_without_a_graph_break() -> None:
    values, queries, seeds = numbers(5, 2, 3), numbers(3, 1, 2, 3), numbers(4, 2, 3)

    def run(bias: Tensor, null: Tensor) -> Tensor:
        rows = Ragged(values, OFFSETS)
        context = jagged_attention(rows, rows, rows, bias=bias.sin().view(1, 13), null=null)
        dense = bias[:12].view(3, 4, 1)
        pooled = jagged_dense_attention(queries, rows, context, bias=dense, null=null)
        return pooled.sum() + seed_attention(seeds, rows, context, null=null).sum()

    assert_compiles(run, numbers(13, learns=True), numbers(2))
    assert_compiles(lambda null, bias: run(bias, null), numbers(2, learns=True), numbers(13))


def test_dot_interaction_compiles_without_a_graph_break() -> None:
    def run(dense: Tensor, sparse: Tensor) -> Tensor:
        return dot_interaction(dense.sin(), sparse).square()

    assert_compiles(run, numbers(3, 4, learns=True), numbers(3, 2, 4))


def test_plane_sweeps_compile_without_a_graph_break() -> None:
    poses, depths = torch.eye(3, 4).expand(2, 3, 4), torch.tensor([1.0, 2.0])

    def run(features: Tensor, sources: Tensor) -> Tensor:
        features = features.sin()
        volume = plane_sweep(features, sources, poses[None], depths=depths[None], groups=2)
        grey = features.mean((0, 1)), sources.mean((0, 2))
        similar = plane_sweep_zncc(*grey, poses, depths=depths, radius=1)
        return volume.mean(2).square().sum() + similar.sum()

    assert_compiles(run, numbers(1, 4, 4, 5, learns=True), numbers(1, 2, 4, 4, 6))


@pytest.mark.parametrize("num_scores", [None, 13])
def test_the_ops_on_squares_compile_without_a_graph_break(num_scores: int | None) -> None:
    def run(values: Tensor, dense: Tensor) -> Tensor:
        x = jagged_dense_bmm(Ragged(values.sin(), OFFSETS), dense)
        scores = jagged_jagged_bmm_jagged_out(x, x, num_scores=num_scores)
        scores = jagged_dense_elementwise_mul_jagged_out(scores, dense[0])
        sums = array_jagged_bmm_jagged_out(jagged2_softmax(scores), x)
        added = jagged_dense_elementwise_add(jagged_softmax(sums), dense)
        times = dense_jagged_cat_jagged_out(dense[:, 0, 0], x.with_values(values[:, 0]))
        gaps = jagged_self_subtraction_jagged_out(times, num_scores=num_scores)
        padded = jagged2_to_padded_dense(gaps, longest=3)
        return (jagged_jagged_bmm(added, sums) * padded).sum((1, 2))

    assert_compiles(run, numbers(5, 3, learns=True), numbers(3, 3, 3))


def assert_compiles(run: Callable[..., Tensor], leaf: Tensor, other: Tensor) -> None:
    """Check that compiled results and gradients of `leaf` are those of eager mode, bit for bit."""
    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    outputs = [run(leaf, other), compiled(leaf, other)]
    assert torch.equal(*outputs)
    assert torch.equal(*(torch.autograd.grad(out.sum(), leaf)[0] for out in outputs))


class Ranker(nn.Module):
    """Score rows by their pooled embeddings and the mean of a ragged feature."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", numbers(LAYOUT.storage))
        self.score = nn.Linear(LAYOUT.width + 2, 1)

    def forward(self, ids: Tensor, bags: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
        pooled = embedding_bag(self.weight, ids, bags, layout=LAYOUT)
        mean = segment_reduce(Ragged(values, offsets), "mean")
        return self.score(torch.cat([pooled, mean], 1))


def test_a_ranker_exports_with_a_dynamic_batch_and_dynamic_lengths() -> None:
    ranker = Ranker()
    num_rows, num_ids, num_values = (torch.export.Dim(name) for name in ("B", "T", "V"))
    exported = torch.export.export(
        ranker,
        (IDS, BAGS, numbers(5, 2), OFFSETS),
        dynamic_shapes=({0: num_ids}, {0: 2 * num_rows + 1}, {0: num_values}, {0: num_rows + 1}),
    )
    other = (
        torch.tensor([5, 4]),
        torch.tensor([0, 1, 1, 1, 1, 1, 1, 2, 2]),
        numbers(7, 2),
        torch.tensor([0, 0, 3, 3, 7]),
    )
    assert torch.equal(exported.module()(*other), ranker(*other))


def test_attention_counts_the_pairs_that_are_seen() -> None:
    q = Ragged.from_lengths(numbers(4, 2, 3, learns=True), [1, 0, 3])
    k = Ragged.from_lengths(numbers(7, 2, 3), [2, 1, 4])
    num_pairs = {Mask(): 1 * 2 + 3 * 4, Mask(causal=True): 2 + 2 + 3 + 4, Mask(window=0): 1 + 3}
    for mask, pairs in num_pairs.items():
        with FlopCounterMode(display=False) as counter:
            jagged_attention(q, k, k, mask=mask).values.sum().backward()
            gdpa(q, k, k, mask=mask).values.sum().backward()
        counted = counter.get_flop_counts()["Global"]
        for op in ("jagged_attention", "gdpa"):
            assert counted[getattr(torch.ops.cuesta, op)] == 2 * 2 * pairs * (3 + 3)
            backward = getattr(torch.ops.cuesta, f"{op}_backward")
            assert counted[backward] == 2 * 2 * pairs * (3 * 3 + 2 * 3)


def test_attention_in_metas_semantics_counts_all_pairs_up_to_the_longest() -> None:
    q = Ragged.from_lengths(numbers(4, 2, 3, learns=True), [1, 0, 3])
    k = Ragged.from_lengths(numbers(7, 2, 3), [2, 1, 4])
    with FlopCounterMode(display=False) as counter:
        jagged_attention(q, k, k, mask=Mask(causal=True), meta_longest=2).values.sum().backward()
    counted = counter.get_flop_counts()["Global"]
    pairs = 1 * 2 + 2 * 2
    assert counted[torch.ops.cuesta.jagged_attention] == 2 * 2 * pairs * (3 + 3)
    assert counted[torch.ops.cuesta.jagged_attention_backward] == 2 * 2 * pairs * (3 * 3 + 2 * 3)


def test_flops_of_attention_are_counted_where_tensors_have_no_numbers() -> None:
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        offsets = torch.arange(4) * 2  # 3 rows of 2
        rows = Ragged(torch.randn(6, 2, 3, requires_grad=True), offsets)
        jagged_attention(rows, rows, rows, bias=torch.randn(1, 12)).values.sum().backward()
        jagged_dense_attention(torch.randn(3, 5, 2, 3), rows, rows, bias=torch.randn(3, 2, 5))
    counted = counter.get_flop_counts()["Global"]
    pairs, dense_pairs = 3 * 2 * 2, 3 * 2 * 5
    expected = 2 * 2 * (pairs + dense_pairs) * (3 + 3)
    assert counted[torch.ops.cuesta.jagged_attention] == expected
    assert counted[torch.ops.cuesta.jagged_attention_backward] == 2 * 2 * pairs * (3 * 3 + 2 * 3)


def test_flops_are_counted() -> None:
    ragged = Ragged(numbers(5, 2), OFFSETS)
    with FlopCounterMode(display=False) as counter:
        segment_reduce(ragged, "sum")
        segment_reduce(ragged, "max")
        embedding_bag(numbers(LAYOUT.storage), IDS, BAGS, layout=LAYOUT)
        dot_interaction(numbers(3, 4, learns=True), numbers(3, 2, 4)).sum().backward()
    counted = counter.get_flop_counts()["Global"]
    assert counted == {
        torch.ops.cuesta.segment_sum: 10,
        torch.ops.cuesta.segment_max: 10,
        torch.ops.cuesta.embedding_bag: 2 * 6 * 4,
        torch.ops.cuesta.dot_interaction: 2 * 3 * 3 * 4,
        torch.ops.cuesta.dot_interaction_backward: 2 * 2 * 3 * 3 * 4,
    }
