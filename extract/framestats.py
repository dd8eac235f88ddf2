"""Video without a network: colours, edges and motion of sampled frames. One row per frame.

A row joins colour histograms (2x2 cells, three channels, 8 levels: 96 values), histograms of oriented gradients of the
grey picture (324) and how much each of 4x4 cells changed since the row before (16; zero in the first row): 436 values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import DType, FeatureSpec, Producer, Rows

from .clip import Clip, frame_grid
from .encoder import DECODE_RULES, Needs, check_options, no_weights
from .pixels import GREY, hog, shrink

SIZE = 64
LEVELS = 8
DIM = 4 * 3 * LEVELS + 324 + 16


@dataclass(frozen=True, kw_only=True)
class FrameStats:
    """Classical statistics of the frames nearest to a grid of ``rate`` per second.

    The clock is irregular: a row's time is that of its frame, to that of the next row's, as a frame rate need not
    divide ``rate``. A video with fewer frames than grid points has one row per frame, never the same frame twice.
    """

    modality: str
    weights: str = ""
    dtype: DType = "float16"
    device: str = "cpu"
    rate: float = 4.0
    """Frames per second that are looked at."""

    def __post_init__(self) -> None:
        no_weights(self.weights, "framestats", self.modality)
        check_options(
            self.modality, rate=(0 < self.rate <= 1000, f"must be above 0 and at most 1000, got {self.rate}")
        )

    @property
    def spec(self) -> FeatureSpec:
        """Rows of 436 values, each with the times of its frame."""
        return FeatureSpec(
            modality=self.modality,
            stream="video",
            dim=DIM,
            dtype=self.dtype,
            timing="irregular",
            producer=Producer(
                encoder="framestats",
                weights="none",
                weights_hash="",
                settings={"version": 1, "rate": self.rate, "size": SIZE, "levels": LEVELS},
                decode=DECODE_RULES["video"],
            ),
        )

    @property
    def needs(self) -> Needs:
        """Frames at ``rate`` per second."""
        return Needs(stream="video", fps=self.rate)

    def prepare(self, clip: Clip) -> NDArray[Any]:
        """All rows of the clip as one item, ``[1, rows, 436]``: there is no network."""
        frames = clip.payload()
        small = [shrink(frames[index], SIZE) for index in self._chosen(clip)]
        rows: list[NDArray[np.float64]] = []
        for index, image in enumerate(small):
            levels = np.minimum((image * LEVELS).astype(np.int64), LEVELS - 1)
            half = SIZE // 2
            cells = levels.reshape(2, half, 2, half, 3).transpose(0, 2, 4, 1, 3).reshape(12, -1)
            colours = np.stack([np.bincount(cell, minlength=LEVELS) for cell in cells]) / cells.shape[1]
            change = np.abs(image - small[max(0, index - 1)]).mean(-1)
            motion = change.reshape(4, SIZE // 4, 4, SIZE // 4).mean((1, 3))
            rows.append(np.concatenate([colours.ravel(), hog(image @ GREY, 16, 9), motion.ravel()]))
        return np.stack(rows)[None].astype(np.float32)

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """``[items, rows, 436]``, unchanged."""
        return batch.astype(np.float32, copy=False)

    def assemble(self, clip: Clip, rows: NDArray[np.float32]) -> Rows:
        """Rows with the time of their frames, seconds on the media's clock."""
        assert clip.pts is not None
        starts = clip.pts[self._chosen(clip)]
        ends = np.append(starts[1:], max(clip.start + clip.duration, starts[-1]))
        return Rows(values=rows[0], times=np.stack([starts, ends], axis=1))

    def _chosen(self, clip: Clip) -> NDArray[np.int64]:
        assert clip.pts is not None
        return np.unique(frame_grid(clip.pts, clip.start, clip.duration, self.rate))
