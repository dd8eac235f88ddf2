"""Modality subsets: every non-empty choice of modalities, in one order, with one label each, in every table.

Like a truth table: three modalities have seven rows. Letters are used while they are unique: A for audio, V for image
or video, T for text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from fusecache.cache import Stream

from .draws import Draws

_LETTERS: dict[Stream, str] = {"audio": "A", "video": "V", "image": "V", "text": "T"}


def subsets(modalities: Sequence[str], streams: Mapping[str, Stream]) -> dict[str, tuple[str, ...]]:
    """Label to modalities of every non-empty subset: by size, then in the order of ``modalities``.

    Args:
        modalities: names in the recipe's order.
        streams: kind of medium of each, from the cache's specs.

    >>> list(subsets(["audio", "image", "text"], {"audio": "audio", "image": "image", "text": "text"}))
    ['A', 'V', 'T', 'AV', 'AT', 'VT', 'AVT']
    >>> list(subsets(["wavlm", "logmel"], {"wavlm": "audio", "logmel": "audio"}))
    ['wavlm', 'logmel', 'wavlm+logmel']
    """
    letters = [_LETTERS[streams[name]] for name in modalities]
    short = len(set(letters)) == len(letters)
    words = dict(zip(modalities, letters if short else modalities, strict=True))
    return {
        ("" if short else "+").join(words[name] for name in chosen): chosen
        for size in range(1, len(modalities) + 1)
        for chosen in combinations(modalities, size)
    }


def subset_masks(count: int, *, device: torch.device | str = "cpu") -> Tensor:
    """All non-empty subsets of ``count`` modalities as ``[2**count - 1, count]`` bool, row r being the bits of r + 1."""
    codes = torch.arange(1, 2**count, device=device)
    return (codes[:, None] >> torch.arange(count, device=device)) & 1 == 1


def draw_subsets(present: Tensor, draws: Draws, *, full_share: float = 0.0) -> Tensor:
    """Regime R2: a uniformly drawn non-empty subset of what each sample has.

    Args:
        present: ``[B, M]`` bool.
        draws: keyed random source of the step.
        full_share: share of the samples (drawn) that keep everything.

    Returns:
        ``[B, M]`` bool; a sample that has nothing stays so.
    """
    masks = subset_masks(present.shape[1], device=present.device)
    possible = (~masks[None] | present[:, None]).all(dim=2)  # [B, S]: subset S needs nothing that is absent
    rank = possible.cumsum(dim=1)
    number = draws.uniform("missing.subset", (present.shape[0], 1), device=present.device) * rank[:, -1:]
    wanted = number.floor().to(rank.dtype) + 1
    pick = (possible & (rank == wanted)).to(torch.uint8).argmax(dim=1)
    drawn = masks[pick] & present
    keep = draws.uniform("missing.full", (present.shape[0], 1), device=present.device) < full_share
    return torch.where(keep, present, drawn)
