"""The classification head: LayerNorm and one Linear map, on what is there.

A plain LayerNorm would let the zeros of an absent modality move the mean and deviation of the others; here they are
left out of both, and stay zero. With nothing absent it is the usual LayerNorm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskedLayerNorm(nn.Module):
    """LayerNorm over the columns that a mask marks; the others come out as zeros."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalise ``[B, width]`` under ``mask: [B, width]`` bool (None: everything counts)."""
        if mask is None:
            return nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        clean = torch.where(mask, x, 0.0)
        count = mask.sum(dim=-1, keepdim=True).clamp(min=1).to(x.dtype)
        mean = clean.sum(dim=-1, keepdim=True) / count
        centred = torch.where(mask, clean - mean, 0.0)
        variance = centred.square().sum(dim=-1, keepdim=True) / count
        scaled = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return torch.where(mask, scaled, 0.0)


class Head(nn.Module):
    """Masked LayerNorm, then Linear to ``classes`` logits."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = MaskedLayerNorm(width)
        self.out = nn.Linear(width, classes)

    def forward(self, fused: Tensor, mask: Tensor | None) -> Tensor:
        """``[B, width]`` to logits ``[B, classes]``."""
        # Statistics over thousands of columns need float32, whatever autocast made of the block's output.
        return self.out(self.norm(fused.to(torch.promote_types(fused.dtype, torch.float32)), mask))
