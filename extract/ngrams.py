"""Texts without a network: which short runs of letters they hold. One row per text.

Runs of 1 to ``longest`` characters of the case-folded text, with a blank at both ends, are hashed into ``dim`` places
with a sign (feature hashing, Weinberger et al. 2009), counted, damped to ``log(1 + count)`` and scaled to length 1.
The hash is xxh3 over UTF-8: the same on every machine.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from fusecache.cache import DType, FeatureSpec, Producer, Rows

from .clip import Clip
from .encoder import DECODE_RULES, Needs, check_options, no_weights


@dataclass(frozen=True, kw_only=True)
class CharNgrams:
    """Hashed character n-grams of a text of any language."""

    modality: str
    weights: str = ""
    dtype: DType = "float16"
    device: str = "cpu"
    dim: int = 512
    longest: int = 3
    """Longest run of characters."""

    def __post_init__(self) -> None:
        no_weights(self.weights, "ngrams", self.modality)
        check_options(
            self.modality,
            dim=(2 <= self.dim <= 1 << 20, f"must be 2 to {1 << 20}, got {self.dim}"),
            longest=(1 <= self.longest <= 8, f"must be 1 to 8 characters, got {self.longest}"),
        )

    @property
    def spec(self) -> FeatureSpec:
        """One row of ``dim`` per text."""
        return FeatureSpec(
            modality=self.modality,
            stream="text",
            dim=self.dim,
            dtype=self.dtype,
            producer=Producer(
                encoder="ngrams",
                weights="none",
                weights_hash="",
                settings={"version": 1, "dim": self.dim, "longest": self.longest},
                decode=DECODE_RULES["text"],
            ),
        )

    @property
    def needs(self) -> Needs:
        """A text."""
        return Needs(stream="text")

    def prepare(self, clip: Clip) -> NDArray[Any]:
        """The row itself, ``[1, 1, dim]``: there is no network."""
        text = f" {str(clip.payload()).casefold()} "
        counts = Counter(
            text[i : i + n] for n in range(1, self.longest + 1) for i in range(len(text) - n + 1)
        )
        row = np.zeros(self.dim)
        for gram in sorted(counts):
            place = xxhash.xxh3_64_intdigest(gram.encode("utf-8", "surrogatepass"))
            row[(place >> 1) % self.dim] += math.log1p(counts[gram]) * (1 if place & 1 else -1)
        row /= max(float(np.linalg.norm(row)), 1e-12)
        return row.reshape(1, 1, -1).astype(np.float32)

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """``[items, 1, dim]``, unchanged."""
        return batch.astype(np.float32, copy=False)

    def assemble(self, clip: Clip, rows: NDArray[np.float32]) -> Rows:
        """One row without a clock."""
        return Rows(values=rows[0])
