"""Zarr v3 arrays by hand: the two layouts that a cache uses, their metadata, and proof that a file has them.

Plain arrays (offsets, flags, labels) are one uncompressed chunk. ``values`` is one chunk of the whole array,
stored as a single shard file: inner chunks back to back, then the index that the sharding codec asks for.
Because nothing lies between the rows, the file can be mapped and sliced like ``numpy.memmap``, and any Zarr v3
reader still sees a lawful array. Deliberately not here: any other layout; those go through zarr-python.
"""

from __future__ import annotations

import functools
import json
import math
import mmap
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from .errors import CacheError, MissingExtraError
from .spec import DType, canonical_json

INNER_CHUNK_BYTES = 262_144
"""Aim for the size of an inner chunk: what a foreign reader fetches at once."""

STORED: Mapping[DType, str] = {"float16": "float16", "bfloat16": "uint16", "float32": "float32"}
"""Row type of a spec to the type that lies in the array."""

_FILL: Mapping[str, object] = {
    "bool": False, "uint8": 0, "uint16": 0, "int32": 0, "int64": 0,
    "float16": 0.0, "float32": 0.0, "float64": 0.0,
}  # fmt: skip
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def _dump(metadata: Mapping[str, object]) -> bytes:
    return canonical_json(metadata).encode() + b"\n"


def group_metadata(attributes: Mapping[str, object] | None = None) -> bytes:
    """The ``zarr.json`` of a group."""
    return _dump({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})})


def _array_metadata(
    shape: tuple[int, ...],
    dtype: str,
    chunk: tuple[int, ...],
    codecs: list[object],
    attributes: Mapping[str, object],
) -> bytes:
    return _dump(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": _FILL[dtype],
            "codecs": codecs,
            "attributes": dict(attributes),
        }
    )


@functools.lru_cache(1024)
def plain_metadata(shape: tuple[int, ...], dtype: str) -> bytes:
    """The ``zarr.json`` of a small array: one uncompressed little-endian chunk that holds all of it."""
    return _array_metadata(shape, dtype, tuple(max(1, size) for size in shape), [_BYTES], {})


def chunk_path(ndim: int) -> str:
    """Path of the only chunk file, relative to the array's folder: ``c/0`` or ``c/0/0``."""
    return "/".join(["c", *("0" * ndim)])


