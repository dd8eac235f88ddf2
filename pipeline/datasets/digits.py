"""The embedded task: say, write and spell a digit, made from package registries alone.

Like a photo album with a sound track: real ``wav``, ``png`` and ``txt`` files and a media manifest that joins them
into triples. The handwriting (scikit-learn's copy of the UCI optical digits) and the number words are real, the speech
is synthesised by espeak-ng, and noise and a grey band are added on purpose, so that one modality alone does not do.
Splits share no voice, no locale and no handwriting (but up to one writer at a boundary, as the set is in writers'
order). The same seed gives the same bytes on one platform and set of versions; ``DATASET.json`` records them.
"""

from __future__ import annotations

import importlib.metadata
import os
import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import MissingExtraError

from . import espeak
from .folder import MANIFEST, check_replaceable, is_complete, seal, staged, write_manifest
from .triples import DIGITS, SPLITS, draw, keyed_rng, number_words, split_locales

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

VERSION = 1
"""Of the recipe below: another version makes other bytes."""

RATE = 16_000
ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UTTERANCES = 3
"""Per voice and digit."""
VOICES: Mapping[str, int] = {"train": 64, "val": 20, "test": 20}
IMAGES: Mapping[str, int] = {"train": 1_000, "val": 300, "test": 497}
SNR_DB = (-14.0, -4.0)
NOISE_DEVIATION = 0.3
SIDE = 64
COLUMNS = ("key", "audio", "image", "text_file", "split", "group", "label.digit")

Pools = dict[str, dict[str, dict[str, list[str]]]]
"""Split to modality to class to relative paths."""


def build_digits(folder: str | Path, *, seed: int = 0, on_progress: Progress | None = None) -> Path:
    """Build the digits task in ``folder``, or take it as it stands if it is complete and of this seed and version.

    16 kHz mono s16 wav (3,120: 104 voices in 8 accents, white noise at -14 to -4 dB), 64x64 grey png (1,797) and txt
    (560) files, joined into 4,000 train, 1,000 val and 3,000 test samples of ten classes. ``group`` is the voice.

    Args:
        folder: made with its parents; replaced when an earlier build was interrupted or had another seed.
        seed: decides accents, noise, bands and which files meet in a sample; not the splits.
        on_progress: called with (stage, done, total).

    Returns:
        The media manifest, ``folder/manifest.csv``, with paths relative to it.

    Raises:
        MissingExtraError: scikit-learn, Pillow or espeakng-loader is not installed.
        InputError: ``folder`` is a file or holds other files.
        StorageError: the disk refused.
    """
    folder = Path(folder)
    if is_complete(folder, name="digits", version=VERSION, seed=seed):
        return folder / MANIFEST
    check_replaceable(folder)
    report = on_progress or _silent
    pictures, targets = _handwriting()
    voices = split_voices(espeak.variants(espeak.locate()[1]))
    with staged(folder) as stage:
        pools: Pools = {split: {} for split in SPLITS}
        _write_speech(stage, voices, seed, pools, report)
        _write_images(stage, pictures, targets, seed, pools, report)
        locales = _write_words(stage, pools, report)
        rows: list[dict[str, str]] = []
        for split, count in SPLITS.items():
            for number, (digit, files) in enumerate(draw(pools[split], count, seed=seed, site=split)):
                voice = files["audio"].removeprefix("audio/").rsplit("-", 2)[0]
                row = {"key": f"{split}-{number:05d}", "split": split, "group": voice, "label.digit": digit}
                rows.append(row | files)
        write_manifest(stage / MANIFEST, COLUMNS, rows)
        seal(stage, _about(seed, voices, locales))
    return folder / MANIFEST


