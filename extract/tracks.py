"""What is kept of a track while it goes by: the pictures nearest to asked times, or the sound as one mono wave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import Seconds

from .clip import ClipError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.video.frame import VideoFrame

GAP = 0.02
"""Seconds by which sound may jump before silence fills the gap; containers round their times to 1 ms."""
LONGEST_GAP = 5.0
"""Seconds of silence that are made up at most; beyond, the sound ends."""
LOWEST_RATE = 1000
"""Samples per second: no sound that was recorded has fewer, and each becomes many."""


@dataclass(slots=True)
class Bounds:
    """The piece of a file that is wanted, seconds on the media's clock."""

    start: Seconds = 0.0
    end: Seconds = float("inf")


@dataclass(slots=True)
class Pictures:
    """The frames of one video track that some grid wants."""

    bounds: Bounds
    grids: list[float]
    """Points per second of every asked grid; each starts at the first frame."""
    every: bool
    """Keep all frames."""
    max_bytes: int
    assumed_step: Seconds
    """Time of one frame where the container gives no times."""
    start: Seconds | None = None
    end: Seconds = 0.0
    flags: set[str] = field(default_factory=set[str])
    done: bool = False
    pixels: list[NDArray[np.uint8]] = field(default_factory=list[NDArray[np.uint8]])
    times: list[Seconds] = field(default_factory=list[Seconds])
    _held: VideoFrame | None = None
    _time: Seconds = 0.0
    _seen: int = 0
    _last: Seconds = float("-inf")
    """Time of the last frame, wanted or not."""
    _before: VideoFrame | None = None
    """The last frame before the bounds: it is on screen until the next."""
    _steps: list[Seconds] = field(default_factory=list[Seconds])
    _points: list[int] = field(default_factory=list[int])

    def add(self, frame: VideoFrame, zero: Seconds) -> None:
        """Take the next frame; the one before it is then known to be wanted or not.

        Args:
            frame: decoded frame.
            zero: stream time at which the media's clock is 0.

        Raises:
            ClipError: too many bytes, or the picture's size changes.
        """
        if frame.pts is None or frame.time_base is None:
            time = self._seen * self.assumed_step
            self.flags.add("times_assumed")
        else:
            time = float(frame.pts * frame.time_base) - zero
        self._seen += 1
        if frame.is_corrupt:
            self.flags.add("partial (the decoder reports damaged pictures)")
        if time < self._last - 2 * self.assumed_step:
            _note_backward(self.flags, self._last)
        elif time > self._last:
            if self.start is not None:
                self._steps.append(time - self._last)
            self._last = time
        if time < self.bounds.start - 1e-6:
            self._before = frame if time == self._last else self._before
            return
        if self._before is not None and time > self.bounds.start + min(0.02, self.assumed_step / 2):
            self._begin(self._before, self.bounds.start)
        self._before = None
        if time >= self.bounds.end - 1e-6:
            self.done = True
            if self._held is not None:
                self.end = self.bounds.end
            return
        if self.start is None:
            self._begin(frame, time)
        elif time <= self._time:
            return  # a repeated or backward time adds no picture to the clock
        else:
            self._settle((self._time + time) / 2)
        self._held, self._time = frame, time
        step = (
            float(frame.duration * frame.time_base)
            if frame.duration and frame.time_base
            else self.assumed_step
        )
        self.end = min(time + step, self.bounds.end)

    def _begin(self, frame: VideoFrame, time: Seconds) -> None:
        """Start the clip with a frame that is on screen at ``time``."""
        self.start, self._points = time, [0] * len(self.grids)
        self._held, self._time = frame, time

    def finish(self) -> None:
        """Settle the last frame: it stands for every point before the end."""
        if self._before is not None and self._last + self.assumed_step > self.bounds.start + 1e-6:
            self._begin(self._before, self.bounds.start)
            self.end = min(self._last + self.assumed_step, self.bounds.end)
        if _has_hole(self._steps):
            self.flags.add("pictures_missing")
        if self._held is not None:
            self._settle(self.end - 1e-6 / max(self.grids, default=1.0))

    def _settle(self, until: Seconds) -> None:
        """Keep the held frame if a grid point lies nearest to it, that is, before ``until``."""
        wanted = self.every or not self.times
        for index, fps in enumerate(self.grids):
            while (self.start or 0.0) + self._points[index] / fps <= until + 1e-9:
                self._points[index] += 1
                wanted = True
        frame, self._held = self._held, None
        if not wanted or frame is None:
            return
        image = _upright(frame, self.flags)
        if self.pixels and image.shape != self.pixels[0].shape:
            raise ClipError(
                f"the picture changes from {self.pixels[0].shape[1::-1]} to {image.shape[1::-1]} pixels in mid-file"
            )
        if (len(self.pixels) + 1) * image.nbytes > self.max_bytes:
            raise ClipError(
                f"the decoded video needs more than max_clip_bytes={self.max_bytes} after {self._time:.1f} s; cut it "
                "with start and end"
            )
        self.pixels.append(image)
        self.times.append(self._time)


