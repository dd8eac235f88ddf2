"""What a file says of its own length, where libav does not hold it against the bytes that are there.

libav makes up a duration from the size of the file where the header states none, or where the index at the end is
gone, and a cut file then looks whole. So a length is believed only in the formats listed here.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

STATED = frozenset(
    ("mov", "matroska", "flv", "ivf", "wav", "w64", "aiff", "au", "avi", "caf", "flac", "tta", "wv")
)
"""Formats whose header says how long the file is; shown by cutting files of each. All others are unverified."""
MEDIA_FORMATS = (
    *("aac", "ac3", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "au", "av1", "avi", "caf", "dsf", "dts", "dv", "eac3"),
    *("flac", "flv", "g722", "gif", "gsm", "h264", "hevc", "iff", "ivf", "loas", "m4v", "matroska", "mjpeg", "mlp", "mov"),
    *("mp3", "mpc", "mpc8", "mpeg", "mpegts", "mpegvideo", "mxf", "nistsphere", "nut", "obu", "ogg", "rm", "shn", "sox"),
    *("tak", "tta", "vc1", "voc", "w64", "wav", "wv", "yuv4mpegpipe", "truehd"),
)  # fmt: skip
"""The only demuxers that may open a file. Playlists and scripts (concat, hls, dash, image2, ...) read other files."""
MOST_CHUNKS = 100_000
LARGE = frozenset((b"data", b"mdat", b"moof", b"moov", b"mfra"))
"""Chunks of CAF and boxes of MP4 in the middle of which a cut file ends."""
UNKNOWN = frozenset((0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF))
"""Sizes in a header that was never completed."""


@dataclass(frozen=True, slots=True)
class Stated:
    """A file's own statement."""

    size: int | None = None
    """Bytes that the whole file has, by its header; None where the format has no such field or it cannot be read."""
    unknown: bool = False
    """The header has a field for the length and leaves it open: it was written as a stream."""


def read_stated(path: str) -> Stated:
    """Read the header, and the chain of chunks where the format is one.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        there = os.fstat(file.fileno()).st_size
        start = file.read(4096)
        if start[:4] in (b"RIFF", b"FORM"):
            return _riff(file, there, start)
        if start[:4] == b"riff":  # Sony Wave64: the first four bytes of a GUID of sixteen
            size = int.from_bytes(start[16:24], "little")
            return Stated(unknown=True) if size in UNKNOWN else Stated(size)
        if start[:4] == b"caff":
            return _chain(file, there, first=8, form=">4sq", counts_itself=False)
        if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _chain(file, there, first=0, form=">I4s", counts_itself=True)
    if start[:4] == b".snd":
        return Stated(unknown=int.from_bytes(start[8:12], "big") in UNKNOWN)
    if start[:4] == b"fLaC":
        return Stated(unknown=int.from_bytes(start[18:26], "big") & ((1 << 36) - 1) == 0)
    if start[:4] == b"wvpk":
        return Stated(unknown=int.from_bytes(start[12:16], "little") in UNKNOWN)
    if start[:3] == b"FLV":
        at = start.find(b"duration\0")  # a float64 of the metadata, which a live recorder leaves at 0
        value = start[at + 9 : at + 17] if at >= 0 else b""
        return Stated(unknown=len(value) < 8 or not struct.unpack(">d", value)[0] > 0)
    return Stated()


def _riff(file: BinaryIO, there: int, start: bytes) -> Stated:
    """WAVE, AIFF and AVI; a long AVI goes on in further RIFF chunks."""
    if start[8:12] not in (b"WAVE", b"AIFF", b"AIFC", b"AVI "):
        return Stated()
    order = "little" if start[:4] == b"RIFF" else "big"
    size = int.from_bytes(start[4:8], order)
    if size in UNKNOWN:
        return Stated(unknown=True)
    end = 8 + size
    if start[8:12] == b"WAVE" and end <= there:
        return Stated(_wave_end(file, end))
    while start[8:12] == b"AVI " and end < there:
        file.seek(end + end % 2)
        more = file.read(12)
        if more[:4] != b"RIFF" or more[8:12] != b"AVIX":
            break
        end += end % 2 + 8 + int.from_bytes(more[4:8], "little")
    return Stated(end)


def _wave_end(file: BinaryIO, end: int) -> int:
    """Where a whole WAVE file ends for a reader: before ``end`` if more samples, or no chunk, follow those it reads."""
    at = 12
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        data = file.read(8)
        size = int.from_bytes(data[4:], "little")
        if len(data) < 8 or (data[:4] == b"data" and size in UNKNOWN):
            break
        at += 8 + size + size % 2
        if data[:4] == b"data":
            file.seek(at)
            name = file.read(4)
            fine = at >= end or (name.isascii() and name.decode("ascii").isprintable() and name != b"data")
            return end if fine else at
    return end


def _chain(file: BinaryIO, there: int, *, first: int, form: str, counts_itself: bool) -> Stated:
    """Follow chunks to the end of the file: CAF, or the boxes of MP4."""
    head, at = struct.calcsize(form), first
    names: set[bytes] = set()
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        data = file.read(head)
        if len(data) < head:
            break
        fields = struct.unpack(form, data)
        size, name = (fields[0], fields[1]) if counts_itself else (fields[1] + head, fields[0])
        if counts_itself and size == 1:
            size = int.from_bytes(file.read(8), "big")
        if counts_itself and size == 0:
            size = there - at  # the last box, to the end of the file
        if size < head:
            # CAF: a data chunk of size -1 goes to the end; else this is no box, but something behind the last one.
            return Stated(unknown=not counts_itself or _in_pieces(names))
        names.add(name)
        at += size
        if at > there:  # of another name, it is no chunk but something that was appended
            return Stated(at if name in LARGE else None, unknown=_in_pieces(names))
    return Stated(unknown=_in_pieces(names))


def _in_pieces(names: set[bytes]) -> bool:
    """Whether boxes are those of a fragmented MP4 without the index that closes it: any number may be missing."""
    return b"moof" in names and b"mfra" not in names
