"""The content fingerprint: one number for what a cache says, however it is cut into shards and files.

A sample's content in one modality is hashed once, when it is written (:func:`row_digest`), and the digest is
stored beside the rows. The fingerprint of a whole cache is then a hash over short records in key order, so that it
costs the same for features of any width. ``docs/format.md`` gives the byte layout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from .spec import FeatureSpec, LabelColumn, canonical_json

NO_SPLIT = 255
"""Split code of a sample that belongs to no split."""

ABSENT = bytes(16)
"""Digest of a modality that a sample does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTable:
    """Everything of ``n`` samples but their rows."""

    keys: list[bytes]
    digests: dict[str, NDArray[np.uint8]]
    """Modality to ``[n, 16]``."""
    labels: dict[str, NDArray[Any]]
    """Column to int32 ``[n]``, float64 ``[n]`` or uint8 ``[n, classes]``."""
    split: NDArray[np.uint8]
    groups: list[bytes]
    parents: list[bytes]
    position: NDArray[np.int64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]


def row_digest(
    values: NDArray[Any], start: float | None = None, times: NDArray[np.float64] | None = None
) -> bytes:
    """Digest of one present modality of one sample.

    Args:
        values: ``[rows, dim]`` as stored (bfloat16 as uint16).
        start: seconds, where the spec's timing is regular.
        times: ``[rows, 2]`` seconds, where it is irregular.

    Returns:
        16 bytes: xxh3-128 of rows as int64, row bytes, then start or times as float64; all little-endian.
    """
    state = xxhash.xxh3_128(struct.pack("<q", values.shape[0]))
    if values.size:
        state.update(np.ascontiguousarray(values).data.cast("B"))
    if start is not None:
        state.update(struct.pack("<d", start))
    if times is not None and times.size:
        state.update(np.ascontiguousarray(times, "<f8").data.cast("B"))
    return state.digest()


def _text(raw: bytes) -> bytes:
    return struct.pack("<I", len(raw)) + raw


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """``array [n, ...]`` as little-endian bytes ``[n, k]``."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(len(little), -1).view(np.uint8) if len(little) else np.empty((0, 0), np.uint8)


def sample_records(table: ShardTable, splits: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """``(key, digest of the sample's record)`` of every sample of a shard, in stored order."""
    parts = [table.digests[name] for name in sorted(table.digests)]
    parts += [_bytes_of(table.labels[name]) for name in sorted(table.labels)]
    parts += [_bytes_of(table.position), _bytes_of(table.start), _bytes_of(table.end)]
    count = len(table.keys)
    if not count:
        return []
    fixed = np.concatenate(parts, axis=1)
    width, raw = fixed.shape[1], fixed.tobytes()
    names = {code: _text(name.encode()) for code, name in enumerate(splits)} | {NO_SPLIT: _text(b"")}
    records: list[tuple[bytes, bytes]] = []
    for i, (key, code, group, parent) in enumerate(
        zip(table.keys, table.split.tolist(), table.groups, table.parents, strict=True)
    ):
        record = b"".join(
            (_text(key), raw[i * width : (i + 1) * width], names[code], _text(group), _text(parent))
        )
        records.append((key, xxhash.xxh3_128_digest(record)))
    return records


def content_fingerprint(
    specs: Iterable[FeatureSpec], columns: Iterable[LabelColumn], records: Iterable[tuple[bytes, bytes]]
) -> str:
    """Fingerprint of a cache: 32 hexadecimal digits, the same for any sharding and any order of samples.

    Args:
        specs: of every modality; their identity counts, not their licence or note.
        columns: the label columns, with their classes.
        records: what :func:`sample_records` gave for all shards.
    """
    head: Mapping[str, object] = {
        "fusecache": 1,
        "specs": sorted([spec.modality, spec.identity] for spec in specs),
        "labels": sorted([column.name, column.kind, list(column.classes)] for column in columns),
    }
    state = xxhash.xxh3_128(canonical_json(head).encode())
    for _, record in sorted(records):
        state.update(record)
    return state.hexdigest()


def work_of_content(table: ShardTable, splits: Sequence[str]) -> str:
    """Resume fingerprint of a shard that was given none: a digest of what it holds, in stored order."""
    state = xxhash.xxh3_128()
    for _, record in sample_records(table, splits):
        state.update(record)
    return f"content:{state.hexdigest()}"