def split_voices(names: Sequence[str]) -> dict[str, list[str]]:
    """Deal the voice variants to the splits: a shuffle with the fixed key ``0/voices``, then 64, 20 and 20.

    The split does not depend on the dataset's seed, so that a voice held out once is held out in every build.

    Raises:
        MissingExtraError: another number of variants than the 104 of espeakng-loader 0.2.4.
    """
    wanted = sum(VOICES.values())
    if len(names) != wanted:
        raise MissingExtraError(
            f"the digits data need the {wanted} voice variants of espeakng-loader 0.2.4, and the installed one has "
            f"{len(names)}; run: pip install 'fusecache[demo]'"
        )
    order = [sorted(names)[int(i)] for i in keyed_rng(0, "voices").permutation(wanted)]
    ends = np.cumsum(list(VOICES.values()))
    return {split: sorted(order[end - VOICES[split] : end]) for split, end in zip(VOICES, ends, strict=True)}


def noisy(speech: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.int16]:
    """Resample espeak-ng's 22,050 Hz to 16 kHz, add white noise at an SNR drawn in ``SNR_DB``, set the peak to 0.9.

    Args:
        speech: ``[samples]`` int16 at 22,050 Hz, not silent.
        rng: draws the SNR, then the noise.

    Returns:
        ``[samples]`` int16 at 16,000 Hz. SNR is mean power of speech over mean power of noise, whole utterance.
    """
    import scipy.signal  # pyright: ignore[reportMissingTypeStubs]

    signal: Any = scipy.signal
    clean: NDArray[np.float64] = signal.resample_poly(speech.astype(np.float64), 320, 441)
    snr = 10.0 ** (rng.uniform(*SNR_DB) / 10.0)
    mixed: NDArray[np.float64] = clean + rng.normal(0.0, np.sqrt(np.mean(clean**2) / snr), clean.shape)
    peak = float(np.abs(mixed).max())
    return np.round(mixed * (0.9 * 32_767 / peak)).astype(np.int16)