def inner_rows(rows: int, dim: int, dtype: DType) -> int:
    """Rows of an inner chunk: about 256 kB, at least one row, never more than there are.

    >>> inner_rows(10_000, 128, "float16"), inner_rows(3, 128, "float16"), inner_rows(0, 128, "float16")
    (1024, 3, 1)
    """
    row_bytes = dim * np.dtype(STORED[dtype]).itemsize
    return max(1, min(INNER_CHUNK_BYTES // row_bytes, rows))


def values_metadata(rows: int, dim: int, dtype: DType) -> bytes:
    """The ``zarr.json`` of ``values [rows, dim]``: one shard file that covers every row."""
    inner = inner_rows(rows, dim, dtype)
    outer = max(1, -(-rows // inner)) * inner
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [inner, dim],
            "codecs": [_BYTES],
            "index_codecs": [_BYTES, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    attributes = {"dtype": "bfloat16"} if dtype == "bfloat16" else {}
    return _array_metadata((rows, dim), STORED[dtype], (outer, dim), [sharding], attributes)


def _crc32c(data: bytes) -> int:
    try:
        import google_crc32c
    except ImportError as error:
        raise MissingExtraError(
            "caches need the package google-crc32c, which is not installed; run `pip install google-crc32c`"
        ) from error
    value = cast(Any, google_crc32c).value(data)  # the package ships no types
    return int(value)


def _index(rows: int, dim: int, dtype: DType) -> NDArray[np.uint64]:
    inner = inner_rows(rows, dim, dtype)
    step = inner * dim * np.dtype(STORED[dtype]).itemsize
    count = -(-rows // inner)
    index = np.empty((count, 2), "<u8")
    index[:, 0] = np.arange(count, dtype=np.uint64) * np.uint64(step)
    index[:, 1] = step
    return index


def values_parts(values: NDArray[Any], dtype: DType) -> Iterator[Any]:
    """The bytes of the shard file of ``values [rows, dim]``: rows, zeros up to a full inner chunk, index, crc32c."""
    rows, dim = values.shape
    yield np.ascontiguousarray(values)
    inner = inner_rows(rows, dim, dtype)
    padding = (-rows % inner) * dim * values.dtype.itemsize
    yield bytes(padding)
    index = _index(rows, dim, dtype).tobytes()
    yield index + _crc32c(index).to_bytes(4, "little")


def values_file_bytes(rows: int, dim: int, dtype: DType) -> int:
    """Size of the shard file that :func:`values_parts` makes; 0 where there are no rows and so no file."""
    inner = inner_rows(rows, dim, dtype)
    count = -(-rows // inner)
    return count * inner * dim * np.dtype(STORED[dtype]).itemsize + (count * 16 + 4 if count else 0)


def map_values(path: Path, rows: int, dim: int, dtype: DType) -> NDArray[Any] | None:
    """Map a shard file as ``[rows, dim]``, or return None where its index is lawful but of another order.

    The index is read once and its crc32c checked; only an index that says "inner chunk after inner chunk,
    from byte 0" lets the file be mapped. The result is read-only and keeps the map alive.

    Raises:
        CacheError: wrong size, or an index whose checksum fails.
        OSError: the file cannot be opened.
    """
    stored = np.dtype(STORED[dtype]).newbyteorder("<")
    size = values_file_bytes(rows, dim, dtype)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        found = os.fstat(handle).st_size
        if found != size:
            raise CacheError(
                f"{path} must have {size} bytes for {rows} rows of {dim} {dtype}, and has {found}; "
                f"restore the file from a copy, or extract again"
            )
        want = _index(rows, dim, dtype)
        tail_at = size - want.nbytes - 4
        tail = b""
        while len(tail) < want.nbytes + 4:
            piece = os.pread(handle, want.nbytes + 4 - len(tail), tail_at + len(tail))
            if not piece:
                raise CacheError(
                    f"{path} ends inside its shard index; restore the file from a copy, or extract again"
                )
            tail += piece
        if _crc32c(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
            raise CacheError(
                f"{path}: the checksum of the shard index (last {len(tail)} bytes) is wrong; "
                f"restore the file from a copy, or extract again"
            )
        if tail[:-4] != want.tobytes():
            return None
        mapped = mmap.mmap(handle, size, access=mmap.ACCESS_READ)
    finally:
        os.close(handle)
    return np.frombuffer(mapped, stored, count=rows * dim).reshape(rows, dim)


class ForeignRows:
    """Rows of a lawful array in another layout (compressed, other chunks), sliced through zarr-python."""

    def __init__(self, folder: Path, rows: int, dim: int, dtype: DType) -> None:
        self._array = open_foreign(folder, (rows, dim), STORED[dtype])
        self.shape = (rows, dim)
        self.dtype: np.dtype[Any] = np.dtype(STORED[dtype])

        self._folder = folder

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        with foreign_errors(self._folder):
            return np.asarray(self._array[rows])


@contextmanager
def foreign_errors(folder: Path) -> Generator[None]:
    """Turn what zarr-python and its codecs raise over damaged chunks into a :class:`CacheError` that names the array."""
    try:
        yield
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        OSError,
    ) as error:
        raise CacheError(
            f"{folder} cannot be decoded ({type(error).__name__}: {str(error)[:200]}); restore it from a copy, or extract "
            f"again"
        ) from error


_CODECS = frozenset({"bytes", "transpose", "crc32c", "zstd", "sharding_indexed"})
"""Codecs of foreign arrays. Of every one of them the decoded size of a chunk is known before it is decoded."""
_SLACK = 64
"""Bytes that a checksum codec may add to a chunk."""
_NOWHERE = (1 << 64) - 1


def _zstd_size(head: bytes) -> int | None:
    """Decoded bytes that the header of a zstd frame states (RFC 8878, 3.1.1.1); None: no frame, or it does not say.

    >>> _zstd_size(bytes.fromhex("28b52ffd 20 05")), _zstd_size(b"plain bytes")
    (5, None)
    """
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return None
    single = head[4] >> 5 & 1
    size = (single, 2, 4, 8)[head[4] >> 6]
    at = 5 + (1 - single) + (0, 1, 2, 4)[head[4] & 3]
    if not size or len(head) < at + size:
        return None
    return int.from_bytes(head[at : at + size], "little") + (256 if size == 2 else 0)


def _chain(codecs: Any) -> dict[str, Mapping[str, Any]]:
    """Codec name to its configuration, each known and named once.

    Raises:
        ValueError: saying which is not.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for codec in cast("list[Any]", codecs):
        name: Any = codec if isinstance(codec, str) else codec["name"]
        if name not in _CODECS or name in found:
            raise ValueError(f"codec {name!r:.60} is unknown here or comes twice")
        found[name] = {} if isinstance(codec, str) else codec.get("configuration", {})
    return found


def check_foreign_chunks(folder: Path, itemsize: int, chunks: Sequence[Path]) -> None:
    """Prove that no chunk of a foreign array decodes to more bytes than its shape has.

    Args:
        folder: the array's folder.
        itemsize: bytes of a number.
        chunks: its chunk files.

    Raises:
        CacheError: a codec without a known size, or a chunk that claims another one; the file is named.
    """
    path = folder / "zarr.json"
    try:
        if os.stat(path).st_size > 1 << 20:
            raise ValueError("more than a megabyte of metadata")
        metadata: Any = json.loads(path.read_bytes())
        shape: list[int] = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        chain = _chain(metadata["codecs"])
        sharding = chain.get("sharding_indexed")
        inner = _chain(sharding["codecs"]) if sharding is not None else chain
        if sharding is not None and ("sharding_indexed" in inner or len(chain) > 1):
            raise ValueError("codecs around sharding, or sharding inside sharding")
        if sharding is not None and not {"bytes", "crc32c"}.issuperset(_chain(sharding["index_codecs"])):
            raise ValueError("an encoded shard index")
        if "zstd" not in inner:
            return
        piece: list[int] = shape if sharding is None else sharding["chunk_shape"]
        most = math.prod(piece) * itemsize + _SLACK
        count = math.prod(-(-n // m) for n, m in zip(shape, piece, strict=True))
        for path in chunks:
            with path.open("rb") as file:
                for at in [0] if sharding is None else _inner_chunks(file, count, sharding):
                    file.seek(at)
                    size = _zstd_size(file.read(18))
                    if size is None or size > most:
                        raise ValueError(
                            f"a chunk must decode to at most {most} bytes, and its header says {size}"
                        )
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        OSError,
    ) as error:
        raise CacheError(
            f"{folder} is not a readable Zarr v3 array of a cache ({str(error)[:200]}; codecs may be "
            f"{', '.join(sorted(_CODECS))}); restore it, or extract again"
        ) from error


def _inner_chunks(file: IO[bytes], count: int, sharding: Mapping[str, Any]) -> list[int]:
    """Where the inner chunks of a shard file begin, from its index."""
    checked = "crc32c" in _chain(sharding["index_codecs"])
    size = count * 16 + (4 if checked else 0)
    whole = os.fstat(file.fileno()).st_size
    if size > whole:
        raise ValueError(f"a shard index of {size} bytes in a file of {whole}")
    file.seek(0 if sharding.get("index_location", "end") == "start" else whole - size)
    index = np.frombuffer(file.read(count * 16), "<u8")[::2]
    return [int(at) for at in index[index != _NOWHERE]]


def open_foreign(folder: Path, shape: tuple[int, ...], dtype: str) -> Any:
    """Open an array with zarr-python after checking that its metadata ask for nothing absurd.

    Raises:
        CacheError: not an array, another shape or type than the manifest implies, or chunks far larger than it.
    """
    try:
        import zarr
    except ImportError as error:
        raise MissingExtraError(
            f"{folder} needs the package zarr, which is not installed; run `pip install zarr`"
        ) from error
    try:
        # Metadata damage comes out of zarr-python as any of these.
        array = cast(Any, zarr).open_array(store=str(folder), mode="r", zarr_format=3)
        found, kind = tuple(int(n) for n in array.shape), str(array.dtype)
        chunk = int(np.prod([int(n) for n in (array.shards or array.chunks)], dtype=np.float64))
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise CacheError(
            f"{folder} is not a readable Zarr v3 array ({error}); restore it, or extract again"
        ) from error
    if found != shape or kind != dtype:
        raise CacheError(
            f"{folder} must be {dtype} {list(shape)} by the cache manifest, and is {kind} {list(found)}; "
            f"restore it, or extract again"
        )
    if chunk > 2 * int(np.prod(shape, dtype=np.float64)) + (1 << 22):
        raise CacheError(
            f"{folder}: a chunk of {chunk} numbers is absurd for an array of {list(shape)}; extract again"
        )
    return array
