"""Failure is a row: what could not be extracted, at which stage and why; and what was kept with a remark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusecache.cache import CacheError
from fusecache.cache.atomic import replace_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """Why a sample is not in the cache. A sample with several broken media has several of these."""

    key: str
    modality: str
    """The modality that failed; empty where the row as a whole is at fault."""
    stage: str
    """``open``, ``decode``, ``prepare``, ``encode``, ``timeout``, ``crash`` or ``plan``."""
    reason: str
    source: str
    """Path of the file as the media manifest has it, or ``inline text``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """A remark about a sample that is in the cache, such as ``length_unverified``."""

    key: str
    modality: str
    flag: str
    source: str


def write_lines(path: Path, rows: Iterable[Reject | Flag]) -> None:
    """Write rows as JSON lines, whole or not at all.

    Raises:
        StorageError: the disk refused, naming the path and what to do.
    """
    lines = [json.dumps(asdict(row), ensure_ascii=False, sort_keys=True) + "\n" for row in rows]
    replace_file(path, "".join(lines).encode())


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, whole or not at all.

    Raises:
        StorageError: the disk refused, naming the path and what to do.
    """
    replace_file(path, (json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n").encode())


def read_record(path: Path) -> tuple[list[Reject], list[Flag]]:
    """What an earlier run noted of a shard; nothing where it noted nothing.

    Raises:
        CacheError: the note is damaged.
    """
    if not path.exists():
        return [], []
    try:
        record: dict[str, list[dict[str, str]]] = json.loads(path.read_bytes())
        return [Reject(**row) for row in record["rejects"]], [Flag(**row) for row in record["flags"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CacheError(
            f"{path} must hold what an earlier run noted of a shard, and cannot be read ({error!r}); delete it together "
            "with the shard of the same number, and run again"
        ) from error


def summary(rejects: Sequence[Reject], *, first: int = 5) -> list[str]:
    """Counts by stage and reason, most frequent first, then the first few in full."""
    counts = Counter(f"{reject.stage}: {reject.reason}" for reject in rejects)
    lines = [f"{count} x {reason}" for reason, count in counts.most_common(first)]
    if len(counts) > first:
        lines.append(f"{len(counts) - first} other reasons")
    lines += [
        f"for example {reject.key!r} ({reject.modality or 'row'}, {reject.source}): {reject.reason}"
        for reject in rejects[:first]
    ]
    return lines
