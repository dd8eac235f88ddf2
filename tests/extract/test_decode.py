"""The reference decoder on good, odd and broken files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusecache.extract import ClipError, Needs
from fusecache.extract.clip import Clip, frame_grid
from fusecache.extract.decode import NoStreamError, Source, decode

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
