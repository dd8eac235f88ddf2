"""The speech child: deterministic, proof against a long data path, and clear when it dies."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")

from fusecache.cache import FusecacheError
from fusecache.datasets import espeak

WORD = espeak.Utterance(text="seven", voice="en-us+m3", rate=160, pitch=50, range=50)


def test_voices_that_draw_noise_are_deterministic() -> None:
    jobs = [replace(WORD, voice=f"en-us+{name}") for name in ("m3", "whisper", "Demonic", "f2", "Mr serious")]
    first = espeak.speak(jobs)
    time.sleep(1.1)  # left alone, espeak-ng seeds its noise with the clock's second
    second = espeak.speak(jobs)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({sound.tobytes() for sound in first}) == len(jobs)


def test_every_variant_speaks_in_every_accent() -> None:
    names = espeak.variants(espeak.locate()[1])
    assert len(names) == 104
    assert len({name.lower() for name in names}) == 104, "file names must not clash on any file system"
    jobs = [replace(WORD, voice=f"{espeak.ACCENTS[n % 8]}+{name}") for n, name in enumerate(names)]
    jobs += [replace(WORD, voice=accent) for accent in espeak.ACCENTS]
    for job, sound in zip(jobs, espeak.speak(jobs), strict=True):
        assert 0.1 < len(sound) / espeak.RATE < 3, job
        assert np.abs(sound.astype(int)).max() > 1_000, job
    accents = espeak.speak([replace(WORD, voice=accent) for accent in espeak.ACCENTS])
    assert len({sound.tobytes() for sound in accents}) >= 7


def test_rate_pitch_and_words_matter() -> None:
    slow, fast, high, other = espeak.speak(
        [
            replace(WORD, rate=120),
            replace(WORD, rate=260),
            replace(WORD, pitch=80),
            replace(WORD, text="nine"),
        ]
    )
    assert len(slow) > 1.3 * len(fast)
    assert high.tobytes() not in (slow.tobytes(), other.tobytes())


@pytest.mark.parametrize("length", [99, 160, 230])
def test_a_long_data_path_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """A path of about 100 characters ends a process that initialises espeak-ng with it."""
    library, data = espeak.locate()
    deep = tmp_path / ("x" * max(1, length - len(str(tmp_path)) - 2))
    deep.symlink_to(data, target_is_directory=True)
    expected = espeak.speak([WORD])
    monkeypatch.setattr(espeak, "locate", lambda: (library, deep))
    assert np.array_equal(espeak.speak([WORD])[0], expected[0])


def test_a_long_temporary_folder_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("t" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert len(espeak.speak([WORD])[0]) > 2_000
    assert not list(deep.iterdir())


def test_a_refused_voice_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(espeak, "_SHORT", 1_000)
    jobs = [WORD, replace(WORD, voice="xx-none")]
    with pytest.raises(
        FusecacheError, match=r"2 words did not finish.*code 1 .*voice 'xx-none' was refused with code"
    ):
        espeak.speak(jobs)
    assert not list(tmp_path.iterdir())


def test_a_child_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, data = espeak.locate()
    broken = tmp_path / "libespeak-ng.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(espeak, "locate", lambda: (broken, data))
    with pytest.raises(
        FusecacheError, match=r"1 words did not finish.*libespeak-ng\.so.*install espeakng-loader again"
    ):
        espeak.speak([WORD])


def test_a_child_that_hangs_is_killed() -> None:
    with pytest.raises(FusecacheError, match=r"ended with code -9 .*limit 0\.05 s"):
        espeak.speak([WORD] * 2_000, time_limit=0.05)


def test_nothing_to_say() -> None:
    assert espeak.speak([]) == []
