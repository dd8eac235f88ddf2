"""The same three-modality task on real recordings that the user has: spoken digits, hand signs, number words.

Nothing is copied: the manifest points at the user's files. ``data/`` is laid out as two public repositories are::

    DATA/fsdd/recordings/DIGIT_SPEAKER_INDEX.wav     free-spoken-digit-dataset
    DATA/sign_digits/DIGIT/IMG_NUMBER.JPG            Sign-Language-Digits-Dataset (or sign_digits/Dataset/DIGIT/...)

Splits share no speaker, no locale and no student (but up to one at a boundary: photos are split by number, and
numbers run student by student).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusecache.cache import InputError
from fusecache.cache.errors import several

from .folder import MANIFEST, check_replaceable, seal, staged, write_manifest
from .triples import DIGITS, SPLITS, draw, number_words, split_locales

VERSION = 1

SPEAKERS: Mapping[str, tuple[str, ...]] = {
    "train": ("george", "jackson", "yweweler"),
    "val": ("nicolas",),
    "test": ("lucas", "theo"),
}
TAKES = 50
"""Recordings of each digit by each speaker."""
PHOTOS: Mapping[str, int] = {"train": 1_340, "val": 309, "test": 413}
"""Photos of each split, in the order of their numbers."""
SCRIPTS = ("LATIN", "CYRILLIC", "BENGALI")
COLUMNS = ("key", "audio", "image", "text", "split", "group", "label.digit")

CLONES: Mapping[str, str] = {
    "fsdd": "git clone https://github.com/Jakobovski/free-spoken-digit-dataset {data}/fsdd (commit 26eb9aa)",
    "sign_digits": "git clone https://github.com/ardamavi/Sign-Language-Digits-Dataset {data}/sign_digits "
    "(commit 4b09433)",
}

Pools = dict[str, dict[str, dict[str, list[str]]]]
"""Split to modality to class to paths or words."""


def build_recordings(
    data: str | Path,
    folder: str | Path,
    *,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write a media manifest in ``folder`` over the recordings under ``data``.

    8 kHz wav (3,000: 6 speakers, split 3/1/2), RGB photos (2,062, of 100x100 but for three test photos of
    3024x3024 with an EXIF rotation) and inline words (350: 35 locales, split 21/5/9), joined into 4,000 train, 1,000 val and 3,000 test samples of ten classes. ``group`` is the speaker.

    Args:
        data: folder laid out as the module says. Only names are read here, no file is opened.
        folder: made with its parents; an earlier build there is replaced.
        seed: decides which files meet in a sample; not the splits.
        on_progress: called with ("samples", done, total), split by split.

    Returns:
        The media manifest, ``folder/manifest.csv``, with absolute paths.

    Raises:
        InputError: naming everything that is missing under ``data`` and where to clone it; or ``folder`` is a file
            or holds other files.
        StorageError: the disk refused.
    """
    data, folder = Path(data).absolute(), Path(folder)
    check_replaceable(folder)
    recordings, problems = _recordings(data)
    photos, more = _photos(data)
    if problems or more:
        cures = [
            CLONES[name].format(data=data)
            for name, found in (("fsdd", problems), ("sign_digits", more))
            if found
        ]
        title = f"{data} is not laid out as the recordings must be (fsdd/recordings/*.wav, sign_digits/DIGIT/*.JPG)"
        raise InputError(several(title, problems + more) + "\nget them with:\n  " + "\n  ".join(cures))
    words = number_words()
    locales = split_locales(plain_locales(words))
    rows: list[dict[str, str]] = []
    with staged(folder) as stage:
        for split, count in SPLITS.items():
            spelled = {d: [words[locale][i] for locale in locales[split]] for i, d in enumerate(DIGITS)}
            pools = {"audio": recordings[split], "image": photos[split], "text": spelled}
            for number, (digit, media) in enumerate(draw(pools, count, seed=seed, site=split)):
                speaker = os.path.basename(media["audio"]).split("_")[1]
                row = {"key": f"{split}-{number:05d}", "split": split, "group": speaker, "label.digit": digit}
                rows.append(row | media)
            if on_progress is not None:
                on_progress("samples", len(rows), sum(SPLITS.values()))
        write_manifest(stage / MANIFEST, COLUMNS, rows)
        seal(stage, _about(data, seed, locales))
    return folder / MANIFEST


