"""The whole extraction: real files in, a real cache out, and everything that can go wrong on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusecache.cache import InputError, MismatchError, RejectsError, Rows, StorageError
from fusecache.cache.reader import open_cache
from fusecache.extract import Clip, EncoderConfig, Event, ExtractConfig, ExtractReport, build_encoder, extract
from fusecache.extract.batches import misfit

Maker = Callable[..., Path]
AUDIO = {"audio": EncoderConfig(encoder="logmel")}
THREE = AUDIO | {"image": EncoderConfig(encoder="hog"), "text": EncoderConfig(encoder="ngrams")}
FAKES = '''
import os, time
import numpy as np
from fusecache.cache import FeatureSpec, Producer, Rows
from fusecache.extract import Needs

class Mine:
    """Mean and length; hangs or dies on the texts that ask for it."""
    def __init__(self, *, modality, weights, dtype, device, slow=0.0, seen=""):
        producer = Producer(encoder="fakes:Mine", weights="none", weights_hash="", settings={"slow": slow}, decode="utf-8")
        self.spec = FeatureSpec(modality=modality, stream="text", dim=2, dtype="float32", producer=producer)
        self.needs, self.slow, self.seen = Needs(stream="text"), slow, seen
    def prepare(self, clip):
        if clip.text.startswith("hang"):
            time.sleep(1000)
        if clip.text.startswith("die"):
            os._exit(3)
        if clip.text.startswith("raise"):
            raise ValueError("no such word")
        if self.seen:
            with open(self.seen, "a") as file:
                file.write(clip.text + "\\n")
        time.sleep(self.slow)
        return np.array([[sum(clip.text.encode()), len(clip.text)]], np.float32)
    def forward(self, batch):
        return batch[:, None]
    def assemble(self, clip, rows):
        return Rows(values=rows[0])
'''


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, EncoderConfig]]:
    """Encoders of a user's own module, named by import path."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "fakes.py").write_text(FAKES)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "lab"), *sys.path])
    sys.modules.pop("fakes", None)

    def configs(**options: Any) -> dict[str, EncoderConfig]:
        return {"text": EncoderConfig(encoder="fakes:Mine", dtype="float32", options=options)}

    return configs


def manifest(folder: Path, *lines: str) -> Path:
    path = folder / "m.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def words(folder: Path, *texts: str) -> Path:
    return manifest(folder, "key,text", *(f"k{i},{text}" for i, text in enumerate(texts)))


def files(folder: Path) -> dict[str, bytes]:
    """Everything that must be the same however often a run was killed."""
    kept = [p for p in folder.rglob("*") if p.is_file() and "provenance" not in p.parts and p.name != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(kept)}


def test_three_modalities_end_to_end(tmp_path: Path, wav: Maker, png: Maker) -> None:
    lines = ["key,audio,image,text,label.digit,split,group"]
    for i in range(5):
        wav(f"{i}.wav", seconds=0.2 + 0.1 * i, frequency=300 + 100 * i)
        png(f"{i}.png", value=20 * i)
        lines.append(
            f"k{i},{i}.wav,{'' if i == 2 else f'{i}.png'},word {i},{i % 2},{'train' if i else 'test'},g{i}"
        )
    events: list[Event] = []
    report = extract(
        manifest(tmp_path, *lines),
        tmp_path / "c",
        ExtractConfig(encoders=THREE, shard_samples=2),
        on_event=events.append,
    )
    assert (report.samples, report.rejected, report.decoded_files, report.reused) == (5, (), 14, 0)
    assert [spec.dim for spec in report.specs] == [40, 324, 512]
    assert (events[-1].done, events[-1].total, events[-1].message) == (5, 5, "done")
    assert set(report.stage_seconds) == {"decode", "prepare", "encode", "write"}
    assert report.bottleneck in report.stage_seconds
    cache = open_cache(tmp_path / "c")
    assert list(cache.keys()) == [f"k{i}" for i in range(5)]
    assert cache.present("image").tolist() == [True, True, False, True, True]
    sample = cache.sample(3)
    assert (sample.split, sample.group, sample.labels["digit"]) == ("train", "g3", "1")
    encoder = build_encoder("ngrams", modality="text")
    expected = encoder.prepare(Clip(key="", stream="text", source="", text="word 3"))[0]
    np.testing.assert_array_equal(sample.rows["text"].values, expected.astype(np.float16))
    facts = json.loads((tmp_path / "c" / "provenance" / "1.json").read_text())
    assert facts["device"] == report_device()
    assert facts["libraries"]["av"]
    assert facts["decoded_files"] == 14
    before = files(tmp_path / "c")
    again = extract(tmp_path / "m.csv", tmp_path / "c", ExtractConfig(encoders=THREE, shard_samples=2))
    assert (again.skipped_shards, again.decoded_files, again.samples) == (3, 0, 5)
    assert files(tmp_path / "c") == before


