"""The two logs of a run, one JSON object a line: ``metrics.jsonl`` by epoch, ``gradients.jsonl`` by sampled step."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fusecache.cache import CacheError
from fusecache.cache.atomic import replace_file, storage_errors

LOGS = ("metrics.jsonl", "gradients.jsonl")


def append_log(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add one line for each value.

    Raises:
        StorageError: the disk refused.
    """
    with storage_errors(path, "write"), path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def cut_log(path: Path, *, epochs: int) -> None:
    """Keep the lines of the first ``epochs`` epochs: later ones will be written again, and a kill may leave half a line.

    Raises:
        StorageError: the disk refused.
    """
    kept: list[str] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if line["epoch"] < epochs:
            kept.append(text + "\n")
    replace_file(path, "".join(kept).encode())


def log_line(path: Path, epoch: int) -> dict[str, Any]:
    """The line of one epoch in ``metrics.jsonl``.

    Raises:
        CacheError: there is none; somebody changed the run folder.
    """
    for text in path.read_text(encoding="utf-8").splitlines():
        line: dict[str, Any] = json.loads(text)
        if line["epoch"] == epoch:
            return line
    raise CacheError(f"{path} must hold a line of epoch {epoch}, it has none; start the run anew")