def plain_locales(words: Mapping[str, Sequence[str]]) -> list[str]:
    """The 35 locales whose name has two letters (no regional doubles, no Tetum) and whose script is in SCRIPTS."""
    import unicodedata

    def known(word: str) -> bool:
        return all(unicodedata.name(c).startswith(SCRIPTS) for c in word if c.isalpha())

    return [name for name, ten in words.items() if len(name) == 2 and all(map(known, ten))]


def _recordings(data: Path) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Split to digit to wav paths, and what is missing."""
    folder = data / "fsdd" / "recordings"
    pools: dict[str, dict[str, list[str]]] = {}
    if not folder.is_dir():
        return pools, ["the folder fsdd/recordings is missing"]
    present = set(os.listdir(folder))
    problems: list[str] = []
    for split, speakers in SPEAKERS.items():
        for speaker in speakers:
            names = {d: [f"{d}_{speaker}_{take}.wav" for take in range(TAKES)] for d in DIGITS}
            if absent := [name for ten in names.values() for name in ten if name not in present]:
                problems.append(
                    f"fsdd/recordings: {len(absent)} of speaker {speaker}'s {TAKES * len(DIGITS)} recordings are "
                    f"missing, the first {absent[0]}"
                )
            for digit, found in names.items():
                pools.setdefault(split, {}).setdefault(digit, []).extend(str(folder / name) for name in found)
    return pools, problems


def _photos(data: Path) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Split to digit to photo paths, in the order of their numbers, and what is missing."""
    folder = data / "sign_digits"
    if (folder / "Dataset").is_dir():
        folder = folder / "Dataset"
    if absent := [
        f"the folder sign_digits/{digit} is missing" for digit in DIGITS if not (folder / digit).is_dir()
    ]:
        return {}, absent
    numbered = sorted(
        (int(match[1]), digit, str(folder / digit / name))
        for digit in DIGITS
        for name in os.listdir(folder / digit)
        if (match := re.fullmatch(r"IMG_(\d+)\.JPG", name, re.IGNORECASE))
    )
    wanted = sum(PHOTOS.values())
    if len(numbered) != wanted:
        return {}, [f"sign_digits: {wanted} photos IMG_NUMBER.JPG are needed, {len(numbered)} were found"]
    pools: dict[str, dict[str, list[str]]] = {}
    start = 0
    for split, count in PHOTOS.items():
        for _, digit, path in numbered[start : start + count]:
            pools.setdefault(split, {}).setdefault(digit, []).append(path)
        start += count
    return pools, []


def _about(data: Path, seed: int, locales: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a reader of the folder should know."""
    return {
        "name": "recordings",
        "version": VERSION,
        "seed": seed,
        "what": "ten digits, spoken, signed and spelled; samples are triples of one class, drawn within a split",
        "real": "everything: speech, photos and words; only their meeting in one sample is made",
        "synthetic": "",
        "data": str(data),
        "sources": [
            {"what": "speech", "where": "github.com/Jakobovski/free-spoken-digit-dataset", "commit": "26eb9aa",
             "licence": "CC BY-SA 4.0"},
            {"what": "hand signs", "where": "github.com/ardamavi/Sign-Language-Digits-Dataset", "commit": "4b09433",
             "licence": "Apache-2.0"},
            {"what": "number words", "package": "num2words", "version": "0.5.14", "licence": "LGPL-2.1 (the package)"},
        ],
        "samples": dict(SPLITS),
        "speakers": {split: list(names) for split, names in SPEAKERS.items()},
        "locales": {split: list(names) for split, names in locales.items()},
        "images": dict(PHOTOS),
    }  # fmt: skip
