"""A cache that somebody made to deceive: links, foreign files, bombs, and content that no writer lets through."""

# pyright: reportUnknownMemberType=false
# zarr leaves some of its own signatures untyped.

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fusecache.cache import (
    CacheError,
    CacheWriter,
    Loader,
    Sample,
    StorageError,
    load_manifest,
    open_cache,
    verify,
)
from fusecache.cache.fingerprint import row_digest
from fusecache.cache.manifest import publish_manifest
from fusecache.cache.spec import digest
from fusecache.cache.testing import SPECS, build_sample, write_cache

SHARD = "store/shards/000001"


def relist(cache: Path, index: int = 1, *, without: str = "") -> None:
    """List the files of a shard as they lie there; ``without``: leave one out."""
    manifest = load_manifest(cache)
    info = next(s for s in manifest.shards if s.index == index)
    folder = cache / info.folder
    files = {
        str(p.relative_to(folder)): (p.stat().st_size, digest(p.read_bytes()))
        for p in sorted(folder.rglob("*"))
        if p.is_file() and str(p.relative_to(folder)) != without
    }
    changed = replace(info, files=files)
    publish_manifest(
        cache, replace(manifest, shards=tuple(changed if s is info else s for s in manifest.shards))
    )


def make_foreign(cache: Path, name: str, **options: Any) -> Path:
    """Write an array of shard 1 anew with zarr-python, and list it."""
    import zarr

    folder = cache / SHARD / name
    data = np.asarray(cast(Any, zarr).open_array(str(folder), mode="r")[...])
    cast(Any, zarr).create_array(store=str(folder), data=data, overwrite=True, **options)
    relist(cache)
    return folder


def edit(path: Path, dtype: str, change: Callable[[Any], object]) -> None:
    array = np.frombuffer(path.read_bytes(), dtype).copy()
    change(array)
    path.write_bytes(array.tobytes())


LABEL = "labels.0/label.digit"


def test_a_linked_chunk_of_a_foreign_array_is_not_followed(cache: Path, tmp_path: Path) -> None:
    folder = make_foreign(cache, LABEL, compressors=None, attributes={"foreign": 1})
    assert verify(cache) == []
    outside = tmp_path / "secret"
    outside.write_bytes((folder / "c/0").read_bytes())
    (folder / "c/0").unlink()
    (folder / "c/0").symlink_to(outside)
    relist(cache, without=f"{LABEL}/c/0")
    with pytest.raises(CacheError, match=r"label.digit/c/0 is or lies behind a symbolic link"):
        open_cache(cache).labels("digit")
    assert any("symbolic link" in problem.what for problem in verify(cache))


def test_an_unlisted_chunk_of_a_foreign_array_is_not_read(cache: Path) -> None:
    folder = make_foreign(cache, "text.0/values", compressors=None)
    relist(cache, without="text.0/values/c/0/0")
    with pytest.raises(CacheError, match=r"c/0/0 must be a plain file that the cache manifest lists"):
        open_cache(cache).rows("text", 14)
    (folder / "c/0/0").unlink()
    os.mkfifo(folder / "c/0/0")
    with pytest.raises(CacheError, match=r"c/0/0 must be a plain file"):
        open_cache(cache).rows("text", 14)


@pytest.mark.parametrize("shards", [None, (10,)])
def test_a_bomb_is_refused_before_it_is_decoded(cache: Path, shards: tuple[int, ...] | None) -> None:
    import numcodecs  # pyright: ignore[reportMissingTypeStubs]

    folder = make_foreign(cache, LABEL, chunks=(5,), shards=shards)
    assert len(open_cache(cache).labels("digit")) == 30
    bomb = bytes(cast(Any, numcodecs).Zstd(level=1).encode(bytes(1 << 24)))
    path = folder / "c/0"
    data = path.read_bytes()
    if shards:
        at = (
            len(data) - 36
        )  # two inner chunks and a checksum: let the first one be the bomb behind all others
        table = np.array([len(bomb) * 0, len(bomb)], "<u8").tobytes()
        path.write_bytes(bomb + table + data[at + 16 :])
    else:
        path.write_bytes(bomb)
    relist(cache)
    with pytest.raises(CacheError, match=r"must decode to at most 84 bytes, and its header says 16777216"):
        open_cache(cache).labels("digit")
    assert any("16777216" in problem.what for problem in verify(cache))


