"""Media files to clips: the reference decoder.

PyAV, read from the beginning to the end, every frame with its own time: slow beside clever seeking, and the one
decoder that was never silently wrong on odd files. One pass over a file serves every encoder that wants something of
it, sound and pictures alike. Seconds count from the container's own beginning, so a track that starts late keeps its
offset and a transport stream whose clock began at 1.4 s begins at 0.

This module deliberately does not guard against decoders that hang or crash: :mod:`.pool` runs it in child processes.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import InputError, Seconds, Stream

from .clip import Clip, ClipError
from .encoder import Needs, missing_extra


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A piece of one medium: what is decoded once, however many samples and encoders want it."""

    kind: Stream
    """``video`` stands for any container of sound or pictures."""
    path: str
    """The file; empty for inline text."""
    text: str = ""
    """Inline text."""
    start: Seconds | None = None
    end: Seconds | None = None

    @property
    def label(self) -> str:
        """For messages."""
        return self.path or "inline text"


class NoStreamError(ClipError):
    """The container is sound, but has no track of the kind that was asked for."""


def decode(source: Source, needs: Sequence[Needs], *, max_bytes: int) -> list[Clip | ClipError]:
    """Decode one source once for several encoders.

    Args:
        source: the piece of a medium.
        needs: what each encoder asks for; all of streams that the source's kind can give.
        max_bytes: most memory for the decoded frames or samples.

    Returns:
        One clip per need, in order, or the reason why that need cannot be met (a file may have pictures and no
        sound). Clips of equal needs share their arrays.
    """
    try:
        if source.kind == "text":
            clip = _text(source, max_bytes)
            return [clip for _ in needs]
        if source.kind == "image":
            clip = _image(source, max_bytes)
            return [clip for _ in needs]
        from .container import decode_container

        return decode_container(source, needs, max_bytes=max_bytes)
    except ClipError as error:
        return [error for _ in needs]


def read_start(path: str) -> bytes:
    """First bytes of a file that must exist and not be empty.

    Raises:
        ClipError: it does not, or it is.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise ClipError(f"the file cannot be opened ({error.strerror})") from error
    if not start:
        raise ClipError("the file is empty (0 bytes)")
    return start


def _text(source: Source, max_bytes: int) -> Clip:
    text = source.text
    if source.path:
        read_start(source.path)
        size = os.stat(source.path).st_size
        if size > max_bytes:
            raise ClipError(f"the text of {size} bytes needs more than max_clip_bytes={max_bytes}")
        data = Path(source.path).read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ClipError(
                f"the text is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
            ) from error
    return Clip(key="", stream="text", source=source.label, text=text)


def _image(source: Source, max_bytes: int) -> Clip:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise missing_extra("Reading images", error) from error
    read_start(source.path)
    try:
        with Image.open(source.path) as opened:
            width, height = opened.size
            if width * height * 3 > max_bytes:
                raise ClipError(
                    f"the image of {width}x{height} pixels needs more than max_clip_bytes={max_bytes}"
                )
            _check_mode(opened.mode, opened.format)
            pictures = int(getattr(opened, "n_frames", 1))
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                wide = np.asarray(image).astype(np.int64)
                image = Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            pixels = np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ClipError("the file is not an image of a known format") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClipError(f"the image is damaged or truncated ({error})") from error
    return Clip(
        key="",
        stream="image",
        source=source.path,
        frames=cast("NDArray[np.uint8]", pixels[None]),
        flags=(f"first_of_{pictures}_pictures",) if pictures > 1 else (),
    )


def _check_mode(mode: str, form: str | None) -> None:
    """Refuse numbers of which nobody knows what is black and what is white."""
    if mode == "F" or (mode == "I" and form not in ("PNG", "PPM")):  # there, I holds 16 bits
        raise ClipError(
            f"the image holds {'float' if mode == 'F' else '32-bit'} numbers, which have no agreed black and white; convert "
            "it to 8 or 16 bits"
        )


def check_decoders(kinds: Sequence[Stream]) -> None:
    """Check, before a run starts, that the libraries are there which decode these kinds.

    Raises:
        MissingExtraError: naming the package.
        InputError: an unknown kind.
    """
    for kind in kinds:
        if kind not in ("audio", "video", "image", "text"):
            raise InputError(
                f"A stream must be audio, video, image or text, got {kind!r}; mend the encoder's needs"
            )
        try:
            for name in {"text": (), "image": ("PIL.Image",)}.get(kind, ("av",)):
                importlib.import_module(name)
        except ImportError as error:
            raise missing_extra(f"Decoding {kind}", error) from error
