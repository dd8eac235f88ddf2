"""Writing a cache: shard by shard, each committed whole, and a manifest only after a clean end.

The unit of work, retry and resume is the shard. A run that was killed is simply run again: shards that were
committed with the same ``work`` are kept, and the result is byte for byte what an undisturbed run would have left.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .atomic import WriterLock, publish_folder, remove_folder, replace_file, storage_errors
from .columns import encode_shard
from .errors import InputError, MismatchError, StorageError, several
from .fingerprint import content_fingerprint, sample_records, work_of_content
from .manifest import MANIFEST, Manifest, ShardInfo, load_manifest, publish_manifest
from .sample import Sample
from .shard import describe_shard, group_attributes, label_facts, write_shard_folder
from .shardfiles import ShardFiles
from .spec import FeatureSpec, LabelColumn, canonical_json
from .zarrfile import group_metadata

_SHARD = re.compile(r"\d{6,9}")


class CacheWriter:
    """Writes one cache; a context manager that publishes a manifest on a clean exit and only then.

    Args:
        path: the cache's folder; made if absent. A cache of the same specs is resumed.
        specs: one per modality.
        labels: the label columns that samples may fill.
        splits: names that ``Sample.split`` may take, in the order of their codes; at most 255.

    Raises:
        InputError: a modality, label or split named twice, or a spec that this release cannot store.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        specs: Sequence[FeatureSpec],
        labels: Sequence[LabelColumn] = (),
        splits: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self._specs = {spec.modality: spec for spec in specs}
        self._labels, self._splits = tuple(labels), tuple(splits)
        _check_header(specs, self._labels, self._splits)
        self._lock = WriterLock(self.path / ".lock")
        self._entered = False
        self._manifest: Manifest | None = None
        self._shards: dict[int, ShardInfo] = {}
        self._keys: dict[bytes, int] = {}
        self._committed = False

    # -- context ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Take the cache's lock, sweep leftovers of killed writers, and check that an old cache has these specs.

        Raises:
            StorageError: another writer is at work, the disk refused, or a folder of the cache is a symbolic link.
            InputError: the folder holds files that are not a cache's.
            MismatchError: the folder holds a cache of other specs, labels or splits; all differences are listed.
        """
        _refuse_links(self.path)
        _refuse_foreign(self.path)
        with storage_errors(self.path, "make the cache folder"):
            for folder in (self.path / "store" / "shards", self.path / "manifests", self.path / "provenance"):
                folder.mkdir(parents=True, exist_ok=True)
        self.path = self.path.resolve()
        self._lock.acquire()
        try:
            remove_folder(self.path / ".partial")
            root = group_metadata({"fusecache": {"format_version": 1}})
            for folder, data in (("store", root), ("store/shards", group_metadata())):
                if not (self.path / folder / "zarr.json").exists():
                    replace_file(self.path / folder / "zarr.json", data)
            if (self.path / MANIFEST).exists():
                self._manifest = load_manifest(self.path)
                self._check_same(self._manifest)
        except BaseException:
            self._lock.release()
            raise
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit after a clean end, unless :meth:`commit` did; after an exception publish nothing."""
        try:
            if kind is None and not self._committed:
                self.commit()
        finally:
            self._entered = False
            remove_folder(self.path / ".partial")
            self._lock.release()

    def _check_same(self, old: Manifest) -> None:
        problems: list[str] = []
        before = {spec.modality: spec for spec in old.specs}
        for name in sorted(before.keys() | self._specs.keys()):
            was, now = before.get(name), self._specs.get(name)
            if was is None or now is None:
                problems.append(
                    f"modality {name!r}: {'not in the cache' if was is None else 'not in this run'}"
                )
                continue
            theirs, ours = was.identity_fields, now.identity_fields
            for field in ours:
                if canonical_json(theirs[field]) != canonical_json(ours[field]):
                    problems.append(
                        f"modality {name!r}, {field}: the cache has {theirs[field]!r}, this run {ours[field]!r}"
                    )
        if old.label_columns != self._labels:
            problems.append(
                f"label columns: the cache has {list(old.label_columns)}, this run {list(self._labels)}"
            )
        if old.splits != self._splits:
            problems.append(f"splits: the cache has {list(old.splits)}, this run {list(self._splits)}")
        if any(old.revisions.values()) or old.labels_revision:
            problems.append("the cache has replaced modalities or labels, which a plain run cannot resume")
        if problems:
            title = f"{self.path} holds another cache; choose another folder, or delete it to extract again"
            raise MismatchError(several(title, problems))

    # -- shards -----------------------------------------------------------------------------------------------------

    def has_shard(self, shard: int, *, work: str) -> bool:
        """Whether ``shard`` was committed, in this or an earlier run, from the same work; if so it is kept.

        Args:
            shard: its number, 0 to 999,999,999.
            work: fingerprint of everything that decides the shard's content (inputs and settings).

        Raises:
            MismatchError: it was committed from other work, other specs, labels or splits.
            CacheError: it is damaged.
        """
        self._check_open()
        info = ShardInfo(index=shard, samples=0, rows={}, files={})
        folder = self.path / info.folder
        if not folder.exists():
            return False
        facts, _ = group_attributes(folder)
        if facts.get("work") != work:
            raise MismatchError(
                f"shard {shard} in {self.path} was made from other work: the run asks for {work!r}, the shard has "
                f"{facts.get('work')!r}; choose another output folder, or delete {folder} to make it again"
            )
        if shard in self._shards:
            return True
        self._check_shard_specs(shard, folder)
        found = describe_shard(self.path, shard, dict.fromkeys(self._specs, 0), 0)
        self._note_keys(shard, ShardFiles(self.path, found).strings("samples/keys", found.samples))
        self._shards[shard] = found
        self._committed = False
        return True

    def _check_shard_specs(self, shard: int, folder: Path) -> None:
        problems: list[str] = []
        for name, spec in self._specs.items():
            group = folder / f"{name}.0"
            if not group.is_dir():
                problems.append(f"modality {name!r} is not in the shard")
            elif (was := group_attributes(group)[0].get("spec")) != json.loads(
                canonical_json(spec.identity_fields)
            ):
                problems.append(f"modality {name!r}: the shard has {was}, this run {spec.identity_fields}")
        facts = group_attributes(folder / "labels.0")[0]
        for field, now in label_facts(self._labels, self._splits).items():
            if facts.get(field) != now:
                problems.append(f"{field}: the shard has {facts.get(field)}, this run {now}")
        if problems:
            title = (
                f"shard {shard} in {self.path} was made otherwise; choose another folder, or delete {folder}"
            )
            raise MismatchError(several(title, problems))

    def write_shard(self, shard: int, samples: Sequence[Sample], *, work: str = "") -> None:
        """Commit ``samples`` as one shard, in the order given; a shard that was committed from the same work is kept.

        Args:
            shard: its number. Numbers may leave gaps; a shard of no samples (all rejected) is recorded as empty.
            samples: their keys must be new to the cache.
            work: see :meth:`has_shard`. Empty: a digest of the samples themselves is used.

        Raises:
            InputError: samples that cannot be stored, every one listed; nothing is written.
            MismatchError: the shard exists and was made from other work.
            StorageError: the disk refused; nothing that was committed is touched.
        """
        self._check_open()
        if not 0 <= shard <= 999_999_999:
            raise InputError(f"a shard number must be 0 to 999999999, got {shard}; number shards from 0")
        if work and self.has_shard(shard, work=work):
            return
        columns = encode_shard(shard, samples, specs=self._specs, columns=self._labels, splits=self._splits)
        if not work:
            work = work_of_content(columns.table, self._splits)
            if self.has_shard(shard, work=work):
                return
        self._check_keys(shard, columns.table.keys)
        info = ShardInfo(index=shard, samples=0, rows={}, files={})
        final = self.path / info.folder
        partial = self.path / ".partial" / f"{final.name}.{os.getpid()}"
        remove_folder(partial)
        try:
            with storage_errors(final, f"write shard {shard} to"):
                write_shard_folder(
                    partial,
                    columns,
                    specs=self._specs,
                    label_columns=self._labels,
                    splits=self._splits,
                    work=work,
                )
                publish_folder(partial, final)
        except BaseException:
            remove_folder(partial)
            raise
        self._shards[shard] = describe_shard(self.path, shard, dict.fromkeys(self._specs, 0), 0)
        self._note_keys(shard, columns.table.keys)
        self._committed = False

    def _check_keys(self, shard: int, keys: Sequence[bytes]) -> None:
        problems = [
            f"key {key.decode()!r:.200} is in shard {self._keys[key]} and in shard {shard}"
            for key in keys
            if self._keys.get(key, shard) != shard
        ]
        if problems:
            raise InputError(
                several(f"keys must be unique in {self.path}; give these samples other keys", problems)
            )

    def _note_keys(self, shard: int, keys: Sequence[bytes]) -> None:
        self._check_keys(shard, keys)
        self._keys.update(dict.fromkeys(keys, shard))

    def _check_open(self) -> None:
        if not self._entered:
            raise RuntimeError(
                "CacheWriter is a context manager: write inside `with CacheWriter(...) as writer:`"
            )

    # -- commit -----------------------------------------------------------------------------------------------------

    def commit(self, *, provenance: Mapping[str, Any] | None = None, rejected: int = 0) -> Manifest:
        """Publish the shards that this run wrote or confirmed as a version of the cache, and return its manifest.

        A run that changes nothing publishes nothing: version and bytes stay.

        Args:
            provenance: facts of the run (library versions, device, decoder route, wall time), kept beside the
                manifest in ``provenance/VERSION.json``, so that equal runs give equal manifests.
            rejected: samples that the run could not turn into features.

        Raises:
            MismatchError: the store holds shards that this run neither wrote nor confirmed; all are named.
            StorageError: the disk refused; the version before stays current.
        """
        self._check_open()
        on_disk = {
            int(p.name) for p in (self.path / "store" / "shards").iterdir() if _SHARD.fullmatch(p.name)
        }
        if strange := sorted(on_disk - self._shards.keys()):
            raise MismatchError(
                f"{self.path} holds shards {strange[:20]} that this run neither wrote nor confirmed with has_shard; "
                f"run with the same media manifest as before, choose another folder, or delete those shards"
            )
        shards = tuple(self._shards[index] for index in sorted(self._shards))
        records: list[tuple[bytes, bytes]] = []
        for info in shards:
            table = ShardFiles(self.path, info).table(dict.fromkeys(self._specs, 0), self._labels, 0)
            records += sample_records(table, self._splits)
        specs = tuple(self._specs.values())
        manifest = Manifest(
            version=1,
            specs=specs,
            revisions=dict.fromkeys(self._specs, 0),
            labels_revision=0,
            label_columns=self._labels,
            splits=self._splits,
            shards=shards,
            samples=sum(info.samples for info in shards),
            rejected=rejected,
            content_fingerprint=content_fingerprint(specs, self._labels, records),
        )
        old = self._manifest
        if old is not None:
            manifest = replace(manifest, version=old.version)
            if manifest.to_bytes() != old.to_bytes():
                manifest = replace(manifest, version=old.version + 1)
        facts = self.path / "provenance" / f"{manifest.version}.json"
        new = old is None or manifest.version != old.version
        if new or not facts.exists():
            replace_file(facts, _provenance_bytes(provenance or {}))
        if new or not (self.path / "manifests" / f"{manifest.version}.json").exists():
            publish_manifest(self.path, manifest)
        self._manifest = manifest
        self._committed = True
        return manifest


