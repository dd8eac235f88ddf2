"""The cache manifest: the one file that says what a cache is, written last and parsed as data.

It plays the part of a book's table of contents with page counts: whatever it does not list does not exist, and
whatever it lists has a size and a checksum. A manifest is never edited; a new version replaces it whole.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from .atomic import replace_file
from .errors import CacheError, FusecacheError, several
from .spec import FeatureSpec, LabelColumn, canonical_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 29
_MAX_COUNT = 1 << 53
_MAX_DIM = 1 << 24
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One committed shard."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (read by pydantic, not a field)

    index: int
    """Number of the shard; its folder is the number with six digits."""
    samples: int
    rows: dict[str, int]
    """Modality to number of rows."""
    files: dict[str, tuple[int, str]]
    """Path relative to the shard's folder to (bytes, xxh3-128)."""

    @property
    def folder(self) -> str:
        """Path of the shard relative to the cache."""
        return f"store/shards/{self.index:06d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a version of a cache holds."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (read by pydantic, not a field)

    format: Literal["fusecache"] = "fusecache"
    format_version: int = FORMAT_VERSION
    version: int
    """1, 2, 3, ...: the versions of this cache."""
    backend: Literal["zarr"] = "zarr"
    specs: tuple[FeatureSpec, ...]
    revisions: dict[str, int]
    """Modality to the revision of its arrays that this version reads."""
    labels_revision: int
    label_columns: tuple[LabelColumn, ...]
    splits: tuple[str, ...]
    shards: tuple[ShardInfo, ...]
    samples: int
    rejected: int
    """Samples of the media manifest that could not be decoded or encoded; they lie in ``rejects.jsonl``."""
    content_fingerprint: str

    @property
    def total_bytes(self) -> int:
        """Bytes of all files of the store that this version lists."""
        return sum(size for shard in self.shards for size, _ in shard.files.values())

    def rows(self, modality: str) -> int:
        """Rows of a modality in the whole cache."""
        return sum(shard.rows[modality] for shard in self.shards)

    def to_bytes(self) -> bytes:
        """The file's text: one JSON object, a line per field and per shard, always the same for equal manifests."""
        fields = cast(dict[str, object], asdict(self))
        shards = cast(tuple[Mapping[str, object], ...], fields.pop("shards"))
        lines = [f"{canonical_json(name)}:{canonical_json(value)}" for name, value in sorted(fields.items())]
        body = ",\n".join(canonical_json(shard) for shard in shards)
        lines.append(f'"shards":[\n{body}\n]' if shards else '"shards":[]')
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def safe_relative(path: str) -> bool:
    """Whether ``path`` is a plain relative path: nothing absolute, empty, ``.``, ``..``, backslash or NUL.

    >>> safe_relative("audio.0/values/c/0/0"), safe_relative("../x"), safe_relative("/etc/passwd")
    (True, False, False)
    """
    parts = path.split("/")
    return not any(
        part in ("", ".", "..") or "\\" in part or "\0" in part or len(part) > 255 for part in parts
    )


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Manifest)


def _newer(data: bytes) -> object:
    """The ``format_version`` of a file that this release cannot parse, or None."""
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return cast(dict[str, object], value).get("format_version")
    return None


def _twice(data: bytes) -> list[str]:
    """Names that an object of the file has more than once; which value counts would be the parser's whim."""
    found: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) != len(items):
            names = [name for name, _ in items]
            found.extend(
                f"{name!r:.80}: a name must come once in an object, got it {names.count(name)} times"
                for name in table
                if names.count(name) > 1
            )
        return table

    json.loads(data, object_pairs_hook=pairs)
    return found


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """Read a manifest from its bytes, as data: every field known, typed and within bounds.

    Raises:
        CacheError: naming ``path`` and every field that is wrong, with its value; or saying that a newer
            fusecache wrote it.
    """
    from pydantic import ValidationError

    problems: list[str] = []
    manifest: Manifest | None = None
    try:
        manifest = cast(Manifest, _adapter().validate_json(data, strict=True))
    except ValidationError as error:
        for item in error.errors(include_url=False):
            where = ".".join(str(part) for part in item["loc"]) or "file"
            problems.append(f"{where}: {item['msg']}, got {repr(item['input'])[:80]}")
    except FusecacheError as error:
        problems.append(str(error))
    version = manifest.format_version if manifest is not None else _newer(data)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CacheError(
            f"{path}: this fusecache reads format version {FORMAT_VERSION}, and the cache has format version {version}; "
            f"a newer release reads it: `pip install -U fusecache`"
        )
    if manifest is not None:
        problems = [*_twice(data), *_check(manifest)]
    if problems or manifest is None:
        raise CacheError(
            several(
                f"{path} is not a cache manifest (restore it from manifests/, or extract again)", problems
            )
        )
    return manifest


