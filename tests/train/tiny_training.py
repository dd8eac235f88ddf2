"""A tiny three-modality cache on disk: ragged audio, one row of image and text, four classes, some absences."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusecache.cache import (
    Cache,
    CacheWriter,
    FeatureSpec,
    LabelColumn,
    Producer,
    Rows,
    Sample,
    Stream,
    open_cache,
)
from fusecache.train.config import FusionConfig, ScfaeConfig, TrainConfig

CLASSES = ("north", "east", "south", "west")
SIZES = {"train": 160, "val": 60, "test": 80}
DIMS = {"audio": 16, "image": 12, "text": 8}
STREAMS: tuple[Stream, ...] = ("audio", "image", "text")


def spec(stream: Stream, dim: int) -> FeatureSpec:
    producer = Producer(encoder=f"toy-{stream}", weights="none", weights_hash="", settings={}, decode="none")
    return FeatureSpec(modality=stream, stream=stream, dim=dim, producer=producer, dtype="float32")


def make_cache(
    path: Path, *, absent: float = 0.1, unlabelled: float = 0.0, one_class: bool = False, scale: float = 1.0
) -> Cache:
    """Write the cache. ``absent`` and ``unlabelled`` are shares, ``scale`` multiplies the features."""
    rng = np.random.default_rng(0)
    means = {name: rng.normal(size=(4, dim)) * 1.5 for name, dim in DIMS.items()}
    with CacheWriter(
        path,
        specs=[spec(name, DIMS[name]) for name in STREAMS],
        labels=[
            LabelColumn(name="side", kind="class", classes=CLASSES),
            LabelColumn(name="height", kind="float"),
        ],
        splits=tuple(SIZES),
    ) as writer:
        for shard, (split, count) in enumerate(SIZES.items()):
            samples: list[Sample] = []
            for i in range(count):
                side = 0 if one_class else int(rng.integers(4))
                rows: dict[str, Rows] = {}
                for name, dim in DIMS.items():
                    steps = int(rng.integers(1, 7)) if name == "audio" else 1
                    values = ((means[name][side] + rng.normal(size=(steps, dim))) * scale).astype(np.float32)
                    if rng.random() >= absent or (name == "text" and not rows):
                        rows[name] = Rows(values=values)
                known = rng.random() >= unlabelled
                samples.append(
                    Sample(
                        key=f"{split}/{i}",
                        rows=rows,
                        labels={"side": CLASSES[side] if known else None, "height": 1.0},
                        split=split,
                    )
                )
            writer.write_shard(shard, samples)
    return open_cache(path)


def tiny_config(**options: object) -> TrainConfig:
    """A run of about a second."""
    values: dict[str, object] = {
        "modalities": ("audio", "image", "text"),
        "label": "side",
        "poolings": {"audio": "segments:2"},
        "epochs": 3,
        "batch_size": 8,
        "lr": 3e-3,
        "diagnostics_every": 4,
        "save_seconds": 0.0,
        "device": "cpu",
        "fusion": FusionConfig(scfae=ScfaeConfig(dropout=0.1)),
        "missing": "subset",
        **options,
    }
    return TrainConfig(**values)  # pyright: ignore[reportArgumentType]