def report_device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def test_one_file_is_decoded_once_for_sound_and_pictures(
    tmp_path: Path, video: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    video("a.mp4")
    video("mute.mp4", sound=False)
    encoders = AUDIO | {"seen": EncoderConfig(encoder="framestats")}
    path = manifest(tmp_path, "key,video", "a,a.mp4", "same,a.mp4", "mute,mute.mp4")
    for size, reuse in ((10, 1 << 30), (1, 1 << 30), (1, 0)):
        out = tmp_path / f"c{size}{reuse}"
        report = extract(path, out, ExtractConfig(encoders=encoders, shard_samples=size, reuse_bytes=reuse))
        assert report.decoded_files == (3 if not reuse else 2)
        assert report.reused == 1
        cache = open_cache(out)
        assert cache.present("audio").tolist() == [True, True, False]  # an offered sound track may be absent
        assert cache.present("seen").all()
        first, same = cache.sample(0).rows, cache.sample(1).rows
        for name in ("audio", "seen"):
            np.testing.assert_array_equal(first[name].values, same[name].values)
        assert cache.fingerprint == open_cache(tmp_path / f"c10{1 << 30}").fingerprint


def test_rejects_are_listed_with_stage_and_reason(
    tmp_path: Path, wav: Maker, png: Maker, video: Maker
) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        wav(name)
    wav("zero.wav", seconds=0.0)
    png("a.png")
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.wav").write_bytes(b"")
    half = video("half.mp4", seconds=4.0, movflags="faststart")
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    path = manifest(
        tmp_path,
        "key,audio,image,text_file",
        "good,a.wav,a.png,",
        "gone,gone.wav,a.png,",
        "zero,zero.wav,a.png,",
        "both,empty.wav,a.png,bad.txt",
        "half,half.mp4,a.png,",
        "swap,a.png,a.wav,",
        "nothing,,,bad.txt",
        "fine,c.wav,,",
    )
    config = ExtractConfig(encoders=THREE, shard_samples=3)
    with pytest.raises(RejectsError, match=r"6 of 8 samples were rejected, which is 75.0% .*rejects.jsonl"):
        extract(path, tmp_path / "c", config)
    assert not (tmp_path / "c" / "manifest.json").exists()
    lines = [json.loads(line) for line in (tmp_path / "c" / "rejects.jsonl").read_text().splitlines()]
    found = {(row["key"], row["modality"]): (row["stage"], row["reason"], row["source"]) for row in lines}
    assert found["gone", "audio"] == ("open", "the file does not exist, or is not a file", "gone.wav")
    assert found["zero", "audio"] == ("decode", "the sound track is empty (length zero)", "zero.wav")
    assert found["both", "audio"] == ("decode", "the file is empty (0 bytes)", "empty.wav")
    assert found["both", "text"] == ("decode", "the text is not UTF-8: byte 0xe9 at offset 3", "bad.txt")
    assert found["half", "audio"][0] == "decode"
    assert found["swap", "image"][1] == "the file is not an image of a known format"
    allowed = ExtractConfig(encoders=THREE, shard_samples=3, max_reject_share=1.0)
    report = extract(path, tmp_path / "c", allowed)
    assert (report.samples, report.reject_share, report.skipped_shards, report.decoded_files) == (
        2,
        0.75,
        3,
        0,
    )
    assert {reject.key for reject in report.rejected} == {"gone", "zero", "both", "half", "swap", "nothing"}
    cache = open_cache(tmp_path / "c")
    assert list(cache.keys()) == ["good", "fine"]
    assert cache.manifest.rejected == 6


def test_partial_files_are_kept_when_asked(tmp_path: Path, video: Maker) -> None:
    half = video("half.mkv", seconds=4.0, sound=False)
    half.write_bytes(half.read_bytes()[: half.stat().st_size * 9 // 10])
    video("stream.ts", sound=False)
    path = manifest(tmp_path, "key,video,audio", "half,half.mkv,", "ts,stream.ts,")
    encoders = {"seen": EncoderConfig(encoder="framestats")}
    report = extract(path, tmp_path / "c", ExtractConfig(encoders=encoders, on_partial="mark"))
    assert report.samples == 2
    flags = {(flag.key, flag.flag.partition(" ")[0]) for flag in report.flagged}
    assert flags == {("half", "partial"), ("ts", "length_unverified")}
    assert len((tmp_path / "c" / "flags.jsonl").read_text().splitlines()) == 2
    with pytest.raises(RejectsError, match=r"1 x decode: partial \("):
        extract(path, tmp_path / "d", ExtractConfig(encoders=encoders))


def test_rows_that_do_not_fit_cost_one_sample_each(tmp_path: Path, wav: Maker) -> None:
    import av

    wav("a.wav")
    for name, level in (("nan.wav", np.nan), ("huge.wav", 1e30)):
        opened: Any = av.open(str(tmp_path / name), "w")
        with opened as out:
            speaker: Any = out.add_stream("pcm_f32le", rate=16000, layout="mono")
            wave = np.full((1, 8000), level, np.float32)
            heard = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
            heard.sample_rate = 16000
            out.mux(speaker.encode(heard))
            out.mux(speaker.encode(None))
    path = manifest(tmp_path, "key,audio", "a,a.wav", "nan,nan.wav", "huge,huge.wav")
    report = extract(path, tmp_path / "c", ExtractConfig(encoders=AUDIO, max_reject_share=0.9))
    assert report.samples == 1
    found = {reject.key: (reject.stage, reject.reason) for reject in report.rejected}
    assert found["nan"] == ("decode", "the sound is nan, not a number, at 0.000 s")
    assert found["huge"][0] == "encode"
    assert "rows hold numbers that do not fit float16" in found["huge"][1]


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        ("float16", 65_504.0, True),
        ("float16", 7e4, False),
        ("bfloat16", 3.4e38, False),
        ("bfloat16", 7e4, True),
        ("float32", float("inf"), False),
        ("float32", 3.4e38, True),
    ],
)
def test_what_a_stored_type_holds(dtype: Any, value: float, fits: bool) -> None:
    spec = build_encoder("ngrams", modality="t", dtype=dtype, options={"dim": 2}).spec
    values = np.array([[0, 0], [0, value]], np.float32)
    said = misfit(Rows(values=values), spec)
    assert bool(said) is not fits
    assert fits or f"1 of 2 rows hold numbers that do not fit {dtype}, row 1" in said
    assert "times" in misfit(
        Rows(values=np.zeros((2, 2), np.float32), times=np.array([[0, 1], [2, 1.0]])), spec
    )


def test_a_hang_and_a_crash_cost_one_sample_each(tmp_path: Path, fakes: Callable[..., Any]) -> None:
    path = words(tmp_path, "one", "hang", "two", "die", "raise", "three")
    config = ExtractConfig(encoders=fakes(), workers=1, decode_timeout=1.5, max_reject_share=0.5)
    report = extract(path, tmp_path / "c", config)
    assert list(open_cache(tmp_path / "c").keys()) == ["k0", "k2", "k5"]
    assert [(r.key, r.stage, r.reason) for r in report.rejected] == [
        ("k1", "timeout", "no result within decode_timeout=1.5 s"),
        ("k3", "crash", "the decoder process died twice on this file (exit status 3)"),
        ("k4", "prepare", "ValueError: no such word"),
    ]


def test_long_texts_do_not_jam_the_pipes(tmp_path: Path, fakes: Callable[..., Any]) -> None:
    path = words(tmp_path, *(str(i) + "x" * (100_000 if i % 3 else 10) for i in range(12)))
    report = extract(path, tmp_path / "c", ExtractConfig(encoders=fakes(), decode_timeout=20))
    assert (report.samples, report.rejected) == (12, ())


@pytest.mark.parametrize("shards", [1, 3])
def test_a_killed_run_resumes_to_the_same_bytes(
    tmp_path: Path, fakes: Callable[..., Any], shards: int
) -> None:
    path = words(tmp_path, *(f"word {i % 9}" for i in range(20)))  # texts are shared between shards
    seen = tmp_path / "seen"
    script = (
        "from fusecache.extract import *; import sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'lab')!r})\n"
        f"e = {{'text': EncoderConfig(encoder='fakes:Mine', dtype='float32', options={{'slow': 0.1, 'seen': {str(seen)!r}}})}}\n"
        f"extract({str(path)!r}, {str(tmp_path / 'c')!r}, ExtractConfig(encoders=e, shard_samples=4, workers=1, reuse_bytes=0))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (tmp_path / "c" / "store" / "shards" / f"{shards - 1:06d}").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "c" / "manifest.json").exists()
    config = ExtractConfig(encoders=fakes(slow=0.1, seen=str(seen)), shard_samples=4)
    report = extract(path, tmp_path / "c", config)
    assert report.skipped_shards >= shards
    straight = extract(path, tmp_path / "d", config)
    assert straight.skipped_shards == 0
    assert files(tmp_path / "c") == files(tmp_path / "d")


def run(folder: Path, **options: Any) -> ExtractReport:
    return extract(folder / "m.csv", folder / "c", ExtractConfig(encoders=AUDIO, shard_samples=1, **options))


def test_changed_media_and_recipes_are_named(tmp_path: Path, wav: Maker) -> None:
    for name in ("a.wav", "b.wav"):
        wav(name)
    manifest(tmp_path, "key,audio", "a,a.wav", "b,b.wav")
    run(tmp_path)
    before = files(tmp_path / "c")
    wav("b.wav", seconds=0.7)
    with pytest.raises(
        MismatchError, match=r"holds a finished extraction(.*\n)*.*sample 'b': its row or its files are not"
    ):
        run(tmp_path)
    other = {"audio": EncoderConfig(encoder="logmel", options={"n_mels": 64})}
    with pytest.raises(MismatchError, match=r"modality 'audio', (dim|producer)(.*\n)*.*64"):
        extract(tmp_path / "m.csv", tmp_path / "c", ExtractConfig(encoders=other, shard_samples=1))
    with pytest.raises(MismatchError, match=r"shard_samples: it was made with 1, this run asks for 500"):
        extract(tmp_path / "m.csv", tmp_path / "c", ExtractConfig(encoders=AUDIO))
    assert files(tmp_path / "c") == before
    manifest(tmp_path, "key,audio", "a,a.wav", "c,b.wav")
    with pytest.raises(MismatchError, match=r"sample 'c' is new\n.*sample 'b' is gone"):
        run(tmp_path)


def test_an_unfinished_run_makes_changed_shards_again(tmp_path: Path, wav: Maker) -> None:
    wav("a.wav")
    wav("b.wav", seconds=0.0)
    manifest(tmp_path, "key,audio", "a,a.wav", "b,b.wav")
    with pytest.raises(RejectsError, match=r"1 of 2 samples .*50.0%"):
        run(tmp_path)
    wav("b.wav")  # mended, as the message asks
    report = run(tmp_path)
    assert (report.samples, report.rejected, report.skipped_shards) == (2, (), 1)


def test_refusals_before_anything_is_decoded(tmp_path: Path, wav: Maker) -> None:
    wav("a.wav")
    path = manifest(tmp_path, "key,audio", "a,a.wav")
    with pytest.raises(InputError, match=r"encoders.text reads text, and no sample has any"):
        extract(path, tmp_path / "c", ExtractConfig(encoders=THREE))
    bad = {"a": EncoderConfig(encoder="nope"), "b": EncoderConfig(encoder="logmel", weights="x")}
    with pytest.raises(
        InputError, match=r"2 encoders cannot be built(.*\n)*.*'nope'(.*\n)*.*no weights, got 'x'"
    ):
        extract(path, tmp_path / "c", ExtractConfig(encoders=bad))
    with pytest.raises(InputError, match=r"device: must be auto, cpu or cuda:N, got 'gpu7'"):
        extract(path, tmp_path / "c", ExtractConfig(encoders=AUDIO, device="gpu7"))
    with pytest.raises(
        InputError, match=r"shard_samples: must be at least 1, got 0(.*\n)*.*max_reject_share: .*got 2"
    ):
        ExtractConfig(encoders=AUDIO, shard_samples=0, max_reject_share=2)
    assert not (tmp_path / "c").exists()
    with pytest.raises(StorageError, match=r"m.csv/c"):  # below a file: cannot be made
        extract(path, path / "c", ExtractConfig(encoders=AUDIO))


def test_importing_the_package_is_light() -> None:
    heavy = "('torch', 'zarr', 'av', 'PIL', 'torchaudio', 'transformers')"
    code = f"import sys, fusecache.extract; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_no_child_outlives_a_failed_run(tmp_path: Path, fakes: Callable[..., Any]) -> None:
    path = words(tmp_path, *(f"w{i}" for i in range(40)))

    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        extract(path, tmp_path / "c", ExtractConfig(encoders=fakes(slow=0.05)), on_event=stop)
    assert children() == before
    shutil.rmtree(tmp_path / "c")


def children() -> set[str]:
    """Processes that this one started and that still run."""
    found: set[str] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(stat.parent.name)
    return found
