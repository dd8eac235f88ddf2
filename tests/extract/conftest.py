"""Small real media files, made with PyAV, Pillow and the standard library."""

import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

Maker = Callable[..., Path]


def tone(seconds: float, rate: int, frequency: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def wav(tmp_path: Path) -> Maker:
    """``wav(name, seconds=, rate=, channels=)``: a 440 Hz tone, 16 bit."""

    def make(
        name: str, seconds: float = 0.5, rate: int = 8000, frequency: float = 440.0, channels: int = 1
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = (tone(seconds, rate, frequency) * 32767).astype("<i2")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(np.repeat(samples, channels).tobytes())
        return path

    return make


@pytest.fixture
def png(tmp_path: Path) -> Maker:
    """``png(name, value=, size=)``: a grey picture, brighter to the right."""

    def make(name: str, value: int = 100, size: tuple[int, int] = (40, 28)) -> Path:
        from PIL import Image

        pixels = np.clip(np.arange(size[0])[None, :] + np.full((size[1], 1), value), 0, 255).astype(np.uint8)
        path = tmp_path / name
        Image.fromarray(pixels).save(path)
        return path

    return make


@pytest.fixture
def video(tmp_path: Path) -> Maker:
    """``video(name, seconds=, fps=, sound=, sound_from=)``: frame ``i`` is grey of level ``40 + 4*i``; a tone beside it."""

    def make(
        name: str,
        seconds: float = 2.0,
        fps: int = 10,
        sound: bool = True,
        sound_from: float = 0.0,
        codec: str = "libx264",
        size: tuple[int, int] = (64, 48),
        **options: str,
    ) -> Path:
        path = tmp_path / name
        opened: Any = av.open(str(path), "w", options=options)
        with opened as out:
            pictures: Any = out.add_stream(codec, rate=fps)
            pictures.width, pictures.height, pictures.pix_fmt = *size, "yuv420p"
            pictures.codec_context.thread_count = 1
            speaker: Any = out.add_stream("aac", rate=16000, layout="mono") if sound else None
            for index in range(round(seconds * fps)):
                level = np.full((size[1], size[0], 3), 40 + 4 * index, np.uint8)
                level[:, : size[0] // 4] = 255  # a white bar on the left tells a rotation
                frame = av.VideoFrame.from_ndarray(level, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, fps)
                out.mux(pictures.encode(frame))
            out.mux(pictures.encode(None))
            if sound:
                samples = tone(seconds - sound_from, 16000)
                for first in range(0, len(samples), 1024):
                    piece = np.ascontiguousarray(samples[None, first : first + 1024])
                    heard = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                    heard.sample_rate = 16000
                    heard.pts, heard.time_base = first + round(sound_from * 16000), Fraction(1, 16000)
                    out.mux(speaker.encode(heard))
                out.mux(speaker.encode(None))
        return path

    return make
