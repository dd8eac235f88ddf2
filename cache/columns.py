"""Samples to columns: checks every value of a shard, then lays the samples out as the arrays of the store.

All mistakes of a shard are collected and told at once. Nothing here touches a disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, several
from .fingerprint import ABSENT, NO_SPLIT, ShardTable, row_digest
from .sample import MAX_KEY_BYTES, Rows, Sample, check_key
from .spec import DType, FeatureSpec, LabelColumn
from .zarrfile import STORED

UNLABELLED_SET = 255
"""Fill of a multilabel row whose sample has no label; a sample labelled with no class is all zeros."""

LABEL_DTYPES: Mapping[str, str] = {"class": "int32", "float": "float64", "multilabel": "uint8"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalityColumns:
    """One modality of a shard."""

    values: NDArray[Any]
    """``[rows, dim]`` in the stored type."""
    offsets: NDArray[np.int64]
    """``[n + 1]``: sample ``i`` has rows ``offsets[i]`` to ``offsets[i + 1]``."""
    present: NDArray[np.bool_]
    start: NDArray[np.float64] | None
    times: NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardColumns:
    """One shard, ready to be written."""

    table: ShardTable
    modalities: dict[str, ModalityColumns]


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to bfloat16 bits, to nearest, ties to even; NaN stays NaN and overflow becomes inf.

    >>> to_bfloat16(np.array([1.0, -2.0], np.float32)).tolist()
    [16256, 49152]
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Exact float32 of stored bfloat16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bad_rows(values: NDArray[Any], dtype: DType, *, block: int = 65_536) -> list[int]:
    """Rows of ``values [rows, dim]`` (as stored) that hold inf or NaN."""
    found: list[int] = []
    for at in range(0, len(values), block):
        part = values[at : at + block]
        bad = (part & 0x7F80) == 0x7F80 if dtype == "bfloat16" else ~np.isfinite(part)
        if bad.any():
            found += (np.flatnonzero(bad.any(axis=1)) + at).tolist()
    return found


def lawful_times(times: NDArray[Any]) -> bool:
    """Whether the times ``[rows, 2]`` of a sample are finite with start <= end in every row."""
    return bool(np.isfinite(times).all() and (times[:, 0] <= times[:, 1]).all())


def _check_rows(rows: Rows, spec: FeatureSpec, where: str, problems: list[str]) -> bool:
    before = len(problems)
    values = rows.values
    shape: object = list(getattr(values, "shape", ())) or type(values).__name__
    if not isinstance(cast(object, values), np.ndarray) or values.ndim != 2 or values.shape[1] != spec.dim:
        problems.append(f"{where}: values must be an array [rows, {spec.dim}], got {shape}")
        return False
    if values.dtype.kind != "f":
        problems.append(f"{where}: values must be float16 or float32, got {values.dtype}")
    if spec.timing == "regular" and not math.isfinite(rows.start):
        problems.append(f"{where}: start must be a finite number of seconds, got {rows.start}")
    if (rows.times is not None) != (spec.timing == "irregular"):
        given = "no times" if rows.times is None else "times"
        problems.append(f"{where}: times go with timing='irregular', got {given} with timing={spec.timing!r}")
    elif rows.times is not None:
        shape = list(rows.times.shape)
        if shape != [len(values), 2]:
            problems.append(f"{where}: times must be [{len(values)}, 2], got {shape}")
        elif not lawful_times(rows.times):
            problems.append(f"{where}: times must be finite with start <= end in every row")
    return len(problems) == before


def _encode_modality(
    samples: Sequence[Sample], spec: FeatureSpec, shard: int, problems: list[str]
) -> tuple[ModalityColumns, NDArray[np.uint8]] | None:
    given = [sample.rows.get(spec.modality) for sample in samples]
    fine = True
    for i, (sample, rows) in enumerate(zip(samples, given, strict=True)):
        where = f"shard {shard}, key {sample.key[:80]!r}, modality {spec.modality!r}"
        if rows is not None and not _check_rows(rows, spec, where, problems):
            given[i], fine = None, False  # told; the others' values are still looked at
    offsets = np.zeros(len(samples) + 1, np.int64)
    np.cumsum([0 if rows is None else len(rows.values) for rows in given], out=offsets[1:])
    values: NDArray[Any] = np.empty((int(offsets[-1]), spec.dim), STORED[spec.dtype])
    start = np.zeros(len(samples)) if spec.timing == "regular" else None
    times = np.zeros((int(offsets[-1]), 2)) if spec.timing == "irregular" else None
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found and named below
        for i, rows in enumerate(given):
            if rows is None:
                continue
            a, b = int(offsets[i]), int(offsets[i + 1])
            bfloat = spec.dtype == "bfloat16"
            values[a:b] = to_bfloat16(rows.values.astype(np.float32)) if bfloat else rows.values
            if start is not None:
                start[i] = rows.start
            if times is not None and rows.times is not None:
                times[a:b] = rows.times
    for row in bad_rows(values, spec.dtype):
        i = int(np.searchsorted(offsets, row, "right")) - 1
        line = cast(Rows, given[i]).values[row - int(offsets[i])]
        with np.errstate(over="ignore"):
            cast_line = from_bfloat16(values[row]) if spec.dtype == "bfloat16" else line.astype(spec.dtype)
        value = line[~np.isfinite(cast_line)][0]
        problems.append(
            f"shard {shard}, key {samples[i].key[:80]!r}, modality {spec.modality!r}, row {row - int(offsets[i])}: "
            f"{value} does not fit {spec.dtype}"
        )
        fine = False
    if not fine:
        return None
    digests = np.zeros((len(samples), 16), np.uint8)
    for i, rows in enumerate(given):
        a, b = int(offsets[i]), int(offsets[i + 1])
        when = None if start is None else float(start[i])
        raw = ABSENT if rows is None else row_digest(values[a:b], when, None if times is None else times[a:b])
        digests[i] = np.frombuffer(raw, np.uint8)
    present = np.array([rows is not None for rows in given], np.bool_)
    return ModalityColumns(values=values, offsets=offsets, present=present, start=start, times=times), digests


def _class_code(value: object, column: LabelColumn) -> int:
    if not isinstance(value, str) or value not in column.classes:
        raise InputError(f"must be one of {list(column.classes)}, got {value!r}")
    return column.classes.index(value)


def _number(value: object, column: LabelColumn) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"must be a number, got {value!r}")
    number = float(cast(float, value))
    if math.isinf(number):
        raise InputError(f"must be finite, got {value!r}")
    return math.nan if math.isnan(number) else number


def _flags(value: object, column: LabelColumn) -> list[int]:
    if not isinstance(value, (tuple, list)):
        raise InputError(f"must be several of {list(column.classes)}, got {value!r}")
    names = cast(Sequence[object], value)
    if unknown := [name for name in names if name not in column.classes]:
        raise InputError(f"must be several of {list(column.classes)}, got {unknown!r} among them")
    return [int(name in names) for name in column.classes]


_ENCODERS: Mapping[str, Callable[[object, LabelColumn], object]] = {
    "class": _class_code, "float": _number, "multilabel": _flags,
}  # fmt: skip


def empty_labels(column: LabelColumn, n: int) -> NDArray[Any]:
    """An array for ``n`` samples in which every one is unlabelled."""
    if column.kind == "multilabel":
        return np.full((n, len(column.classes)), UNLABELLED_SET, np.uint8)
    return np.full(n, -1, np.int32) if column.kind == "class" else np.full(n, math.nan)


def _encode_labels(
    samples: Sequence[Sample], column: LabelColumn, shard: int, problems: list[str]
) -> NDArray[Any]:
    array = empty_labels(column, len(samples))
    for i, sample in enumerate(samples):
        value = sample.labels.get(column.name)
        if value is not None:
            try:
                array[i] = _ENCODERS[column.kind](value, column)
            except InputError as error:
                problems.append(f"shard {shard}, key {sample.key[:80]!r}, label {column.name!r}: {error}")
    return array


def _text(value: str, name: str, sample: Sample, shard: int, problems: list[str]) -> bytes:
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        problems.append(f"shard {shard}, key {sample.key!r}: {name} {value!r} is not valid Unicode text")
        return b""
    if len(raw) > MAX_KEY_BYTES:
        problems.append(
            f"shard {shard}, key {sample.key[:80]!r}: {name} has {len(raw)} bytes, the limit is {MAX_KEY_BYTES}"
        )
    return raw


def _check_sample(
    sample: Sample,
    specs: Mapping[str, FeatureSpec],
    columns: Sequence[str],
    splits: Sequence[str],
    shard: int,
    problems: list[str],
) -> bytes:
    where = f"shard {shard}, key {sample.key[:80]!r}"
    if unknown := sorted(set(sample.rows) - set(specs)):
        problems.append(f"{where}: modalities {unknown} have no spec; this cache has {sorted(specs)}")
    if unknown := sorted(set(sample.labels) - set(columns)):
        problems.append(f"{where}: labels {unknown} have no column; this cache has {sorted(columns)}")
    if sample.split and sample.split not in splits:
        problems.append(f"{where}: split {sample.split!r} is not one of {list(splits)}")
    if math.isnan(sample.start) or math.isnan(sample.end) or not sample.start <= sample.end:
        problems.append(f"{where}: clip bounds must be start <= end, got {sample.start} and {sample.end}")
    if not -(1 << 63) <= sample.position < 1 << 63:
        problems.append(f"{where}: position {sample.position} does not fit 64 bits")
    try:
        return check_key(sample.key, f"shard {shard}")
    except InputError as error:
        problems.append(str(error))
        return b""


def encode_shard(
    shard: int,
    samples: Sequence[Sample],
    *,
    specs: Mapping[str, FeatureSpec],
    columns: Sequence[LabelColumn],
    splits: Sequence[str],
) -> ShardColumns:
    """Check ``samples`` and turn them into the arrays of one shard, in the order given.

    Raises:
        InputError: anything that the specs, columns, splits or the stored types do not allow, all of it at once:
            wrong shapes, a value that does not fit its type (inf and NaN included), unknown names, bad keys.
    """
    problems: list[str] = []
    names = [column.name for column in columns]
    keys = [_check_sample(sample, specs, names, splits, shard, problems) for sample in samples]
    if len(set(keys)) != len(keys):
        twice = sorted({key for key in keys if key and keys.count(key) > 1})
        problems += [f"shard {shard}: key {key.decode()!r} comes more than once" for key in twice]
    modalities: dict[str, ModalityColumns] = {}
    digests: dict[str, NDArray[np.uint8]] = {}
    for name, spec in specs.items():
        encoded = _encode_modality(samples, spec, shard, problems)
        if encoded is not None:
            modalities[name], digests[name] = encoded
    labels = {column.name: _encode_labels(samples, column, shard, problems) for column in columns}
    groups = [_text(sample.group, "group", sample, shard, problems) for sample in samples]
    parents = [_text(sample.parent, "parent", sample, shard, problems) for sample in samples]
    if problems:
        raise InputError(
            several(f"{len(problems)} values cannot be stored; correct them at their source", problems)
        )
    codes = [splits.index(sample.split) if sample.split else NO_SPLIT for sample in samples]
    table = ShardTable(
        keys=keys,
        digests=digests,
        labels=labels,
        split=np.array(codes, np.uint8),
        groups=groups,
        parents=parents,
        position=np.array([sample.position for sample in samples], np.int64),
        start=np.array([sample.start for sample in samples], np.float64),
        end=np.array([sample.end for sample in samples], np.float64),
    )
    return ShardColumns(table=table, modalities=modalities)
