"""Does this configuration fit this cache? Every problem is found before the first step, and all of them are named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fusecache.cache import Cache, InputError
from fusecache.cache.errors import several

from .checkpoint import Progress
from .config import TrainConfig

WITHOUT_EFFECT = ("diagnostics_every", "save_seconds")
"""Fields of the configuration that do not change a single number of the result."""


def check_fit(cache: Cache, config: TrainConfig) -> tuple[str, ...]:
    """The class names of the label.

    Raises:
        InputError: naming every modality, label and split that the cache lacks.
    """
    problems = [
        f"train.modalities names {name!r}, the cache has {', '.join(cache.specs)}"
        for name in config.modalities
        if name not in cache.specs
    ]
    column = cache.label_columns.get(config.label)
    if column is None:
        there = ", ".join(cache.label_columns) or "no label column"
        problems.append(f"train.label names {config.label!r}, the cache has {there}")
    elif column.kind != "class":
        problems.append(f"train.label must be of kind 'class', {config.label!r} is of kind {column.kind!r}")
    codes = cache.split_of()
    for split in config.splits:
        if split not in cache.splits:
            problems.append(
                f"train.splits names {split!r}, the cache has {', '.join(cache.splits) or 'no split'}"
            )
        elif not np.any(codes == cache.splits.index(split)):
            problems.append(f"train.splits names {split!r}, which holds no sample")
    if column is not None and column.kind == "class" and config.splits[0] in cache.splits:
        labels = np.asarray(cache.labels(config.label))[codes == cache.splits.index(config.splits[0])]
        found = np.unique(labels[labels >= 0])
        if len(labels) and len(found) < 2:
            only = ", ".join(column.classes[int(code)] for code in found) or "no label at all"
            problems.append(
                f"the {config.splits[0]!r} split needs at least two classes of {config.label!r}, it has {only}"
            )
    if problems:
        raise InputError(
            several(
                f"cache {cache.path} does not fit this recipe; change the recipe or extract again", problems
            )
        )
    assert column is not None
    return column.classes


def identity(cache: Cache, config: TrainConfig) -> dict[str, Any]:
    """What the run is, as plain JSON values: everything that decides its numbers."""
    settings = {name: value for name, value in asdict(config).items() if name not in WITHOUT_EFFECT}
    return json.loads(json.dumps({"train": settings, "cache_fingerprint": cache.fingerprint}))


def check_finite(
    losses: list[float], first_step: int, features: Callable[[], dict[str, Tensor]], config: TrainConfig
) -> None:
    """Refuse to go on once a loss is NaN or infinite.

    Args:
        losses: of consecutive steps, the first of which is ``first_step``.
        features: gives some block inputs by modality; asked only when there is something to say.
        config: the run.

    Raises:
        InputError: naming the step, the block inputs of every modality, and what to try.
    """
    bad = [first_step + i for i, value in enumerate(losses) if not math.isfinite(value)]
    if not bad:
        return
    lines = [
        f"{name}: block inputs from {float(value.min()):.3g} to {float(value.max()):.3g}, "
        f"deviation {float(value.std()):.3g}"
        for name, value in features().items()
    ]
    raise InputError(
        several(
            f"the loss must stay a number, it is {losses[bad[0] - first_step]} at step {bad[0]}; try a train.lr below "
            f"{config.lr:g}, train.standardise, train.clip_norm: 1.0 or train.autocast: off. What the block was fed",
            lines,
        )
    )


def check_same_run(run: Path, progress: Progress, wanted: dict[str, Any]) -> None:
    """Refuse to go on with a run of other settings.

    Raises:
        InputError: naming every setting that differs, with both values.
    """
    there, here = _flat(progress.identity), _flat(wanted)
    different = [
        f"{name}: the run has {there.get(name)!r}, now {here.get(name)!r}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if different:
        raise InputError(
            several(
                f"{run} holds a run of other settings; give another run folder, or start anew over it",
                different,
            )
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    out: dict[str, Any] = {}
    for name, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
        out |= _flat(inner, f"{prefix}.{name}" if prefix else str(name))  # pyright: ignore[reportUnknownArgumentType]
    return out
