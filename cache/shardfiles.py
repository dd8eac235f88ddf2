"""The arrays of a committed shard, read one by one and each checked before its bytes are trusted.

The common case is a file read whole or a file mapped; the general case is zarr-python. Which of the two an array gets is
decided by its metadata alone, and a test holds both equal.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import LABEL_DTYPES, UNLABELLED_SET
from .errors import CacheError
from .fingerprint import ShardTable
from .manifest import ShardInfo
from .spec import FeatureSpec, LabelColumn, digest
from .zarrfile import (
    STORED,
    ForeignRows,
    check_foreign_chunks,
    chunk_path,
    foreign_errors,
    map_values,
    open_foreign,
    plain_metadata,
    values_file_bytes,
    values_metadata,
)

_SYMLINK = "{} is or lies behind a symbolic link; a cache holds plain files: put the file itself there"


class ShardFiles:
    """The arrays of one committed shard, each checked against the manifest before it is touched.

    Where the manifest's checksum of an array's ``zarr.json`` is that of the metadata which this release would
    write, the bytes are read directly; any other array goes through zarr-python.
    """

    def __init__(self, cache: Path, info: ShardInfo) -> None:
        """``cache`` must be a resolved path (no symbolic links)."""
        self.info = info
        self.folder = cache / info.folder
        self._proven: set[str] = set()

    def _ours(self, name: str, metadata: bytes) -> bool:
        found = self.info.files.get(f"{name}/zarr.json")
        if found is None:
            raise CacheError(
                f"the cache manifest lists no array {name} in {self.folder}; restore manifest.json, or extract again"
            )
        return found[1] == digest(metadata)

    def path_of(self, relative: str) -> Path:
        """A listed file's path, proven to lie in this shard without symbolic links.

        Raises:
            CacheError: the path leads elsewhere, or to nothing.
        """
        path = str(self.folder)
        if path not in self._proven and os.path.realpath(path) != path:
            raise CacheError(_SYMLINK.format(path))
        self._proven.add(path)
        for part in relative.split("/"):
            path = f"{path}/{part}"
            if path in self._proven:
                continue
            try:
                kind = os.lstat(path).st_mode
            except OSError as error:
                raise CacheError(
                    f"cannot read {path}: {error.strerror}; restore it from a copy, or extract again"
                ) from error
            if stat.S_ISLNK(kind):
                raise CacheError(_SYMLINK.format(path))
            if stat.S_ISDIR(kind):
                self._proven.add(path)
        return Path(path)

    def _chunk(self, relative: str, size: int) -> bytes:
        listed = self.info.files.get(relative)
        path = self.path_of(relative)
        if listed is None or listed[0] != size:
            what = "is not listed" if listed is None else f"is listed with {listed[0]} bytes"
            raise CacheError(f"{path} must have {size} bytes and {what} in the cache manifest; extract again")
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != size:
                    raise CacheError(
                        f"{path} must have {size} bytes, and has {found}; restore it from a copy, or extract again"
                    )
                return file.read(size)
        except OSError as error:
            raise CacheError(
                f"cannot read {path}: {error.strerror}; restore it from a copy, or extract again"
            ) from error

    def array(self, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """A small array as ``GROUP/ARRAY``, read whole.

        Raises:
            CacheError: missing, damaged, or of another shape or type.
        """
        if self._ours(name, plain_metadata(shape, dtype)):
            if 0 in shape:
                return np.empty(shape, dtype)
            kind = np.dtype(dtype)
            size = kind.itemsize
            for n in shape:
                size *= n
            raw = self._chunk(f"{name}/{chunk_path(len(shape))}", size)
            array = np.frombuffer(raw, np.uint8 if dtype == "bool" else kind.newbyteorder("<")).reshape(shape)
            if dtype == "bool":
                if array.max() > 1:
                    raise CacheError(
                        f"{self.folder / name} must hold 0 and 1, and holds {array.max()}; extract again"
                    )
                return array.view(np.bool_)
            return array
        self._bound(name, shape, dtype)
        with foreign_errors(self.folder / name):
            return np.asarray(open_foreign(self.folder / name, shape, dtype)[...])

    def _bound(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """Refuse a foreign array with files that the manifest does not list, or of a size out of proportion to them.

        zarr-python opens whatever it finds below the array's folder, and allocates what a chunk's header claims. So
        both are looked at before it may.
        """
        self._walk(name)
        claimed = float(np.prod(shape, dtype=np.float64)) * np.dtype(dtype).itemsize
        stored = 0
        for path, (size, _) in self.info.files.items():
            if path.startswith(f"{name}/"):
                self.path_of(path)
                stored += size
        if claimed > 1024 * stored + (1 << 24):
            raise CacheError(
                f"{self.folder / name}: {list(shape)} {dtype} would need {claimed:.0f} bytes, and its files have {stored}; "
                f"this is not a lawful cache"
            )
        chunks = [
            path
            for path in self.info.files
            if path.startswith(f"{name}/") and not path.endswith("/zarr.json")
        ]
        check_foreign_chunks(
            self.folder / name, np.dtype(dtype).itemsize, [self.folder / path for path in chunks]
        )

    def _walk(self, relative: str) -> None:
        """Refuse links, and files that the manifest does not list, anywhere below a folder of the shard."""
        folder = self.path_of(relative)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise CacheError(
                f"cannot read {folder}: {error.strerror}; restore it from a copy, or extract again"
            ) from error
        for entry in entries:
            path = f"{relative}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                self._walk(path)
            elif entry.is_symlink():
                raise CacheError(_SYMLINK.format(entry.path))
            elif path not in self.info.files or not entry.is_file(follow_symlinks=False):
                raise CacheError(
                    f"{entry.path} must be a plain file that the cache manifest lists, and is not; remove it, or restore "
                    f"the shard from a copy"
                )

    def offsets(self, name: str, n: int, total: int | None) -> NDArray[np.int64]:
        """Offsets ``[n + 1]``, proven to start at 0, never to fall and to end at ``total`` (None: anywhere).

        Raises:
            CacheError: naming the first entry that is wrong.
        """
        array = self.array(name, "int64", (n + 1,))
        steps = np.diff(array)
        if array[0] != 0 or (steps < 0).any() or (total is not None and array[-1] != total):
            at = int(np.argmax(steps < 0)) + 1 if (steps < 0).any() else (0 if array[0] != 0 else n)
            raise CacheError(
                f"{self.folder / name} must rise from 0 to {total if total is not None else 'its end'}, "
                f"and entry {at} is {int(array[at])}; restore it from a copy, or extract again"
            )
        return array

    def strings(self, name: str, n: int) -> list[bytes]:
        """A table of byte strings, ``GROUP/NAME`` with ``GROUP/NAME_offsets``."""
        offsets = self.offsets(f"{name}_offsets", n, None)
        raw = self.array(name, "uint8", (int(offsets[-1]),)).tobytes()
        bounds = offsets.tolist()
        return [raw[a:b] for a, b in itertools.pairwise(bounds)]

    def values(self, modality: str, revision: int, spec: FeatureSpec) -> NDArray[Any] | ForeignRows:
        """Rows of a modality: a read-only map of the shard file, or a slice-by-slice view of a foreign layout."""
        rows = self.info.rows[modality]
        name = f"{modality}.{revision}/values"
        if self._ours(name, values_metadata(rows, spec.dim, spec.dtype)):
            if rows == 0:
                return np.empty((0, spec.dim), STORED[spec.dtype])
            path = self.path_of(f"{name}/c/0/0")
            try:
                mapped = map_values(path, rows, spec.dim, spec.dtype)
            except OSError as error:
                raise CacheError(
                    f"cannot read {path}: {error.strerror}; restore it from a copy, or extract again"
                ) from error
            if mapped is not None:
                return mapped
        self._bound(name, (rows, spec.dim), STORED[spec.dtype])
        return ForeignRows(self.folder / name, rows, spec.dim, spec.dtype)

    def check_values_size(self, modality: str, revision: int, spec: FeatureSpec) -> None:
        """Cheap proof at opening time: the shard file is there and as long as the manifest says.

        Raises:
            CacheError: it is missing, or shorter or longer.
        """
        name = f"{modality}.{revision}/values"
        rows = self.info.rows[modality]
        ours = self._ours(name, values_metadata(rows, spec.dim, spec.dtype))
        for relative, (size, _) in self.info.files.items():
            if not relative.startswith(f"{name}/c/"):
                continue
            path = self.path_of(relative)
            try:
                found = os.stat(path).st_size
            except OSError as error:
                raise CacheError(
                    f"cannot read {path}: {error.strerror}; restore it, or extract again"
                ) from error
            if found != size:
                raise CacheError(
                    f"{path} must have {size} bytes, and has {found}; restore it, or extract again"
                )
        want = values_file_bytes(rows, spec.dim, spec.dtype)
        listed = self.info.files.get(f"{name}/c/0/0", (0, ""))[0]
        if ours and listed != want:
            raise CacheError(
                f"{self.folder / name}: {rows} rows of {spec.dim} {spec.dtype} need {want} bytes, and the manifest "
                f"lists {listed}; extract again"
            )

    def labels(self, column: LabelColumn, revision: int) -> NDArray[Any]:
        """A label column, its codes, numbers and flags proven to be such as the writer lets through.

        Raises:
            CacheError: naming the file and the first value that is not.
        """
        n = self.info.samples
        shape = (n, len(column.classes)) if column.kind == "multilabel" else (n,)
        name = f"labels.{revision}/label.{column.name}"
        array = self.array(name, LABEL_DTYPES[column.kind], shape)
        if (
            column.kind == "class"
            and array.size
            and not -1 <= array.min() <= array.max() < len(column.classes)
        ):
            raise CacheError(
                f"{self.folder / name}: class codes must be -1 to {len(column.classes) - 1}; extract again"
            )
        if column.kind == "float" and np.isinf(array).any():
            at = int(np.flatnonzero(np.isinf(array))[0])
            raise CacheError(
                f"{self.folder / name}: a number must be finite (NaN: unlabelled), and sample {at} of the shard has "
                f"{array[at]}; extract again"
            )
        if column.kind == "multilabel":
            good = (array <= 1).all(axis=1) | (array == UNLABELLED_SET).all(axis=1)
            if not good.all():
                at = int(np.flatnonzero(~good)[0])
                raise CacheError(
                    f"{self.folder / name}: flags must be 0 and 1, or all {UNLABELLED_SET} (unlabelled), and sample {at} of "
                    f"the shard has {array[at].tolist()!r:.80}; extract again"
                )
        return array

    def table(
        self, modalities: Mapping[str, int], columns: Sequence[LabelColumn], labels_revision: int
    ) -> ShardTable:
        """Everything but the rows, as :func:`fingerprint.sample_records` wants it."""
        n = self.info.samples
        return ShardTable(
            keys=self.strings("samples/keys", n),
            digests={
                name: self.array(f"{name}.{rev}/digest", "uint8", (n, 16)) for name, rev in modalities.items()
            },
            labels={column.name: self.labels(column, labels_revision) for column in columns},
            split=self.array(f"labels.{labels_revision}/split", "uint8", (n,)),
            groups=self.strings(f"labels.{labels_revision}/group", n),
            parents=self.strings("samples/parent", n),
            position=self.array("samples/position", "int64", (n,)),
            start=self.array("samples/start", "float64", (n,)),
            end=self.array("samples/end", "float64", (n,)),
        )
