# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.
"""Accuracy, confusion, and the evaluation of a model on every modality subset.

Two plain counts are written out here: importing torchmetrics for them would cost every run several seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fusecache.cache import InputError

from .data import Source
from .draws import Draws
from .model import FusionModel

EVAL_BATCH = 1024
"""Samples of one forward pass without gradients. No effect on the numbers beyond rounding."""


def accuracy(predicted: Tensor, target: Tensor) -> float:
    """Share of equal entries; NaN when there are none."""
    return float((predicted == target).double().mean()) if len(target) else float("nan")


def confusion(predicted: Tensor, target: Tensor, classes: int) -> list[list[int]]:
    """Counts by true class (row) and predicted class (column)."""
    cells = torch.bincount(target.cpu() * classes + predicted.cpu(), minlength=classes * classes)
    return [[int(count) for count in row] for row in cells.reshape(classes, classes)]


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """What a model does on one split."""

    accuracy: dict[str, float]
    """Subset label to accuracy over the samples that have something of the subset; NaN when none has."""
    counts: dict[str, int]
    """Subset label to the number of samples that its accuracy is of."""
    loss: float
    """Mean cross-entropy with everything that is there, without label smoothing."""
    predicted: Tensor
    """``[n]`` int64, with everything that is there."""
    target: Tensor
    """``[n]`` int64."""
    fused: Tensor
    """Fused features (or logits, where the block gives those) of the first ``keep`` samples, float32."""

    def selected(self, select: str) -> float:
        """The validation metric: mean over the subsets that could be measured, or the full set alone.

        Raises:
            InputError: nothing could be measured, so no epoch can be preferred to another.
        """
        full = list(self.accuracy.values())[-1]
        values = [value for value in self.accuracy.values() if not math.isnan(value)]
        if math.isnan(full) or not values:
            raise InputError(
                "the validation split must hold samples with the recipe's modalities to choose the best epoch by, got "
                f"counts {self.counts}; name another split under train.splits"
            )
        return full if select == "full" else sum(values) / len(values)


@torch.no_grad()
def evaluate(
    model: FusionModel,
    source: Source,
    named: Mapping[str, tuple[str, ...]],
    *,
    autocast: torch.dtype | None = None,
    keep: int = 0,
    split: str = "",
) -> Evaluation:
    """Run the model on every sample under every subset of the modalities.

    Args:
        model: evaluated as it is, in evaluation mode; the mode is put back.
        source: the split.
        named: subset label to modalities; the last one must be all of them.
        autocast: mixed precision of the forward pass.
        keep: samples whose fused features are kept.
        split: its name, for the message.

    Raises:
        InputError: logits that are NaN or infinite: their largest entry would be an answer without a meaning.
    """
    was_training = model.training
    model.eval()
    draws = Draws(model.config.seed, 0)
    right: dict[str, list[Tensor]] = {label: [] for label in named}
    predicted: list[Tensor] = []
    targets: list[Tensor] = []
    losses: list[Tensor] = []
    fused: list[Tensor] = []
    wrong: list[Tensor] = []
    for batch in source.in_order(EVAL_BATCH):
        device_type = batch.present.device.type
        v = model.features(batch.x, batch.lengths)
        for label, chosen in named.items():
            mask = torch.tensor([name in chosen for name in model.modalities], device=batch.present.device)
            present = batch.present & mask
            with torch.autocast(device_type, dtype=autocast, enabled=autocast is not None):
                output = model(batch.x, batch.lengths, present, draws=draws, features=v)
            wrong.append((~torch.isfinite(output.logits)).any(dim=1).sum())
            answer = output.logits.argmax(dim=1)
            right[label].append((answer == batch.target)[present.any(dim=1)])
            if len(chosen) == len(model.modalities):
                predicted.append(answer)
                targets.append(batch.target)
                losses.append(F.cross_entropy(output.logits.float(), batch.target, reduction="sum"))
                full = output.fusion.fused if output.fusion.fused is not None else output.logits
                if (missing := keep - sum(len(part) for part in fused)) > 0:
                    fused.append(full[:missing].float().cpu())
    model.train(was_training)
    everything = {label: torch.cat(parts) for label, parts in right.items()}
    target = torch.cat(targets)
    loss = float(torch.stack(losses).double().sum()) / len(target)
    _check_answers(int(torch.stack(wrong).sum()), loss, len(target) * len(named), split)
    return Evaluation(
        accuracy={label: accuracy(hit, torch.ones_like(hit)) for label, hit in everything.items()},
        counts={label: len(hit) for label, hit in everything.items()},
        loss=loss,
        predicted=torch.cat(predicted),
        target=target,
        fused=torch.cat(fused) if fused else torch.zeros(0, 0),
    )


def _check_answers(wrong: int, loss: float, total: int, split: str) -> None:
    if wrong or not math.isfinite(loss):
        raise InputError(
            f"logits must be finite, got NaN or inf in {wrong} of {total} answers on split {split!r} (mean cross-entropy "
            f"{loss}); the features of that split are far outside those of training, or the weights diverged: run "
            f"fusecache verify on the cache, then try a lower train.lr, or train.autocast: off"
        )
