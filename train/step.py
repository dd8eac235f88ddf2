# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.
"""One step of the optimiser: missing subsets, forward, losses, backward, clipping, AdamW, averaging."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import TrainConfig
from .data import TensorBatch
from .diagnostics import gradient_angles
from .draws import Draws
from .model import FusionModel, ModelOutput
from .schedule import lr_at
from .subsets import draw_subsets

Angles = dict[str, dict[str, float | None]]
"""Modality to the row of ``gradients.jsonl``; see :func:`~fusecache.train.diagnostics.gradient_angles`."""


class Stepper:
    """Owns the optimiser; everything else of the run's position is the number of the step."""

    def __init__(
        self,
        model: FusionModel,
        average: FusionModel | None,
        config: TrainConfig,
        *,
        steps: int,
        autocast: torch.dtype | None,
    ) -> None:
        """Optimise ``model`` over ``steps`` steps and keep ``average`` behind it (None: no average)."""
        self.model, self.average, self.config, self.steps, self.autocast = (
            model,
            average,
            config,
            steps,
            autocast,
        )
        matrices = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=config.betas,
            fused=True,
        )

    def step(self, batch: TensorBatch, step: int) -> tuple[list[str], Tensor, Angles]:
        """Train on one batch, without waiting for the device except on sampled steps.

        Returns:
            names of the losses (their weighted sum first, then the task's), their detached values ``[names]``
            float32, and the gradient angles (empty on steps that are not sampled).
        """
        config, model = self.config, self.model
        draws = Draws(config.seed, step)
        present = batch.present
        if config.missing == "subset":
            present = draw_subsets(present, draws, full_share=config.full_share)
        v = model.features(batch.x, batch.lengths)
        sampled = config.diagnostics_every > 0 and step % config.diagnostics_every == 0
        if sampled:
            v = {name: value if value.requires_grad else value.requires_grad_() for name, value in v.items()}
        with torch.autocast(present.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            output: ModelOutput = model(
                batch.x,
                batch.lengths,
                present,
                draws=draws,
                target=batch.target,
                progress=step / self.steps,
                features=v,
            )
        task = F.cross_entropy(output.logits.float(), batch.target, label_smoothing=config.label_smoothing)
        named = output.fusion.losses
        terms = [value * weight for value, weight in named.values()]
        auxiliary = torch.stack(terms).sum() if terms else None
        loss = task if auxiliary is None else task + auxiliary
        angles = gradient_angles(v, task, auxiliary) if sampled else {}
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._update(step)
        values = [loss, task, *(value for value, _ in named.values())]
        return ["loss", "task", *named], torch.stack([value.detach().float() for value in values]), angles

    def _update(self, step: int) -> None:
        """Clip, set the learning rate, move the weights, and let the average follow."""
        config, model = self.config, self.model
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        rate = lr_at(
            step, self.steps, lr=config.lr, lr_start=config.lr_start, warmup_share=config.warmup_share
        )  # fmt: skip
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        if self.average is not None:
            decay = min(
                config.ema, (1 + step) / (10 + step)
            )  # the first steps would weigh the start too much
            with torch.no_grad():
                for kept, now in zip(self.average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(now, 1.0 - decay)
