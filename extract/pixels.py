"""Images without a network: the grey pixels themselves, and histograms of their edges. One row per image.

Pictures of any size are first averaged down to a small square (area resampling; the aspect is not kept), so that every
image has the same width of row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import DType, FeatureSpec, Producer, Rows

from .clip import Clip
from .encoder import DECODE_RULES, Needs, check_options, no_weights

GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


@lru_cache(maxsize=64)
def area_weights(size: int, out: int) -> NDArray[np.float64]:
    """``[out, size]``: how much of each input cell lies in each output cell; rows sum to 1."""
    edges = np.arange(out + 1) * (size / out)
    cells = np.arange(size)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.clip(overlap, 0, None) / (size / out)


def shrink(image: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """``[height, width, 3]`` to ``[size, size, 3]`` in [0, 1], each pixel the mean of the area it covers."""
    height, width, _ = image.shape
    tall = np.tensordot(area_weights(height, size), image.astype(np.float64), axes=(1, 0))
    return np.einsum("ow,hwc->hoc", area_weights(width, size), tall, optimize=True) / 255


def hog(grey: NDArray[np.float64], cell: int, bins: int) -> NDArray[np.float64]:
    """Histograms of oriented gradients (Dalal and Triggs 2005), unsigned, blocks of 2x2 cells, L2 normalised.

    Args:
        grey: ``[size, size]``, size a multiple of ``cell``.
        cell: pixels along a cell.
        bins: orientations over 180 degrees; a gradient is shared by the two nearest.

    Returns:
        ``[(size/cell - 1)**2 * 4 * bins]``.
    """
    down, across = np.zeros_like(grey), np.zeros_like(grey)
    down[1:-1] = grey[2:] - grey[:-2]
    across[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    strength = np.hypot(down, across)
    place = np.arctan2(down, across) % np.pi / np.pi * bins - 0.5
    low = np.floor(place).astype(np.int64)
    share = place - low
    count = len(grey) // cell
    rows, columns = np.indices(grey.shape) // cell
    index = (rows * count + columns) * bins
    cells = np.zeros(count * count * bins)
    np.add.at(cells, (index + low % bins).ravel(), (strength * (1 - share)).ravel())
    np.add.at(cells, (index + (low + 1) % bins).ravel(), (strength * share).ravel())
    grid = cells.reshape(count, count, bins)
    blocks = np.concatenate([grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]], axis=-1)
    return (blocks / np.sqrt((blocks**2).sum(-1, keepdims=True) + 1e-4)).ravel()


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Grey values of the image averaged down to ``size`` x ``size``, row by row, in [0, 1]."""

    modality: str
    weights: str = ""
    dtype: DType = "float16"
    device: str = "cpu"
    size: int = 16
    """Side of the square; a row has ``size * size`` values."""

    def __post_init__(self) -> None:
        no_weights(self.weights, "pixels", self.modality)
        check_options(
            self.modality, size=(1 <= self.size <= 256, f"must be 1 to 256 pixels, got {self.size}")
        )

    @property
    def spec(self) -> FeatureSpec:
        """One row of ``size**2`` per image."""
        return _image_spec(
            self.modality, "pixels", self.dtype, self.size**2, {"version": 1, "size": self.size}
        )

    @property
    def needs(self) -> Needs:
        """An image."""
        return Needs(stream="image")

    def prepare(self, clip: Clip) -> NDArray[Any]:
        """The row itself, ``[1, 1, size**2]``: there is no network."""
        grey = shrink(clip.payload()[0], self.size) @ GREY
        return grey.reshape(1, 1, -1).astype(np.float32)

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """``[items, 1, size**2]``, unchanged."""
        return batch.astype(np.float32, copy=False)

    def assemble(self, clip: Clip, rows: NDArray[np.float32]) -> Rows:
        """One row without a clock."""
        return Rows(values=rows[0])


@dataclass(frozen=True, kw_only=True)
class Hog:
    """Histograms of oriented gradients of the image averaged down to a grey square: its edges, not its colours."""

    modality: str
    weights: str = ""
    dtype: DType = "float16"
    device: str = "cpu"
    size: int = 32
    """Side of the square, a multiple of ``cell``."""
    cell: int = 8
    bins: int = 9

    def __post_init__(self) -> None:
        no_weights(self.weights, "hog", self.modality)
        check_options(
            self.modality,
            size=(
                self.cell >= 1 and self.size % self.cell == 0 and 2 * self.cell <= self.size <= 256,
                f"must be a multiple of cell={self.cell}, at least two cells and at most 256 pixels, got {self.size}",
            ),
            bins=(2 <= self.bins <= 36, f"must be 2 to 36 orientations, got {self.bins}"),
        )

    @property
    def spec(self) -> FeatureSpec:
        """One row of ``(size/cell - 1)**2 * 4 * bins`` per image."""
        settings = {"version": 1, "size": self.size, "cell": self.cell, "bins": self.bins}
        dim = (self.size // self.cell - 1) ** 2 * 4 * self.bins
        return _image_spec(self.modality, "hog", self.dtype, dim, settings)

    @property
    def needs(self) -> Needs:
        """An image."""
        return Needs(stream="image")

    def prepare(self, clip: Clip) -> NDArray[Any]:
        """The row itself, ``[1, 1, dim]``: there is no network."""
        grey = shrink(clip.payload()[0], self.size) @ GREY
        return hog(grey, self.cell, self.bins).reshape(1, 1, -1).astype(np.float32)

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """``[items, 1, dim]``, unchanged."""
        return batch.astype(np.float32, copy=False)

    def assemble(self, clip: Clip, rows: NDArray[np.float32]) -> Rows:
        """One row without a clock."""
        return Rows(values=rows[0])


def _image_spec(modality: str, encoder: str, dtype: DType, dim: int, settings: dict[str, int]) -> FeatureSpec:
    return FeatureSpec(
        modality=modality,
        stream="image",
        dim=dim,
        dtype=dtype,
        producer=Producer(
            encoder=encoder, weights="none", weights_hash="", settings=settings, decode=DECODE_RULES["image"]
        ),
    )
