"""Data that cannot be scored or would be scored wrongly: said, left out, or counted, never passed over."""

# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import DIMS, SIZES, spec, tiny_config

import fusecache.train.data as data_module
from fusecache.cache import Cache, CacheWriter, InputError, LabelColumn, Rows, Sample, View, open_cache
from fusecache.train.config import ScfaeConfig, TrainConfig
from fusecache.train.data import Resident, Streamed, open_split, pooled, statistics
from fusecache.train.loop import fit
from fusecache.train.metrics import Evaluation, evaluate
from fusecache.train.model import build
from fusecache.train.subsets import subsets

Change = Callable[[str, int, dict[str, Rows]], object]


def write(path: Path, change: Change, *, count: int = 24, repeat: int = 1) -> Cache:
    """A cache of audio and text in which ``change(split, number, rows)`` edits each sample's rows."""
    rng = np.random.default_rng(0)
    with CacheWriter(
        path,
        specs=[spec("audio", DIMS["audio"]), spec("text", DIMS["text"])],
        labels=[LabelColumn(name="side", kind="class", classes=("x", "y"))],
        splits=tuple(SIZES),
    ) as writer:
        for shard, split in enumerate(SIZES):
            samples: list[Sample] = []
            for i in range(count):
                rows = {
                    "audio": Rows(values=rng.normal(size=(3 * repeat, DIMS["audio"])).astype(np.float32) + 4),
                    "text": Rows(values=rng.normal(size=(1, DIMS["text"])).astype(np.float32)),
                }
                change(split, i, rows)
                samples.append(
                    Sample(key=f"{split}/{i}", rows=rows, labels={"side": "xy"[i % 2]}, split=split)
                )
            writer.write_shard(shard, samples)
    return open_cache(path)


def config(**options: Any) -> TrainConfig:
    values: dict[str, Any] = {"modalities": ("audio", "text"), "poolings": {}, "epochs": 1, **options}
    return tiny_config(**values)


def spoil(cache: Cache, shard: int, value: float) -> None:
    """Put ``value`` into the first audio row of a shard: what a bad disk or a forger leaves."""
    path = cache.path / f"store/shards/{shard:06d}/audio.0/values/c/0/0"
    raw = bytearray(path.read_bytes())
    raw[:4] = np.float32(value).tobytes()
    path.write_bytes(raw)


