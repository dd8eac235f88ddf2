"""Offline training on cached features: fusion blocks, tasks, the loop.

Importing this package is light: torch comes with the first name that needs it, so that a recipe can be checked and
``--help`` printed without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import ConcatConfig, FusionConfig, ScfaeConfig, TrainConfig

if TYPE_CHECKING:
    from .baselines import logistic_late
    from .checks import check_fit
    from .data import pooled
    from .draws import Draws
    from .events import TrainEvent
    from .fusion import FusionBlock, FusionOutput
    from .loop import fit
    from .pooling import segments
    from .results import FitResult
    from .scfae import Scfae

__all__ = [
    "ConcatConfig",
    "Draws",
    "FitResult",
    "FusionBlock",
    "FusionConfig",
    "FusionOutput",
    "Scfae",
    "ScfaeConfig",
    "TrainConfig",
    "TrainEvent",
    "check_fit",
    "fit",
    "logistic_late",
    "pooled",
    "segments",
]

_HOME = {
    "Draws": "draws",
    "FitResult": "results",
    "FusionBlock": "fusion",
    "FusionOutput": "fusion",
    "Scfae": "scfae",
    "TrainEvent": "events",
    "check_fit": "checks",
    "fit": "loop",
    "logistic_late": "baselines",
    "pooled": "data",
    "segments": "pooling",
}
"""Name to the module that it is taken from when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
