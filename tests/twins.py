"""`assert_twins`: every body of an op is as close to a float64 oracle as the reference run in the
same dtype.

The tolerance is measured, never written down: max error at most 2 times and RMS error at most 1.5
times that of the reference, with a slack of eps * max|oracle| (a quarter of it on RMS) for where
the reference happens to be exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cuesta.ops import force_body

Outputs = Tensor | Sequence[Tensor]


def assert_twins(run: Callable[..., Outputs], *inputs: Tensor | None, body: str = "cpu") -> None:
    """Check that `run(*inputs)` under `body` is a twin of the reference; floating inputs go to the
    oracle as float64.
    """
    wide = [x.double() if x is not None and x.is_floating_point() else x for x in inputs]
    with force_body("reference"):
        oracle = _listed(run(*wide))
        reference = _listed(run(*inputs))
    with force_body(body):
        actual = _listed(run(*inputs))
    assert len(oracle) == len(reference) == len(actual)
    for index, triple in enumerate(zip(oracle, reference, actual, strict=True)):
        assert_close(*triple, what=f"output {index} of {body}")


def with_gradients(
    run: Callable[..., Tensor], wrt: Sequence[int], seed: int = 7
) -> Callable[..., list[Tensor]]:
    """Return a function that gives run's output and its gradients for a fixed random cotangent."""

    def both(*inputs: Tensor) -> list[Tensor]:
        leaves = list(inputs)
        for i in wrt:
            leaves[i] = leaves[i].detach().clone().requires_grad_()
        out = run(*leaves)
        generator = torch.Generator().manual_seed(seed)
        cotangent = torch.randn(out.shape, generator=generator).to(out.dtype)
        return [out, *torch.autograd.grad(out, [leaves[i] for i in wrt], cotangent)]

    return both


def assert_close(oracle: Tensor, reference: Tensor, actual: Tensor, *, what: str) -> None:
    """Check that `actual` is as close to the float64 oracle as the reference is."""
    assert actual.shape == oracle.shape == reference.shape, f"{what}: shape {tuple(actual.shape)}"
    assert actual.dtype == reference.dtype, f"{what}: dtype {actual.dtype}, not {reference.dtype}"
    if not actual.is_floating_point():
        assert torch.equal(actual, reference), f"{what}: integers differ"
        return
    assert bool(actual.isfinite().eq(oracle.isfinite()).all()), (
        f"{what}: not every element was written"
    )
    if oracle.numel() == 0:
        return
    theirs, ours = (reference.double() - oracle).abs(), (actual.double() - oracle).abs()
    slack = torch.finfo(actual.dtype).eps * float(oracle.abs().max())
    largest, allowed = float(ours.max()), 2 * float(theirs.max()) + slack
    assert largest <= allowed, f"{what}: max error {largest:.3e}, allowed {allowed:.3e}"
    rms, allowed = _rms(ours), 1.5 * _rms(theirs) + slack / 4
    assert rms <= allowed, f"{what}: RMS error {rms:.3e}, allowed {allowed:.3e}"


def _rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def _listed(outputs: Outputs) -> list[Tensor]:
    listed = [outputs] if isinstance(outputs, Tensor) else outputs
    return [output.detach() for output in listed]
