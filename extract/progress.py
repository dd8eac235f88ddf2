"""What a running extraction tells its caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fusecache.cache import Seconds

EVENT_INTERVAL: Seconds = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Where a run stands. Sent at most every 0.1 s, and once at the end."""

    done: int
    """Samples that went through, rejected ones and those of an earlier run included."""
    total: int
    rejected: int
    stage_seconds: Mapping[str, Seconds]
    """Time spent in ``decode``, ``prepare`` (both summed over the workers), ``encode`` and ``write``; without waiting."""
    bottleneck: str
    """The stage that limits: most seconds, with those of the workers divided by their number."""
    message: str = ""
