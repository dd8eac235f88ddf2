"""From raw files to a report, the way the README goes: the whole pipeline on real input."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusecache.cache import InputError, MismatchError, open_cache
from fusecache.cli import main
from fusecache.extract import Clip, Encoder, build_encoder
from fusecache.recipe import load_recipe
from fusecache.run import train_run


def test_the_readme_example_prints_what_it_says(example: Any) -> None:
    first, second = example.printed.splitlines()
    assert first == "4000 {'audio': 40, 'image': 256, 'text': 512}"
    told = eval(second, {})
    assert list(told) == ["A", "V", "T", "AV", "AT", "VT", "AVT"]
    assert told["AVT"] > 0.5, "two epochs are far above the constant answer's 0.1"
    assert told["AVT"] > max(told["A"], told["V"], told["T"])


def test_it_is_at_most_fifteen_lines(python_block: Any) -> None:
    assert len(python_block("README.md").strip().splitlines()) <= 16


def test_the_cache_holds_the_samples_of_the_manifest(example: Any) -> None:
    with example.manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open_cache(example.cache) as cache:
        assert list(cache.keys()) == [row["key"] for row in rows]
        digits = cache.labels("digit")
        assert [cache.label_columns["digit"].classes[code] for code in digits] == [
            row["label.digit"] for row in rows
        ]
        assert [cache.splits[code] for code in cache.split_of()] == [row["split"] for row in rows]
        assert cache.groups() == [row["group"] for row in rows]


def test_rows_of_the_cache_are_the_encoders_rows_of_the_files(example: Any) -> None:
    import wave

    from PIL import Image

    with example.manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    recipe = load_recipe("digits")
    assert recipe.extract is not None
    encoders: dict[str, Encoder] = {
        name: build_encoder(each.encoder, modality=name, dtype=each.dtype, options=each.options)
        for name, each in recipe.extract.encoders.items()
    }

    def encode(name: str, clip: Clip) -> NDArray[np.float16]:
        encoder = encoders[name]
        return encoder.assemble(clip, encoder.forward(encoder.prepare(clip))).values.astype(np.float16)

    with open_cache(example.cache) as cache:
        for index in (0, 1234, 4500, 7999):
            row = rows[index]
            with wave.open(str(example.manifest.parent / row["audio"])) as file:
                samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            sound = (samples / 32768).astype(np.float32)
            picture = np.asarray(Image.open(example.manifest.parent / row["image"]).convert("RGB"))[None]
            text = (example.manifest.parent / row["text_file"]).read_text(encoding="utf-8")
            clips = {
                "audio": Clip(key="k", stream="audio", source="s", waveform=sound, rate=16_000),
                "image": Clip(key="k", stream="image", source="s", frames=picture),
                "text": Clip(key="k", stream="text", source="s", text=text),
            }
            for name, clip in clips.items():
                np.testing.assert_array_equal(
                    cache.rows(name, index), encode(name, clip), err_msg=f"{name} of {row['key']}"
                )


@pytest.mark.parametrize(
    "words",
    [["cache", "info"], ["cache", "verify"], ["cache", "verify", "--fast"], ["cache", "ls", "--limit", "2"]],
)
def test_the_cache_verbs(example: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, str(example.cache)]) == 0
    assert str(example.cache) in capsys.readouterr().out
    assert main([*words, str(example.cache), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    if words[1] == "info":
        assert told["samples"] == 8000
        assert told["splits"] == {"train": 4000, "val": 1000, "test": 3000}
        assert [each["dim"] for each in told["modalities"]] == [40, 256, 512]
        assert not any(each["random_weights"] for each in told["modalities"])
    elif words[1] == "verify":
        assert told["problems"] == []
    else:
        assert [sample["key"] for sample in told["samples"]] == ["train-00000", "train-00001"]


def test_a_damaged_shard_is_named(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(example.cache, copy)
    victim = copy / "store" / "shards" / "000003" / "audio.0" / "values" / "c" / "0" / "0"
    raw = bytearray(victim.read_bytes())
    raw[1000] ^= 1
    victim.write_bytes(raw)
    assert main(["cache", "verify", str(copy)]) == 3
    out = capsys.readouterr().out
    assert "audio" in out
    assert "000003" in out


def test_training_again_gives_the_same_bytes(example: Any, tmp_path: Path) -> None:
    recipe = load_recipe("digits", ["train.epochs=2"])
    train_run(example.cache, recipe, tmp_path / "again")
    for name in ("result.json", "best.safetensors", "last.safetensors", "recipe.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (example.run / name).read_bytes(), name


def test_a_run_folder_is_not_continued_with_another_recipe(example: Any) -> None:
    with pytest.raises(InputError, match=r"started with another recipe \(train\.epochs: 2 there, 3 here\)"):
        train_run(example.cache, load_recipe("digits", ["train.epochs=3"]), example.run)


def test_a_cache_of_another_encoder_is_refused(example: Any, tmp_path: Path) -> None:
    recipe = load_recipe(
        "digits", ["extract.encoders.audio.options.n_mels=64", "extract.encoders.image.encoder=hog"]
    )
    with pytest.raises(MismatchError) as caught:
        train_run(example.cache, recipe, tmp_path / "run")
    message = str(caught.value)
    for word in ("n_mels", "40", "64", "pixels", "hog", str(example.cache)):
        assert word in message


def test_the_report_of_a_real_run(example: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", str(example.run), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    result = json.loads((example.run / "result.json").read_text())
    for value in result["test"]["accuracy"].values():
        assert f"{value:.4f}" in page
    assert result["cache_fingerprint"] in page
    assert page.count("<svg") == 5


def test_a_users_own_encoder_in_ten_lines(
    python_block: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder of docs/architecture.md, named by import path, through the command line."""
    import wave

    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "encoders.py").write_text(python_block("docs/architecture.md"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sound = (np.r_[np.zeros(1600), np.full(1600, 0.5), np.zeros(800)] * 32767).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(sound.tobytes())
    (tmp_path / "m.csv").write_text("key,audio\nx,a.wav\n")
    options = ["--set", 'extract.encoders={audio: {encoder: "mylab.encoders:Loudness"}}']
    assert (
        main(
            ["extract", str(tmp_path / "m.csv"), "--recipe", "digits", "--out", str(tmp_path / "c"), *options]
        )
        == 0
    )
    with open_cache(tmp_path / "c") as cache:
        np.testing.assert_allclose(cache.rows("audio", 0), [[0.0], [0.5]], atol=1e-3)
        assert cache.specs["audio"].producer.encoder == "loudness"
    sys.modules.pop("mylab.encoders", None)
