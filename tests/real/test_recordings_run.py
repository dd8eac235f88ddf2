"""Real recordings through the whole pipeline, and real odd containers through the decoder."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fusecache.cache import open_cache, verify
from fusecache.cli import main
from fusecache.datasets import build_recordings
from fusecache.extract import Clip, ClipError, Needs, extract
from fusecache.extract.decode import Source, decode
from fusecache.recipe import load_recipe
from fusecache.run import train_run


@pytest.fixture(scope="module")
def cache(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    recipe = load_recipe("digits")
    assert recipe.extract is not None
    manifest = build_recordings(data, folder / "data")
    report = extract(manifest, folder / "cache", recipe.extract)
    assert report.rejected == ()
    return folder / "cache"


def test_eight_thousand_triples_are_extracted_whole(cache: Path) -> None:
    assert verify(cache) == []
    with open_cache(cache) as opened:
        assert len(opened) == 8_000
        lengths = opened.lengths("audio")
        assert 12 <= lengths.min() < 20
        assert 200 < lengths.max() < 230
        groups = np.array(opened.groups())
        split = np.array(opened.splits)[opened.split_of()]
        speakers = {name: set(groups[split == name]) for name in opened.splits}
        assert speakers["test"] == {"lucas", "theo"}
        assert not speakers["train"] & (speakers["val"] | speakers["test"])


def test_fusion_learns_from_them(cache: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        "digits", ["train.epochs=2", "train.input_noise={}", "train.fusion.scfae.dropout=0.0"]
    )
    result = train_run(cache, dataclasses.replace(recipe, name="recordings"), tmp_path / "run")
    assert result.test["AVT"] > 0.5
    assert result.test["AVT"] > max(result.test[name] for name in "AVT")


MEDIA = {
    "nasa_13013.mp4": (325, True),
    "h264_10bits.mp4": (None, False),
    "h265_video.mp4": (None, False),
    "av1_video.mkv": (None, False),
}


@pytest.mark.parametrize("name", sorted(MEDIA))
def test_real_containers_decode_whole(data: Path, name: str) -> None:
    frames, sound = MEDIA[name]
    needs = [Needs(stream="video"), *([Needs(stream="audio", rate=16_000)] if sound else [])]
    clips = decode(Source(kind="video", path=str(data / "media" / name)), needs, max_bytes=4 << 30)
    video = clips[0]
    assert isinstance(video, Clip), video
    assert video.frames is not None
    assert video.pts is not None
    assert len(video.frames) == len(video.pts) > 1
    assert (np.diff(video.pts) > 0).all()
    assert frames is None or len(video.frames) == frames
    if sound:
        assert isinstance(clips[1], Clip)
        assert abs(clips[1].duration - video.duration) < 0.2


def test_environmental_sounds_decode(data: Path) -> None:
    paths = sorted((data / "esc10").rglob("*.ogg"))
    assert len(paths) == 160
    for path in paths[::20]:
        (clip,) = decode(
            Source(kind="video", path=str(path)), [Needs(stream="audio", rate=16_000)], max_bytes=1 << 30
        )
        assert not isinstance(clip, ClipError), clip
        assert 3.0 < clip.duration < 8.0


def test_the_command_line_takes_the_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "recordings", "--data", str(data), "--out", str(tmp_path / "r"), "--json"]) == 0
    assert '"manifest"' in capsys.readouterr().out
