"""The reference decoder on good, odd and broken files."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from fusecache.extract import ClipError, Needs
from fusecache.extract.clip import Clip, frame_grid
from fusecache.extract.decode import NoStreamError, Source, decode
from fusecache.extract.stated import read_stated

Maker = Callable[..., Path]
AUDIO = Needs(stream="audio", rate=16000)
VIDEO = Needs(stream="video")


def clips(
    path: Path, *needs: Needs, kind: Any = "video", start: float | None = None, end: float | None = None
) -> list[Clip | ClipError]:
    return decode(Source(kind=kind, path=str(path), start=start, end=end), needs, max_bytes=1 << 30)


def good(found: Clip | ClipError) -> Clip:
    assert isinstance(found, Clip), found
    return found


def levels(clip: Clip) -> list[int]:
    """Grey level right of the white bar, as the frame's number."""
    assert clip.frames is not None
    return [round((float(frame[:, 40:].mean()) - 40) / 4) for frame in clip.frames]


def test_mp4_frames_sound_and_clock(video: Maker) -> None:
    pictures, sound, low = map(good, clips(video("a.mp4"), VIDEO, AUDIO, Needs(stream="audio", rate=8000)))
    assert pictures.frames is not None
    assert pictures.frames.shape == (20, 48, 64, 3)
    assert levels(pictures) == list(range(20))
    assert pictures.pts is not None
    np.testing.assert_allclose(pictures.pts, np.arange(20) / 10, atol=1e-6)
    assert (pictures.start, round(pictures.duration, 3), pictures.flags) == (0.0, 2.0, ())
    assert sound.waveform is not None
    assert low.waveform is not None
    assert abs(len(sound.waveform) - 32000) <= 1024
    assert len(low.waveform) == round(len(sound.waveform) / 2)
    for wave, rate in ((sound.waveform, 16000), (low.waveform, 8000)):
        power = np.abs(np.fft.rfft(wave[rate // 4 : rate // 4 + rate]))
        assert power.argmax() == 440
        assert 0.4 < np.abs(wave[rate // 2 : rate]).max() < 0.6
    assert sound.flags == ()


def test_grids_keep_only_the_nearest_frames(video: Maker) -> None:
    path = video("a.mp4", sound=False)
    (every,) = map(good, clips(path, VIDEO))
    (some,) = map(good, clips(path, Needs(stream="video", fps=3.0)))
    assert every.pts is not None
    assert some.pts is not None
    chosen = frame_grid(every.pts, every.start, every.duration, 3.0)
    assert levels(some) == [levels(every)[i] for i in np.unique(chosen)]
    assert len(some.pts) == 6
    assert (frame_grid(some.pts, some.start, some.duration, 3.0) == np.arange(6)).all()


def test_bounds_cut_both_tracks(video: Maker) -> None:
    pictures, sound = map(good, clips(video("a.mp4"), VIDEO, AUDIO, start=0.5, end=1.25))
    assert levels(pictures) == [5, 6, 7, 8, 9, 10, 11, 12]
    assert (pictures.start, round(pictures.duration, 3)) == (0.5, 0.75)
    assert sound.waveform is not None
    assert (round(sound.start, 4), len(sound.waveform), sound.flags) == (0.5, 12000, ())
    late = clips(video("a.mp4"), VIDEO, AUDIO, start=9.0)
    assert all(isinstance(found, ClipError) for found in late)
    assert "there is no picture between 9.0 s and inf s; the file ends at 2." in str(late[0])


def test_late_sound_keeps_its_offset(video: Maker) -> None:
    pictures, sound = map(good, clips(video("a.mkv", sound_from=1.0), VIDEO, AUDIO))
    assert pictures.start == 0.0
    assert sound.start == pytest.approx(1.0, abs=0.07)  # AAC primes with 1024 samples, 64 ms
    assert sound.duration == pytest.approx(1.0, abs=0.15)


def test_transport_stream_starts_at_zero_and_is_unverified(video: Maker) -> None:
    pictures, sound = map(good, clips(video("a.ts"), VIDEO, AUDIO))
    assert levels(pictures) == list(range(20))
    assert pictures.start == pytest.approx(0.0, abs=0.1)
    assert abs(pictures.start - sound.start) < 0.1
    assert pictures.flags == ("length_unverified",)


def test_rotation_is_applied(video: Maker, tmp_path: Path) -> None:
    data = bytearray(video("a.mp4", sound=False).read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the display matrix of a version 0 track header
    quarter = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    )
    data[at : at + 36] = quarter
    (tmp_path / "turned.mp4").write_bytes(data)
    (clip,) = map(good, clips(tmp_path / "turned.mp4", VIDEO))
    assert clip.frames is not None
    assert clip.frames.shape == (20, 64, 48, 3)
    assert clip.frames[0, :12].mean() > 240  # the bar on the left is on top after a clockwise quarter
    assert clip.frames[0, 20:].mean() < 60


@pytest.mark.parametrize(("name", "options"), [("a.mp4", {"movflags": "faststart"}), ("a.mkv", {})])
def test_half_a_file_is_partial(video: Maker, name: str, options: dict[str, str]) -> None:
    path = video(name, seconds=4.0, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = clips(path, VIDEO, AUDIO)
    assert any(isinstance(clip, Clip) for clip in found)
    for clip in found:
        if isinstance(clip, Clip):
            assert any(flag.startswith("partial (") for flag in clip.flags), clip.flags


def test_wav_is_exact_and_stereo_is_averaged(wav: Maker, tmp_path: Path) -> None:
    (clip,) = map(good, clips(wav("a.wav", seconds=0.5, rate=16000, channels=2), AUDIO))
    expected = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000) * 32767).astype(
        np.int16
    ) / np.float32(32768)
    assert clip.waveform is not None
    np.testing.assert_array_equal(clip.waveform, expected.astype(np.float32))
    whole = tmp_path / "a.wav"
    whole.write_bytes(whole.read_bytes()[:9000])
    (cut,) = clips(whole, AUDIO)
    assert good(cut).flags == ("partial (the header states 32044 bytes, the file has 9000)",)


@pytest.mark.parametrize(
    ("name", "content", "kind", "match"),
    [
        ("a.wav", b"", "video", r"the file is empty \(0 bytes\)"),
        ("a.mp4", b"<html>not found</html>", "video", "cannot be opened as sound or video"),
        ("a.png", b"<html>", "image", "not an image of a known format"),
        ("a.txt", b"caf\xe9", "text", "not UTF-8: byte 0xe9 at offset 3"),
        ("a.txt", b"", "text", r"the file is empty \(0 bytes\)"),
    ],
)
def test_wrong_content(tmp_path: Path, name: str, content: bytes, kind: str, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    need: Any = Needs(stream=kind)  # pyright: ignore[reportArgumentType]
    (found,) = clips(tmp_path / name, need, kind=kind)
    with pytest.raises(ClipError, match=match):
        raise found if isinstance(found, ClipError) else AssertionError(found)


def test_zero_length_and_missing_tracks(wav: Maker, video: Maker) -> None:
    (found,) = clips(wav("z.wav", seconds=0.0), AUDIO)
    assert "the sound track is empty (length zero)" in str(found)
    pictures, sound = clips(video("mute.mp4", sound=False), VIDEO, AUDIO)
    assert isinstance(pictures, Clip)
    assert isinstance(sound, NoStreamError)
    assert "no sound track" in str(sound)


def test_images_of_every_mode(tmp_path: Path, png: Maker) -> None:
    from PIL import Image

    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    (clip,) = map(good, clips(tmp_path / "clear.png", Needs(stream="image"), kind="image"))
    assert clip.frames is not None
    assert (clip.frames == 255).all()  # transparent is white
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    (clip,) = map(good, clips(tmp_path / "deep.png", Needs(stream="image"), kind="image"))
    assert clip.frames is not None
    assert (clip.frames == 40000 >> 8).all()
    path = png("cut.png", size=(200, 200))
    path.write_bytes(path.read_bytes()[:-40])
    (found,) = clips(path, Needs(stream="image"), kind="image")
    assert "damaged or truncated" in str(found)


def test_a_clip_that_is_too_large_says_so(video: Maker, wav: Maker) -> None:
    (found,) = decode(Source(kind="video", path=str(video("a.mp4"))), [VIDEO], max_bytes=50_000)
    assert "more than max_clip_bytes=50000 after 0.5 s" in str(found)
    (found,) = decode(Source(kind="video", path=str(wav("a.wav"))), [AUDIO], max_bytes=1000)
    assert "the decoded sound needs more than max_clip_bytes=1000" in str(found)


def has(clip: Clip | ClipError, beginning: str) -> bool:
    return isinstance(clip, Clip) and any(flag.startswith(beginning) for flag in clip.flags)


def packed(
    path: Path, samples: NDArray[Any], rate: int = 16000, kind: int = 1, bits: int | None = None
) -> Path:
    """A WAV file by hand: ``kind`` 1 for whole numbers, 3 for float."""
    data, width = samples.tobytes(), samples.dtype.itemsize
    head = struct.pack(
        "<IHHIIHH", 16, kind, 1, rate, rate * width, width, 8 * width if bits is None else bits
    )
    body = b"WAVEfmt " + head + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def film(path: Path, times: Sequence[int], base: int = 1000, codec: str = "mpeg4") -> Path:
    """Pictures at ``times / base`` seconds, of grey level ``40 + 4*i``."""
    opened: Any = av.open(str(path), "w")
    with opened as out:
        pictures: Any = out.add_stream(codec, rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pictures.time_base = pictures.codec_context.time_base = Fraction(1, base)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), 40 + 4 * (index % 50), np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = time, Fraction(1, base)
            out.mux(pictures.encode(frame))
        out.mux(pictures.encode(None))
    return path


def noise(
    path: Path, pieces: Sequence[tuple[float, float]], codec: str = "pcm_s16le", rate: int = 16000
) -> Path:
    """Sound at ``(start, end)`` seconds."""
    opened: Any = av.open(str(path), "w")
    with opened as out:
        speaker: Any = out.add_stream(codec, rate=rate, layout="mono")
        for start, end in pieces:
            for first in range(round(start * rate), round(end * rate), 160):
                wave = np.full((1, 160), 500, np.int16)
                heard = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
                heard.sample_rate, heard.pts, heard.time_base = rate, first, Fraction(1, rate)
                out.mux(speaker.encode(heard))
        out.mux(speaker.encode(None))
    return path


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("name", ["a.avi", "a.nut", "a.w64", "a.caf", "a.voc", "a.sox", "a.y4m", "a.au"])
def test_a_cut_file_is_never_taken_for_whole(tmp_path: Path, name: str, share: float) -> None:
    codecs = {"a.voc": "pcm_u8", "a.sox": "pcm_s32le", "a.au": "pcm_s16be", "a.y4m": "wrapped_avframe"}
    path, need = tmp_path / name, AUDIO
    if name in ("a.avi", "a.nut", "a.y4m"):
        film(path, range(50), base=25, codec=codecs.get(name, "mpeg4"))
        need = VIDEO
    else:
        opened: Any = av.open(str(path), "w")
        with opened as out:
            speaker: Any = out.add_stream(codecs.get(name, "pcm_s16le"), rate=16000, layout="mono")
            heard = av.AudioFrame.from_ndarray(
                np.full((1, 32000), 500, np.int16), format="s16", layout="mono"
            )
            heard.sample_rate = 16000
            out.mux(speaker.encode(heard))
            out.mux(speaker.encode(None))
    (whole,) = clips(path, need)
    proven = name in ("a.avi", "a.w64", "a.caf", "a.au")
    assert good(whole).flags == (() if proven else ("length_unverified",))
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])
    (cut,) = clips(path, need)
    if name == "a.avi" and isinstance(cut, ClipError):
        return  # cut in the header
    assert has(cut, "partial (") or (not proven and has(cut, "length_unverified")), cut


def test_a_fragmented_mp4_is_believed_only_with_its_last_index(video: Maker) -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = video("a.mp4", seconds=4.0, sound=False, **options)
    (whole,) = clips(path, VIDEO)
    assert good(whole).flags == ()
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mfra") - 4])
    (cut,) = clips(path, VIDEO)
    assert good(cut).flags == ("length_unverified",)


@pytest.mark.parametrize(
    ("head", "unknown"),
    [
        (b"RIFF\xff\xff\xff\xffWAVE", True),
        (b"RIFF\0\0\0\0AVI ", True),
        (b".snd\0\0\0\x18\xff\xff\xff\xff", True),
        (b"fLaC" + bytes(14) + bytes.fromhex("0ac440f000000000"), True),
        (b"fLaC" + bytes(14) + bytes.fromhex("0ac440f000001000"), False),
        (b"FLV\1\5" + bytes(30) + b"\0\x08duration\0" + struct.pack(">d", 0.0), True),
        (b"FLV\1\5" + bytes(30) + b"\0\x08duration\0" + struct.pack(">d", 4.0), False),
        (b"riff" + bytes(20), True),
        (b"\x1aE\xdf\xa3", False),
    ],
)
def test_headers_that_leave_the_length_open(tmp_path: Path, head: bytes, unknown: bool) -> None:
    (tmp_path / "a").write_bytes(head)
    assert read_stated(str(tmp_path / "a")).unknown is unknown


@pytest.mark.parametrize("name", ["a.ts", "a.mpg", "a.mkv"])
def test_files_joined_end_to_end_are_partial(video: Maker, tmp_path: Path, name: str) -> None:
    with_sound = name != "a.mpg"  # which holds no AAC
    path = video(name, fps=25, sound=with_sound, codec="mpeg4" if name == "a.mkv" else "mpeg2video")
    path.write_bytes(path.read_bytes() * 2)
    pictures, sound = clips(path, VIDEO, AUDIO)
    assert has(pictures, "partial (times run backward at "), pictures
    assert not with_sound or has(sound, "partial (times run backward at "), sound
    (late,) = clips(path, VIDEO, start=1.0)
    assert has(late, "partial (times run backward")
    (early,) = clips(path, VIDEO, start=0.2, end=1.0)
    assert not has(early, "partial")


def test_a_hole_among_regular_pictures_is_told(tmp_path: Path) -> None:
    hole = [*range(0, 1000, 40), *range(2000, 3000, 40)]
    (clip,) = map(good, clips(film(tmp_path / "hole.mkv", hole), VIDEO))
    assert clip.flags == ("pictures_missing",)
    varied = [0, 40, 80, 400, 440, 1200, 1240, 1280, 1900, 2500, 2540, 2580, 3300, 3340]
    (clip,) = map(good, clips(film(tmp_path / "vfr.mkv", varied), VIDEO))
    assert clip.flags == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evil.wav", "ffconcat version 1.0\nfile secret.wav\n"),
        ("evil.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nsecret.wav\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_script_that_names_other_files_is_refused(wav: Maker, tmp_path: Path, name: str, text: str) -> None:
    wav("secret.wav")
    (tmp_path / name).write_text(text)
    (found,) = clips(tmp_path / name, AUDIO)
    assert isinstance(found, ClipError)
    assert "playlists and scripts that name other files are refused" in str(found)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sound_that_is_not_a_number_is_refused(tmp_path: Path, value: float) -> None:
    wave = np.zeros(16000, np.float32)
    wave[8000] = value
    (found,) = clips(packed(tmp_path / "a.wav", wave, kind=3), AUDIO)
    assert f"the sound is {value}, not a number, at 0.500 s" in str(found)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.nut"])
def test_a_clock_that_begins_late_does_not_make_a_file_partial(tmp_path: Path, name: str) -> None:
    path = film(tmp_path / name, range(5000, 8000, 40), codec="libvpx" if name == "a.webm" else "mpeg4")
    (clip,) = map(good, clips(path, VIDEO))
    assert clip.frames is not None
    assert (len(clip.frames), clip.flags) == (75, ("length_unverified",))


def test_sound_that_would_grow_too_large_is_refused(tmp_path: Path) -> None:
    (found,) = clips(packed(tmp_path / "a.wav", np.zeros(2000, np.int16), rate=1), AUDIO)
    assert "the sound has 1 samples per second by its header" in str(found)
    path = packed(tmp_path / "b.wav", np.zeros(20_000, np.int16), rate=2000)
    (found,) = decode(Source(kind="video", path=str(path)), [AUDIO], max_bytes=100_000)
    assert "10.0 s of sound at 16000 samples per second need more than max_clip_bytes=100000" in str(found)


def test_a_long_gap_in_the_sound_is_not_filled(tmp_path: Path) -> None:
    (clip,) = map(good, clips(noise(tmp_path / "a.mkv", [(0, 0.5), (3000, 3000.1)]), AUDIO))
    assert clip.waveform is not None
    assert (len(clip.waveform), clip.flags) == (8000, ("partial (no sound from 0.50 s to 3000.00 s)",))
    (clip,) = map(good, clips(noise(tmp_path / "b.mkv", [(0, 0.5), (2, 2.5)]), AUDIO))
    assert clip.waveform is not None
    assert (len(clip.waveform), clip.flags) == (40000, ("gap_filled",))


def test_a_text_larger_than_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 1001)
    source = Source(kind="text", path=str(tmp_path / "a.txt"))
    (found,) = decode(source, [Needs(stream="text")], max_bytes=1000)
    assert "the text of 1001 bytes needs more than max_clip_bytes=1000" in str(found)


def test_an_end_behind_the_file_is_told(video: Maker) -> None:
    for clip in map(good, clips(video("a.mp4"), VIDEO, AUDIO, start=0.5, end=3.0)):
        assert clip.flags == ("clip_ends_early",)
    for clip in map(good, clips(video("a.mp4"), VIDEO, AUDIO, start=0.5, end=2.0)):
        assert clip.flags == ()


def test_bytes_behind_a_wav_are_told(wav: Maker) -> None:
    path = wav("a.wav")
    whole = path.read_bytes()
    path.write_bytes(whole + b"more" * 100)
    (clip,) = map(good, clips(path, AUDIO))
    assert clip.flags == ("trailing_bytes",)
    half = struct.pack("<I", (len(whole) - 44) // 2)
    path.write_bytes(whole[:40] + half + whole[44:])  # the data chunk says half, the file as a whole does not
    (clip,) = map(good, clips(path, AUDIO))
    assert clip.flags == ("trailing_bytes",)
    path.write_bytes(whole[:4] + struct.pack("<I", len(whole) + 4) + whole[8:] + b"LIST\4\0\0\0INFO")
    (clip,) = map(good, clips(path, AUDIO))
    assert clip.flags == ()


def test_images_without_an_agreed_black_and_white_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for name, pixels, match in (
        ("f.tif", np.linspace(0, 1, 64).reshape(8, 8).astype(np.float32), "the image holds float numbers"),
        ("i.tif", np.arange(64, dtype=np.int32).reshape(8, 8), "the image holds 32-bit numbers"),
    ):
        Image.fromarray(pixels).save(tmp_path / name)
        (found,) = clips(tmp_path / name, Needs(stream="image"), kind="image")
        assert match in str(found)
    (tmp_path / "deep.pgm").write_bytes(b"P5\n4 4\n65535\n" + np.full(16, 40000, ">u2").tobytes())
    (clip,) = map(good, clips(tmp_path / "deep.pgm", Needs(stream="image"), kind="image"))
    assert clip.frames is not None
    assert (clip.frames == 40000 >> 8).all()


def test_an_animated_image_says_that_it_is_one(tmp_path: Path) -> None:
    from PIL import Image

    first, *rest = (Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 100, 200))
    for name in ("a.gif", "a.tif"):
        first.save(tmp_path / name, save_all=True, append_images=rest)
        (clip,) = map(good, clips(tmp_path / name, Needs(stream="image"), kind="image"))
        assert clip.flags == ("first_of_3_pictures",)


def test_a_slide_stands_until_the_next(tmp_path: Path) -> None:
    path = film(tmp_path / "slides.mkv", [0, 10_000, 20_000])
    for start, end, shown, times in (
        (3.0, 8.0, [0], [3.0]),
        (3.0, 12.0, [0, 1], [3.0, 10.0]),
        (10.0, 15.0, [1], [10.0]),
        (12.0, 25.0, [1, 2], [12.0, 20.0]),
    ):
        (clip,) = map(good, clips(path, VIDEO, start=start, end=end))
        assert (levels(clip), clip.start) == (shown, start)
        assert clip.pts is not None
        assert clip.pts.tolist() == times
    (clip,) = map(good, clips(path, VIDEO, start=3.0, end=8.0))
    assert (clip.duration, clip.flags) == (5.0, ())


def test_a_header_without_a_decoder_gives_a_sentence(tmp_path: Path) -> None:
    (found,) = clips(packed(tmp_path / "a.wav", np.zeros(1000, np.int16), bits=0), AUDIO)
    assert "there is no decoder for the sound of this file" in str(found)


def test_something_appended_to_an_mp4_does_not_make_it_partial(video: Maker) -> None:
    path = video("a.mp4", sound=False)
    path.write_bytes(path.read_bytes() + b"written by somebody")
    (clip,) = map(good, clips(path, VIDEO))
    assert clip.flags == ()
