"""Progress of long work: a live bar on a terminal, a line every few seconds elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

QUIET_SECONDS = 10.0
"""How long a log file waits for the next line."""


def clock(seconds: float) -> str:
    """Seconds as people read them.

    >>> clock(7.25), clock(75), clock(7322)
    ('7 s', '1:15', '2:02:02')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


class Progress:
    """One line of progress with rate, time left, and what limits.

    Use as a context manager; call :meth:`update` as often as you like.
    """

    def __init__(self, what: str, unit: str = "samples") -> None:
        self.what = what
        self.unit = unit
        self._began = self._printed = time.monotonic()
        self._first: int | None = None
        self._stage: str = ""
        self._live: Any = None
        self._line = ""

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._line and kind is None:
            sys.stderr.write(self._line + "\n")

    def update(self, done: int, total: int, note: str = "", *, stage: str = "") -> None:
        """Say how far the work is: ``done`` of ``total`` units.

        Args:
            done: units done.
            total: units in all.
            note: what limits, or the last figures.
            stage: name of the part that is counted; rate and time left start anew with every stage.
        """
        now = time.monotonic()
        if self._first is None or stage != self._stage:
            self._first, self._stage, self._began = done, stage, now
        elapsed = now - self._began
        fresh = done - self._first
        rate = fresh / elapsed if elapsed > 0 and fresh > 0 else 0.0
        left = (total - done) / rate if rate else 0.0
        speed = f"{rate:,.1f} {self.unit}/s" if rate < 100 else f"{rate:,.0f} {self.unit}/s"
        ending = f"took {clock(elapsed)}" if done >= total else f"{clock(left)} left" if rate else "..."
        parts = [
            f"{self.what}{stage and f', {stage}'}: {done:,} of {total:,} {self.unit}",
            *([speed] if rate else []),
            ending,
            *([note] if note else []),
        ]
        self._line = " · ".join(parts)
        if self._live is not None:
            from rich.text import Text

            filled = round(16 * done / total) if total else 16
            bar = "━" * filled + "─" * (16 - filled) + " " + self._line
            self._live.update(Text(bar, no_wrap=True, overflow="ellipsis"))
        elif now - self._printed >= QUIET_SECONDS and done < total:
            self._printed = now
            sys.stderr.write(self._line + "\n")
