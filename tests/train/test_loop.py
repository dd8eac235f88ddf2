"""The loop end to end on a tiny cache: learns, repeats, resumes, selects on validation, and says what is wrong."""

# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import CLASSES, DIMS, SIZES, make_cache, tiny_config

import fusecache.train.loop as loop_module
from fusecache.cache import Cache, InputError, View
from fusecache.train.baselines import logistic_late
from fusecache.train.checkpoint import load_tensors
from fusecache.train.config import FusionConfig, ScfaeConfig, TrainConfig
from fusecache.train.data import Resident, Source, Streamed, open_split, pooled, statistics
from fusecache.train.events import TrainEvent
from fusecache.train.loop import fit
from fusecache.train.pooling import segments

SUBSETS = ["A", "V", "T", "AV", "AT", "VT", "AVT"]
FILES = ("result.json", "best.safetensors", "last.safetensors", "features.npz")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("tiny") / "cache")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_learns_and_leaves_what_the_report_reads(cache: Cache, tmp_path: Path) -> None:
    events: list[TrainEvent] = []
    result = fit(cache, tiny_config(epochs=8), tmp_path, on_event=events.append)
    assert list(result.test) == SUBSETS
    assert result.test["AVT"] > 0.8
    assert min(result.test.values()) > 0.45  # chance is .25
    assert result.dims == DIMS
    assert result.pooled_dims == {"audio": 32, "image": 12, "text": 8}
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["test"]["accuracy"] == result.test
    assert document["test"]["samples"] == SIZES["test"] == sum(map(sum, document["test"]["confusion"]))
    assert document["classes"] == list(CLASSES)
    assert document["producers"] == {"audio": "toy-audio", "image": "toy-image", "text": "toy-text"}
    assert document["random_weights"] is False
    assert document["selection"] == "val mean accuracy"
    assert document["cache_fingerprint"] == cache.fingerprint
    assert document["parameters"]["total"] == sum(
        document["parameters"][p] for p in ("block", "head", "pooling")
    )
    assert "seconds" not in document
    epochs = lines(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in epochs] == list(range(8))
    assert epochs[-1]["train"]["task"] < epochs[0]["train"]["task"]
    assert epochs[0]["train"]["loss"] == pytest.approx(
        epochs[0]["train"]["task"] + epochs[0]["train"]["recon"]
    )
    best = max(epochs, key=lambda line: line["val"]["selected"])
    assert best["epoch"] == result.best_epoch == document["best_epoch"]
    assert best["val"]["selected"] == pytest.approx(sum(result.val.values()) / 7)
    angles = lines(tmp_path / "gradients.jsonl")
    assert {line["modality"] for line in angles} == {"audio", "image", "text"}
    assert [line["step"] for line in angles[::3]] == list(range(0, 160, 4))
    assert all(-1 <= line["cosine"] <= 1 and line["task_norm"] > 0 for line in angles)
    with np.load(tmp_path / "features.npz", allow_pickle=False) as features:
        assert features["fused"].shape == (80, 32 + 12 + 8 + 3 * 8)
        assert features["fused"].dtype == np.float32
        right = float((features["label"] == features["predicted"]).mean())
    assert right == pytest.approx(result.test["AVT"])
    assert events[-1].step == events[-1].steps == 160
    assert sum(event.metrics is not None for event in events) == 8
    assert 0 <= events[-1].waiting_share <= 1
    weights, header = load_tensors(tmp_path / "best.safetensors")
    assert header["train"]["label"] == "side"
    assert header["features"]["audio"] == cache.specs["audio"].identity
    assert (
        sum(value.numel() for n, value in weights.items() if "centre" not in n and "scale" not in n)
        == (result.parameters["total"])
    )
    assert not (tmp_path / "state.safetensors").exists()


