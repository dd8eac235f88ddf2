"""A decoded piece of one medium, with its clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import Seconds, Stream


class ClipError(Exception):
    """This one clip cannot be used, for a reason that belongs in the list of rejects. The run goes on.

    Raised by decoders and by an encoder's ``prepare``; the message is the reason that the user reads.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """What a decoder hands to every encoder that asks for its stream. Exactly one of the payloads is set."""

    key: str
    """Key of the sample, for messages."""
    stream: Stream
    source: str
    """Path of the file (or ``inline text``), for messages."""
    frames: NDArray[np.uint8] | None = None
    """Video: ``[frames, height, width, 3]`` RGB, full size, rotation applied: every frame that is nearest to a
    point of some encoder's frame grid (``Needs.fps``), or all of them. Image: one frame."""
    pts: NDArray[np.float64] | None = None
    """Video: presentation time of every frame in ``frames``, seconds on the media's own clock."""
    waveform: NDArray[np.float32] | None = None
    """Audio: ``[samples]`` mono in [-1, 1] at ``rate``."""
    rate: int | None = None
    """Audio: samples per second."""
    text: str | None = None
    start: Seconds = 0.0
    """Media time of the first frame or audio sample (a track may start late)."""
    duration: Seconds = 0.0
    """Decoded duration in seconds; 0 for images and text."""
    flags: tuple[str, ...] = ()
    """What a reader should know: ``length_unverified``, ``partial``, ..."""

    def payload(self) -> Any:
        """The one payload that is set."""
        for value in (self.frames, self.waveform, self.text):
            if value is not None:
                return value
        raise ValueError(f"clip {self.key!r} of {self.source} carries neither frames, waveform nor text")

    def bare(self) -> Clip:
        """The same clip without its payload: the clock, the flags and ``pts``. What ``assemble`` is given."""
        return replace(self, frames=None, waveform=None, text=None)


def frame_grid(pts: NDArray[np.float64], start: Seconds, duration: Seconds, fps: float) -> NDArray[np.int64]:
    """Index of the frame nearest to each point ``start + k/fps`` of a regular grid.

    Args:
        pts: ``[frames]`` presentation times, increasing.
        start: the grid's first point, seconds.
        duration: the grid covers ``[start, start + duration)``.
        fps: points per second.

    Returns:
        ``[points]`` indices into ``pts``, at least one; a tie goes to the earlier frame.
    """
    points = max(1, int(np.ceil(duration * fps - 1e-6)))
    at = start + np.arange(points) / fps
    middle = (pts[1:] + pts[:-1]) / 2
    return np.searchsorted(middle, at - 1e-9).astype(np.int64)
