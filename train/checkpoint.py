# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.
"""Weights and states on disk: safetensors for tensors, JSON for the rest, each file whole or absent.

A state is one file, ``state.safetensors``: weights, averaged weights, optimiser and, in its header, where the run
stands. So a kill at any moment leaves the state before or the state after, never half of each. ``state.json`` repeats
the header for people and for the report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusecache.cache import CacheError, StorageError
from fusecache.cache.atomic import replace_file
from fusecache.cache.spec import canonical_json

HEADER = "fusecache"
"""The one key of the safetensors header: with several, their order in the file would differ from run to run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands."""

    epochs_done: int
    """Epochs that are finished and counted in the state."""
    best: float | None
    """Best value of the selection metric so far; None before the first one."""
    best_epoch: int | None
    """Its epoch, from 0."""
    finished: bool
    """Whether the test split was opened and ``result.json`` written."""
    identity: dict[str, Any]
    """What the run is: configuration and cache fingerprint. Two runs of one identity are the same run."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors with a JSON header, atomically; the same content gives the same bytes.

    Raises:
        StorageError: the disk refused; the old file stays.
    """
    from safetensors.torch import save

    flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    replace_file(path, save(flat, metadata={HEADER: canonical_json(header)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU, and the header.

    Raises:
        StorageError: the file cannot be read.
        CacheError: it is not a file of ours, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        opener: Any = safe_open  # untyped
        with opener(path, framework="pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()[HEADER])
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, header
    except OSError as error:
        raise StorageError(
            f"a readable checkpoint is needed at {path}, got: {error}; check the path"
        ) from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CacheError(
            f"{path} must be a safetensors file written by fusecache, got: {error}; delete it and train again"
        ) from error


def save_state(
    run: Path, progress: Progress, model: nn.Module, average: nn.Module | None, optimiser: Any
) -> None:
    """Write ``state.safetensors`` and ``state.json``."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    save_tensors(run / "state.safetensors", tensors, asdict(progress))
    save_progress(run, progress)


def save_progress(run: Path, progress: Progress) -> None:
    """Write ``state.json``."""
    replace_file(run / "state.json", (json.dumps(asdict(progress), indent=1) + "\n").encode())


def load_state(run: Path, model: nn.Module, average: nn.Module | None, optimiser: Any) -> Progress:
    """Put the saved state into model, average and optimiser, and say where the run stands.

    Raises:
        CacheError: the state is damaged or of another model.
    """
    path = run / "state.safetensors"
    tensors, header = load_tensors(path)
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
    try:
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = value
        model.load_state_dict(groups["model"])
        if average is not None:
            average.load_state_dict(groups["average"])
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimiser"].items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = value
        optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
        return Progress(**header)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CacheError(
            f"{path} must hold the state of this model, got: {error}; delete it and train again"
        ) from error


def read_progress(run: Path) -> Progress | None:
    """What ``state.json`` says; None where there is none.

    Raises:
        CacheError: it is damaged.
    """
    path = run / "state.json"
    try:
        return Progress(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise CacheError(
            f"{path} must be written by fusecache, got: {error}; delete the run folder and train again"
        ) from error
