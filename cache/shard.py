"""One shard on disk: written whole under a temporary name, and described by itself.

A shard is a folder of Zarr groups, ``samples``, ``labels.REV`` and one ``MODALITY.REV`` per modality. Each group's
attributes list its files with sizes and checksums, and the shard's attributes list the groups, so a committed shard
can be taken up by a resumed run before any manifest names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .atomic import FileInfo, write_file
from .columns import ModalityColumns, ShardColumns
from .errors import CacheError
from .manifest import FORMAT_VERSION, ShardInfo, safe_relative
from .spec import FeatureSpec, LabelColumn, digest
from .zarrfile import (
    chunk_path,
    group_metadata,
    plain_metadata,
    values_metadata,
    values_parts,
)

Files = dict[str, FileInfo]


def join_strings(strings: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Byte strings as one uint8 array and ``[n + 1]`` offsets: the only string type that every reader has."""
    offsets = np.zeros(len(strings) + 1, np.int64)
    np.cumsum([len(text) for text in strings], out=offsets[1:])
    return np.frombuffer(b"".join(strings), np.uint8), offsets


def _write_array(group: Path, name: str, array: NDArray[Any], files: Files) -> None:
    """One plain array below ``group``; no chunk file where it has no elements."""
    folder = group / name
    folder.mkdir()
    dtype = array.dtype.name
    files[f"{name}/zarr.json"] = write_file(
        folder / "zarr.json", [plain_metadata(array.shape, dtype)], sync=False
    )
    if array.size:
        chunk = chunk_path(array.ndim)
        (folder / chunk).parent.mkdir(parents=True)
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        files[f"{name}/{chunk}"] = write_file(folder / chunk, [little], sync=False)


def _write_values(group: Path, columns: ModalityColumns, spec: FeatureSpec, files: Files) -> None:
    folder = group / "values"
    folder.mkdir()
    rows = len(columns.values)
    metadata = values_metadata(rows, spec.dim, spec.dtype)
    files["values/zarr.json"] = write_file(folder / "zarr.json", [metadata], sync=False)
    if rows:
        (folder / "c" / "0").mkdir(parents=True)
        files["values/c/0/0"] = write_file(
            folder / "c/0/0", values_parts(columns.values, spec.dtype), sync=False
        )


def _close_group(group: Path, files: Files, attributes: Mapping[str, object]) -> FileInfo:
    """Write a group's ``zarr.json``, which lists the files below it."""
    listed = {path: list(info) for path, info in sorted(files.items())}
    return write_file(
        group / "zarr.json", [group_metadata({"fusecache": {**attributes, "files": listed}})], sync=False
    )


def write_shard_folder(
    folder: Path, columns: ShardColumns, *, specs: Mapping[str, FeatureSpec], label_columns: Sequence[LabelColumn],
    splits: Sequence[str], work: str,
) -> None:  # fmt: skip
    """Write all files of a shard into ``folder``, which must not exist. Nothing is synced: the caller does that.

    Raises:
        OSError: whatever the disk says.
    """
    folder.mkdir(parents=True)
    table = columns.table
    groups: dict[str, FileInfo] = {}
    for name, spec in specs.items():
        group, files = folder / f"{name}.0", Files()
        group.mkdir()
        modality = columns.modalities[name]
        _write_values(group, modality, spec, files)
        _write_array(group, "offsets", modality.offsets, files)
        _write_array(group, "present", modality.present, files)
        _write_array(group, "digest", table.digests[name], files)
        if modality.start is not None:
            _write_array(group, "start", modality.start, files)
        if modality.times is not None:
            _write_array(group, "times", modality.times, files)
        facts = {"rows": len(modality.values), "spec": spec.identity_fields, "identity": spec.identity}
        groups[group.name] = _close_group(group, files, facts)
    group, files = folder / "samples", Files()
    group.mkdir()
    for name, strings in (("keys", table.keys), ("parent", table.parents)):
        joined, offsets = join_strings(strings)
        _write_array(group, name, joined, files)
        _write_array(group, f"{name}_offsets", offsets, files)
    for name, array in (("position", table.position), ("start", table.start), ("end", table.end)):
        _write_array(group, name, array, files)
    groups[group.name] = _close_group(group, files, {"samples": len(table.keys)})
    group, files = folder / "labels.0", Files()
    group.mkdir()
    joined, offsets = join_strings(table.groups)
    _write_array(group, "group", joined, files)
    _write_array(group, "group_offsets", offsets, files)
    _write_array(group, "split", table.split, files)
    for name, array in table.labels.items():
        _write_array(group, f"label.{name}", array, files)
    groups[group.name] = _close_group(group, files, label_facts(label_columns, splits))
    attributes = {
        "format_version": FORMAT_VERSION,
        "samples": len(table.keys),
        "work": work,
        "groups": {name: list(info) for name, info in sorted(groups.items())},
    }
    write_file(folder / "zarr.json", [group_metadata({"fusecache": attributes})], sync=False)


def label_facts(label_columns: Sequence[LabelColumn], splits: Sequence[str]) -> dict[str, object]:
    """What a labels group says about its codes."""
    columns = [{"name": c.name, "kind": c.kind, "classes": list(c.classes)} for c in label_columns]
    return {"columns": columns, "splits": list(splits)}


def group_attributes(folder: Path) -> tuple[dict[str, Any], FileInfo]:
    """Our attributes of a group, and size and checksum of its ``zarr.json``.

    Raises:
        CacheError: no such file, or not one of ours.
    """
    path = folder / "zarr.json"
    try:
        data = path.read_bytes()
        value: Any = json.loads(data)["attributes"]["fusecache"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CacheError(
            f"{path} does not describe a shard of a cache ({error}); delete {folder} and run again"
        ) from error
    if not isinstance(value, dict):
        raise CacheError(f"{path} does not describe a shard of a cache; delete {folder} and run again")
    return cast(dict[str, Any], value), FileInfo(len(data), digest(data))


def describe_shard(cache: Path, index: int, revisions: Mapping[str, int], labels_revision: int) -> ShardInfo:
    """What the manifest says about a shard on disk, from the shard's own attributes; every file's size is checked.

    Raises:
        CacheError: a file is missing or has another size, or the attributes are damaged.
    """
    info = ShardInfo(index=index, samples=0, rows={}, files={})
    folder = cache / info.folder
    facts, own = group_attributes(folder)
    files: dict[str, tuple[int, str]] = {"zarr.json": (own.size, own.digest)}
    rows: dict[str, int] = {}
    names = {f"{name}.{revision}": name for name, revision in revisions.items()}
    try:
        for group in [*names, "samples", f"labels.{labels_revision}"]:
            attributes, own = group_attributes(folder / group)
            files[f"{group}/zarr.json"] = (own.size, own.digest)
            for path, (size, checksum) in attributes["files"].items():
                files[f"{group}/{path}"] = (int(size), str(checksum))
            if group in names:
                rows[names[group]] = int(attributes["rows"])
        samples = int(facts["samples"])
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(
            f"{folder}: the attributes are damaged ({error!r}); delete the folder and run again"
        ) from error
    for path, (size, _) in files.items():
        found = os.stat(folder / path).st_size if safe_relative(path) and (folder / path).is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes"
            raise CacheError(
                f"{folder / path} must have {size} bytes and {what}; delete {folder} and run again"
            )
    return ShardInfo(index=index, samples=samples, rows=rows, files=dict(sorted(files.items())))
