"""The media manifest: the list of samples that goes into an extraction.

It may be CSV, JSON lines, Parquet, or simply a folder, whose files are grouped by name without ending (``a.wav``
and ``a.png`` are one sample ``a``). Columns, all optional but ``key``; an empty cell is an absent value:

========================================  =================================================================
``key``                                   name of the sample, unique
``audio`` ``video`` ``image``             path of a file, absolute or relative to the manifest's folder
``text_file``, ``text``                   path of a UTF-8 file, or the text itself
``start`` ``end``                         clip bounds within the audio and video file, seconds
``split`` ``group`` ``parent``            words; ``group`` is the unit of leave-one-out, such as the speaker
``position``                              whole number: order within the parent
``label.NAME`` ``value.NAME`` ``tags.NAME``  a class, a number, several classes joined by ``|``
========================================  =================================================================

Where there is no ``audio`` column at all, the audio of a sample is the sound track of its video, if it has one.

The list is validated whole and every bad row is named. A file that does not exist is not an error of the list: its
sample is rejected when the extraction comes to it, unless every file is missing, which is a wrong folder.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from fusecache.cache import InputError, LabelColumn, Seconds, Stream
from fusecache.cache.errors import several
from fusecache.cache.sample import check_key
from fusecache.cache.spec import check_name

from .tables import Cell, RawRow, read_folder, read_table

FILE_COLUMNS: Mapping[str, Stream] = {
    "audio": "audio",
    "video": "video",
    "image": "image",
    "text_file": "text",
}
PLAIN_COLUMNS = ("key", *FILE_COLUMNS, "text", "start", "end", "split", "group", "parent", "position")
PREFIXES = ("label.", "value.", "tags.")
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""A number as text: what Python takes beside it, such as ``1_0``, is a slip."""
MAX_POSITION = 1 << 53


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaRow:
    """One sample of the media manifest."""

    key: str
    where: str
    """Place in the list, such as ``line 7``, for messages."""
    files: Mapping[Stream, str] = field(default_factory=dict[Stream, str])
    """Stream to path as written in the list."""
    text: str | None = None
    """Inline text."""
    soundtrack: bool = False
    """The audio file was not named: it is the video's own sound track, and may be absent."""
    start: Seconds | None = None
    end: Seconds | None = None
    split: str = ""
    group: str = ""
    parent: str = ""
    position: int = 0
    labels: Mapping[str, str | float | tuple[str, ...]] = field(
        default_factory=dict[str, "str | float | tuple[str, ...]"]
    )

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The media that this sample has."""
        return (*self.files, *(("text",) if self.text is not None else ()))


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStamp:
    """What tells a changed file without reading it: size in bytes, and modification time in nanoseconds."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaManifest:
    """A validated media manifest."""

    path: Path
    root: Path
    """Folder that relative paths start from."""
    rows: tuple[MediaRow, ...]
    columns: tuple[str, ...]
    labels: tuple[LabelColumn, ...]
    """Classes in numeric order if all are whole numbers, else alphabetically."""
    splits: tuple[str, ...]
    """In order of first appearance."""
    stamps: Mapping[str, FileStamp | None]
    """Every path as written, and its stamp when the list was read; None where there is no such file."""

    def resolve(self, path: str) -> Path:
        """Where a path of the list lies."""
        return self.root / path