def _count(problems: list[str], where: str, value: int, low: int = 0, high: int = _MAX_COUNT) -> None:
    if not low <= value <= high:
        problems.append(f"{where}: must be {low} to {high}, got {value}")


def _check(manifest: Manifest) -> list[str]:
    """Everything that types alone do not say."""
    problems: list[str] = []
    _count(problems, "format_version", manifest.format_version, 1, FORMAT_VERSION)
    _count(problems, "version", manifest.version, 1)
    _count(problems, "labels_revision", manifest.labels_revision)
    _count(problems, "rejected", manifest.rejected)
    names = [spec.modality for spec in manifest.specs]
    columns = [column.name for column in manifest.label_columns]
    for where, values in (("specs", names), ("label_columns", columns), ("splits", list(manifest.splits))):
        if len(set(values)) != len(values):
            problems.append(f"{where}: names must be unique, got {values}")
    if len(manifest.splits) > 255 or "" in manifest.splits:
        problems.append(f"splits: at most 255 non-empty names, got {len(manifest.splits)}")
    for spec in manifest.specs:
        _count(problems, f"specs.{spec.modality}.dim", spec.dim, 1, _MAX_DIM)
        try:
            canonical_json(spec.producer.settings)
        except ValueError as error:
            problems.append(f"specs.{spec.modality}.producer.settings: {error}")
    if set(manifest.revisions) != set(names):
        problems.append(f"revisions: must name {sorted(names)}, got {sorted(manifest.revisions)}")
    for name, revision in manifest.revisions.items():
        _count(problems, f"revisions.{name}", revision)
    indexes = [shard.index for shard in manifest.shards]
    if indexes != sorted(set(indexes)):
        problems.append("shards: indexes must increase")
    for shard in manifest.shards:
        _check_shard(shard, set(names), problems)
    total = sum(shard.samples for shard in manifest.shards)
    if manifest.samples != total:
        problems.append(f"samples: the shards hold {total}, got {manifest.samples}")
    if len(manifest.content_fingerprint) != 32 or not _HEX.issuperset(manifest.content_fingerprint):
        problems.append(
            f"content_fingerprint: must be 32 hexadecimal digits, got {manifest.content_fingerprint!r:.80}"
        )
    return problems


def _check_shard(shard: ShardInfo, names: set[str], problems: list[str]) -> None:
    where = f"shards.{shard.index}"
    _count(problems, f"{where}.index", shard.index, 0, 999_999_999)
    _count(problems, f"{where}.samples", shard.samples)
    if set(shard.rows) != names:
        problems.append(f"{where}.rows: must name {sorted(names)}, got {sorted(shard.rows)}")
    for name, rows in shard.rows.items():
        _count(problems, f"{where}.rows.{name}", rows)
    for path, (size, checksum) in shard.files.items():
        if not safe_relative(path):
            problems.append(f"{where}.files: {path!r:.80} is not a plain relative path")
        _count(problems, f"{where}.files.{path:.80}", size)
        if len(checksum) != 32 or not _HEX.issuperset(checksum):
            problems.append(
                f"{where}.files.{path:.80}: checksum must be 32 hexadecimal digits, got {checksum!r:.80}"
            )


def manifest_bytes(cache: Path) -> bytes:
    """The bytes of a cache's current manifest.

    Raises:
        CacheError: no cache there, or a file that is absurdly large or cannot be read.
    """
    path = cache / MANIFEST
    try:
        size = os.stat(path).st_size
        if size > MAX_MANIFEST_BYTES:
            raise CacheError(
                f"{path} has {size} bytes, the limit is {MAX_MANIFEST_BYTES}; this is not a cache manifest"
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        unfinished = (cache / "store").is_dir()
        hint = "an extraction that did not finish: run it again to resume" if unfinished else "check the path"
        raise CacheError(f"a cache was expected at {cache}, and there is no {path}; {hint}") from error
    except OSError as error:
        raise CacheError(
            f"cannot read {path}: {error.strerror}; check its permissions and the disk"
        ) from error


def load_manifest(cache: Path) -> Manifest:
    """The current manifest of the cache at ``cache``.

    Raises:
        CacheError: as :func:`manifest_bytes` and :func:`parse_manifest`.
    """
    return parse_manifest(manifest_bytes(cache), cache / MANIFEST)


def publish_manifest(cache: Path, manifest: Manifest) -> None:
    """Write ``manifests/N.json``, then replace ``manifest.json``: the moment in which version N begins to exist.

    Raises:
        StorageError: the disk refused; the version before stays current.
    """
    data = manifest.to_bytes()
    replace_file(cache / "manifests" / f"{manifest.version}.json", data)
    replace_file(cache / MANIFEST, data)
