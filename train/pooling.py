"""Poolings: from rows ``[B, T, d]`` to one vector per sample ``[B, width]``, by name.

Like the ways to sum up a meeting: the average of all that was said (``mean``), the last word (``last``), the average
of each of K equal stretches in order (``segments:K``), or a learned emphasis (``attention``). Rows beyond a sample's
length and everything in an absent modality have no effect; a sample with no row pools to zeros. All methods get the
same pooled vectors.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusecache.cache import InputError

from .config import POOLINGS, segments_of


class Pooling(Protocol):
    """What a pooling has beside being a module."""

    width: int
    """Width of the pooled vector."""
    learned: bool
    """Whether it has parameters; one without is applied once and its vectors are kept."""

    def __call__(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Pool ``[B, T, d]`` with ``[B]`` lengths to ``[B, width]``."""
        ...


def segment_bounds(length: int, k: int) -> list[tuple[int, int]]:
    """Row range of each of ``k`` segments of ``length`` rows, ``length >= 1``.

    Segment i starts at ``s = floor(i * length / k)`` and ends before ``max(s + 1, floor((i + 1) * length / k))``: a
    partition when there are at least k rows, and rows repeated in order when there are fewer.

    >>> segment_bounds(5, 2), segment_bounds(2, 4)
    ([(0, 2), (2, 5)], [(0, 1), (0, 1), (1, 2), (1, 2)])
    """
    starts = [i * length // k for i in range(k)]
    return [(s, max(s + 1, (i + 1) * length // k)) for i, s in enumerate(starts)]


def segments(values: NDArray[Any], k: int) -> NDArray[np.float32]:
    """Means of ``k`` equal segments of ``[T, d]``, concatenated to ``[k * d]``; zeros where T is 0.

    The bounds are those of :func:`segment_bounds`. Computed in float64, returned as float32.
    """
    rows: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    width: int = rows.shape[1]
    if not len(rows):
        return np.zeros(k * width, dtype=np.float32)
    means = [np.mean(rows[start:end], axis=0) for start, end in segment_bounds(len(rows), k)]
    out: NDArray[np.float32] = np.concatenate(means).astype(np.float32)
    return out


def _valid(x: Tensor, lengths: Tensor) -> Tensor:
    """``[B, T, 1]`` bool: the rows that count."""
    return (torch.arange(x.shape[1], device=x.device)[None] < lengths[:, None])[..., None]


class Segments(nn.Module):
    """``segments:K``, and with K = 1 the masked ``mean``."""

    learned = False

    def __init__(self, dim: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.width = k * dim

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Pool ``[B, T, d]`` to ``[B, K * d]``."""
        order = torch.arange(self.k, device=x.device)
        start = order[None] * lengths[:, None] // self.k
        end = torch.maximum(start + 1, (order[None] + 1) * lengths[:, None] // self.k)
        time = torch.arange(x.shape[1], device=x.device)[None, None]
        inside = (time >= start[..., None]) & (time < end[..., None]) & (time < lengths[:, None, None])
        weight = inside.to(x.dtype) / (end - start).to(x.dtype)[..., None]
        clean = torch.where(_valid(x, lengths), x, 0.0)
        return (weight @ clean).flatten(1)


class Last(nn.Module):
    """``last``: the last row that a sample has."""

    learned = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Pool ``[B, T, d]`` to ``[B, d]``."""
        if x.shape[1] == 0:
            return x.new_zeros(x.shape[0], x.shape[2])
        at = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2])
        return torch.where((lengths > 0)[:, None], x.gather(1, at)[:, 0], 0.0)


class Attention(nn.Module):
    """``attention``: softmax over a learned score of each row. It starts as the mean."""

    learned = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim
        self.score = nn.Linear(dim, 1, bias=False)  # a bias would cancel in the softmax
        nn.init.zeros_(self.score.weight)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Pool ``[B, T, d]`` to ``[B, d]``."""
        valid = _valid(x, lengths)
        clean = torch.where(valid, x, 0.0)
        score = torch.where(valid, self.score(clean).float(), torch.finfo(torch.float32).min)
        weight = torch.where(valid, score.softmax(dim=1), 0.0)  # all-invalid: uniform, then zero
        return (weight.to(clean.dtype) * clean).sum(dim=1)


def make_pooling(name: str, dim: int) -> Segments | Last | Attention:
    """The pooling called ``name`` for rows of width ``dim``.

    Raises:
        InputError: for a name that is not one of :data:`~fusecache.train.config.POOLINGS`.
    """
    if name == "attention":
        return Attention(dim)
    if name == "last":
        return Last(dim)
    k = 1 if name == "mean" else segments_of(name)
    if k is None:
        raise InputError(
            f"pooling {name!r} is not known; write one of {', '.join(POOLINGS)} under train.poolings"
        )
    return Segments(dim, k)
