"""Early fusion, the floor every fusion method has to beat: one hidden layer on the concatenated features.

An absent modality's slot holds a learned token, never zeros in disguise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ConcatConfig
from .draws import Draws
from .fusion import FusionOutput


class Concat(nn.Module):
    """``fused = GELU(Linear([V[1]; ...; V[M]]))``, ``[B, hidden]``. No auxiliary loss."""

    stackable = True

    def __init__(self, dims: Mapping[str, int], config: ConcatConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(dims)
        self.width = config.hidden
        self.tokens = nn.ParameterList(nn.Parameter(torch.zeros(dim)) for dim in dims.values())
        self.hidden = nn.Linear(sum(dims.values()), config.hidden)

    def forward(
        self,
        x: Mapping[str, Tensor],
        lengths: Mapping[str, Tensor],
        present: Tensor,
        *,
        target: Tensor | None = None,
        progress: float = 0.0,
        draws: Draws,
    ) -> FusionOutput:
        """Fuse ``x[m]: [B, l[m]]``; see :class:`~fusecache.train.fusion.FusionBlock`."""
        slots = [
            torch.where(present[:, m : m + 1], x[name], self.tokens[m])
            for m, name in enumerate(self.modalities)
        ]
        fused = F.gelu(self.hidden(torch.cat(slots, dim=-1)))
        if self.training:
            fused = draws.dropout("concat.hidden", fused, self.config.dropout)
        return FusionOutput(fused=fused)
