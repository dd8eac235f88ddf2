"""The embedded task as it lies on disk: counts, disjoint splits, file contents, determinism, killed builds."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import wave
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")
pytest.importorskip("sklearn")

from numpy.typing import NDArray
from PIL import Image

from fusecache.cache import InputError, MissingExtraError
from fusecache.datasets import build_digits, digits, espeak
from fusecache.datasets.triples import keyed_rng

SPOKEN: dict[tuple[espeak.Utterance, ...], list[NDArray[np.int16]]] = {}


def read(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full task, built once."""
    return build_digits(tmp_path_factory.mktemp("digits") / "d", seed=0).parent


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six voices, 60 images, 80 samples: the same code in a second."""
    all_voices = espeak.variants

    def six(data: Path) -> list[str]:
        return all_voices(data)[:6]

    monkeypatch.setattr(espeak, "variants", six)
    monkeypatch.setattr(digits, "VOICES", {"train": 4, "val": 1, "test": 1})
    monkeypatch.setattr(digits, "UTTERANCES", 1)
    monkeypatch.setattr(digits, "SPLITS", {"train": 40, "val": 20, "test": 20})
    pictures, targets = digits._handwriting()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(digits, "_handwriting", lambda: (pictures[:90], targets[:90]))
    monkeypatch.setattr(digits, "IMAGES", {"train": 30, "val": 30, "test": 30})


@pytest.fixture
def quick(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``small``, and the same list of utterances is spoken once only."""
    speak = espeak.speak

    def remembered(jobs: list[espeak.Utterance], **_: object) -> list[NDArray[np.int16]]:
        if tuple(jobs) not in SPOKEN:
            SPOKEN[tuple(jobs)] = speak(jobs)
        return SPOKEN[tuple(jobs)]

    monkeypatch.setattr(espeak, "speak", remembered)


def test_counts_are_those_of_the_specification(built: Path) -> None:
    rows = read(built / "manifest.csv")
    assert Counter(row["split"] for row in rows) == {"train": 4_000, "val": 1_000, "test": 3_000}
    assert {name: len(os.listdir(built / name)) for name in ("audio", "image", "text")} == {
        "audio": 3_120, "image": 1_797, "text": 560,
    }  # fmt: skip
    assert len({row["key"] for row in rows}) == 8_000
    assert rows[0]["key"] == "train-00000"
    for split, each in (("train", 400), ("val", 100), ("test", 300)):
        counts = Counter(row["label.digit"] for row in rows if row["split"] == split)
        assert counts == dict.fromkeys("0123456789", each)


def test_every_file_is_used_about_equally_and_in_one_split(built: Path) -> None:
    rows = read(built / "manifest.csv")
    for column, folder in (("audio", "audio"), ("image", "image"), ("text_file", "text")):
        uses = Counter(row[column] for row in rows)
        assert set(uses) == {f"{folder}/{name}" for name in os.listdir(built / folder)}, "a file is left out"
        splits = {(row[column], row["split"]) for row in rows}
        assert len(splits) == len(uses), f"a file of {column} serves two splits"
        by_class: dict[tuple[str, str], set[int]] = defaultdict(set)
        for row in rows:
            by_class[row["split"], row["label.digit"]].add(uses[row[column]])
        assert all(max(found) - min(found) <= 1 for found in by_class.values())


def test_sources_are_disjoint_and_labels_are_the_files_own(built: Path) -> None:
    rows = read(built / "manifest.csv")
    voices: dict[str, set[str]] = defaultdict(set)
    locales: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        voice, digit, _ = Path(row["audio"]).stem.rsplit("-", 2)
        locale, spelled = Path(row["text_file"]).stem.split("-")
        written = Path(row["image"]).stem.split("-")[1]
        assert digit == spelled == written == row["label.digit"]
        assert voice == row["group"]
        voices[row["split"]].add(voice)
        locales[row["split"]].add(locale)
    assert {split: len(names) for split, names in voices.items()} == {"train": 64, "val": 20, "test": 20}
    assert len({name for names in voices.values() for name in names}) == 104
    assert {split: len(names) for split, names in locales.items()} == {"train": 42, "val": 5, "test": 9}
    assert locales["test"] == {"kz", "ru", "id", "ro", "sl", "pl", "sv", "is", "tg"}
    assert locales["val"] == {"nl", "hu", "lt", "az", "uk"}
    assert len({name for names in locales.values() for name in names}) == 56


