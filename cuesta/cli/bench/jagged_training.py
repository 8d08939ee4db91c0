"""`cuesta bench jagged_training`: training steps of a ranker whose histories are encoded on ragged
rows, against the same model, weight for weight, that encodes them padded.

The model is that of the recipe `jagged.ml100k` on its own batches. The padded one pads the events
once a step, to the longest row of the batch, and stays padded through projections, norms and
networks; torch's scaled_dot_product_attention sees the causal and key mask. A step is forward,
loss and backward of all but the tables, whose update is the same for both. Proved first: logits and
gradients of both, from the same weights in evaluation mode, agree.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, cast, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cuesta.cli.bench.harness import (
    OURS,
    WARM_UP,
    Answer,
    Contender,
    Findings,
    Settings,
    progress,
    rate_rows,
    refuse,
    time_in_turns,
    wrong_answer,
)
from cuesta.cli.recipes import recipe_named
from cuesta.data.batch import RankingBatch
from cuesta.nn import JaggedAttention, JaggedEncoder, TargetPooling
from cuesta.ops import force_body, pad
from cuesta.ragged import Ragged
from cuesta.rec.baselines.inputs import Inputs
from cuesta.rec.baselines.task import RankingTask, RankingTaskConfig

BENCH = "jagged_training"
PADDED = "padded SDPA"
LEEWAY = 10.0  # a gradient is a long sum: rounding grows on the way


def measure(settings: Settings) -> Findings:
    """Prove and time the steps."""
    findings = Findings()
    name = "jagged.debug" if settings.quick else "jagged.ml100k"
    config = cast(RankingTaskConfig, recipe_named(name).task)
    task = config.build(seed=0, device=torch.device("cpu"))
    batches = list(islice(task.train_batches(0, 0), WARM_UP + settings.repetitions))
    progress(f"{BENCH}: {name}, {len(batches)} batches of {batches[0].num_rows}")
    models = {OURS: task.model, PADDED: padded_copy(task.model)}
    reason = prove(models, batches[0])
    if reason is not None:
        refuse(BENCH, reason)
    contenders = [
        Contender.over(provider, partial(_step, model), batches)
        for provider, model in models.items()
    ]
    seconds = time_in_turns(contenders, len(batches) - WARM_UP)
    findings.rows += rate_rows(name, seconds, batches[0].num_rows, "examples/s")
    lengths = _lengths(task, batches)
    findings.note(
        f"histories: mean {float(lengths.mean()):.0f} events, longest {int(lengths.max())}, "
        f"{float(lengths.mean() / lengths.amax(1).mean()):.2f} of the longest of their batch"
    )
    findings.note(
        "proved before: logits and all gradients of both models, from the same weights, against a "
        "reference run"
    )
    return findings


def prove(models: dict[str, nn.Module], batch: RankingBatch) -> str | None:
    """Return what is wrong with the models' logits and gradients of a batch, or None."""
    with force_body("reference"):
        reference = _answers(models[OURS], batch)
    return next(
        (
            f"{provider}: {reason}"
            for provider, model in models.items()
            if (reason := wrong_answer(_answers(model, batch), reference, reference, leeway=LEEWAY))
        ),
        None,
    )


def padded_copy(model: nn.Module) -> nn.Module:
    """Return a copy of the model that encodes its histories padded."""
    padded = copy.deepcopy(model)
    inputs = cast(Inputs, padded.inputs)
    inputs.encoder = cast(JaggedEncoder, PaddedEncoder(inputs.encoder))
    inputs.pool = cast(TargetPooling, PaddedPooling(inputs.pool))
    return padded


class Padded(NamedTuple):
    """Hold padded events and which of them there are."""

    values: Float[Tensor, "B L D"]
    is_event: Bool[Tensor, "B L"]


@final
class PaddedEncoder(nn.Module):
    """Do what a `JaggedEncoder` does, on padded rows."""

    def __init__(self, encoder: JaggedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, events: Ragged) -> Padded:
        """Return the events in context, padded."""
        values, is_event = pad(events), events.mask()
        longest = values.shape[1]
        place = torch.arange(longest)
        norms = iter(self.encoder.norms)
        for layer, network in zip(self.encoder.attentions, self.encoder.networks, strict=True):
            attention = cast(JaggedAttention, layer)
            band = attention.mask.band()
            shift = place[None, :] - place[:, None]  # key less query
            seen = (shift >= -band.before) & (shift <= band.after) & is_event[:, None, None]
            seen = seen | torch.eye(longest, dtype=torch.bool)  # padding sees itself: no NaN
            joint = attention.joint(next(norms)(values)).unflatten(2, (3, attention.num_heads, -1))
            q, k, v = joint.permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            values = values + attention.out(out.transpose(1, 2).flatten(2))
            values = values + network(next(norms)(values))
        return Padded(next(norms)(values), is_event)


@final
class PaddedPooling(nn.Module):
    """Do what a `TargetPooling` does, on padded rows; its null is one more key."""

    def __init__(self, pooling: TargetPooling) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, target: Float[Tensor, "B C"], events: Padded) -> Float[Tensor, "B D"]:
        """Return the pooled rows, head after head."""
        pooling, (values, is_event) = self.pooling, events
        query = pooling.query(target).unflatten(1, (pooling.num_heads, 1, -1))
        joint = pooling.joint(values).unflatten(2, (2, pooling.num_heads, -1))
        k, v = joint.permute(2, 0, 3, 1, 4)
        scores = (query @ k.transpose(2, 3)) * k.shape[3] ** -0.5  # [B, H, 1, L]
        scores = scores.masked_fill(~is_event[:, None, None], -torch.inf)
        null = pooling.null[None, :, None, None].expand(*scores.shape[:3], 1)
        weights = torch.softmax(torch.cat([scores, null], 3), 3)[..., :-1]
        return (weights @ v).flatten(1)


def _step(model: nn.Module, batch: RankingBatch) -> Tensor:
    logits = model(batch)
    loss = F.binary_cross_entropy_with_logits(logits, batch.label)
    parameters = [each for each in model.parameters() if each.requires_grad]
    for parameter, grad in zip(
        parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
    ):
        parameter.grad = grad
    return logits


def _answers(model: nn.Module, batch: RankingBatch) -> list[Answer]:
    model.eval()
    logits = _step(model, batch).detach()
    gradients = torch.cat(
        [each.grad.flatten() for each in model.parameters() if each.grad is not None]
    )
    model.train()
    return [Answer("logits", logits), Answer("gradients", gradients)]


def _lengths(task: RankingTask, batches: Sequence[RankingBatch]) -> Tensor:
    inputs = cast(Inputs, task.model.inputs)
    return torch.stack([batch.features[inputs.attended[0]].lengths().double() for batch in batches])
