"""Every Triton kernel compiles to machine code, without a GPU, for the shapes and options that its
op launches it with, and takes no more shared memory than the GPU has.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from cuesta.ops import (
    CacheTags,
    Mask,
    PartialRowwiseAdam,
    RowwiseAdagrad,
    bucketize_ids,
    cache_find,
    cache_insert,
    consistency,
    copy_rows,
    dense_jagged_cat_jagged_out,
    dot_interaction,
    embedding_bag,
    embedding_rows,
    force_body,
    gdpa,
    jagged2_softmax,
    jagged2_to_padded_dense,
    jagged_attention,
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
    zbuffer,
)
from cuesta.ops.patch_match import PatchMatch, Search, patch_match, patch_match_costs
from tests.ops.gpu_rungs import (
    ATTENDED,
    IS_INTERPRETED,
    attended,
    ragged,
    random,
    tells_nothing_of_fusion,
)
from tests.ops.gpu_tables import ALIGNED, KINDS, MIXED, SINGLE, lookup, updated

pytest.importorskip("triton", reason="Triton is for Linux")

from tests.ops import triton_aot

pytestmark = [
    tells_nothing_of_fusion,
    pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter compiles nothing"),
]

LONG = ([200], [150])  # several tiles for long rows
MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory by the GPU's capability


@pytest.mark.parametrize(
    ("dtype", "capability"),
    [(torch.float32, 90), (torch.bfloat16, 80)],
    ids=str,
)
def test_every_kernel_compiles_to_machine_code(
    dtype: torch.dtype, capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch() -> None:
        launch_rows_and_tables(dtype)
        launch_squares(dtype)
        launch_attention(dtype)
        launch_causal_attention(dtype, 64)
        launch_maps()
        launch_sweeps(dtype, is_plane=False)
        launch_patch_match(is_geometric=True)

    launched = _compile(launch, capability, monkeypatch)
    missing = set(triton_aot.kernels()) - launched
    assert not missing, f"no op called here launches {sorted(missing)}"


def test_products_of_16_bits_compile_to_machine_code_for_hopper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def launch() -> None:
        launch_squares(torch.bfloat16)
        launch_attention(torch.bfloat16)
        launch_causal_attention(torch.bfloat16, 64)

    _compile(launch, 90, monkeypatch)


@pytest.mark.parametrize(
    ("dtype", "capability"),
    [(torch.float32, 80), (torch.bfloat16, 90)],
    ids=str,
)
def test_attention_of_the_widest_heads_compiles_to_machine_code(
    dtype: torch.dtype, capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _compile(lambda: launch_causal_attention(dtype, 256), capability, monkeypatch)


def test_what_makes_code_differ_compiles_to_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch() -> None:
        launch_variants_of_rows_and_tables(torch.bfloat16)
        launch_variants_of_squares(torch.bfloat16)
        launch_variants_of_squares(torch.float32)  # no cast behind a load: the compiler does more
        launch_variants_of_attention(torch.bfloat16)
        launch_sweeps(torch.bfloat16, is_plane=True)
        launch_patch_match(is_geometric=False)

    _compile(launch, 90, monkeypatch)


def _compile(
    launch: Callable[[], None], capability: int, monkeypatch: pytest.MonkeyPatch
) -> set[str]:
    """Compile what `launch` launches on CPU tensors, whose numbers do not matter; return the names
    of the kernels.
    """
    memory = MEMORY[capability]
    monkeypatch.setattr("cuesta.ops.attended_rows_triton.DEFAULT_MEMORY", memory)
    with force_body("gpu"), triton_aot.recorded() as launches:
        launch()
    for each in launches:
        result = triton_aot.compiled(each, capability)
        assert result.asm["cubin"]
        assert result.metadata.shared <= memory, triton_aot.name_of(each.kernel)
    return {triton_aot.name_of(each.kernel) for each in launches}


def launch_patch_match(*, is_geometric: bool) -> None:
    """Call PatchMatch on two sources, with their own depths or without."""
    image, matrices = torch.zeros(20, 32, dtype=torch.uint8), torch.eye(3, 4).repeat(2, 1, 1)
    start = PatchMatch(random(3, 20, 32).cpu(), random(20, 32).cpu())
    wanted = torch.ones(2, 20, 32, dtype=torch.bool) if is_geometric else None
    patch_match_costs(image, [image, image], matrices, start.planes, wanted=wanted)
    patch_match(
        image, [image, image], matrices, start=start, noise=torch.rand(9, 32, 32),
        search=Search(low=0.2, high=1.0, steepest=0.02),
        inverse_depths=[torch.rand(20, 32)] * (2 if is_geometric else 0),
    )  # fmt: skip


def launch_rows_and_tables(dtype: torch.dtype) -> None:
    """Call every op on rows, tables and vectors, and its gradient."""
    rows = ragged([700, 0, 324], 64, dtype)
    leaf = rows.values.requires_grad_()
    for how in ("mean", "max"):
        segment_reduce(rows.with_values(leaf), how).sum().backward()
    unpad(pad(rows), rows.offsets)
    bucketize_ids(
        torch.arange(9), torch.tensor([0, 4, 9]), torch.tensor([[0, 0, 5]]), num_features=1
    )
    cache_find(torch.zeros(9).int(), torch.zeros(9).long(), torch.arange(9), now=1)
    places = torch.arange(9)
    copy_rows(random(9, 20).to(dtype), places, random(9, 20), places, random_key=1)
    copy_rows(random(9, 20), places, random(9, 24).to(dtype)[:, 4:], places)
    cache_insert(CacheTags.empty(2, 32), *torch.arange(6).view(2, 3), now=1, oldest=1)
    vectors = [random(5, 64).to(dtype), random(5, 26, 64).to(dtype)]
    dot_interaction(*(each.requires_grad_() for each in vectors)).sum().backward()
    part = lookup(ALIGNED, 100)
    weight = random(ALIGNED.storage).to(dtype)
    sample = part.sample_weights.requires_grad_()
    out = embedding_bag(weight, part.ids, part.offsets, layout=ALIGNED, sample_weights=sample)
    out.sum().backward()
    same = replace(ALIGNED, dims=(16, 16))
    embedding_rows(weight[: same.storage], part.ids, part.offsets, layout=same)
    updated(weight, [part], PartialRowwiseAdam())


def launch_variants_of_rows_and_tables(dtype: torch.dtype) -> None:
    """Every optimizer; rows too short for runs, no sample weights, dims of no alignment."""
    weight = random(ALIGNED.storage).to(dtype)
    for kind in KINDS:
        updated(weight, [lookup(ALIGNED, 100)], kind())
    segment_reduce(ragged([2, 3], 21, dtype))
    plain = lookup(MIXED, 3)._replace(sample_weights=None)
    embedding_bag(weight[: MIXED.storage], plain.ids, plain.offsets, layout=MIXED)
    updated(weight[: MIXED.storage], [plain], RowwiseAdagrad(stochastic_rounding=False))
    weight = weight[: SINGLE.storage]
    embedding_rows(weight, torch.arange(9), torch.tensor([0, 9]), layout=SINGLE)
    updated(weight, [lookup(SINGLE, 9)], RowwiseAdagrad())


def launch_maps() -> None:
    """Call every op on depth maps and points, which are float32 whatever the storage of tables."""
    depth, normal = random(20, 30).exp(), random(20, 30, 3)
    turned = {"normal": normal, "other_normal": normal, "rotation": torch.eye(3)}
    consistency(depth, depth, torch.eye(3, 4), **turned)
    consistency(depth, depth, torch.eye(3, 4))
    zbuffer(ragged([700, 0, 324], 3, torch.float32), height=20, width=30)


def launch_squares(dtype: torch.dtype) -> None:
    """Call every op on ragged rows and flat squares, and its gradient."""
    x, times = ragged([70, 0, 20], 64, dtype), ragged([70, 0, 20], 1, dtype)
    times = times.with_values(times.values.flatten().requires_grad_())
    x.values.requires_grad_()
    dense, factor = random(3, 70, 64).to(dtype), random(70, 70).to(dtype).requires_grad_()
    masked = jagged_dense_elementwise_mul_jagged_out(jagged_jagged_bmm_jagged_out(x, x), factor)
    outputs = [
        jagged2_softmax(masked).values,
        jagged2_to_padded_dense(masked),
        jagged_dense_elementwise_add(x, dense).values,
        jagged_self_subtraction_jagged_out(times).values,
        dense_jagged_cat_jagged_out(dense[:, 0, 0], times).values,
    ]
    sum(out.sum() for out in outputs).backward()


def launch_variants_of_squares(dtype: torch.dtype) -> None:
    """Softmax along columns, and of rows; products with dense tensors."""
    x = ragged([70, 0, 20], 64, dtype)
    x.values.requires_grad_()
    scores, dense = jagged_jagged_bmm_jagged_out(x, x), random(3, 64, 64).to(dtype)
    product = jagged_jagged_bmm(x, jagged_dense_bmm(jagged_softmax(x), dense))
    (jagged2_softmax(scores, transpose=True).values.sum() + product.sum()).backward()


def launch_attention(dtype: torch.dtype) -> None:
    """Call every op of attention on several tiles of long rows, and its gradient."""
    q, k, v, _ = attended(LONG, (2, 64, 64), dtype)
    q.values.requires_grad_()
    jagged_attention(q, k, v).values.sum().backward()
    seed_attention(q.values[:140], k, v).sum().backward()
    gdpa(q, k, v).values.sum().backward()


def launch_causal_attention(dtype: torch.dtype, dim: int) -> None:
    """Call what encodes histories, on several tiles of long rows, and its gradient."""
    q, k, v, _ = attended(LONG, (2, dim, dim), dtype)
    q.values.requires_grad_()
    jagged_attention(q, k, v, mask=Mask(causal=True)).values.sum().backward()


def launch_variants_of_attention(dtype: torch.dtype) -> None:
    """Biases, bands, rows cut, dims of no power of two, other formulas."""
    for dim, longest in ((128, None), (20, 40)):
        q, k, v, _ = attended(ATTENDED, (1, dim, dim), dtype)
        q.values.requires_grad_()
        bias = random(1, int((q.lengths() * k.lengths()).sum())).to(dtype)
        out = jagged_attention(q, k, v, bias=bias, mask=Mask(window=3), meta_longest=longest)
        out.values.sum().backward()
    for activation in ("gelu", "leaky_relu", "silu", "hardswish"):
        gdpa(q, k, v, activation=activation, mask=Mask(window=3)).values.sum().backward()


def launch_sweeps(dtype: torch.dtype, *, is_plane: bool) -> None:
    """Call plane sweeps of features and of grey images, and their gradients."""
    size, num_planes = (24, 32), 4
    reference, sources = random(1, 32, *size).to(dtype), random(1, 3, 32, *size).to(dtype)
    reference.requires_grad_()
    poses = torch.eye(3, 4).expand(1, 3, 3, 4).contiguous()
    depths = torch.ones(1, num_planes, *(() if is_plane else size))
    volume = plane_sweep(reference, sources, poses, depths=depths, groups=8)
    grey = reference[0, 0], sources[0, :, 0]
    similar = plane_sweep_zncc(*grey, poses[0], depths=depths[0], radius=2)
    (volume.sum() + similar.sum()).backward()
