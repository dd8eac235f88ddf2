"""Tables and JSON on stdout."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def size(count: float) -> str:
    """Bytes as people read them.

    >>> size(512), size(1.5e6)
    ('512 B', '1.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def print_json(value: Any) -> None:
    """One JSON object on one line, NaN as null."""
    sys.stdout.write(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def printable(text: str) -> str:
    """``text`` with control characters replaced: a shared cache must not drive the terminal.

    >>> printable("a\\x1b[2Jb\\tc")
    'a\ufffd[2Jb\ufffdc'
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, note: str = "") -> None:
    """A plain table with a title; numbers are right-aligned where a whole column is numeric."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    body = [[printable(cell) for cell in row] for row in rows]
    table = Table(
        box=box.SIMPLE_HEAD,
    )
    for index, name in enumerate(columns):
        cells = [row[index] for row in body]
        numeric = bool(cells) and all(cell[:1].isdigit() or cell[:1] in "-." or not cell for cell in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(cell) for cell in row))
    width = None if sys.stdout.isatty() else 120
    if title:
        say(title)
    Console(file=sys.stdout, width=width, highlight=False).print(table)
    if note:
        say(note)


def say(text: str) -> None:
    """One or several lines on stdout."""
    sys.stdout.write("\n".join(printable(line) for line in text.split("\n")) + "\n")