@pytest.mark.parametrize("name", ["gzip", "blosc", "numcodecs.pickle"])
def test_codecs_of_unknown_size_are_refused(cache: Path, name: str) -> None:
    folder = make_foreign(cache, LABEL)
    metadata = json.loads((folder / "zarr.json").read_text())
    metadata["codecs"][-1] = {"name": name, "configuration": {}}
    (folder / "zarr.json").write_text(json.dumps(metadata))
    relist(cache)
    with pytest.raises(CacheError, match=rf"label.digit is not a readable Zarr v3 array.*codec '{name}'"):
        open_cache(cache).labels("digit")


@pytest.mark.parametrize("part", [LABEL, "text.0/values"])
def test_damage_inside_a_compressed_chunk_is_a_cache_error(cache: Path, part: str) -> None:
    folder = make_foreign(cache, part)
    path = next(p for p in (folder / "c").rglob("*") if p.is_file())
    data = path.read_bytes()
    path.write_bytes(data[:6] + bytes(len(data) - 6))
    relist(cache)
    opened = open_cache(cache)
    with pytest.raises(CacheError, match=rf"{part} cannot be decoded \((RuntimeError|ValueError)"):
        opened.labels("digit") if part == LABEL else opened.rows("text", 14)
    assert any("cannot be decoded" in problem.what for problem in verify(cache))


