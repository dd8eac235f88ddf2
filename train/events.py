"""What a run says of itself while it works. The library prints nothing; whoever calls it shows these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainEvent:
    """One sign of life of a run, for progress bars."""

    epoch: int
    """Current epoch, from 0."""
    epochs: int
    step: int
    """Steps done over the whole run."""
    steps: int
    samples_per_second: float
    """Since the epoch began."""
    loss: float
    """Of the last step."""
    waiting_share: float
    """Share of the epoch's time spent waiting for data."""
    metrics: dict[str, Any] | None
    """The line of ``metrics.jsonl``, at the end of an epoch; else None."""
