"""Reading a cache: one version, held whole, its rows mapped straight from the shard files.

Opening reads the manifest and the small arrays (offsets, flags) and proves them in range; a shard's rows are mapped when
they are first touched. Nothing is copied until a batch is gathered, and nothing in a cache is ever executed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from .columns import UNLABELLED_SET, empty_labels, from_bfloat16
from .errors import CacheError, InputError, several
from .expect import check_expected
from .fingerprint import NO_SPLIT
from .manifest import Manifest, load_manifest
from .sample import Rows, Sample
from .shardfiles import ShardFiles
from .spec import FeatureSpec, LabelColumn
from .view import View
from .zarrfile import STORED, ForeignRows

T = TypeVar("T")


def open_cache(path: str | Path, *, expect: Mapping[str, Mapping[str, Any]] | None = None) -> Cache:
    """Open the current version of a cache.

    Args:
        path: the cache's folder.
        expect: what the features must be: modality to a subset of the producer's fields, of its settings, and of the
            spec's other fields, such as ``{"audio": {"encoder": "logmel", "settings": {"n_mels": 40}}}``.

    Raises:
        CacheError: no cache there, or a damaged one; the message names file, field and value.
        MismatchError: the cache is whole and was made otherwise; every difference is listed.
    """
    folder = Path(path)
    manifest = load_manifest(folder)
    if expect:
        check_expected(manifest, expect, folder)
    return Cache(folder.resolve(), manifest)


class Cache:
    """One version of a cache, open for reading. Use :func:`open_cache`; close it or use it in a ``with``."""

    path: Path
    manifest: Manifest
    specs: dict[str, FeatureSpec]
    label_columns: dict[str, LabelColumn]
    splits: tuple[str, ...]
    fingerprint: str

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.specs = {spec.modality: spec for spec in manifest.specs}
        self.label_columns = {column.name: column for column in manifest.label_columns}
        self.splits = manifest.splits
        self.fingerprint = manifest.content_fingerprint
        self._shards = [ShardFiles(path, info) for info in manifest.shards if info.samples]
        counts = np.array([shard.info.samples for shard in self._shards], np.int64)
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        """``[shards + 1]``: number of the first sample of each shard."""
        self._memo: dict[str, Any] = {}
        self._sources: dict[tuple[str, int], NDArray[Any] | ForeignRows] = {}
        self._row0: dict[str, NDArray[np.int64]] = {}
        self._lengths: dict[str, NDArray[np.int64]] = {}
        self._present: dict[str, NDArray[np.bool_]] = {}
        for name in self.specs:
            self._open_modality(name)

    def _open_modality(self, name: str) -> None:
        revision = self.manifest.revisions[name]
        row0: list[NDArray[np.int64]] = []
        lengths: list[NDArray[np.int64]] = []
        flags: list[NDArray[np.bool_]] = []
        for shard in self._shards:
            n = shard.info.samples
            offsets = shard.offsets(f"{name}.{revision}/offsets", n, shard.info.rows[name])
            present = shard.array(f"{name}.{revision}/present", "bool", (n,))
            shard.check_values_size(name, revision, self.specs[name])
            sizes = np.diff(offsets)
            if (sizes[~present] != 0).any():
                at = int(np.flatnonzero(~present & (sizes != 0))[0])
                raise CacheError(
                    f"{shard.folder / f'{name}.{revision}'}: sample {at} of the shard is marked as missing and has "
                    f"{int(sizes[at])} rows; restore the shard from a copy, or extract again"
                )
            row0.append(offsets[:-1])
            lengths.append(sizes)
            flags.append(present)
        self._row0[name] = _joined(row0, np.empty(0, np.int64))
        self._lengths[name] = _joined(lengths, np.empty(0, np.int64))
        self._present[name] = _joined(flags, np.empty(0, np.bool_))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the maps. Arrays that were handed out stay valid; they keep their own map."""
        self._sources.clear()
        self._memo.clear()

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._first[-1])

    def _cached(self, name: str, make: Callable[[], T]) -> T:
        if name not in self._memo:
            self._memo[name] = make()
        return cast(T, self._memo[name])

    # -- the sample table -------------------------------------------------------------------------------------------

    def _strings(self, name: str) -> list[str]:
        def make() -> list[str]:
            raw = [text for shard in self._shards for text in shard.strings(name, shard.info.samples)]
            try:
                return [text.decode() for text in raw]
            except UnicodeDecodeError as error:
                raise CacheError(
                    f"{self.path}: {name} holds bytes that are not UTF-8 ({error.object!r:.80}); restore the store, "
                    f"or extract again"
                ) from error

        return self._cached(name, make)

    def _numbers(self, name: str, dtype: str) -> NDArray[Any]:
        def make() -> NDArray[Any]:
            parts = [shard.array(name, dtype, (shard.info.samples,)) for shard in self._shards]
            return _joined(parts, np.empty(0, dtype))

        return self._cached(name, make)

    def keys(self) -> Sequence[str]:
        """The key of every sample, in stored order.

        Raises:
            CacheError: a key that two samples have.
        """

        def make() -> list[str]:
            keys = self._strings("samples/keys")
            if len(set(keys)) != len(keys):
                twice = [key for key, count in Counter(keys).items() if count > 1]
                raise CacheError(
                    f"{self.path}: keys must be unique, and {len(twice)} are in the cache more than once, such as "
                    f"{twice[:3]!r:.300}; restore the store, or extract again"
                )
            return keys

        return self._cached("keys", make)

    def groups(self) -> list[str]:
        """The group of every sample; ``""`` where it has none."""
        return self._strings(f"labels.{self.manifest.labels_revision}/group")

    def split_of(self) -> NDArray[np.uint8]:
        """``[n]`` codes into :attr:`splits`; 255 where a sample belongs to none.

        Raises:
            CacheError: a code without a name.
        """
        codes = self._numbers(f"labels.{self.manifest.labels_revision}/split", "uint8")
        if ((codes >= len(self.splits)) & (codes != NO_SPLIT)).any():
            raise CacheError(
                f"{self.path}: split codes go beyond the {len(self.splits)} splits of the manifest; extract again"
            )
        return codes

    def labels(self, name: str) -> NDArray[Any]:
        """A label column.

        Returns:
            int32 ``[n]`` codes into ``classes`` (-1: unlabelled), float64 ``[n]`` (NaN: unlabelled), or uint8
            ``[n, classes]`` (a row of 255: unlabelled).

        Raises:
            InputError: no such column; those there are, are listed.
        """
        if name not in self.label_columns:
            raise InputError(
                f"the cache {self.path} has no label {name!r}; it has {sorted(self.label_columns)}"
            )
        column, revision = self.label_columns[name], self.manifest.labels_revision

        def make() -> NDArray[Any]:
            return _joined(
                [shard.labels(column, revision) for shard in self._shards], empty_labels(column, 0)
            )

        return self._cached(f"label.{name}", make)

    # -- rows -------------------------------------------------------------------------------------------------------

    def _known(self, modality: str) -> str:
        if modality not in self.specs:
            raise InputError(
                f"the cache {self.path} has no modality {modality!r}; it has {sorted(self.specs)}"
            )
        return modality

    def lengths(self, modality: str) -> NDArray[np.int64]:
        """``[n]`` rows per sample; 0 where the modality is missing or empty."""
        return self._lengths[self._known(modality)]

    def present(self, modality: str) -> NDArray[np.bool_]:
        """``[n]`` whether a sample has the modality at all."""
        return self._present[self._known(modality)]

    def starts(self, modality: str) -> NDArray[np.float64]:
        """``[n]`` seconds on the media's own clock at which row 0 starts; zeros where the spec's timing is not regular."""
        if self.specs[self._known(modality)].timing != "regular":
            return np.zeros(len(self))
        return self._numbers(f"{modality}.{self.manifest.revisions[modality]}/start", "float64")

    def shard_numbers(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Place in the manifest's list of non-empty shards of each sample in ``index``."""
        return np.searchsorted(self._first, index, "right") - 1

    def source(self, modality: str, shard: int) -> NDArray[Any] | ForeignRows:
        """All rows ``[rows, dim]`` of a modality in one shard (a place, see :meth:`shard_numbers`), mapped."""
        found = self._sources.get((modality, shard))
        if found is None:
            spec = self.specs[self._known(modality)]
            found = self._shards[shard].values(modality, self.manifest.revisions[modality], spec)
            self._sources[modality, shard] = found
        return found

    def first_rows(self, modality: str) -> NDArray[np.int64]:
        """``[n]`` row of each sample's first row within its shard."""
        return self._row0[self._known(modality)]

    def rows(self, modality: str, index: int) -> NDArray[Any]:
        """The rows of one sample as stored (bfloat16 as uint16): a read-only view ``[rows, dim]`` of the map."""
        self._known(modality)
        at = self._position(index)
        shard = int(np.searchsorted(self._first, at, "right")) - 1
        a = int(self._row0[modality][at])
        return self.source(modality, shard)[a : a + int(self._lengths[modality][at])]

    def _position(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a cache with {len(self)} samples")
        return int(index) % len(self)

    def sample(self, index: int) -> Sample:
        """One sample as it was written; rows are views of the map (bfloat16: new float32 arrays)."""
        at = self._position(index)
        split = int(self.split_of()[at])
        return Sample(
            key=self.keys()[at],
            rows={name: self._rows_of(name, at) for name in self.specs if self._present[name][at]},
            labels=self._labels_of(at),
            split="" if split == NO_SPLIT else self.splits[split],
            group=self.groups()[at],
            parent=self._strings("samples/parent")[at],
            position=int(self._numbers("samples/position", "int64")[at]),
            start=float(self._numbers("samples/start", "float64")[at]),
            end=float(self._numbers("samples/end", "float64")[at]),
        )

    def times(self, modality: str, index: int) -> NDArray[np.float64]:
        """``[rows, 2]`` start and end in seconds of every row of a sample, whatever the spec's timing.

        Raises:
            InputError: the modality has no clock.
        """
        spec, at = self.specs[self._known(modality)], self._position(index)
        if spec.hop is not None and spec.span is not None:
            count = int(self._lengths[modality][at])
            table = np.empty((count, 2), np.float64)
            table[:, 0] = np.arange(count, dtype=np.float64) * spec.hop + float(self.starts(modality)[at])
            table[:, 1] = table[:, 0] + spec.span
            return table
        if spec.timing == "none":
            raise InputError(
                f"modality {modality!r} of {self.path} has timing='none': its rows have no times"
            )
        shard = int(np.searchsorted(self._first, at, "right")) - 1
        files, revision = self._shards[shard], self.manifest.revisions[modality]
        name = f"{modality}.{revision}/times"
        all_times = self._cached(
            f"{name}@{shard}", lambda: files.array(name, "float64", (files.info.rows[modality], 2))
        )
        a = int(self._row0[modality][at])
        return all_times[a : a + int(self._lengths[modality][at])]

    def _rows_of(self, name: str, at: int) -> Rows:
        spec, values = self.specs[name], self.rows(name, at)
        if spec.dtype == "bfloat16":
            values = from_bfloat16(values)
        if spec.timing == "irregular":
            return Rows(values=values, times=self.times(name, at))
        return Rows(values=values, start=float(self.starts(name)[at]) if spec.timing == "regular" else 0.0)

    def _labels_of(self, at: int) -> dict[str, str | float | tuple[str, ...] | None]:
        found: dict[str, str | float | tuple[str, ...] | None] = {}
        for name, column in self.label_columns.items():
            value = self.labels(name)[at]
            if column.kind == "class" and value >= 0:
                found[name] = column.classes[int(value)]
            elif column.kind == "float" and not np.isnan(value):
                found[name] = float(value)
            elif column.kind == "multilabel" and not (value == UNLABELLED_SET).any():
                found[name] = tuple(text for text, on in zip(column.classes, value, strict=True) if on)
        return found

    # -- selection --------------------------------------------------------------------------------------------------

    def select(
        self,
        *,
        split: str | None = None,
        modalities: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
    ) -> View:
        """A view of some samples and modalities; nothing is copied.

        Args:
            split: only samples of this split. None: all.
            modalities: these, in this order. None: all, in the cache's order.
            keys: only these samples, in this order (of those that ``split`` leaves). None: all, in stored order.

        Raises:
            InputError: unknown split, modality or keys, naming what there is.
        """
        problems: list[str] = []
        index = np.arange(len(self), dtype=np.int64)
        names = tuple(self.specs if modalities is None else modalities)
        if unknown := [name for name in names if name not in self.specs]:
            problems.append(f"modalities {unknown} are not in the cache; it has {sorted(self.specs)}")
        if len(set(names)) != len(names) or not names:
            problems.append(f"modalities must be at least one, each once, got {list(names)}")
        if keys is not None:
            where = self._cached("where", lambda: {key: i for i, key in enumerate(self.keys())})
            if absent := [key for key in keys if key not in where]:
                problems.append(
                    f"{len(absent)} of {len(keys)} keys are not in the cache, such as {absent[:5]!r:.300}"
                )
            index = np.array([where[key] for key in keys if key in where], np.int64)
        if split is not None:
            if split not in self.splits:
                problems.append(f"split {split!r} is not in the cache; it has {list(self.splits)}")
            else:
                index = index[self.split_of()[index] == self.splits.index(split)]
        if problems:
            raise InputError(
                several(f"the cache {self.path} cannot be viewed so; correct the selection", problems)
            )
        return View(self, names, index)

    def stored_dtype(self, modality: str) -> np.dtype[Any]:
        """What rows lie on disk as: float16, float32, or uint16 for bfloat16."""
        return np.dtype(STORED[self.specs[self._known(modality)].dtype])


def _joined(parts: list[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else empty