def test_keys_that_come_twice_are_refused_when_keys_are_read(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    write_cache(cache, [build_sample(i, key=f"k{i:02}") for i in range(9)], shards=3)
    edit(cache / SHARD / "samples/keys/c/0", "u1", lambda a: a.__setitem__(slice(3, 6), a[:3]))
    relist(cache)
    with open_cache(cache) as opened:
        assert len(list(Loader(opened.select(), batch_size=4).epoch(0))) == 3  # places, not keys
        for ask in (opened.keys, lambda: opened.select(keys=["k03"]), lambda: opened.sample(0)):
            with pytest.raises(CacheError, match=r"keys must be unique, and 1 are .*such as \['k03'\]"):
                ask()


def redigest(cache: Path, modality: str) -> None:
    """Make the row digests of shard 1 fit what lies there, as a forger would."""
    opened = open_cache(cache)
    path = cache / SHARD / f"{modality}.0/digest/c/0/0"
    table = np.frombuffer(path.read_bytes(), np.uint8).reshape(10, 16).copy()
    for i in range(10):
        if opened.present(modality)[10 + i]:
            rows = np.asarray(opened.rows(modality, 10 + i))
            start = float(opened.starts(modality)[10 + i]) if modality == "audio" else None
            times = opened.times(modality, 10 + i) if modality == "video" else None
            table[i] = np.frombuffer(row_digest(rows, start, times), np.uint8)
    path.write_bytes(table.tobytes())


MEANINGLESS: dict[str, tuple[str, str, Callable[[Any], object], str]] = {
    "row start": ("audio.0/start/c/0", "<f8", lambda a: a.fill(np.nan), "the start must be a finite number of seconds, and is nan"),
    "times inf": ("video.0/times/c/0/0", "<f8", lambda a: a.fill(np.inf), "times must be finite with start <= end"),
    "times reversed": ("video.0/times/c/0/0", "<f8", lambda a: a.__setitem__(slice(None), a[::-1].copy()), "start <= end in every row"),
    "clip start": ("samples/start/c/0", "<f8", lambda a: a.fill(np.nan), "clip bounds must be start <= end, and are nan"),
    "clip end": ("samples/end/c/0", "<f8", lambda a: a.fill(-5), "clip bounds must be start <= end, and are 10.0 and -5.0"),
    "flags": ("labels.0/label.tags/c/0/0", "u1", lambda a: a.__setitem__(0, 7), "flags must be 0 and 1, or all 255"),
    "half a flag": ("labels.0/label.tags/c/0/0", "u1", lambda a: a.__setitem__(slice(0, 2), [255, 1]), r"has \[255, 1\]"),
    "number": ("labels.0/label.group/c/0", "<f8", lambda a: a.__setitem__(3, np.inf), "a number must be finite .* sample 3 .* has inf"),
}  # fmt: skip


@pytest.mark.parametrize("case", MEANINGLESS)
def test_verify_finds_what_no_writer_lets_through(cache: Path, case: str) -> None:
    part, dtype, change, message = MEANINGLESS[case]
    edit(cache / SHARD / part, dtype, change)
    modality = part.partition(".")[0]
    if modality in ("audio", "video"):
        redigest(cache, modality)
    relist(cache)
    found = "\n".join(problem.what for problem in verify(cache))
    assert re.search(message, found), found


@pytest.mark.parametrize("column", ["tags", "group"])
def test_labels_out_of_range_are_refused_when_read(cache: Path, column: str) -> None:
    part, dtype, change, message = MEANINGLESS["flags" if column == "tags" else "number"]
    edit(cache / SHARD / part, dtype, change)
    with pytest.raises(CacheError, match=message):
        open_cache(cache).labels(column)


def test_a_name_that_comes_twice_in_a_manifest_is_refused(cache: Path) -> None:
    text = (cache / "manifest.json").read_text()
    (cache / "manifest.json").write_text(text.replace('"samples":30', '"samples":999,\n"samples":30'))
    with pytest.raises(CacheError, match=r"'samples': a name must come once in an object, got it 2 times"):
        open_cache(cache)


def test_verify_names_what_no_version_lists(cache: Path, samples: list[Sample]) -> None:
    (cache / SHARD / "evil.bin").write_bytes(b"x")
    (cache / "store/shards/000099").mkdir()
    found = verify(cache)
    assert [(p.shard, p.what.split(str(cache))[1].split(" ")[0]) for p in found] == [
        (1, f"/{SHARD}/evil.bin"),
        (None, "/store/shards/000099"),
    ]
    assert verify(cache, full=False) == []
    (cache / SHARD / "evil.bin").unlink()
    (cache / "store/shards/000099").rmdir()
    shutil.copytree(cache / SHARD, cache / "store/shards/000099")  # as a killed longer run leaves one
    assert verify(cache) == []


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_the_lock_is_never_taken_through_a_link(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "thesis.tex"
    victim.write_text("years of work")
    cache = tmp_path / "cache"
    cache.mkdir()
    if kind == "link":
        (cache / ".lock").symlink_to(victim)
    else:
        os.mkfifo(cache / ".lock")
    message = "a symbolic link is in its place" if kind == "link" else "taken by something else"
    with pytest.raises(StorageError, match=message), CacheWriter(cache, specs=SPECS):
        pass
    assert victim.read_text() == "years of work"


@pytest.mark.parametrize("part", ["store", "store/shards", "manifests", "provenance", ".partial"])
def test_a_writer_does_not_write_through_links_in_the_cache(tmp_path: Path, part: str) -> None:
    outside, cache = tmp_path / "outside", tmp_path / "cache"
    outside.mkdir()
    (cache / part).parent.mkdir(parents=True)
    (cache / part).symlink_to(outside)
    with pytest.raises(StorageError, match=rf"{part} is a symbolic link"), CacheWriter(cache, specs=SPECS):
        pass
    assert not list(outside.iterdir())