def test_files_are_what_their_names_say(built: Path) -> None:
    for name in sorted(os.listdir(built / "audio"))[::97]:
        with wave.open(str(built / "audio" / name)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert 0.1 < len(samples) / 16_000 < 3
        assert np.abs(samples.astype(int)).max() == round(0.9 * 32_767)
    for name in sorted(os.listdir(built / "image"))[::97]:
        with Image.open(built / "image" / name) as image:
            assert (image.size, image.mode) == ((64, 64), "L")
    assert (built / "text" / "ru-3.txt").read_text(encoding="utf-8") == "три\n"


def test_images_can_be_told_apart_but_not_easily(built: Path) -> None:
    """Labels belong to the pictures: nearest class mean, far above chance, far below the clean set's 0.9."""
    rows = read(built / "manifest.csv")

    def pixels(split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        names = sorted({row["image"] for row in rows if row["split"] == split})
        arrays = [
            np.asarray(Image.open(built / name), float).reshape(8, 8, 8, 8).mean((1, 3)).ravel()
            for name in names
        ]
        return np.stack(arrays), np.array([int(Path(name).stem[-1]) for name in names])

    x, y = pixels("train")
    means = np.stack([x[y == digit].mean(0) for digit in range(10)])
    x, y = pixels("test")
    accuracy = float((((x[:, None] - means) ** 2).sum(-1).argmin(1) == y).mean())
    assert 0.35 < accuracy < 0.8


def test_the_seal_says_what_is_real_and_what_is_not(built: Path) -> None:
    about = json.loads((built / "DATASET.json").read_text(encoding="utf-8"))
    assert (about["name"], about["seed"], about["samples"]["train"]) == ("digits", 0, 4_000)
    assert "espeak" in about["synthetic"]
    assert "handwriting" in about["real"]
    assert {source["package"]: source["version"] for source in about["sources"]}["espeakng-loader"] == "0.2.4"
    assert all(source["licence"] for source in about["sources"])
    assert about["files"]["audio"]["count"] == 3_120


def test_a_complete_folder_is_taken_as_it_stands(built: Path) -> None:
    before = (built / "manifest.csv").stat().st_mtime_ns
    calls: list[str] = []
    began = time.perf_counter()
    assert (
        build_digits(built, seed=0, on_progress=lambda stage, done, total: calls.append(stage))
        == built / "manifest.csv"
    )
    assert time.perf_counter() - began < 1
    assert not calls
    assert (built / "manifest.csv").stat().st_mtime_ns == before


@pytest.mark.usefixtures("small")
def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        build_digits(tmp_path / name, seed=seed).parent for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert contents(first) == contents(again)
    changed, old = contents(other), contents(first)
    assert set(changed) == set(old)
    assert {name.split("/")[0] for name in old if changed[name] != old[name]} == {
        "audio", "image", "manifest.csv", "DATASET.json",
    }  # fmt: skip


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "damage", ["a file is gone", "no seal", "torn seal", "manifest edited", "another seed"]
)
def test_an_incomplete_folder_is_rebuilt_whole(tmp_path: Path, damage: str) -> None:
    folder = build_digits(tmp_path / "d", seed=0).parent
    whole = contents(folder)
    if damage == "a file is gone":
        next((folder / "audio").iterdir()).unlink()
    elif damage == "no seal":
        (folder / "DATASET.json").unlink()
    elif damage == "torn seal":
        (folder / "DATASET.json").write_bytes((folder / "DATASET.json").read_bytes()[:100])
    elif damage == "manifest edited":
        with (folder / "manifest.csv").open("a") as file:
            file.write("x\n")
    else:
        build_digits(folder, seed=1)
    assert contents(folder) != whole
    build_digits(folder, seed=0)
    assert contents(folder) == whole
    assert os.listdir(tmp_path) == ["d"], "a temporary sibling is left"


@pytest.mark.usefixtures("small")
def test_progress_counts_every_stage_to_its_end(tmp_path: Path) -> None:
    last: dict[str, tuple[int, int]] = {}
    build_digits(tmp_path / "d", on_progress=lambda stage, done, total: last.update({stage: (done, total)}))
    assert last == {"speech": (60, 60), "audio files": (60, 60), "images": (90, 90), "words": (56, 56)}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_build_leaves_no_folder(tmp_path: Path) -> None:
    target = tmp_path / "d"
    code = (
        "import sys, numpy as np; from fusecache.datasets import build_digits, espeak\n"
        "espeak.speak = lambda jobs, **_: [np.arange(5000, dtype=np.int16)] * len(jobs)\n"
        "build_digits(sys.argv[1], on_progress=lambda s, d, n: print(s, d, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("audio files 40"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    assert [path.name.startswith(".d.") for path in tmp_path.iterdir()] == [True], "the stage should be left"


@pytest.mark.usefixtures("quick")
def test_what_a_killed_build_left_is_swept_once_old(tmp_path: Path) -> None:
    for name, age in ((".d.old.tmp", 7_200), (".d.new.tmp", 60)):
        (tmp_path / name / "audio").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    build_digits(tmp_path / "d")
    assert sorted(os.listdir(tmp_path)) == [".d.new.tmp", "d"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(InputError, match=r"holds other files \(thesis\.tex\); name another folder"):
        build_digits(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "all my work"
    with pytest.raises(InputError, match=r"thesis\.tex is a file; name another folder"):
        build_digits(tmp_path / "thesis.tex")


def test_a_missing_wheel_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(
        MissingExtraError, match=r"espeakng-loader is not installed; run: pip install 'fusecache\[demo\]'"
    ):
        build_digits(tmp_path / "d")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        MissingExtraError, match=r"sklearn\.datasets is not installed; run: pip install 'fusecache\[demo\]'"
    ):
        build_digits(tmp_path / "d")
    assert not os.listdir(tmp_path)


def test_another_set_of_voices_is_refused() -> None:
    with pytest.raises(
        MissingExtraError,
        match=r"the 104 voice variants of espeakng-loader 0\.2\.4, and the installed one has 3",
    ):
        digits.split_voices(["a", "b", "c"])


def test_noise_has_the_stated_power_and_the_peak_is_set() -> None:
    ratios: list[float] = []
    for n in range(20):
        rng = keyed_rng(n, "test")
        tone = (8_000 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050)).astype(np.int16)
        out = digits.noisy(tone, rng).astype(float)
        assert len(out) == 16_000
        assert np.abs(out).max() == round(0.9 * 32_767)
        spectrum = np.abs(np.fft.rfft(out)) ** 2
        noise = float(np.median(spectrum) / np.log(2) * len(spectrum))
        ratios.append(10 * np.log10((spectrum[435:446].sum()) / noise))
    assert -14.7 < min(ratios) < -11
    assert -7 < max(ratios) < -3.3


def test_a_band_of_half_the_picture_is_covered() -> None:
    directions: set[bool] = set()
    for n in range(30):
        image = digits.disturbed(np.full((8, 8), 16.0), keyed_rng(n, "test")).astype(float) / 255
        assert image.shape == (64, 64)
        across, down = image.mean(1) < 0.72, image.mean(0) < 0.72
        band = across if across.sum() == 32 else down
        assert band.sum() == 32, "half of the rows or columns are grey"
        assert np.diff(np.flatnonzero(band)).max() == 1, "in one piece"
        directions.add(band is across)
        assert 0.26 < (image[across].std() if band is across else image[:, down].std()) < 0.29
    assert directions == {True, False}