def test_same_seeds_same_bytes_and_global_state_is_left_alone(cache: Cache, tmp_path: Path) -> None:
    config = tiny_config(epochs=2, ema=0.9, input_noise={"audio": 0.2})
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fit(cache, config, tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    torch.manual_seed(2)
    fit(cache, config, tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    other = fit(cache, tiny_config(epochs=2, ema=0.9, input_noise={"audio": 0.2}, seed=2), tmp_path / "c")
    assert (tmp_path / "c" / "last.safetensors").read_bytes() != (
        tmp_path / "a" / "last.safetensors"
    ).read_bytes()
    assert other.run == tmp_path / "c"


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny_training import tiny_config
from fusecache.cache import open_cache
from fusecache.train.loop import fit
def event(e):
    if e.step == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
fit(open_cache(sys.argv[2]), tiny_config(epochs=4, ema=0.9), Path(sys.argv[3]), on_event=event)
"""


@pytest.mark.parametrize("step", [30, 40])
def test_killed_and_resumed_is_bitwise_the_uninterrupted_run(cache: Cache, tmp_path: Path, step: int) -> None:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(cache.path), str(tmp_path / "a")]
    done = subprocess.run([*command, str(step)], capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "a" / "result.json").exists()
    with (tmp_path / "a" / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 3, "half a li')
    began = time.monotonic()
    fit(cache, tiny_config(epochs=4, ema=0.9), tmp_path / "a")
    fit(cache, tiny_config(epochs=4, ema=0.9), tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    for name in ("metrics.jsonl", "gradients.jsonl"):
        a, b = ([{**x, "seconds": 0, "waiting_share": 0} for x in lines(tmp_path / r / name)] for r in "ab")
        assert a == b
    assert time.monotonic() - began < 60


def test_a_finished_run_is_only_read_and_another_one_is_refused(cache: Cache, tmp_path: Path) -> None:
    config = tiny_config(epochs=1)
    first = fit(cache, config, tmp_path)
    again = fit(cache, config, tmp_path, on_event=lambda event: pytest.fail("it trained again"))
    assert (again.test, again.seconds) == (first.test, 0.0)
    assert fit(cache, tiny_config(epochs=1, save_seconds=9.0), tmp_path).seconds == 0.0
    with pytest.raises(InputError, match=r"(?s)another run folder.*train.lr: the run has 0.003, now 0.001"):
        fit(cache, tiny_config(epochs=1, lr=1e-3), tmp_path)
    assert fit(cache, tiny_config(epochs=1, lr=1e-3), tmp_path, resume=False).seconds > 0


def test_the_test_split_is_opened_once_after_the_last_epoch(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def watched(cache: Cache, config: TrainConfig, split: str) -> View:
        opened.append(split)
        return open_split(cache, config, split)

    monkeypatch.setattr(loop_module, "open_split", watched)
    fit(cache, tiny_config(epochs=2), tmp_path, on_event=lambda event: opened.append("step"))
    assert opened.count("test") == 1
    assert opened[-1] == "test"
    assert opened[:2] == ["train", "val"]


def test_labels_of_the_test_split_do_not_change_the_weights(tmp_path: Path) -> None:
    a = make_cache(tmp_path / "a")
    fit(a, tiny_config(epochs=1), tmp_path / "run")
    seen: list[str] = []
    real = Cache.select

    def select(self: Cache, **options: Any) -> View:
        seen.append(options["split"])
        return real(self, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "select", select)
        fit(a, tiny_config(epochs=1), tmp_path / "other")
    assert seen == ["train", "val", "test"]


@pytest.mark.parametrize("pooling", ["mean", "segments:3", "last"])
def test_resident_and_streamed_batches_are_the_same(cache: Cache, pooling: str) -> None:
    config = tiny_config(poolings={"audio": pooling})
    view = open_split(cache, config, "train")
    model = loop_module.build(DIMS, 4, config)
    sources: list[Source] = [
        Resident(view, config, torch.device("cpu")),
        Streamed(view, config, torch.device("cpu")),
    ]
    a, b = (statistics(source, config, DIMS) for source in sources)
    for name in a:
        torch.testing.assert_close(a[name], b[name])
    count = 0
    for fast, slow in zip(*(source.epoch(1) for source in sources), strict=True):
        count += len(fast.target)
        assert torch.equal(fast.target, slow.target)
        assert torch.equal(fast.present, slow.present)
        x, y = model.features(fast.x, fast.lengths), model.features(slow.x, slow.lengths)
        for m, name in enumerate(config.modalities):
            there = fast.present[:, m]
            torch.testing.assert_close(x[name][there], y[name][there])
    assert count == SIZES["train"]


def test_pooled_vectors_are_those_of_numpy_and_statistics_skip_what_is_absent(cache: Cache) -> None:
    config = tiny_config()
    view = open_split(cache, config, "train")
    found = pooled(view, config)
    wanted = [segments(np.asarray(cache.rows("audio", int(i))), 2) for i in view.index]
    np.testing.assert_allclose(found["audio"], np.stack(wanted), rtol=1e-5, atol=1e-6)
    there = view.present()[:, 1]
    assert 0 < there.sum() < len(there)
    centre, deviation = statistics(Resident(view, config, torch.device("cpu")), config, DIMS)["image"]
    np.testing.assert_allclose(centre.numpy(), found["image"][there].mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(deviation.numpy(), found["image"][there].std(axis=0), rtol=1e-4)


def test_standardisation_of_a_dimension_and_of_a_modality() -> None:
    x = torch.tensor([[0.0, 5.0, 7.0], [2.0, 9.0, 7.0]])
    statistics = {"text": (x.mean(dim=0), x.std(dim=0, correction=0))}
    wanted = {
        "dimension": [[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0]],
        "modality": [[-0.7746, -1.5492, 0.0], [0.7746, 1.5492, 0.0]],  # over sqrt((1 + 4 + 0) / 3)
        "none": [[0.0, 5.0, 7.0], [2.0, 9.0, 7.0]],
    }
    for how, values in wanted.items():
        model = loop_module.build(
            {"text": 3}, 4, tiny_config(modalities=("text",), poolings={}, standardise=how)
        )
        model.set_standardisation(statistics)
        torch.testing.assert_close(
            model.features({"text": x}, {})["text"], torch.tensor(values), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    "options",
    [
        {"poolings": {"audio": "attention"}},
        {"fusion": FusionConfig(block="concat")},
        {"autocast": "bf16"},
        {"fusion": FusionConfig(scfae=ScfaeConfig(missing="zero")), "missing": "none", "select": "full"},
        {"modalities": ("text",), "poolings": {}},
        {
            "standardise": "none",
            "label_smoothing": 0.1,
            "validate_every": 3,
            "clip_norm": 0.0,
            "diagnostics_every": 0,
        },
    ],
    ids=lambda options: "-".join(options),
)
def test_other_settings_learn_too(cache: Cache, tmp_path: Path, options: dict[str, Any]) -> None:
    result = fit(cache, tiny_config(**{"epochs": 6, **options}), tmp_path)
    assert list(result.test.values())[-1] > 0.5
    assert len(result.test) == (1 if "modalities" in options else 7)


def test_unlabelled_samples_are_left_out(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", unlabelled=0.3)
    fit(cache, tiny_config(epochs=1), tmp_path / "run")
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    codes = cache.labels("side")[cache.split_of() == cache.splits.index("test")]
    assert document["test"]["samples"] == int((codes >= 0).sum()) < SIZES["test"]


def test_a_cache_that_does_not_fit_is_refused_with_every_reason(cache: Cache, tmp_path: Path) -> None:
    config = tiny_config(
        modalities=("audio", "smell"), poolings={}, label="colour", splits=("train", "dev", "test")
    )
    with pytest.raises(InputError) as caught:
        fit(cache, config, tmp_path)
    for part in (
        "'smell', the cache has audio, image, text",
        "'colour', the cache has side, height",
        "'dev', the cache has train, val, test",
    ):
        assert part in str(caught.value)
    with pytest.raises(InputError, match=r"'height' is of kind 'float'"):
        fit(cache, tiny_config(label="height"), tmp_path)
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"at least two classes of 'side', it has north"):
        fit(make_cache(tmp_path / "one", one_class=True), tiny_config(), tmp_path / "run")


def test_a_loss_that_is_no_number_is_explained(cache: Cache, tmp_path: Path) -> None:
    config = tiny_config(lr=1e30, lr_start=1e30, clip_norm=0.0)
    with pytest.raises(
        InputError, match=r"(?s)it is (nan|inf) at step \d+.*train.lr below 1e\+30.*audio: block inputs from"
    ):
        fit(cache, config, tmp_path)


def test_a_gpu_that_is_not_there_is_refused(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train.device is 'cuda:99'"):
        fit(cache, tiny_config(device="cuda:99"), tmp_path)


def test_plain_rows_on_the_same_vectors(cache: Cache) -> None:
    pytest.importorskip("sklearn")
    tables = logistic_late(cache, tiny_config())
    assert list(tables["late"]) == list(tables["logreg"]) == list(tables["constant"]) == SUBSETS
    assert tables["late"]["A"] == tables["logreg"]["A"]
    assert tables["late"]["AVT"] > 0.8
    assert all(0.1 < value < 0.45 for value in tables["constant"].values())
    assert not any(math.isnan(value) for table in tables.values() for value in table.values())
