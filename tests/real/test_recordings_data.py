"""The three-modality task on real recordings: the files are there, and they are what the manifest says."""

import csv
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fusecache.datasets import build_recordings


@pytest.fixture(scope="module")
def rows(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    manifest = build_recordings(data, tmp_path_factory.mktemp("recordings") / "r")
    with manifest.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_recordings_are_8_khz_mono_speech(rows: list[dict[str, str]]) -> None:
    paths = sorted({row["audio"] for row in rows})
    assert len(paths) == 3_000
    for path in paths[::101]:
        with wave.open(path) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8_000, 1, 2)
            assert 0.1 < file.getnframes() / 8_000 < 2.5


def test_photos_show_their_digit(rows: list[dict[str, str]]) -> None:
    """Nearest class mean over 10x10 grey pixels, on other people's hands: far above the chance of 0.1."""
    image, ops = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps")
    sizes: Counter[tuple[int, int]] = Counter()

    def pixels(split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        found = sorted({(row["image"], int(row["label.digit"])) for row in rows if row["split"] == split})
        arrays: list[NDArray[np.float64]] = []
        for path, _ in found:
            with image.open(path) as photo:
                sizes[photo.size] += 1
                upright = ops.exif_transpose(photo).convert("L").resize((100, 100))
                small = np.asarray(upright, float).reshape(10, 10, 10, 10).mean((1, 3)).ravel()
            arrays.append((small - small.mean()) / small.std())
        return np.stack(arrays), np.array([digit for _, digit in found])

    x, y = pixels("train")
    assert len(y) == 1_340
    means = np.stack([x[y == digit].mean(0) for digit in range(10)])
    x, y = pixels("test")
    assert len(y) == 413
    accuracy = float((((x[:, None] - means) ** 2).sum(-1).argmin(1) == y).mean())
    assert accuracy > 0.3
    assert sizes == {(100, 100): 1_750, (3_024, 3_024): 3}, "three photos are full size and carry a rotation"