def read_manifest(path: str | Path) -> MediaManifest:
    """Read and validate a media manifest.

    Args:
        path: a ``.csv``, ``.jsonl`` or ``.parquet`` file, or a folder of media files.

    Raises:
        InputError: naming every bad row and column, with line numbers.
        MissingExtraError: Parquet, and no pyarrow.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("manifest.csv", "manifest.jsonl", "manifest.parquet"):
            if (path / name).exists():
                raise InputError(
                    f"the folder {path} holds a media manifest, {name}, which would be passed over when the folder itself is "
                    f"named; name {path / name}, or move it away to take the folder's files without it"
                )
        root, columns, raws = path, ("key", *FILE_COLUMNS), read_folder(path)
    elif path.is_file():
        root, (columns, raws) = path.parent, read_table(path)
    else:
        raise InputError(
            f"A media manifest is needed (CSV, JSON lines, Parquet, or a folder of media files), and {path} does not "
            "exist; check the path"
        )
    problems = _column_problems(columns)
    if not raws:
        problems.append("it has no rows; add one line per sample")
    if problems:
        raise InputError(several(f"The media manifest {path} cannot be used", problems))

    offers_sound = path.is_dir() or "audio" not in columns
    rows = [row for raw in raws if (row := _parse_row(raw, offers_sound, problems)) is not None]
    _check_unique(rows, problems)
    labels = _label_columns(columns, rows, problems)
    splits = tuple(dict.fromkeys(row.split for row in rows if row.split))
    problems += _look_alikes("split", splits)
    problems += [line for column in labels for line in _look_alikes(f"label {column.name!r}", column.classes)]
    if problems:
        raise InputError(several(f"The media manifest {path} has {len(problems)} problems", problems))
    stamps = {name: _stamp(root / name) for row in rows for name in row.files.values()}
    if stamps and not any(stamps.values()):
        raise InputError(
            f"None of the {len(stamps)} files that the media manifest {path} names exists, such as "
            f"{root / next(iter(stamps))}; paths are taken relative to the folder of the manifest, {root}: put it "
            "beside the media or write absolute paths"
        )
    return MediaManifest(
        path=path,
        root=root,
        rows=tuple(rows),
        columns=tuple(columns),
        labels=labels,
        splits=splits,
        stamps=stamps,
    )


def _column_problems(columns: Iterable[str]) -> list[str]:
    problems: list[str] = []
    seen: set[str] = set()
    for name in columns:
        prefix, dot, rest = name.partition(".")
        if name in seen:
            problems.append(f"column {name!r} appears twice; remove one")
        seen.add(name)
        if prefix + dot in PREFIXES:
            try:
                check_name(rest, "label")
            except InputError as error:
                problems.append(f"column {name!r}: {error}")
        elif name not in PLAIN_COLUMNS:
            near = get_close_matches(name, [*PLAIN_COLUMNS, *PREFIXES], n=1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else "remove it, or write label.NAME, value.NAME or tags.NAME"
            )
            problems.append(
                f"column {name!r} is unknown; {hint} Known: {', '.join((*PLAIN_COLUMNS, *PREFIXES))}"
            )
    names = [name.partition(".")[2] for name in seen if name.partition(".")[1]]
    problems += [
        f"label {name!r} is given by several of label., value. and tags.; keep one"
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    if "key" not in seen:
        problems.append("there is no column 'key'; every sample needs a unique name")
    if not seen & {*FILE_COLUMNS, "text"}:
        problems.append(f"there is no column of media; add one of {', '.join((*FILE_COLUMNS, 'text'))}")
    return problems


def _parse_row(raw: RawRow, offers_sound: bool, problems: list[str]) -> MediaRow | None:
    """Turn cells into a row, adding what is wrong to ``problems`` with its place."""
    before = len(problems)
    cells = raw.cells

    def wrong(column: str, need: str, todo: str) -> None:
        problems.append(f"{raw.where}, column {column!r}: {need}, got {cells[column]!r}; {todo}")

    def word(column: str) -> str:
        value = cells.get(column, "")
        if isinstance(value, list | bool):
            wrong(column, "must be one word or number", "write a single value")
            return ""
        text = str(value)
        if isinstance(value, float) and not math.isfinite(value):
            wrong(column, "must be a word or a finite number", "leave absent values empty (null)")
        elif text != text.strip() and column not in ("text", *FILE_COLUMNS):
            wrong(column, "must not begin or end with a blank", "remove the blanks around it")
        elif not text.isprintable() and column not in ("text", "key"):
            wrong(column, "must be printable text", "remove the control characters")
        elif not _encodable(text):
            wrong(column, "must be valid Unicode text", "remove the lone surrogates")
        return text

    def number(column: str) -> float | None:
        value = cells.get(column, "")
        if value == "":
            return None
        try:
            plain = not isinstance(value, str) or NUMBER.fullmatch(value.strip())
            found = float(value) if plain and not isinstance(value, list | bool) else math.nan
        except (ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found):
            wrong(column, "must be a number", "write it with a decimal point, or leave the cell empty")
            return None
        return found

    key = word("key")
    try:
        check_key(key, f"{raw.where}, column 'key'")
    except InputError as error:
        problems.append(str(error))
    files: dict[Stream, str] = {
        stream: word(name) for name, stream in FILE_COLUMNS.items() if cells.get(name, "") != ""
    }
    text = word("text") or None
    if not files and text is None:
        problems.append(
            f"{raw.where} (key {key!r}): no media; fill one of {', '.join((*FILE_COLUMNS, 'text'))}"
        )
    if text is not None and "text" in files:
        wrong("text_file", "text is given inline as well", "keep text or text_file")
    soundtrack = offers_sound and "video" in files and "audio" not in files
    if soundtrack:
        files["audio"] = files["video"]
    start, end, position = number("start"), number("end"), number("position")
    if start is not None and start < 0:
        wrong("start", "must be 0 or more", "times count from the beginning of the file")
    if end is not None and end <= (start or 0.0):
        wrong("end", f"must be after start ({start or 0.0} s)", "swap or mend the bounds")
    if position is not None and (position != int(position) or abs(position) > MAX_POSITION):
        wrong(
            "position", "must be a whole number", "count the clips of a parent 0, 1, 2, ... (at most 2**53)"
        )
    labels: dict[str, str | float | tuple[str, ...]] = {}
    for column in cells:
        kind, dot, name = column.partition(".")
        if not dot or cells[column] == "" or cells[column] == []:
            continue
        if kind == "value":
            value = number(column)
            if value is not None:
                labels[name] = value
        elif kind == "tags":
            if any(tag != tag.strip() for tag in _tags(cells[column])):
                wrong(column, "classes must not begin or end with a blank", "remove the blanks around |")
            labels[name] = tuple(dict.fromkeys(tag for tag in _tags(cells[column]) if tag))
        else:
            labels[name] = word(column)
    if len(problems) > before:
        return None
    return MediaRow(
        key=key,
        where=raw.where,
        files=files,
        text=text,
        soundtrack=soundtrack,
        start=start,
        end=end,
        split=word("split"),
        group=word("group"),
        parent=word("parent"),
        position=int(position or 0),
        labels=labels,
    )


def _tags(value: Cell) -> list[str]:
    return value if isinstance(value, list) else str(value).split("|")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _look_alikes(what: str, names: Iterable[str]) -> list[str]:
    """Names that differ only in case or in how their accents are encoded: one class, written in two ways."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(unicodedata.normalize("NFC", name.strip().casefold()), []).append(name)
    return [
        f"{what}: {' and '.join(map(ascii, group))} differ only in case or encoding; write one of them everywhere"
        for group in alike.values()
        if len(group) > 1
    ]


