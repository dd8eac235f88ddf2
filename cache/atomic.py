"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder.

Think of a bank transfer: nothing counts until the last entry is booked. Every file of a cache is written
here, and every refusal of the disk becomes a :class:`StorageError` here. This module knows nothing of Zarr.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import xxhash

from .errors import StorageError

_REMEDIES: dict[int, str] = {
    errno.ENOSPC: "free space on that disk or choose another output folder, then run the same command again",
    errno.EDQUOT: "your disk quota is used up: free space or choose another output folder, then run again",
    errno.EFBIG: "the file size limit was reached: raise `ulimit -f` or use smaller shards, then run again",
    errno.EACCES: "give yourself write permission there or choose another output folder",
    errno.EPERM: "give yourself write permission there or choose another output folder",
    errno.EROFS: "the disk is mounted read-only: choose another output folder",
    errno.EIO: "the disk reports a hardware error: check it, and use another disk",
    errno.ENOTDIR: "a part of that path is a file, not a folder: choose another path",
    errno.EEXIST: "that path is taken by something else: choose another path",
    errno.ENOENT: "create the folder above it, or correct the path",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "a symbolic link is in its place: remove the link, or choose another folder",
}


class FileInfo(NamedTuple):
    """Size in bytes and xxh3-128 (32 hexadecimal digits) of a file's content."""

    size: int
    digest: str


@contextmanager
def storage_errors(path: Path, doing: str) -> Generator[None]:
    """Turn an :class:`OSError` in the body into a :class:`StorageError` that names ``path`` and a remedy."""
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        remedy = _REMEDIES.get(code, "check the disk and the path, then run again")
        name = errno.errorcode.get(code, str(code))
        raise StorageError(
            f"cannot {doing} {path}: {os.strerror(code) if code else error} ({name}); {remedy}. "
            f"What was committed before is untouched."
        ) from error


def fsync_folder(folder: Path) -> None:
    """Make renames and new names inside ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, parts: Iterable[Any], *, sync: bool = True) -> FileInfo:
    """Write bytes-like ``parts`` one after another into a new file and say what was written.

    Args:
        path: a name that does not exist yet, in a folder that does.
        parts: contiguous buffers (bytes, or arrays).
        sync: fsync before closing; False where the caller syncs a whole folder at once.

    Raises:
        OSError: whatever the disk says; the caller wraps it.
    """
    state = xxhash.xxh3_128()
    size = 0
    with path.open("xb", buffering=0) as file:
        for part in parts:
            data = memoryview(part).cast("B") if memoryview(part).nbytes else memoryview(b"")
            state.update(data)
            size += data.nbytes
            while data.nbytes:
                data = data[file.write(data) :]
        if sync:
            os.fsync(file.fileno())
    return FileInfo(size, state.hexdigest())


def replace_file(path: Path, data: bytes) -> None:
    """Give ``path`` the content ``data`` atomically: readers see the old file or the new one, whole.

    Raises:
        StorageError: the disk refused; the old file stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with storage_errors(path, "write"):
        partial.unlink(missing_ok=True)
        try:
            write_file(partial, [data])
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Fsync every file and folder below ``folder``, deepest first, then ``folder`` itself.

    Files are synced by a few threads so that the file system's journal can settle them together.
    """
    from concurrent.futures import ThreadPoolExecutor

    files: list[Path] = []
    folders: list[Path] = []
    for root, _, names in os.walk(folder, topdown=False):
        folders.append(Path(root))
        files += [Path(root) / name for name in names]

    with ThreadPoolExecutor(8, thread_name_prefix="fusecache-fsync") as pool:
        for _ in pool.map(fsync_folder, files):  # fsync takes any descriptor, a file's as well
            pass
        for _ in pool.map(fsync_folder, folders):
            pass


def publish_folder(partial: Path, final: Path) -> None:
    """Rename a finished folder to its final name, durably.

    Raises:
        OSError: whatever the disk says; ``final`` exists whole or not at all.
    """
    sync_tree(partial)
    partial.rename(final)
    fsync_folder(final.parent)
    fsync_folder(partial.parent)


def remove_folder(folder: Path) -> None:
    """Delete a leftover folder; a refusal is not an error, since the next writer tries again."""
    shutil.rmtree(folder, ignore_errors=True)


class WriterLock:
    """One writer per cache: an advisory lock on ``CACHE/.lock`` that dies with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StorageError: another process holds it (named by its id where known), or the disk refused.
        """
        import fcntl

        with storage_errors(self._path, "lock"):
            # Never through a link: the lock is emptied and written, and what a link names is not ours.
            flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            handle = os.open(self._path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise OSError(errno.EEXIST, "not a plain file")
            file = os.fdopen(handle, "r+")
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read(32).strip()
            file.close()
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise StorageError(
                    f"cannot lock {self._path}: {error.strerror}; put the cache on a disk that supports file locks"
                ) from error
            raise StorageError(
                f"a cache takes one writer at a time, and process {holder or '(unknown)'} is writing "
                f"{self._path.parent}; wait until it ends, stop it, or choose another output folder"
            ) from None
        file.seek(0)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock back; the file stays, empty of meaning."""
        if self._file is not None:
            self._file.close()
            self._file = None
