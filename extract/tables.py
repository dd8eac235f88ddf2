"""Reading the tables behind a media manifest: CSV, JSON lines, Parquet, or a folder listing.

Only cells come out of here; what they mean is decided in :mod:`.media`.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from fusecache.cache import InputError, MissingExtraError
from fusecache.cache.errors import several

Cell: TypeAlias = str | int | float | bool | list[str]
"""One value of a table. An absent one is the empty string."""

ENDINGS: dict[str, str] = {
    **dict.fromkeys(
        (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aiff", ".aif"), "audio"
    ),
    **dict.fromkeys(
        (".mp4", ".mkv", ".webm", ".avi", ".mov", ".mpg", ".mpeg", ".ts", ".m4v", ".flv", ".wmv", ".gif"),
        "video",
    ),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"), "image"),
    ".txt": "text_file",
}
"""Endings that a folder listing knows, and the column they fill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """Cells of one row by column name, and where it stands."""

    where: str
    cells: dict[str, Cell]


def read_table(path: Path) -> tuple[tuple[str, ...], list[RawRow]]:
    """Column names and rows of a ``.csv``, ``.jsonl`` or ``.parquet`` file.

    Raises:
        InputError: the ending is unknown, the text is not UTF-8, or a row is malformed.
        MissingExtraError: Parquet, and no pyarrow.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"A media manifest must end in {', '.join(readers)} or be a folder, got {path}; rename or convert it"
        )
    return reader(path)


def read_folder(path: Path) -> list[RawRow]:
    """One row per name without ending, in order of name; files of unknown ending and hidden ones are left out.

    Raises:
        InputError: no media at all, or two files of one name and one kind.
    """
    rows: dict[str, RawRow] = {}
    problems: list[str] = []
    for file in sorted(path.rglob("*")):
        inner = file.relative_to(path)
        column = ENDINGS.get(file.suffix.lower())
        if column is None or any(part.startswith(".") for part in inner.parts) or not file.is_file():
            continue
        key = inner.with_suffix("").as_posix()
        row = rows.setdefault(key, RawRow(where=f"files {key}.*", cells={"key": key}))
        if column in row.cells:
            problems.append(
                f"{row.cells[column]} and {inner} are both the {column} of sample {key!r}; rename one"
            )
        row.cells[column] = inner.as_posix()
    if problems:
        raise InputError(several(f"The folder {path} cannot be read as samples", problems))
    if not rows:
        raise InputError(
            f"The folder {path} holds no media: files must end in one of {' '.join(ENDINGS)}; check the path, or give "
            "a CSV that lists the files"
        )
    return list(rows.values())


def _utf8(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The media manifest {path} cannot be read ({error.strerror}); check its permissions"
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"The media manifest {path} must be UTF-8 text; byte 0x{data[error.start]:02x} at offset {error.start} "
            f"(line {line}) is not; save it as UTF-8"
        ) from error


def _read_csv(path: Path) -> tuple[tuple[str, ...], list[RawRow]]:
    reader = csv.reader(io.StringIO(_utf8(path), newline=""), strict=True)
    rows: list[RawRow] = []
    problems: list[str] = []
    columns: tuple[str, ...] = ()
    last = 0
    try:
        for cells in reader:
            where, last = f"line {last + 1}", reader.line_num
            if not cells:
                continue
            if not columns:
                columns = tuple(name.strip() for name in cells)
            elif len(cells) != len(columns):
                problems.append(
                    f"{where}: {len(columns)} cells are needed, got {len(cells)}; quote cells that hold commas"
                )
            else:
                rows.append(RawRow(where=where, cells=dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: not CSV ({error}); mend the quotes")
    if not columns:
        problems.append("line 1: a header with column names is needed, got an empty file")
    if problems:
        raise InputError(several(f"The media manifest {path} is not a table", problems))
    return columns, rows


def _read_jsonl(path: Path) -> tuple[tuple[str, ...], list[RawRow]]:
    columns: dict[str, None] = {}
    rows: list[RawRow] = []
    problems: list[str] = []
    for index, line in enumerate(_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value: object = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            problems.append(f"line {index}: not JSON ({error}); write one object per line")
            continue
        if not isinstance(value, dict):
            problems.append(
                f'line {index}: an object is needed, got {line.strip()[:40]}; write {{"key": ...}}'
            )
            continue
        rows.append(_typed_row(f"line {index}", cast("dict[str, object]", value), problems))
        columns.update(dict.fromkeys(rows[-1].cells))
    if problems:
        raise InputError(several(f"The media manifest {path} is not a table", problems))
    return tuple(columns), rows


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose names differ; JSON itself would keep the last of two values and drop the other."""
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the name {', '.join(map(repr, twice))} comes more than once in one object")
    return dict(pairs)


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a JSON number; write null for an absent value")


def _read_parquet(path: Path) -> tuple[tuple[str, ...], list[RawRow]]:
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            f"Reading {path} needs pyarrow, which is not installed; pip install 'fusecache[extract]', or convert the "
            "media manifest to CSV"
        ) from error
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"The media manifest {path} is not a readable Parquet file ({error}); write it again"
        ) from error
    columns = cast("list[str]", table.column_names)
    records = cast("list[dict[str, object]]", table.to_pylist())
    problems: list[str] = []
    rows = [_typed_row(f"row {index}", record, problems) for index, record in enumerate(records, start=1)]
    if problems:
        raise InputError(several(f"The media manifest {path} is not a table", problems))
    return tuple(columns), rows


def _typed_row(where: str, record: dict[str, object], problems: list[str]) -> RawRow:
    """Cells of a typed record; null is absent, and what is neither scalar nor list of words is a problem."""
    cells: dict[str, Cell] = {}
    for name, value in record.items():
        if value is None:
            cells[name] = ""
        elif isinstance(value, str | int | float | bool):
            cells[name] = value
        elif isinstance(value, list) and all(isinstance(tag, str) for tag in cast("list[object]", value)):
            cells[name] = cast("list[str]", value)
        else:
            problems.append(
                f"{where}, column {name!r}: a word, a number or a list of words is needed, got {value!r}"
            )
    return RawRow(where=where, cells=cells)