def nothing(split: str, i: int, rows: dict[str, Rows]) -> None:
    pass


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize(("shard", "value"), [(0, np.nan), (1, np.nan), (2, np.inf)])
def test_features_that_are_no_numbers_are_refused(
    tmp_path: Path, pooling: str, shard: int, value: float
) -> None:
    cache = write(tmp_path / "cache", nothing)
    spoil(cache, shard, value)
    name = list(SIZES)[shard]
    wanted = (
        rf"NaN or inf in modality 'audio' of 1 samples of split '{name}', the first of them key '{name}/0'"
    )
    with pytest.raises(InputError, match=wanted):
        fit(cache, config(poolings={"audio": pooling}), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    cache = write(tmp_path / "cache", nothing)
    model = build({"audio": DIMS["audio"], "text": DIMS["text"]}, 2, config())
    with torch.no_grad():
        next(iter(model.head.parameters())).fill_(float("inf"))
    source = Resident(open_split(cache, config(), "val"), config(), torch.device("cpu"))
    named = subsets(("audio", "text"), {"audio": "audio", "text": "text"})
    with pytest.raises(
        InputError, match=r"logits must be finite, got NaN or inf in \d+ of 72 answers on split 'val'"
    ):
        evaluate(model, source, named, split="val")


def test_samples_without_any_modality_are_left_out_everywhere(tmp_path: Path) -> None:
    def change(split: str, i: int, rows: dict[str, Rows]) -> None:
        if i % 4 == 0:
            rows.clear()

    cache = write(tmp_path / "cache", change)
    for split in SIZES:
        assert len(open_split(cache, config(), split)) == 18
    fit(cache, config(), tmp_path / "run")
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    assert document["test"]["samples"] == 18 == sum(map(sum, document["test"]["confusion"]))

    def none(split: str, i: int, rows: dict[str, Rows]) -> None:
        if split == "val":
            rows.clear()

    with pytest.raises(
        InputError, match=r"split 'val' must hold samples that are .*got 24 samples, 24 of them"
    ):
        fit(write(tmp_path / "none", none), config(), tmp_path / "other")


@pytest.mark.parametrize("select", ["mean", "full"])
def test_a_selection_that_is_no_number_never_wins(select: str) -> None:
    nan = float("nan")
    empty = torch.zeros(0)
    found = Evaluation(
        accuracy={"A": nan, "AT": nan}, counts={"A": 0, "AT": 0}, loss=0.0,
        predicted=empty, target=empty, fused=empty,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"got counts \{'A': 0, 'AT': 0\}"):
        found.selected(select)


def test_every_accuracy_says_of_how_many_samples_it_is(tmp_path: Path) -> None:
    def change(split: str, i: int, rows: dict[str, Rows]) -> None:
        if split == "test" or (split == "val" and i < 5):
            del rows["text"]

    fit(write(tmp_path / "cache", change), config(), tmp_path / "run")
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    assert document["subsets"] == {"A": ["audio"], "T": ["text"], "AT": ["audio", "text"]}
    assert document["test"]["counts"] == {"A": 24, "T": 0, "AT": 24}
    assert document["test"]["accuracy"]["T"] is None
    assert document["val"]["counts"] == {"A": 24, "T": 19, "AT": 24}


def test_one_long_sample_does_not_pad_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(split: str, i: int, rows: dict[str, Rows]) -> None:
        if i == 5:
            rows["audio"] = Rows(values=np.ones((4000, DIMS["audio"]), np.float32))

    cache = write(tmp_path / "cache", change)
    view = open_split(cache, config(), "train")
    whole = pooled(view, config())
    sizes: list[int] = []
    padded = View.padded

    def spy(self: View, items: Any, modality: str, out: Any = None) -> Any:
        found = padded(self, items, modality, out)
        sizes.append(found[0].size)
        return found

    monkeypatch.setattr(View, "padded", spy)
    monkeypatch.setattr(data_module, "READ_NUMBERS", 4001 * DIMS["audio"])
    pieces = pooled(view, config())
    assert max(sizes) <= 4001 * DIMS["audio"]
    for name, value in whole.items():
        np.testing.assert_allclose(pieces[name], value, rtol=1e-6, atol=1e-6)
    sizes.clear()
    streamed = Streamed(view, config(poolings={"audio": "attention"}), torch.device("cpu"))
    batches = list(streamed.in_order(256))
    assert max(sizes) <= 4001 * DIMS["audio"]
    assert torch.equal(
        torch.cat([batch.target for batch in batches]), torch.from_numpy(view.labels("side")).long()
    )


def test_empty_is_not_a_measurement_and_stands_at_the_mean(tmp_path: Path) -> None:
    def change(split: str, i: int, rows: dict[str, Rows]) -> None:
        if i % 2:
            rows["audio"] = Rows(values=np.zeros((0, DIMS["audio"]), np.float32))

    cache = write(tmp_path / "cache", change)
    dims = {"audio": DIMS["audio"], "text": DIMS["text"]}
    view = open_split(cache, config(), "train")
    full = pooled(view, config())["audio"][::2]
    for source in (
        Resident(view, config(), torch.device("cpu")),
        Streamed(view, config(), torch.device("cpu")),
    ):
        found = statistics(source, config(), dims)
        np.testing.assert_allclose(found["audio"][0].numpy(), full.mean(axis=0), rtol=1e-5)
        model = build(dims, 2, config())
        model.set_standardisation(found)
        batch = next(source.in_order(256))
        v = model.features(batch.x, batch.lengths)["audio"]
        assert (v[1::2] == 0).all()
        assert (v[::2] != 0).any(dim=1).all()


def test_numbers_without_an_end_are_refused() -> None:
    inf = float("inf")
    for name in ("lr", "weight_decay", "clip_norm", "save_seconds", "lr_start"):
        with pytest.raises(InputError, match=rf"{name} is inf, must be a finite number"):
            config(**{name: inf})
    for name, value in (("seed", 10**23), ("seed", -1), ("order_seed", 1 << 63)):
        with pytest.raises(InputError, match=rf"{name} is {value}, must be in \[0, 2\*\*63\)"):
            config(**{name: value})
    with pytest.raises(InputError, match=r"input_noise.audio is inf, must be a finite number"):
        config(input_noise={"audio": inf})
    with pytest.raises(InputError, match=r"recon_weight is inf"):
        ScfaeConfig(recon_weight=inf)


def test_samples_are_chosen_by_place_and_not_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples of one key (a forged cache) must not stand in for each other."""

    def change(split: str, i: int, rows: dict[str, Rows]) -> None:
        if i == 0:
            rows.clear()

    cache = write(tmp_path / "cache", change)
    monkeypatch.setattr(Cache, "keys", lambda self: ["same"] * len(self))  # pyright: ignore[reportUnknownLambdaType,reportUnknownArgumentType]
    assert open_split(cache, config(), "val").index.tolist() == list(range(25, 48))