def _refuse_links(cache: Path) -> None:
    """A cache may be reached through a link; its own folders may not be links, or writing would leave the cache."""
    parts = ("store", "store/shards", "manifests", "provenance", ".partial")
    if linked := [str(cache / part) for part in parts if (cache / part).is_symlink()]:
        raise StorageError(
            f"a cache must hold its own folders, and {', '.join(linked)} is a symbolic link; remove the link, or choose "
            f"another output folder"
        )


def _refuse_foreign(path: Path) -> None:
    """A cache is written into a new or empty folder, or into one that holds a cache; never among other files."""
    if not path.is_dir() or any((path / name).exists() for name in (".lock", MANIFEST, "store")):
        return
    others = sorted(entry.name for entry in path.iterdir())
    if others:
        raise InputError(
            f"the folder {path} must be new, empty or a cache, and it holds other files such as {others[0]!r}; name "
            "another folder"
        )


def _provenance_bytes(provenance: Mapping[str, Any]) -> bytes:
    try:
        return (
            json.dumps(provenance, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
            + b"\n"
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance must be plain JSON data: {error}; convert its values first") from error


def _check_header(specs: Sequence[FeatureSpec], labels: Sequence[LabelColumn], splits: Sequence[str]) -> None:
    problems: list[str] = []
    named = (
        ("modality", [s.modality for s in specs]),
        ("label", [c.name for c in labels]),
        ("split", list(splits)),
    )
    for what, names in named:
        problems += [
            f"{what} {name!r} is named more than once" for name in sorted(set(names)) if names.count(name) > 1
        ]
    if not specs:
        problems.append("a cache needs at least one modality, got none")
    if len(splits) > 255 or "" in splits:
        problems.append(f"splits must be at most 255 non-empty names, got {len(splits)} names")
    for spec in specs:
        if spec.compression != "none":
            problems.append(
                f"modality {spec.modality!r}: this release stores rows uncompressed, got "
                f"compression={spec.compression!r}; set compression='none'"
            )
        try:
            canonical_json(spec.producer.settings).encode()
        except (TypeError, ValueError) as error:
            problems.append(
                f"modality {spec.modality!r}: producer settings must be plain finite JSON data: {error}"
            )
    for text in [*splits, *(name for column in labels for name in column.classes)]:
        try:
            text.encode()
        except UnicodeEncodeError:
            problems.append(f"{text!r} is not valid Unicode text")
    if problems:
        raise InputError(
            several("this cache cannot be written; correct the specs, labels and splits", problems)
        )
