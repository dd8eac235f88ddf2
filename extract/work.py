"""The work of one extraction: sources to workers, prepared clips to encoders, finished shards to the writer.

State and order live here; what a run means, and when it fails, is decided in :mod:`.runner`.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fusecache.cache import Rows, Sample, Seconds, Stream
from fusecache.cache.writer import CacheWriter

from .batches import Batcher, misfit
from .config import ExtractConfig
from .decode import Source
from .encoder import Encoder
from .media import MediaManifest, MediaRow
from .plan import Plan, source_of
from .pool import AHEAD, DecodePool
from .progress import EVENT_INTERVAL, Event
from .rejects import Flag, Reject, read_record, write_json
from .worker import Done, Failure, Job, Ready

READY_BYTES = 512 << 20
"""Prepared clips that may wait for the encoders before no more files are opened."""


@dataclass(slots=True, kw_only=True)
class Run:
    """State of one extraction."""

    media: MediaManifest
    config: ExtractConfig
    encoders: Mapping[str, Encoder]
    plan: Plan
    writer: CacheWriter
    pool: DecodePool
    on_event: Callable[[Event], None] | None
    rejects: list[Reject] = field(default_factory=list[Reject])
    flags: list[Flag] = field(default_factory=list[Flag])
    decoded: int = 0
    reused: int = 0
    skipped: int = 0
    done: int = 0
    seconds: dict[str, Seconds] = field(
        default_factory=lambda: dict.fromkeys(("decode", "prepare", "write"), 0.0)
    )
    batchers: dict[str, Batcher] = field(default_factory=dict[str, Batcher])
    modalities: dict[Source, dict[str, None]] = field(default_factory=dict[Source, dict[str, None]])
    """Every source of the pending shards, and what is wanted of it in any of them."""
    shards_left: Counter[Source] = field(default_factory=Counter[Source])
    """In how many pending shards a source is still used."""
    shared: set[Source] = field(default_factory=set[Source])
    """Sources that the media manifest uses in several shards, pending or not."""
    encoded: dict[Source, dict[str, Rows | Failure]] = field(
        default_factory=dict[Source, dict[str, Rows | Failure]]
    )
    remarks: dict[tuple[Source, str], tuple[str, ...]] = field(
        default_factory=dict[tuple[Source, str], tuple[str, ...]]
    )
    futures: dict[Source, Future[Done]] = field(default_factory=dict[Source, Future[Done]])
    coming: deque[Source] = field(default_factory=deque[Source])
    last_event: Seconds = 0.0

    def all_shards(self) -> None:
        """Go through the shards in order, skipping those of an earlier run."""
        self.batchers = {
            name: Batcher(encoder, self.config.batch_items) for name, encoder in self.encoders.items()
        }
        pending = self._survey()
        self._fill()
        with ThreadPoolExecutor(1, thread_name_prefix="write") as thread:
            writing: Future[None] | None = None
            for shard in range(len(self.plan.works)):
                if shard not in pending:
                    self._recall(shard)
                    continue
                samples, rejects, flags = self._shard(shard, pending[shard])
                self.rejects += rejects
                self.flags += flags
                if writing is not None:
                    writing.result()
                writing = thread.submit(self._write, shard, samples, rejects, flags)
            if writing is not None:
                writing.result()

    def _rows(self, shard: int) -> tuple[MediaRow, ...]:
        size = self.config.shard_samples
        return self.media.rows[shard * size : (shard + 1) * size]

    def _uses(self, row: MediaRow) -> Iterator[tuple[str, Stream, Source]]:
        """Modality, stream and source of everything that ``row`` has for the encoders."""
        for name, encoder in self.encoders.items():
            stream = encoder.needs.stream
            source = source_of(row, stream, self.media)
            if source is not None:
                yield name, stream, source

    def _survey(self) -> dict[int, list[Source]]:
        """Sources of every pending shard in order of first use."""
        pending: dict[int, list[Source]] = {}
        everywhere: Counter[Source] = Counter()
        users: Counter[Source] = Counter()
        for shard, work in enumerate(self.plan.works):
            todo = not self.writer.has_shard(shard, work=work)
            here: dict[Source, None] = {}
            for row in self._rows(shard):
                mine: dict[Source, None] = {}
                for name, stream, source in self._uses(row):
                    if source.path and self.media.stamps[row.files[stream]] is None:
                        continue
                    mine[source] = None
                    if todo:
                        self.modalities.setdefault(source, {})[name] = None
                here |= mine
                if todo:
                    users.update(list(mine))
            everywhere.update(list(here))
            if todo:
                pending[shard] = list(here)
                self.shards_left.update(list(here))
                self.coming.extend(here)
        self.shared = {source for source, count in everywhere.items() if count > 1}
        self.reused = sum(count > 1 for count in users.values())
        return pending

    def _fill(self) -> None:
        """Keep the workers busy: submit what comes next, within bounds of number and memory."""
        while self.coming and len(self.futures) < self.config.workers * AHEAD + self.config.batch_items:
            finished = [future.result().nbytes for future in self.futures.values() if _is_sound(future)]
            if sum(finished) > READY_BYTES:
                return
            source = self.coming.popleft()
            if source not in self.encoded and source not in self.futures and self.shards_left[source]:
                self.futures[source] = self.pool.submit(Job(source, tuple(self.modalities[source])))

    def _shard(self, shard: int, sources: list[Source]) -> tuple[list[Sample], list[Reject], list[Flag]]:
        """Encode one shard and gather its samples."""
        before = self.done
        for index, source in enumerate(sources):
            self.done = before + len(self._rows(shard)) * index // len(sources)
            if source in self.encoded:
                continue
            future = self.futures.get(source) or self.pool.submit(Job(source, tuple(self.modalities[source])))
            done = future.result()
            self.futures.pop(source, None)
            self._accept(source, done)
            self._fill()
            self.emit("")
        for batcher in self.batchers.values():
            batcher.flush()
        samples: list[Sample] = []
        rejects: list[Reject] = []
        flags: list[Flag] = []
        for row in self._rows(shard):
            made = self._sample(row)
            if isinstance(made, Sample):
                samples.append(made)
                flags += self._row_flags(row)
            else:
                rejects += made
        kept = sum(map(self._bytes, self.encoded))
        for source in sources:
            self.shards_left[source] -= 1
            if not self.shards_left[source] or kept > self.config.reuse_bytes:
                kept -= self._bytes(source)
                del self.encoded[source]
                if self.shards_left[source]:
                    self.coming.append(source)
        self.done = before + len(self._rows(shard))
        return samples, rejects, flags

    def _bytes(self, source: Source) -> int:
        """Memory of the rows of a source."""
        return sum(rows.values.nbytes for rows in self.encoded[source].values() if isinstance(rows, Rows))

    def _accept(self, source: Source, done: Done) -> None:
        """Send a decoded source to its encoders."""
        self.decoded += 1
        for stage, seconds in done.seconds.items():
            self.seconds[stage] += seconds
        results = self.encoded.setdefault(source, {})
        for name, outcome in done.outcomes.items():
            if isinstance(outcome, Ready):
                flags = outcome.clip.flags
                partial = next((flag for flag in flags if flag.startswith("partial")), None)
                if partial is not None and self.config.on_partial == "reject":
                    results[name] = Failure("decode", partial)
                    continue
                self.remarks[source, name] = flags

                def finish(rows: Rows, name: str = name) -> None:
                    wrong = misfit(rows, self.encoders[name].spec)
                    results[name] = Failure("encode", wrong) if wrong else rows

                self.batchers[name].add(outcome.clip, outcome.items, finish, alone=source in self.shared)
            else:
                results[name] = outcome

    def _sample(self, row: MediaRow) -> Sample | list[Reject]:
        """The finished sample, or why there is none."""
        found: dict[str, Rows] = {}
        rejects: list[Reject] = []
        absent: list[Reject] = []
        for name, stream, source in self._uses(row):
            label = row.files.get(stream, "inline text")
            if source.path and self.media.stamps[label] is None:
                outcome: Rows | Failure = Failure("open", "the file does not exist, or is not a file")
            else:
                outcome = self.encoded[source][name]
            if isinstance(outcome, Rows):
                found[name] = outcome
                continue
            reject = Reject(
                key=row.key, modality=name, stage=outcome.stage, reason=outcome.reason, source=label
            )
            offered = outcome.stage == "stream" and stream == "audio" and row.soundtrack
            (absent if offered else rejects).append(reject)
        if not found and not rejects:
            needs = ", ".join(sorted({encoder.needs.stream for encoder in self.encoders.values()}))
            reason = f"it has no medium that an encoder reads: it has {', '.join(row.streams)}, the encoders read {needs}"
            rejects = absent or [
                Reject(key=row.key, modality="", stage="plan", reason=reason, source=row.where)
            ]
        if rejects:
            return rejects
        return Sample(
            key=row.key,
            rows=found,
            labels=row.labels,
            split=row.split,
            group=row.group,
            parent=row.parent,
            position=row.position,
            start=row.start or 0.0,
            end=float("inf") if row.end is None else row.end,
        )

    def _row_flags(self, row: MediaRow) -> list[Flag]:
        return [
            Flag(key=row.key, modality=name, flag=flag, source=row.files.get(stream, "inline text"))
            for name, stream, source in self._uses(row)
            for flag in self.remarks.get((source, name), ())
        ]

    def _write(self, shard: int, samples: list[Sample], rejects: list[Reject], flags: list[Flag]) -> None:
        """In the writer thread: first what is not in the shard, then the shard, whose presence means done."""
        began = time.perf_counter()
        record = {
            "rejects": [asdict(reject) for reject in rejects],
            "flags": [asdict(flag) for flag in flags],
        }
        write_json(self._record(shard), record)
        self.writer.write_shard(shard, samples, work=self.plan.works[shard])
        self.seconds["write"] += time.perf_counter() - began

    def _recall(self, shard: int) -> None:
        """Take over what an earlier run noted of a shard."""
        rejects, flags = read_record(self._record(shard))
        self.rejects += rejects
        self.flags += flags
        self.skipped += 1
        self.done += len(self._rows(shard))
        self.emit("")

    def _record(self, shard: int) -> Path:
        return self.writer.path / "extract" / "shards" / f"{shard:06d}.json"

    def stages(self) -> dict[str, Seconds]:
        """Seconds by stage."""
        encode = sum(batcher.seconds for batcher in self.batchers.values())
        return {
            "decode": self.seconds["decode"],
            "prepare": self.seconds["prepare"],
            "encode": encode,
            "write": self.seconds["write"],
        }

    def bottleneck(self) -> str:
        """The stage that would take longest if the others took no time; empty before anything was done."""
        wall = {
            stage: seconds / (self.config.workers if stage in ("decode", "prepare") else 1)
            for stage, seconds in self.stages().items()
        }
        return max(wall, key=lambda stage: wall[stage]) if any(wall.values()) else ""

    def emit(self, message: str, *, force: bool = False) -> None:
        """Tell the caller where the run stands."""
        now = time.perf_counter()
        if self.on_event is None or (not force and now - self.last_event < EVENT_INTERVAL):
            return
        self.last_event = now
        self.on_event(
            Event(
                done=self.done,
                total=len(self.media.rows),
                rejected=len({reject.key for reject in self.rejects}),
                stage_seconds=self.stages(),
                bottleneck=self.bottleneck(),
                message=message,
            )
        )


def _is_sound(future: Future[Any]) -> bool:
    return future.done() and future.exception() is None
