"""Verification: is every byte of a cache what its manifest says, and does it mean what it must?

The fast check compares sizes; the full one reads everything. Since every sample carries a digest of its rows, damage
inside a shard file is told as samples and rows, not only as a file name.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from .columns import bad_rows, lawful_times
from .errors import CacheError
from .fingerprint import ABSENT, NO_SPLIT, content_fingerprint, row_digest, sample_records
from .manifest import MANIFEST, Manifest, manifest_bytes, parse_manifest
from .shard import group_attributes
from .shardfiles import ShardFiles
from .spec import FeatureSpec

_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a cache."""

    shard: int | None
    """Number of the shard; None: the cache as a whole."""
    modality: str | None
    """Modality whose arrays are concerned; None: the sample table, the labels, or no array."""
    what: str
    """File, rows and values: one sentence."""


def verify(
    path: str | Path, *, full: bool = True, on_progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Check a cache and list everything that is wrong with it.

    Args:
        path: the cache's folder.
        full: read every file and compare checksums, offsets, values and the content fingerprint. False: the
            manifest and the sizes of all files only.
        on_progress: called with (bytes done, bytes of the whole cache) after every file.

    Returns:
        The problems in the manifest's order; an empty list: the cache is whole.

    Raises:
        CacheError: there is no cache at ``path``.
    """
    cache = Path(path)
    data = manifest_bytes(cache)
    try:
        manifest = parse_manifest(data, cache / MANIFEST)
    except CacheError as error:
        return [Problem(None, None, str(error))]
    cache = cache.resolve()
    problems = _check_copies(cache, manifest, data)
    done, total = 0, manifest.total_bytes
    records: list[tuple[bytes, bytes]] = []
    for info in manifest.shards:
        files = ShardFiles(cache, info)
        bad: set[str] = set()
        for relative, (size, checksum) in info.files.items():
            what = _check_file(files, relative, size, checksum if full else None)
            if what:
                bad.add(relative)
                problems.append(Problem(info.index, _modality_of(relative, manifest), what))
            done += size
            if on_progress is not None:
                on_progress(done, total)
        if full:
            problems += _check_meaning(files, manifest, bad, records)
    if full and not problems:
        problems += _check_whole(manifest, records)
    if full:
        problems += _check_unlisted(cache, manifest)
    return problems


def _check_unlisted(cache: Path, manifest: Manifest) -> Iterator[Problem]:
    """What lies in the store and belongs to no version of the cache. Shards of a run under way are no problem."""
    listed = {f"{info.folder}/{path}" for info in manifest.shards for path in info.files}
    for copy in (cache / "manifests").glob("*.json"):
        try:
            other = parse_manifest(copy.read_bytes(), copy)
        except (CacheError, OSError):
            continue  # of the current version this was told; an older one that is damaged lists nothing
        listed |= {f"{info.folder}/{path}" for info in other.shards for path in info.files}
    known = {info.folder: info.index for info in manifest.shards}
    for entry in sorted((cache / "store" / "shards").glob("*")):
        folder = str(entry.relative_to(cache))
        if entry.name == "zarr.json" and entry.is_file():
            continue
        if folder not in known and (entry.is_symlink() or not _is_shard(entry)):
            yield Problem(
                None, None, f"{entry} is not listed in the manifest, and is no shard of an unfinished run"
            )
        for root, _, names in os.walk(entry) if folder in known else ():
            for path in (Path(root) / name for name in sorted(names)):
                if str(path.relative_to(cache)) not in listed:
                    yield Problem(known[folder], None, f"{path} is not listed in the manifest")


def _is_shard(folder: Path) -> bool:
    try:
        return "work" in group_attributes(folder)[0]
    except CacheError:
        return False


def _check_copies(cache: Path, manifest: Manifest, data: bytes) -> list[Problem]:
    copy = cache / "manifests" / f"{manifest.version}.json"
    try:
        if copy.read_bytes() == data:
            return []
        return [
            Problem(
                None, None, f"{copy} must be a copy of {MANIFEST}, and differs: one of the two was changed"
            )
        ]
    except OSError as error:
        return [Problem(None, None, f"{copy}, the kept copy of {MANIFEST}, cannot be read: {error.strerror}")]


def _modality_of(relative: str, manifest: Manifest) -> str | None:
    group = relative.partition("/")[0]
    return next(
        (name for name, revision in manifest.revisions.items() if group == f"{name}.{revision}"), None
    )


def _check_file(files: ShardFiles, relative: str, size: int, checksum: str | None) -> str:
    """What is wrong with a file's bytes, or ``""``."""
    try:
        path = files.path_of(relative)
        found = os.stat(path).st_size
        if found != size:
            return f"{path} must have {size} bytes, and has {found}"
        if checksum is None:
            return ""
        state = xxhash.xxh3_128()
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                state.update(block)
    except CacheError as error:
        return str(error)
    except OSError as error:
        return f"{files.folder / relative} cannot be read: {error.strerror}"
    if state.hexdigest() != checksum:
        return f"{path}: the checksum is {state.hexdigest()}, the manifest says {checksum}"
    return ""


def _check_meaning(
    files: ShardFiles, manifest: Manifest, bad: set[str], records: list[tuple[bytes, bytes]]
) -> Iterator[Problem]:
    """Arrays against each other. Arrays whose metadata are damaged are not touched again."""
    index = files.info.index
    for spec in manifest.specs:
        revision = manifest.revisions[spec.modality]
        group = f"{spec.modality}.{revision}"
        small = {
            path for path in bad if path.startswith(f"{group}/") and not path.startswith(f"{group}/values/c/")
        }
        if small or files.info.samples == 0:
            continue  # already told; the rows cannot be placed without them
        try:
            yield from _check_modality(files, spec, revision)
        except CacheError as error:
            if not any(path.startswith(f"{group}/values/c/") for path in bad):
                yield Problem(index, spec.modality, str(error))
    if bad:
        return
    try:
        table = files.table(manifest.revisions, manifest.label_columns, manifest.labels_revision)
        if ((table.split >= len(manifest.splits)) & (table.split != NO_SPLIT)).any():
            yield Problem(
                index, None, f"{files.folder}: split codes go beyond the {len(manifest.splits)} splits"
            )
            return
        for text in (*table.keys, *table.groups, *table.parents):
            text.decode()
        if not all(table.keys):
            yield Problem(
                index, None, f"{files.folder}: sample {table.keys.index(b'')} of the shard has an empty key"
            )
        for i in np.flatnonzero(~(table.start <= table.end)).tolist():  # NaN is never <= anything
            yield Problem(
                index, None,
                f"{files.folder}: key {table.keys[i].decode()!r:.200}: clip bounds must be start <= end, and are "
                f"{table.start[i]} and {table.end[i]}",
            )  # fmt: skip
        records += sample_records(table, manifest.splits)
    except UnicodeDecodeError as error:
        yield Problem(
            index, None, f"{files.folder}: a key, group or parent is not UTF-8: {error.object!r:.80}"
        )
    except CacheError as error:
        yield Problem(index, None, str(error))


def _check_modality(files: ShardFiles, spec: FeatureSpec, revision: int) -> Iterator[Problem]:
    info, name, group = files.info, spec.modality, f"{spec.modality}.{revision}"
    offsets = files.offsets(f"{group}/offsets", info.samples, info.rows[name])
    present = files.array(f"{group}/present", "bool", (info.samples,))
    digests = files.array(f"{group}/digest", "uint8", (info.samples, 16))
    start = files.array(f"{group}/start", "float64", (info.samples,)) if spec.timing == "regular" else None
    times = (
        files.array(f"{group}/times", "float64", (info.rows[name], 2)) if spec.timing == "irregular" else None
    )
    values = files.values(name, revision, spec)
    keys = files.strings("samples/keys", info.samples)
    for i in range(info.samples):
        a, b = int(offsets[i]), int(offsets[i + 1])
        who = f"{files.folder / group}: key {keys[i].decode(errors='replace')!r:.200}, rows {a} to {b} of the shard"
        if not present[i]:
            if b > a or digests[i].tobytes() != ABSENT:
                yield Problem(info.index, name, f"{who}: marked as missing, but has {b - a} rows or a digest")
            continue
        rows = values[a:b]
        when = None if start is None else float(start[i])
        if row_digest(rows, when, None if times is None else times[a:b]) != digests[i].tobytes():
            yield Problem(info.index, name, f"{who}: the rows or their times are not those that were written")
        elif found := bad_rows(rows, spec.dtype):
            yield Problem(info.index, name, f"{who}: inf or NaN in row {found[0]} of the sample")
        elif when is not None and not math.isfinite(when):
            yield Problem(
                info.index, name, f"{who}: the start must be a finite number of seconds, and is {when}"
            )
        elif times is not None and not lawful_times(times[a:b]):
            yield Problem(info.index, name, f"{who}: times must be finite with start <= end in every row")


def _check_whole(manifest: Manifest, records: list[tuple[bytes, bytes]]) -> Iterator[Problem]:
    keys = sorted(key for key, _ in records)
    for key, following in itertools.pairwise(keys):
        if key == following:
            yield Problem(None, None, f"key {key.decode()!r:.200} is in the cache more than once")
    fingerprint = content_fingerprint(manifest.specs, manifest.label_columns, records)
    if fingerprint != manifest.content_fingerprint:
        said = manifest.content_fingerprint
        yield Problem(None, None, f"the content fingerprint is {fingerprint}, the manifest says {said}")