def _check_unique(rows: Iterable[MediaRow], problems: list[str]) -> None:
    first: dict[str, str] = {}
    for row in rows:
        if row.key in first:
            problems.append(f"{row.where}: key {row.key!r} is taken by {first[row.key]}; keys must be unique")
        first.setdefault(row.key, row.where)


def _label_columns(
    columns: Iterable[str], rows: list[MediaRow], problems: list[str]
) -> tuple[LabelColumn, ...]:
    """Label columns with their classes; a class column without a single value is a problem."""
    found: list[LabelColumn] = []
    for column in columns:
        kind, dot, name = column.partition(".")
        if not dot:
            continue
        if kind == "value":
            found.append(LabelColumn(name=name, kind="float"))
            continue
        values: set[str] = set()
        for row in rows:
            value = row.labels.get(name)
            values.update(value if isinstance(value, tuple) else () if value is None else (str(value),))
        if not values:
            problems.append(f"column {column!r}: not one row has a value; fill it or remove the column")
            continue
        classes = tuple(sorted(values, key=int if all(map(_is_whole, values)) else str))
        found.append(
            LabelColumn(name=name, kind="multilabel" if kind == "tags" else "class", classes=classes)
        )
    return tuple(found)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and str(int(text)) == text if len(text) < 19 else False


def _stamp(path: Path) -> FileStamp | None:
    """Size and modification time of a file, or None where there is no readable regular file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if not path.is_file():
        return None
    return FileStamp(size=found.st_size, mtime_ns=found.st_mtime_ns)
