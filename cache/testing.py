"""Synthetic samples of every kind that the format allows, for tests and benchmarks of caches and of what reads them.

Like ``numpy.testing``: part of the library so that every folder's tests, and other people's backends, share it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .manifest import Manifest
from .sample import Rows, Sample
from .spec import FeatureSpec, LabelColumn, Producer
from .writer import CacheWriter

PRODUCER = Producer(
    encoder="logmel", weights="none", weights_hash="", settings={"n_mels": 5, "window": 0.025}, decode="wav"
)
SPECS = (
    FeatureSpec(
        modality="audio", stream="audio", dim=5, producer=PRODUCER, hop=0.01, span=0.025, timing="regular"
    ),
    FeatureSpec(
        modality="video", stream="video", dim=3, producer=PRODUCER, dtype="bfloat16", timing="irregular"
    ),
    FeatureSpec(modality="text", stream="text", dim=4, producer=PRODUCER, dtype="float32"),
)
"""Regular, irregular and no clock; float16, bfloat16, float32."""
COLUMNS = (
    LabelColumn(name="digit", kind="class", classes=("zero", "one")),
    LabelColumn(name="group", kind="float"),
    LabelColumn(name="tags", kind="multilabel", classes=("x", "y")),
)
SPLITS = ("train", "test")


def build_sample(i: int, key: str | None = None) -> Sample:
    """Sample ``i``: lengths, missing and empty modalities, labels and times all differ, all repeatable."""
    rng = np.random.default_rng(i)
    rows: dict[str, Rows] = {}
    if i % 5:
        rows["audio"] = Rows(
            values=rng.normal(size=(int(rng.integers(0, 9)), 5)).astype(np.float16), start=i / 10
        )
    if i % 4:
        count = int(rng.integers(0, 6))
        exact = (rng.normal(size=(count, 3)).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
        rows["video"] = Rows(values=exact, times=np.sort(rng.random((count, 2)), axis=1))
    if i % 3:
        rows["text"] = Rows(values=rng.normal(size=(1, 4)).astype(np.float32))
    labels: dict[str, Any] = {"digit": ["zero", "one"][i % 2]} if i % 7 else {}
    if i % 2:
        labels |= {"group": i / 3, "tags": ("x",) if i % 3 else ()}
    return Sample(
        key=key or f"clip/{i}.é.wav",
        rows=rows,
        labels=labels,
        split=["train", "test", ""][i % 3],
        group=f"speaker {i % 4}",
        parent=f"film{i // 5}",
        position=i % 5,
        start=float(i),
        end=i + 1.5 if i % 2 else float("inf"),
    )


def write_cache(path: Path, samples: list[Sample], *, shards: int = 3, work: str = "") -> Manifest:
    """Write ``samples`` in ``shards`` shards of nearly equal size."""
    with CacheWriter(path, specs=SPECS, labels=COLUMNS, splits=SPLITS) as writer:
        for k in range(shards):
            part = samples[k * len(samples) // shards : (k + 1) * len(samples) // shards]
            writer.write_shard(k, part, work=work and f"{work}/{k}")
        return writer.commit()


def tree(path: Path) -> dict[str, bytes]:
    """Every file of a cache that must be the same after a rerun, with its bytes."""
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != ".lock" and "provenance" not in p.parts
    }


def assert_same(found: Sample, given: Sample) -> None:
    """Bit for bit, field by field."""
    for name in ("key", "labels", "split", "group", "parent", "position", "start", "end"):
        assert getattr(found, name) == getattr(given, name), name
    assert set(found.rows) == set(given.rows)
    for name, rows in given.rows.items():
        got = found.rows[name]
        assert got.values.dtype == rows.values.dtype
        assert got.values.shape == rows.values.shape
        assert got.values.tobytes() == rows.values.tobytes()
        assert got.start == rows.start
        assert (got.times is None) == (rows.times is None)
        if got.times is not None and rows.times is not None:
            assert got.times.tobytes() == rows.times.tobytes()
