"""Folders that are whole or absent: built beside their final name, sealed by ``DATASET.json``, renamed.

A build that is killed leaves a ``.NAME.*.tmp`` sibling, which the next build of that folder removes.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusecache.cache import InputError, StorageError
from fusecache.cache.spec import digest

MANIFEST = "manifest.csv"
SEAL = "DATASET.json"
_OURS = frozenset({MANIFEST, SEAL, "audio", "image", "text"})
_REFUSALS = frozenset(
    getattr(errno, name)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EROFS",
        "EACCES",
        "EPERM",
        "EIO",
        "ENAMETOOLONG",
        "ENOTDIR",
        "EEXIST",
        "EFBIG",
    )
    if hasattr(errno, name)
)
_STALE = 3_600.0
"""Seconds after which a sibling left by another build is taken for abandoned."""


def write_manifest(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write a media manifest as CSV (UTF-8, ``\\n``), an absent cell empty, durably."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def seal(folder: Path, about: Mapping[str, Any]) -> None:
    """Write ``DATASET.json``, last: ``about``, and for the manifest and every subfolder how much there is.

    ``files`` gives the number of files of each subfolder and one digest over their names and digests.
    """
    files = {sub.name: _survey(sub) for sub in sorted(folder.iterdir()) if sub.is_dir()}
    manifest = {"name": MANIFEST, "xxh3_128": digest((folder / MANIFEST).read_bytes())}
    text = json.dumps({**about, "manifest": manifest, "files": files}, indent=1, ensure_ascii=False)
    with (folder / SEAL).open("w", encoding="utf-8", newline="") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def is_complete(folder: Path, *, name: str, version: int, seed: int) -> bool:
    """Whether ``folder`` holds this dataset, sealed and with all its files. File contents are not read again."""
    try:
        about: dict[str, Any] = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        if (about.get("name"), about.get("version"), about.get("seed")) != (name, version, seed):
            return False
        if digest((folder / MANIFEST).read_bytes()) != about["manifest"]["xxh3_128"]:
            return False
        files: dict[str, dict[str, Any]] = about["files"]
        return all(len(os.listdir(folder / sub)) == found["count"] for sub, found in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextlib.contextmanager
def staged(folder: Path) -> Generator[Path]:
    """Yield an empty folder that takes the place of ``folder`` when the block ends without an exception.

    Raises:
        InputError: ``folder`` is a file, or holds something that no builder wrote: it is never replaced.
        StorageError: the disk refused.
    """
    folder = folder.absolute()
    check_replaceable(folder)
    stage = folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        stage.chmod(0o777 & ~_umask())
        yield stage
        _swap(stage, folder)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise StorageError(
            f"the dataset folder {folder} could not be written: {error.strerror} ({error.filename or folder}); "
            "name a folder on a disk that has room and that you may write to"
        ) from error
    finally:
        if stage != folder:
            shutil.rmtree(stage, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Refuse to touch a folder that was not built here.

    Raises:
        InputError: naming what was found.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"the dataset goes into a folder, and {folder} is a file; name another folder")
    if foreign := sorted(set(os.listdir(folder)) - _OURS):
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise InputError(
            f"the dataset goes into a new folder or replaces an earlier build, and {folder} holds other files "
            f"({shown}); name another folder, or empty this one"
        )


def _swap(stage: Path, folder: Path) -> None:
    """Rename ``stage`` to ``folder``; what stood there goes first, and only now."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        os.rename(folder, old / "old")
        os.rename(stage, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(stage, folder)
    if os.name == "posix":
        handle = os.open(folder.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network disks refuse to sync a folder
                os.fsync(handle)
        finally:
            os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove what killed builds of this folder left, once it is old enough not to be in use."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)


def _survey(folder: Path) -> dict[str, Any]:
    """Count and digest of the files of one folder."""
    names = sorted(os.listdir(folder))
    lines = "".join(f"{name} {digest((folder / name).read_bytes())}\n" for name in names)
    return {"count": len(names), "xxh3_128": digest(lines.encode())}


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
