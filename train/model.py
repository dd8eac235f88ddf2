# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.
"""The whole trainable model: poolings, standardisation, fusion block, head, in the order a batch meets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import BLOCKS
from .config import TrainConfig
from .draws import Draws
from .fusion import FusionOutput
from .head import Head
from .pooling import make_pooling


@dataclass(kw_only=True, slots=True)
class ModelOutput:
    """What the model gives for a batch of B samples."""

    logits: Tensor
    """``[B, classes]``."""
    features: dict[str, Tensor]
    """Modality to the standardised pooled vectors ``[B, width]`` that entered the block: the ``V[m]``."""
    fusion: FusionOutput
    """What the block gave."""


class FusionModel(nn.Module):
    """Poolings, standardisation buffers, block and head. Its state holds all that prediction needs."""

    def __init__(self, dims: Mapping[str, int], classes: int, config: TrainConfig) -> None:
        """Build with torch's current random state; :func:`build` does it from the run's seed.

        Args:
            dims: modality to row width in the cache, in the recipe's order.
            classes: number of classes.
            config: the run.
        """
        super().__init__()
        self.config = config
        self.modalities = tuple(dims)
        poolings = [make_pooling(config.pooling_of(name), dim) for name, dim in dims.items()]
        self.widths = {name: pooling.width for name, pooling in zip(dims, poolings, strict=True)}
        self.learned = {name: pooling.learned for name, pooling in zip(dims, poolings, strict=True)}
        self.poolings = nn.ModuleList(poolings)
        for m, (name, dim) in enumerate(dims.items()):
            width = dim if self.learned[name] else self.widths[name]
            self.register_buffer(f"centre_{m}", torch.zeros(width))
            self.register_buffer(f"scale_{m}", torch.ones(width))
        self.block = BLOCKS[config.fusion.block](self.widths, config.fusion)
        self.head = Head(self.block.width, classes)

    def set_standardisation(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Keep mean and deviation of the training split (of pooled vectors; of rows where the pooling is learned).

        What is done with them is ``config.standardise``; with ``none`` nothing.
        """
        if self.config.standardise == "none":
            return
        for m, name in enumerate(self.modalities):
            if name in statistics:
                centre, deviation = statistics[name]
                if self.config.standardise == "modality":
                    deviation = deviation.square().mean().sqrt().expand_as(deviation)
                self.get_buffer(f"centre_{m}").copy_(centre)
                # A dimension that never changes carries nothing: leave it as it is instead of dividing by 0.
                self.get_buffer(f"scale_{m}").copy_(
                    torch.where(deviation > 1e-8, deviation, 1.0).reciprocal()
                )

    def features(self, x: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``V[m]``: pooled (a ``[B, width]`` input already is) and standardised vectors, float32; empty ones are zeros.

        Args:
            x: modality to rows ``[B, T, dim]`` or pooled vectors ``[B, width]``.
            lengths: row counts ``[B]`` of the modalities that come as rows, and of pooled ones where some are 0.
        """
        out: dict[str, Tensor] = {}
        for m, name in enumerate(self.modalities):
            value, pooling = x[name], self.poolings[m]
            centre, scale = self.get_buffer(f"centre_{m}"), self.get_buffer(f"scale_{m}")
            if self.learned[name]:
                out[name] = pooling((value - centre) * scale, lengths[name])
            else:
                pooled = value if value.dim() == 2 else pooling(value, lengths[name])
                value = (pooled - centre) * scale
                if name in lengths:
                    value = torch.where((lengths[name] > 0)[:, None], value, 0.0)
                out[name] = value
        return out

    def forward(
        self,
        x: Mapping[str, Tensor],
        lengths: Mapping[str, Tensor],
        present: Tensor,
        *,
        draws: Draws,
        target: Tensor | None = None,
        progress: float = 0.0,
        features: Mapping[str, Tensor] | None = None,
    ) -> ModelOutput:
        """Logits of a batch.

        Args:
            x: modality to rows ``[B, T, dim]`` or pooled vectors ``[B, width]``.
            lengths: row counts of the modalities that come as rows.
            present: ``[B, M]`` bool.
            draws: keyed random source of the step.
            target: ``[B]`` int64 classes, for blocks whose losses need labels.
            progress: share of the run done.
            features: the ``V[m]`` where the caller made them already.
        """
        v = dict(features) if features is not None else self.features(x, lengths)
        inner = v
        if self.training:
            inner = {name: self._noised(name, value, draws) for name, value in v.items()}
        output = self.block(inner, lengths, present, target=target, progress=progress, draws=draws)
        logits = output.logits if output.fused is None else self.head(output.fused, output.mask)
        return ModelOutput(logits=logits, features=v, fusion=output)

    def _noised(self, name: str, value: Tensor, draws: Draws) -> Tensor:
        deviation = self.config.input_noise.get(name, 0.0)
        if not deviation:
            return value
        return value + deviation * draws.normal(f"noise.{name}", tuple(value.shape), device=value.device)

    def parameter_counts(self) -> dict[str, int]:
        """Parameters of the ``block``, the ``head``, the ``pooling``, and in ``total``."""
        parts: dict[str, nn.Module] = {"block": self.block, "head": self.head, "pooling": self.poolings}
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        return {**counts, "total": sum(counts.values())}


def build(dims: Mapping[str, int], classes: int, config: TrainConfig) -> FusionModel:
    """A model initialised from ``config.seed`` alone, on the CPU; torch's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return FusionModel(dims, classes, config)
