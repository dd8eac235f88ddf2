"""Items of many samples to batches of one shape, and their rows back to the samples."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import FeatureSpec, InputError, Rows, Seconds
from fusecache.cache.columns import bad_rows, to_bfloat16

from .clip import Clip
from .encoder import Encoder

WAITING_BYTES = 256 << 20
"""Prepared items that may wait for a full batch; beyond it the largest bucket is run as it is."""

Finish: TypeAlias = Callable[[Rows], None]


def misfit(rows: Rows, spec: FeatureSpec) -> str:
    """Why rows cannot be stored as ``spec`` says, in a sentence; empty where they can.

    Only what depends on the medium is looked at: numbers that are not finite after the cast, and times.
    """
    values = np.asarray(rows.values, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        stored = to_bfloat16(values) if spec.dtype == "bfloat16" else values.astype(spec.dtype)
    if values.ndim == 2 and (bad := bad_rows(stored, spec.dtype)):
        line = values[bad[0]]
        limit = 65_504 if spec.dtype == "float16" else 3e38
        value = line[~(np.abs(line) <= limit)]
        told = f"the value {value[0]}" if len(value) else "a value"
        return (
            f"{len(bad)} of {len(values)} rows hold numbers that do not fit {spec.dtype}, row {bad[0]} {told}"
        )
    times = np.zeros((0, 2)) if rows.times is None else rows.times
    if not np.isfinite(rows.start) or not np.isfinite(times).all() or (times[:, 0] > times[:, 1]).any():
        return "the times of the rows are not finite, or end before they start"
    return ""


@dataclass(slots=True)
class _Ticket:
    """One clip on its way through the encoder."""

    clip: Clip
    items: NDArray[Any]
    finish: Finish
    rows: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    sent: int = 0


class Batcher:
    """Feeds one encoder. Which items share a batch depends only on the order in which clips were added."""

    def __init__(self, encoder: Encoder, batch_items: int) -> None:
        self.encoder = encoder
        self.batch_items = batch_items
        self.seconds: Seconds = 0.0
        """Time spent in ``forward`` and ``assemble``."""
        self._buckets: dict[tuple[Any, ...], deque[_Ticket]] = {}

    def add(self, clip: Clip, items: NDArray[Any], finish: Finish, *, alone: bool = False) -> None:
        """Queue a clip's items; ``finish`` is called with its rows once they are there.

        Args:
            clip: without its payload.
            items: ``[items, ...]`` from ``prepare``.
            finish: takes the rows.
            alone: do not share batches with other clips, so that the rows are the same in whatever run or shard.
        """
        ticket = _Ticket(clip, items, finish)
        if alone or not len(items):
            for first in range(0, len(items), self.batch_items):
                ticket.rows.append(self._forward(items[first : first + self.batch_items]))
            self._finish(ticket)
            return
        shape = (items.dtype.str, *items.shape[1:])
        self._buckets.setdefault(shape, deque()).append(ticket)
        self._drain(shape, least=self.batch_items)
        while sum(map(self._bytes, self._buckets)) > WAITING_BYTES:
            self._drain(max(self._buckets, key=self._bytes), least=1)

    def flush(self) -> None:
        """Run everything that waits, bucket by bucket."""
        for shape in list(self._buckets):
            self._drain(shape, least=1)

    def _bytes(self, shape: tuple[Any, ...]) -> int:
        return sum(ticket.items[ticket.sent :].nbytes for ticket in self._buckets[shape])

    def _drain(self, shape: tuple[Any, ...], least: int) -> None:
        """Run batches from a bucket while it holds at least ``least`` items."""
        bucket = self._buckets[shape]
        while sum(len(ticket.items) - ticket.sent for ticket in bucket) >= least:
            parts: list[tuple[_Ticket, int]] = []
            room = self.batch_items
            while room and bucket:
                ticket = bucket[0]
                count = min(room, len(ticket.items) - ticket.sent)
                parts.append((ticket, count))
                room -= count
                ticket.sent += count
                if ticket.sent == len(ticket.items):
                    bucket.popleft()
            pieces = [ticket.items[ticket.sent - count : ticket.sent] for ticket, count in parts]
            rows = self._forward(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
            first = 0
            for ticket, count in parts:
                ticket.rows.append(rows[first : first + count])
                first += count
                if ticket.sent == len(ticket.items):
                    self._finish(ticket)
        if not bucket:
            del self._buckets[shape]

    def _forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        began = time.perf_counter()
        rows = self.encoder.forward(batch)
        self.seconds += time.perf_counter() - began
        spec = self.encoder.spec
        if rows.ndim != 3 or len(rows) != len(batch) or rows.shape[2] != spec.dim or rows.dtype != np.float32:
            raise InputError(
                f"encoder {spec.producer.encoder!r} of modality {spec.modality!r}: forward must return float32 "
                f"[{len(batch)}, rows, {spec.dim}], got {rows.dtype} {list(rows.shape)}; mend the encoder"
            )
        return rows

    def _finish(self, ticket: _Ticket) -> None:
        began = time.perf_counter()
        empty = np.zeros((0, 1, self.encoder.spec.dim), np.float32)
        rows = self.encoder.assemble(ticket.clip, np.concatenate(ticket.rows) if ticket.rows else empty)
        self.seconds += time.perf_counter() - began
        ticket.finish(rows)
