"""Containers of sound and pictures (mp4, webm, ts, wav, ...) to clips, in one sequential pass with PyAV.

A file may end before its container says so without any error from the decoder, so what came is compared with what
was stated, in every track: ``partial`` where something is missing, ``length_unverified`` where nothing is stated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fusecache.cache import Seconds

from .clip import Clip, ClipError
from .decode import NoStreamError, Source, read_start
from .encoder import Needs, missing_extra
from .stated import MEDIA_FORMATS, STATED, read_stated
from .tracks import Bounds, Pictures, Sound, resample

if TYPE_CHECKING:
    from av.container import InputContainer

SLACK = 0.15
"""Seconds that may be missing at the end of a track before it counts as partial, besides two frames."""
STEP = 0.05
"""Seconds by which sound may end before an asked end without a remark."""


def decode_container(source: Source, needs: Sequence[Needs], *, max_bytes: int) -> list[Clip | ClipError]:
    """Decode one file once; one clip per need, or why not.

    Raises:
        ClipError: the file cannot be opened as a container at all.
    """
    try:
        import av
        import av.logging
        from av.error import ArgumentError, FFmpegError
    except ImportError as error:
        raise missing_extra("Decoding sound and video", error) from error
    av.logging.set_level(None)
    read_start(source.path)
    # A file may be a script or playlist that has other files read in its place: neither is opened, and nothing is
    # fetched over a network.
    limits = {"protocol_whitelist": "file", "format_whitelist": ",".join(MEDIA_FORMATS)}
    try:
        container = av.open(f"file:{source.path}", options=limits)
    except ArgumentError as error:
        raise ClipError(
            "the file is not of a known format of sound or video; playlists and scripts that name other files are "
            "refused"
        ) from error
    except (FFmpegError, OSError, ValueError) as error:
        raise ClipError(f"the file cannot be opened as sound or video ({_reason(error)})") from error
    with container:
        return _Pass(container, source, needs, max_bytes).run()


class _Pass:
    """One walk over an open container."""

    def __init__(
        self, container: InputContainer, source: Source, needs: Sequence[Needs], max_bytes: int
    ) -> None:
        from av.stream import Disposition

        self.container = container
        self.source = source
        self.needs = needs
        self.max_bytes = max_bytes
        self.bounds = Bounds(source.start or 0.0, float("inf") if source.end is None else source.end)
        self.zero = max(0.0, (container.start_time or 0) / 1e6)
        self.packets_end = 0.0
        self.at_end = False
        self.failed: dict[int, ClipError] = {}
        self.broken: dict[int, str] = {}
        self.video = next(
            (s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None
        )
        self.audio = next(iter(container.streams.audio), None)
        self.tracks: dict[int, Pictures | Sound] = {}
        wanted = {need.stream for need in needs}
        for stream, what in ((self.video, "pictures"), (self.audio, "sound")):
            if stream is not None and _undecodable(stream):
                self.failed[stream.index] = ClipError(f"there is no decoder for the {what} of this file")
        if self.video is not None and "video" in wanted and self.video.index not in self.failed:
            self.tracks[self.video.index] = Pictures(
                bounds=self.bounds,
                grids=sorted({need.fps for need in needs if need.stream == "video" and need.fps is not None}),
                every=any(need.fps is None for need in needs if need.stream == "video"),
                max_bytes=max_bytes,
                assumed_step=float(1 / (self.video.guessed_rate or self.video.average_rate or 25)),
            )
        if self.audio is not None and "audio" in wanted and self.audio.index not in self.failed:
            self.tracks[self.audio.index] = Sound(bounds=self.bounds, max_bytes=max_bytes)
        for index in self.tracks:
            container.streams[index].codec_context.thread_count = 1

    def run(self) -> list[Clip | ClipError]:
        """Walk to the end of the file, or of the bounds, and cut the clips."""
        for index, frame in self._frames():
            try:
                self.tracks[index].add(frame, self.zero)
            except ClipError as error:
                self.failed[index] = error
        clips: list[Clip | ClipError] = []
        made: dict[Needs, Clip | ClipError] = {}
        for index, track in self.tracks.items():
            try:
                if isinstance(track, Pictures):
                    track.finish()
            except ClipError as error:
                self.failed[index] = error
        for need in self.needs:
            if need not in made:
                try:
                    made[need] = self._pictures() if need.stream == "video" else self._sound(need)
                except ClipError as error:
                    made[need] = error
            clips.append(made[need])
        return clips

    def _frames(self) -> Iterator[tuple[int, Any]]:
        """Decoded frames with the index of their stream. An error ends the stream, or the walk, and is noted."""
        from av.error import FFmpegError

        streams = [*self.container.streams.video, *self.container.streams.audio]
        packets = self.container.demux(*streams) if self.tracks else iter(())
        while self._going():
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError, ValueError) as error:
                self.broken |= dict.fromkeys(self._going(), _reason(error))
                return
            if packet is None:
                self.at_end = True
                return
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - self.zero
                self.packets_end = max(self.packets_end, end)
            index = packet.stream_index
            if index not in self._going():
                continue
            try:
                frames = packet.decode()
            except (FFmpegError, OSError, ValueError) as error:
                self.broken[index] = _reason(error)
                continue
            for frame in frames:
                yield index, frame

    def _going(self) -> list[int]:
        return [
            i for i, t in self.tracks.items() if not t.done and i not in self.failed and i not in self.broken
        ]

    def _pictures(self) -> Clip:
        track = self.tracks.get(self.video.index) if self.video is not None else None
        if self.video is not None and self.video.index in self.failed:
            raise self.failed[self.video.index]
        if self.video is None or not isinstance(track, Pictures):
            raise NoStreamError("the file has no video track")
        self._check(self.video.index, "picture", len(track.pixels))
        start = track.start or 0.0
        return Clip(
            key="",
            stream="video",
            source=self.source.path,
            frames=np.stack(track.pixels),
            pts=np.asarray(track.times),
            start=start,
            duration=track.end - start,
            flags=self._flags(self.video, track, 2 * track.assumed_step + SLACK, track.assumed_step),
        )

    def _sound(self, need: Needs) -> Clip:
        track = self.tracks.get(self.audio.index) if self.audio is not None else None
        if self.audio is not None and self.audio.index in self.failed:
            raise self.failed[self.audio.index]
        if self.audio is None or not isinstance(track, Sound):
            raise NoStreamError("the file has no sound track")
        wave, start = track.wave()
        self._check(self.audio.index, "sound", len(wave))
        rate = need.rate or track.rate
        if len(wave) * rate // track.rate * 4 > self.max_bytes:
            raise ClipError(
                f"{len(wave) / track.rate:.1f} s of sound at {rate} samples per second need more than "
                f"max_clip_bytes={self.max_bytes}; cut it with start and end"
            )
        finite = np.isfinite(wave)
        if not finite.all():
            bad = int(np.argmin(finite))
            raise ClipError(f"the sound is {wave[bad]}, not a number, at {start + bad / track.rate:.3f} s")
        return Clip(
            key="",
            stream="audio",
            source=self.source.path,
            waveform=resample(wave, track.rate, rate),
            rate=rate,
            start=start,
            duration=len(wave) / track.rate,
            flags=self._flags(self.audio, track, SLACK, STEP),
        )

    def _check(self, index: int, what: str, count: int) -> None:
        """Raise if nothing usable came out of a track."""
        if count:
            return
        if index in self.broken:
            raise ClipError(f"no {what} could be decoded ({self.broken[index]})")
        if self.source.start is not None or self.source.end is not None:
            raise ClipError(
                f"there is no {what} between {self.bounds.start} s and {self.bounds.end} s; the file ends at "
                f"{self.packets_end:.3f} s"
            )
        stated = (self.container.duration or 0) / 1e6
        if stated:
            raise ClipError(
                f"no {what} came out, where the file states {stated:.2f} s; it is damaged or cut off"
            )
        raise ClipError(f"the {what} track is empty (length zero)")

    def _flags(self, stream: Any, track: Pictures | Sound, slack: Seconds, step: Seconds) -> tuple[str, ...]:
        """What a reader should know; compares what came with what the container stated."""
        flags = set(track.flags)
        whole = None if self.container.duration is None else (self.container.duration / 1e6)
        stated: Seconds | None = None
        if stream.duration and stream.time_base:
            stated = float((stream.duration + (stream.start_time or 0)) * stream.time_base) - self.zero
        said = read_stated(self.source.path)
        unstated = (
            said.unknown
            or not STATED & set(self.container.format.name.split(","))
            or (whole is None and stated is None)
        )
        ended = (
            "" if stream.index not in self.broken else f"; the decoder stopped: {self.broken[stream.index]}"
        )
        expected = min(stated or 0.0, self.bounds.end)
        if ended and not track.done:
            flags.add(f"partial (decoded to {track.end:.2f} s{ended})")
        elif not unstated and not track.done and track.end < expected - slack:
            flags.add(f"partial (decoded to {track.end:.2f} s of {expected:.2f} s)")
        elif not unstated and self.at_end and whole is not None:
            expected = min(whole, self.bounds.end)
            reach = expected - max(slack, 0.01 * whole if stated is None else 0)
            if self.packets_end + self.zero < reach:
                flags.add(f"partial (the file ends at {self.packets_end:.2f} s of {expected:.2f} s)")
            elif self.packets_end < reach:  # whole if the length counts from 0 and not from the first packet
                unstated = True
        there = os.stat(self.source.path).st_size
        if said.size is not None and not track.done:
            if said.size > there:
                flags.add(f"partial (the header states {said.size} bytes, the file has {there})")
            elif said.size + said.size % 2 < there:
                flags.add("trailing_bytes")
        if self.bounds.end < float("inf") and track.end < self.bounds.end - step:
            flags.add("clip_ends_early")
        if unstated and not any(flag.startswith("partial") for flag in flags):
            flags.add("length_unverified")
        return tuple(sorted(flags))


def _undecodable(stream: Any) -> bool:
    """Whether libav knows no decoder for a track, or its header makes none possible."""
    return stream.codec_context is None


def _reason(error: Exception) -> str:
    """libav's own words, without the path that it repeats."""
    return str(getattr(error, "strerror", None) or error)
