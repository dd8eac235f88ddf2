"""What a run leaves behind: ``result.json``, ``features.npz`` and the two weight files.

No wall time is in them: two runs of the same settings on one machine leave the same bytes.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusecache.cache import Cache, CacheError, Stream
from fusecache.cache.atomic import replace_file

from .config import TrainConfig
from .metrics import Evaluation, confusion
from .model import FusionModel
from .subsets import subsets

FEATURE_SAMPLES = 1000
"""Test samples whose fused features are kept for the report's map."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """The outcome of a run."""

    test: dict[str, float]
    """Subset label to test accuracy of the best epoch; NaN where no sample has anything of the subset."""
    val: dict[str, float]
    """The same on the validation split."""
    best_epoch: int
    """Epoch of the weights, from 0, chosen on the validation split."""
    epochs: int
    """Epochs trained."""
    parameters: dict[str, int]
    """Counts of ``block``, ``head``, ``pooling`` and ``total``."""
    dims: dict[str, int]
    """Modality to row width in the cache."""
    pooled_dims: dict[str, int]
    """Modality to width of the pooled vector that enters the block."""
    random_weights: bool
    """Whether some modality was extracted with untrained weights."""
    run: Path
    """The run folder."""
    seconds: float
    """Wall time of this call; 0 where the run had been finished before."""


def describe(
    cache: Cache, config: TrainConfig, model: FusionModel, classes: tuple[str, ...], *, best_epoch: int
) -> dict[str, Any]:
    """The part of ``result.json`` that is known without the data: widths, parameters, provenance, seeds."""
    streams: dict[str, Stream] = {name: cache.specs[name].stream for name in config.modalities}
    producers = {name: cache.specs[name].producer for name in config.modalities}
    return {
        "best_epoch": best_epoch,
        "epochs": config.epochs,
        "parameters": model.parameter_counts(),
        "dims": {name: cache.specs[name].dim for name in config.modalities},
        "pooled_dims": dict(model.widths),
        "poolings": {name: config.pooling_of(name) for name in config.modalities},
        "block": config.fusion.block,
        "classes": list(classes),
        "label": config.label,
        "modalities": list(config.modalities),
        "subsets": {label: list(chosen) for label, chosen in subsets(config.modalities, streams).items()},
        "producers": {name: producer.label for name, producer in producers.items()},
        "random_weights": any(producer.is_random for producer in producers.values()),
        "selection": f"{config.splits[1]} {config.select} accuracy",
        "seed": config.seed,
        "order_seed": config.order_seed,
        "cache_fingerprint": cache.fingerprint,
    }


def write_result(run: Path, about: dict[str, Any], val: dict[str, Any], test: Evaluation) -> None:
    """Write ``features.npz`` and ``result.json``; ``val`` is the validation part of the best epoch's log line."""
    shown = len(test.fused)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        fused=test.fused.numpy(),
        label=test.target[:shown].cpu().numpy(),
        predicted=test.predicted[:shown].cpu().numpy(),
    )
    replace_file(run / "features.npz", buffer.getvalue())
    classes = len(about["classes"])
    document = {
        "test": {**_split(test), "confusion": confusion(test.predicted, test.target, classes)},
        "val": val,
        **about,
    }
    replace_file(run / "result.json", (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def read_result(run: Path, *, seconds: float) -> FitResult:
    """The outcome as ``result.json`` has it.

    Raises:
        CacheError: the file is missing or damaged.
    """
    path = run / "result.json"
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        return FitResult(
            test=_numbers(document["test"]["accuracy"]),
            val=_numbers(document["val"]["accuracy"]),
            **{
                name: document[name] for name in ("best_epoch", "epochs", "parameters", "dims", "pooled_dims")
            },
            random_weights=bool(document["random_weights"]),
            run=run,
            seconds=seconds,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"{path} must be the result of a finished run, got: {error!r}; train again over it"
        ) from error


def json_numbers(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a subset that no sample has becomes null."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _split(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": json_numbers(evaluation.accuracy),
        "counts": evaluation.counts,
        "loss": evaluation.loss,
        "samples": len(evaluation.target),
    }


def _numbers(values: dict[str, float | None]) -> dict[str, float]:
    return {name: float("nan") if value is None else float(value) for name, value in values.items()}
