"""Plane sweeps: how like a reference view is to each of its sources, at every hypothesis of its depth.

The first half of multi-view stereo: what stands at depth z in a pixel of the reference is sampled
in every source and compared. `plane_sweep` compares features by group-wise correlation, as learned
stereo does (Guo et al., 2019, arXiv 1903.04025, section 3.2; Yao et al., MVSNet, arXiv 1804.02505);
`plane_sweep_zncc` compares windows of grey images by their correlation (Collins, CVPR 1996; Gallup
et al., CVPR 2007). Samples are never written down: each is taken and summed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from cuesta.ops.bodies import body
from cuesta.ops.flops import flop_formula
from cuesta.ops.squares import check_floats

__all__ = ["plane_sweep", "plane_sweep_zncc"]

_GEOMETRIES = (torch.float32, torch.float64)
_SAMPLE = 8  # FLOPs of one bilinear sample: a multiply and an add a tap


def plane_sweep(
    reference: Float[Tensor, "B C Y X"],
    sources: Float[Tensor, "B V C height width"],
    source_from_reference: Float[Tensor, "B V 3 4"],
    *,
    depths: Float[Tensor, "B K"] | Float[Tensor, "B K Y X"],
    groups: int,
) -> Float[Tensor, "B V groups K Y X"]:
    """Return the group-wise correlation of the reference's features with each warped source's.

    ```
    out[b, v, g, k, y, x] = mean over channels c of group g of reference[b, c, y, x] * s
    s = sources[b, v, c] at (p', q') = (u / w, v / w)      p = (x + 1/2, y + 1/2, 1)
    (u, v, w) = A p + a / depth                            [A | a] = source_from_reference[b, v]
    ```

    Depths are planes z = depth in front of the reference, or hypotheses for each of its pixels.
    `source_from_reference` is [K' R K^-1 | K' t] for intrinsics K and K' and the pose (R, t) of the
    source from the reference, pixel (0, 0) having its centre at (0.5, 0.5); t and depths share a
    unit. Both are float32 or float64 whatever the features are, and constants to autograd.

    Samples are bilinear with zeros outside the source, hence sources of several sizes may be padded
    on the right and below with zeros. What lies behind either camera, or has a depth that is not
    above 0, counts 0. Group g holds channels g C / groups up to (g + 1) C / groups. Features are of
    one floating dtype, which the result has; sums are float32 or wider. Differentiable in
    `reference` and `sources`. Bits do not depend on the number of threads; on a GPU the gradient of
    `sources` is summed by atomics, in any order.

    Raises `ValueError` where shapes, dtypes or devices do not go together.

    >>> still = torch.eye(3, 4).view(1, 1, 3, 4)  # the source is the reference
    >>> image = torch.arange(4.0).view(1, 2, 1, 2)  # channels 0 1 and 2 3
    >>> plane_sweep(image, image[:, None], still, depths=torch.ones(1, 1), groups=1).flatten()
    tensor([2., 5.])
    """
    _check_geometry(reference, sources, source_from_reference, depths, num_axes=4)
    if groups < 1 or reference.shape[1] < 1 or reference.shape[1] % groups:
        raise ValueError(
            f"groups must divide the {reference.shape[1]} channels of reference, got {groups}"
        )
    return torch.ops.cuesta.plane_sweep(
        reference, sources, source_from_reference, _with_pixels(depths, 2), groups
    )


def plane_sweep_zncc(
    reference: Float[Tensor, "Y X"],
    sources: Float[Tensor, "V height width"],
    source_from_reference: Float[Tensor, "V 3 4"],
    *,
    depths: Float[Tensor, " K"] | Float[Tensor, "K Y X"],
    radius: int,
    epsilon: float = 1e-6,
) -> Float[Tensor, "V K Y X"]:
    """Return the zero-mean normalised cross-correlation of windows, within (-1, 1), 1 being alike.

    ```
    out = cov(r, s) / sqrt((var(r) + epsilon) (var(s) + epsilon))
    r   the window of (2 radius + 1)^2 pixels around (y, x), as far as it lies in the reference
    s   the source where those pixels at depth z(y, x) lie: the window on a plane that faces the
        reference, its position as in `plane_sweep`
    ```

    Depths are planes, or hypotheses for each pixel; `source_from_reference` is as there, and both
    are float32 or float64 and constants to autograd. `epsilon`, above 0, is in squared units of the
    images: the default is the variance of a quarter of a grey level where white is 1. Flat windows
    so have a similarity near 0. NaN marks a pixel, of either image, as one that is not known.

    Samples are bilinear; the outermost half pixel of a source repeats its border. The result is 0,
    and without gradient, where a pixel of the window is not known or lies outside the source or
    behind a camera, or the depth is not above 0. Images are of one floating dtype, which the result
    has; sums are float32 or wider. Differentiable in both images. Bits do not depend on the number
    of threads; on a GPU the gradients are summed by atomics, in any order.

    Raises `ValueError` where shapes, dtypes or devices do not go together, for a radius below 1,
    whose windows would have no variance, and for an epsilon that is not above 0.

    >>> image, still = torch.arange(9.0).view(3, 3) / 8, torch.eye(3, 4)[None]
    >>> depths = torch.tensor([1.0, 0.0])
    >>> similar = plane_sweep_zncc(image, 1 - image[None], still, depths=depths, radius=1)
    >>> similar[0, :, 1, 1].round(decimals=3)
    tensor([-1.,  0.])
    """
    _check_geometry(reference, sources, source_from_reference, depths, num_axes=2)
    if radius < 1 or epsilon <= 0:
        raise ValueError(
            f"radius must be at least 1 and epsilon above 0, got {radius} and {epsilon}"
        )
    return torch.ops.cuesta.plane_sweep_zncc(
        reference, sources, source_from_reference, _with_pixels(depths, 1), radius, epsilon
    )


def _check_geometry(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor,
    *, num_axes: int,
) -> None:  # fmt: skip
    """Raise `ValueError` unless shapes, dtypes and devices go together; grey images are of 2 axes,
    batches of features of 4.
    """
    is_batch = num_axes == 4
    images, lead = ("[B, C, Y, X]", "B, V, C") if is_batch else ("[Y, X]", "V")
    if reference.dim() != num_axes:
        raise ValueError(f"reference must be {images}, got {tuple(reference.shape)}")
    batch, pixels = reference.shape[: is_batch * 1], reference.shape[-2:]
    is_alike = sources.dim() == num_axes + 1 and (
        not is_batch or (sources.shape[0], sources.shape[2]) == reference.shape[:2]
    )
    if not is_alike or 0 in sources.shape[-2:]:
        raise ValueError(
            f"sources must be [{lead}, height, width], height and width 1 at least, for a reference "
            f"of {tuple(reference.shape)}, got {tuple(sources.shape)}"
        )
    views = (*batch, sources.shape[is_batch], 3, 4)
    if source_from_reference.shape != views:
        raise ValueError(
            f"source_from_reference must be {list(views)}, got {tuple(source_from_reference.shape)}"
        )
    num_planes = depths.shape[len(batch) : len(batch) + 1]
    if depths.shape not in ((*batch, *num_planes), (*batch, *num_planes, *pixels)):
        lead = "B, K" if is_batch else "K"
        raise ValueError(
            f"depths must be [{lead}] or [{lead}, Y, X] for a reference of "
            f"{tuple(reference.shape)}, got {tuple(depths.shape)}"
        )
    check_floats(reference=reference, sources=sources)
    check_floats(source_from_reference=source_from_reference, depths=depths)
    if depths.dtype not in _GEOMETRIES or depths.device != reference.device:
        raise ValueError(
            "source_from_reference and depths must be float32 or float64 on the device of "
            f"reference, got {depths.dtype} on {depths.device}"
        )


def _with_pixels(depths: Tensor, lead: int) -> Tensor:
    """Return [..., K, Y, X], or [..., K, 1, 1] for planes."""
    return depths if depths.dim() > lead else depths[..., None, None]


@torch.library.custom_op("cuesta::plane_sweep", mutates_args=())
def _plane_sweep(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor, groups: int
) -> Tensor:
    return body("plane_sweep", reference).plane_sweep(
        *_contiguous(reference, sources, source_from_reference, depths), groups
    )


@_plane_sweep.register_fake
def _(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor, groups: int
) -> Tensor:
    lead, pixels = (*sources.shape[:2], groups, depths.shape[1]), reference.shape[2:]
    return reference.new_empty(*lead, *pixels)


@torch.library.custom_op("cuesta::plane_sweep_backward", mutates_args=())
def _plane_sweep_backward(
    grad: Tensor, reference: Tensor, sources: Tensor, source_from_reference: Tensor,
    depths: Tensor, groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return body("plane_sweep", reference).plane_sweep_backward(
        *_contiguous(grad, reference, sources, source_from_reference, depths), groups
    )


@torch.library.custom_op("cuesta::plane_sweep_zncc", mutates_args=())
def _plane_sweep_zncc(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor,
    radius: int, epsilon: float,
) -> Tensor:  # fmt: skip
    return body("plane_sweep", reference).plane_sweep_zncc(
        *_contiguous(reference, sources, source_from_reference, depths), radius, epsilon
    )


@_plane_sweep_zncc.register_fake
def _(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor,
    radius: int, epsilon: float,
) -> Tensor:  # fmt: skip
    return reference.new_empty(sources.shape[0], depths.shape[0], *reference.shape)


@torch.library.custom_op("cuesta::plane_sweep_zncc_backward", mutates_args=())
def _plane_sweep_zncc_backward(
    grad: Tensor, reference: Tensor, sources: Tensor, source_from_reference: Tensor,
    depths: Tensor, radius: int, epsilon: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return body("plane_sweep", reference).plane_sweep_zncc_backward(
        *_contiguous(grad, reference, sources, source_from_reference, depths), radius, epsilon
    )


@_plane_sweep_backward.register_fake
@_plane_sweep_zncc_backward.register_fake
def _(grad: Tensor, reference: Tensor, sources: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return reference.new_empty(reference.shape), sources.new_empty(sources.shape)


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in tensors)


class _Context(Protocol):
    """What autograd keeps of a call."""

    saved_tensors: tuple[Tensor, Tensor, Tensor, Tensor]
    settings: list[int | float]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


_Inputs = tuple[Tensor, Tensor, Tensor, Tensor, int]
_ZnccInputs = tuple[Tensor, Tensor, Tensor, Tensor, int, float]


def _setup(ctx: _Context, inputs: _Inputs | _ZnccInputs, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.settings = list(inputs[4:])


def _backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.cuesta.plane_sweep_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return *grads, None, None, None


def _backward_zncc(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.cuesta.plane_sweep_zncc_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return *grads, None, None, None, None


_plane_sweep.register_autograd(_backward, setup_context=_setup)
_plane_sweep_zncc.register_autograd(_backward_zncc, setup_context=_setup)


@flop_formula(torch.ops.cuesta.plane_sweep)
def _flops(
    reference: Sequence[int], sources: Sequence[int], source_from_reference: Sequence[int],
    depths: Sequence[int], groups: int, **_: object,
) -> int:  # fmt: skip
    """Count a sample, and a multiply and an add, for every number of every warped source."""
    batch, channels, height, width = reference
    return (_SAMPLE + 2) * batch * sources[1] * channels * depths[1] * height * width


@flop_formula(torch.ops.cuesta.plane_sweep_backward)
def _flops_backward(grad: Sequence[int], *inputs: Sequence[int], **_: object) -> int:
    """Count the sample, its adjoint, and a multiply and an add for either factor."""
    reference, sources, _pose, depths = inputs[:4]
    batch, channels, height, width = reference
    return 2 * (_SAMPLE + 2) * batch * sources[1] * channels * depths[1] * height * width


@flop_formula(torch.ops.cuesta.plane_sweep_zncc)
def _flops_zncc(
    reference: Sequence[int], sources: Sequence[int], source_from_reference: Sequence[int],
    depths: Sequence[int], radius: int, *_: object, **__: object,
) -> int:  # fmt: skip
    """Count a sample, and a multiply and an add for each of five sums, for every pixel of a window."""
    window = (2 * radius + 1) ** 2
    return (_SAMPLE + 10) * sources[0] * depths[0] * reference[0] * reference[1] * window


@flop_formula(torch.ops.cuesta.plane_sweep_zncc_backward)
def _flops_zncc_backward(
    grad: Sequence[int], reference: Sequence[int], sources: Sequence[int],
    source_from_reference: Sequence[int], depths: Sequence[int], radius: int,
    *_: object, **__: object,
) -> int:  # fmt: skip
    """Count the sums of forward, and as much for the gradients."""
    return 2 * _flops_zncc(reference, sources, source_from_reference, depths, radius)