@dataclass(slots=True)
class Sound:
    """One audio track as a mono wave at its own rate, without gaps."""

    bounds: Bounds
    max_bytes: int
    rate: int = 0
    start: Seconds | None = None
    flags: set[str] = field(default_factory=set[str])
    done: bool = False
    _count: int = 0
    _last: Seconds = float("-inf")
    """Time after the last frame, wanted or not."""
    _parts: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])

    @property
    def end(self) -> Seconds:
        """Media time after the last sample."""
        return (self.start or 0.0) + self._count / max(1, self.rate)

    def add(self, frame: AudioFrame, zero: Seconds) -> None:
        """Take the next frame.

        Raises:
            ClipError: too many bytes, or the sample rate changes.
        """
        time = self.end
        if frame.pts is not None and frame.time_base is not None:
            time = float(frame.pts * frame.time_base) - zero
        if self.rate and frame.sample_rate != self.rate:
            raise ClipError(
                f"the sound changes from {self.rate} to {frame.sample_rate} samples per second in mid-file"
            )
        if frame.sample_rate < LOWEST_RATE:
            raise ClipError(
                f"the sound has {frame.sample_rate} samples per second by its header, which no recording has; at least "
                f"{LOWEST_RATE} are needed"
            )
        after = time + frame.samples / frame.sample_rate
        if after < self._last - GAP:
            _note_backward(self.flags, self._last)
        self._last = max(self._last, after)
        if after <= self.bounds.start:
            return
        if time >= self.bounds.end:
            self.done = True
            return
        mono = _mono(frame)
        if self.start is None:
            self.rate, self.start = frame.sample_rate, time
        elif abs(time - self.end) > GAP:
            jump = round((time - self.end) * self.rate)
            if jump > LONGEST_GAP * self.rate:
                self.flags.add(f"partial (no sound from {self.end:.2f} s to {time:.2f} s)")
                self.done = True
                return
            self.flags.add("gap_filled")
            if jump > 0:
                self._check_room(jump)
                self._keep(np.zeros(jump, np.float32))
            else:
                mono = mono[-jump:]
        self._check_room(len(mono))
        self._keep(mono)

    def wave(self) -> tuple[NDArray[np.float32], Seconds]:
        """The samples within the bounds, and the media time of the first."""
        if self.start is None:
            return np.zeros(0, np.float32), 0.0
        whole = np.concatenate(self._parts)
        first = max(0, round((self.bounds.start - self.start) * self.rate))
        last = len(whole)
        if self.bounds.end < self.end:
            last = max(first, round((self.bounds.end - self.start) * self.rate))
        return whole[first:last], self.start + first / self.rate

    def _check_room(self, samples: int) -> None:
        if (self._count + samples) * 4 > self.max_bytes:
            raise ClipError(
                f"the decoded sound needs more than max_clip_bytes={self.max_bytes} after {self.end:.1f} s; cut it with "
                "start and end"
            )

    def _keep(self, part: NDArray[np.float32]) -> None:
        self._count += len(part)
        self._parts.append(part)


def _note_backward(flags: set[str], at: Seconds) -> None:
    """Files joined end to end begin their times anew: what follows has no place on the clock. Told once."""
    if not any(flag.startswith("partial (times run") for flag in flags):
        flags.add(f"partial (times run backward at {at:.2f} s)")


def _has_hole(steps: list[Seconds]) -> bool:
    """Whether pictures of an otherwise regular track are missing in the middle; slides and the like are not regular."""
    if len(steps) < 10:
        return False
    usual = float(np.median(steps))
    wide = [step for step in steps if step > 2 * usual]
    return len(wide) <= max(1, len(steps) // 20) and max(steps) > 5 * usual


def resample(wave: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """``wave`` at another rate: libswresample on the whole wave, ``round(samples * wanted / rate)`` samples."""
    import av

    if rate == wanted or not len(wave):
        return wave
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None]), format="flt", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=wanted)
    parts = [out.to_ndarray()[0] for source in (frame, None) for out in resampler.resample(source)]
    joined = np.concatenate(parts).astype(np.float32, copy=False)
    samples = max(1, round(len(wave) * wanted / rate))
    return joined[:samples] if len(joined) >= samples else np.pad(joined, (0, samples - len(joined)))


def _mono(frame: AudioFrame) -> NDArray[np.float32]:
    """Mean over the channels, scaled to [-1, 1]."""
    values: NDArray[Any] = frame.to_ndarray()
    channels = frame.layout.nb_channels
    if frame.format.is_packed:
        values = values.reshape(-1, channels).T
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        values = values.astype(np.float64) / (1 << (8 * values.dtype.itemsize - 1))
    return values.mean(axis=0, dtype=np.float64).astype(np.float32)


def _upright(frame: VideoFrame, flags: set[str]) -> NDArray[np.uint8]:
    """RGB picture ``[height, width, 3]`` as a player shows it."""
    image: NDArray[Any] = frame.to_ndarray(format="rgb24")
    turns, rest = divmod(frame.rotation, 90)
    if rest:
        flags.add(f"rotation_ignored ({frame.rotation} degrees)")
    elif turns % 4:
        image = np.rot90(image, turns % 4)  # both count counter-clockwise
    return np.ascontiguousarray(image)