def disturbed(picture: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Enlarge an 8x8 digit 8 times, cover a band of half the height or width with 0.5, add noise.

    Args:
        picture: ``[8, 8]``, values 0 to 16.
        rng: draws the band's direction and place, then the noise (deviation 0.3 of the full range).

    Returns:
        ``[64, 64]`` uint8, clipped.
    """
    image = np.kron(picture / 16.0, np.ones((SIDE // 8, SIDE // 8)))
    across, first = bool(rng.integers(2)), int(rng.integers(SIDE // 2 + 1))
    band = slice(first, first + SIDE // 2)
    image[(band, slice(None)) if across else (slice(None), band)] = 0.5
    image += rng.normal(0.0, NOISE_DEVIATION, image.shape)
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def _handwriting() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The 1,797 handwritten digits in the set's own order: ``[1797, 8, 8]`` of 0 to 16, and their classes."""
    try:
        import PIL.Image  # noqa: F401  # pyright: ignore[reportUnusedImport]
        from sklearn.datasets import load_digits  # pyright: ignore[reportUnknownVariableType, reportMissingTypeStubs]
    except ImportError as error:
        raise MissingExtraError(
            f"the digits data need scikit-learn and Pillow, and {error.name} is not installed; "
            "run: pip install 'fusecache[demo]'"
        ) from error
    found = cast("Mapping[str, Any]", load_digits())
    return found["images"], found["target"]


def _write_speech(
    stage: Path, voices: Mapping[str, Sequence[str]], seed: int, pools: Pools, report: Progress
) -> None:
    """Speak every voice's utterances and write them as wav, noise added."""
    (stage / "audio").mkdir()
    names: list[tuple[str, str, str]] = []
    jobs: list[espeak.Utterance] = []
    for split, members in voices.items():
        for voice, digit, take in ((v, d, t) for v in members for d in range(10) for t in range(UTTERANCES)):
            rng = keyed_rng(seed, f"voice/{voice}/{digit}/{take}")
            accent = espeak.ACCENTS[int(rng.integers(len(espeak.ACCENTS)))]
            rate, pitch, span = (
                int(rng.integers(low, high + 1)) for low, high in ((120, 260), (20, 80), (20, 80))
            )
            jobs.append(
                espeak.Utterance(
                    text=ENGLISH[digit], voice=f"{accent}+{voice}", rate=rate, pitch=pitch, range=span
                )
            )
            names.append((split, DIGITS[digit], f"audio/{voice.replace(' ', '_')}-{digit}-{take}.wav"))
    spoken = espeak.speak(jobs, on_progress=lambda done, total: report("speech", done, total))
    for number, ((split, digit, name), speech) in enumerate(zip(names, spoken, strict=True)):
        with wave.open(os.fspath(stage / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(noisy(speech, keyed_rng(seed, f"noise/{name}")).astype("<i2").tobytes())
        pools[split].setdefault("audio", {}).setdefault(digit, []).append(name)
        report("audio files", number + 1, len(names))


def _write_images(
    stage: Path,
    pictures: NDArray[np.float64],
    targets: NDArray[np.int64],
    seed: int,
    pools: Pools,
    report: Progress,
) -> None:
    """Write every handwritten digit as png, disturbed. Stored, not deflated: the same bytes from every zlib."""
    from PIL import Image

    (stage / "image").mkdir()
    splits = [split for split, count in IMAGES.items() for _ in range(count)]
    for number, (split, picture, target) in enumerate(zip(splits, pictures, targets, strict=True)):
        name = f"image/{number:04d}-{target}.png"
        image = Image.fromarray(disturbed(picture, keyed_rng(seed, f"image/{number}")))
        image.save(stage / name, compress_level=0)
        pools[split].setdefault("image", {}).setdefault(DIGITS[int(target)], []).append(name)
        report("images", number + 1, len(splits))


def _write_words(stage: Path, pools: Pools, report: Progress) -> dict[str, list[str]]:
    """Write every locale's ten words as UTF-8 text; returns the locales of each split."""
    (stage / "text").mkdir()
    words = number_words()
    locales = split_locales(list(words))
    done = 0
    for split, members in locales.items():
        for locale in members:
            for digit, word in zip(DIGITS, words[locale], strict=True):
                name = f"text/{locale}-{digit}.txt"
                (stage / name).write_text(word + "\n", encoding="utf-8", newline="")
                pools[split].setdefault("text_file", {}).setdefault(digit, []).append(name)
            done += 1
            report("words", done, len(words))
    return locales


def _about(
    seed: int, voices: Mapping[str, Sequence[str]], locales: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What a reader of the folder should know."""
    return {
        "name": "digits",
        "version": VERSION,
        "seed": seed,
        "what": "ten digits, spoken, handwritten and spelled; samples are triples of one class, drawn within a split",
        "real": "the handwriting and the number words",
        "synthetic": "the speech (espeak-ng), the white noise on it, and the grey band and noise over the images",
        "sources": [
            _source("espeakng-loader", "speech", "GPL-3.0-or-later (the synthesiser and its voices)"),
            _source("scikit-learn", "handwriting: test part of the UCI Optical Recognition of Handwritten Digits, "
                    "E. Alpaydin and C. Kaynak, 1998", "CC BY 4.0 (the set), BSD-3-Clause (its copy)"),
            {"package": "num2words", "version": "0.5.14", "what": "number words", "licence": "LGPL-2.1 (the package)"},
            _source("scipy", "resampling", "BSD-3-Clause"),
            _source("numpy", "random numbers", "BSD-3-Clause"),
            _source("pillow", "png files", "MIT-CMU"),
        ],
        "samples": dict(SPLITS),
        "voices": {split: list(names) for split, names in voices.items()},
        "locales": {split: list(names) for split, names in locales.items()},
        "images": dict(IMAGES),
        "audio": {"rate": RATE, "snr_db": list(SNR_DB), "accents": list(espeak.ACCENTS)},
    }  # fmt: skip


def _source(package: str, what: str, licence: str) -> dict[str, str]:
    """One installed package that went into the data."""
    return {
        "package": package,
        "version": importlib.metadata.version(package),
        "what": what,
        "licence": licence,
    }


def _silent(_stage: str, _done: int, _total: int) -> None:
    """No progress wanted."""
