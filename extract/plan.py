"""What an extraction will do, written down before it starts, so that a resumed run can prove it is the same run.

The plan lies in ``CACHE/extract/plan.json``: the encoders with every setting, the columns, and one digest per sample
over its row of the media manifest and the size and modification time of its files (reading every byte of the media
again would cost as much as extracting).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from fusecache.cache import FeatureSpec, MismatchError, Stream
from fusecache.cache.atomic import remove_folder, storage_errors
from fusecache.cache.errors import several
from fusecache.cache.spec import canonical_json, digest

from .config import ExtractConfig
from .decode import Source
from .media import MediaManifest, MediaRow
from .rejects import write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The decided work."""

    head: Mapping[str, Any]
    """Encoders, columns and settings: what all shards share."""
    rows: tuple[tuple[str, str], ...]
    """Key and digest of every sample."""
    works: tuple[str, ...]
    """Fingerprint of every shard."""


def make_plan(media: MediaManifest, specs: Sequence[FeatureSpec], config: ExtractConfig) -> Plan:
    """Fingerprints of everything that decides the content of a cache."""
    head: dict[str, Any] = json.loads(
        canonical_json(
            {
                "encoders": {spec.modality: spec.identity_fields for spec in specs},
                "labels": [asdict(column) for column in media.labels],
                "splits": media.splits,
                "shard_samples": config.shard_samples,
                "on_partial": config.on_partial,
            }
        )
    )
    rows = tuple((row.key, _row_digest(row, media)) for row in media.rows)
    works = tuple(
        digest(canonical_json([head, rows[first : first + config.shard_samples]]).encode())
        for first in range(0, len(rows), config.shard_samples)
    )
    return Plan(head=head, rows=rows, works=works)


def source_of(row: MediaRow, stream: Stream, media: MediaManifest) -> Source | None:
    """The piece of a medium that ``row`` has for ``stream``; None where it has none."""
    if stream in row.files:
        path = str(media.resolve(row.files[stream]))
        if stream in ("audio", "video"):
            return Source(kind="video", path=path, start=row.start, end=row.end)
        return Source(kind=stream, path=path)
    if stream == "text" and row.text is not None:
        return Source(kind="text", path="", text=row.text)
    return None


def hold_to_plan(cache: Path, plan: Plan) -> list[int]:
    """Compare with the plan of an earlier run in this folder, then write ``plan`` down.

    Shards of an *unfinished* run whose media or rows have changed since are removed, to be made again. A finished
    cache is never touched.

    Returns:
        The shards that were removed.

    Raises:
        MismatchError: the folder belongs to other encoders or settings, or a finished cache was made of other media;
            everything that changed is listed.
    """
    path = cache / "extract" / "plan.json"
    shards = cache / "store" / "shards"
    there = sorted(int(folder.name) for folder in shards.glob("[0-9]*")) if shards.is_dir() else []
    removed: list[int] = []
    old = _read(path)
    if there and old is None:
        raise MismatchError(
            f"{cache} holds a cache that was not made by this command (there is no {path}); choose another output folder"
        )
    if there and old is not None:
        finished = (cache / "manifest.json").exists()
        changes = _head_changes(old.head, plan.head)
        if finished or changes:
            changes += _row_changes(old.rows, plan.rows)
        if changes:
            state = "finished" if finished else "unfinished"
            raise MismatchError(
                several(
                    f"{cache} holds a {state} extraction of other inputs; choose another output folder, go back to what "
                    "it was made of, or delete it to extract again. What changed",
                    changes,
                )
            )
        removed = [i for i in there if i >= len(plan.works) or old.works[i : i + 1] != plan.works[i : i + 1]]
        for index in removed:
            remove_folder(shards / f"{index:06d}")
    if old != plan:
        with storage_errors(path, "write"):
            (path.parent / "shards").mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(plan))
    return removed


def _row_digest(row: MediaRow, media: MediaManifest) -> str:
    files = {
        stream: [path, None if (stamp := media.stamps[path]) is None else [stamp.size, stamp.mtime_ns]]
        for stream, path in row.files.items()
    }
    fields = [row.key, files, row.text, row.soundtrack, row.start, row.end]
    fields += [row.split, row.group, row.parent, row.position, dict(row.labels)]
    return digest(canonical_json(fields).encode())


def _read(path: Path) -> Plan | None:
    """The plan that was written down, or None where there is none that can be read."""
    try:
        value = cast("dict[str, Any]", json.loads(path.read_bytes()))
        return Plan(
            head=value["head"],
            rows=tuple((str(key), str(mark)) for key, mark in value["rows"]),
            works=tuple(map(str, value["works"])),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _head_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Every leaf that differs, with both values."""
    was, now = _leaves(old), _leaves(new)
    return [
        f"{name}: it was made with {was.get(name, 'nothing')!r}, this run asks for {now.get(name, 'nothing')!r}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            found |= _leaves(cast("dict[str, Any]", inner), f"{prefix}{name}.")
        else:
            found[prefix + name] = inner
    return found


def _row_changes(old: Sequence[tuple[str, str]], new: Sequence[tuple[str, str]]) -> list[str]:
    was, now = dict(old), dict(new)
    changes = [
        f"sample {key!r}: its row or its files are not what they were"
        for key in now
        if was.get(key, now[key]) != now[key]
    ]
    for what, keys in (
        ("is new", [k for k in now if k not in was]),
        ("is gone", [k for k in was if k not in now]),
    ):
        changes += [f"sample {key!r} {what}" for key in keys]
    if not changes and tuple(old) != tuple(new):
        changes.append("the order of the samples")
    return changes
