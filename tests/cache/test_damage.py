"""A damaged or hostile cache: named, quickly, without running or allocating anything of it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusecache.cache import CacheError, Sample, load_manifest, open_cache, verify
from fusecache.cache.fingerprint import row_digest
from fusecache.cache.manifest import ShardInfo, publish_manifest
from fusecache.cache.spec import digest

SHARD = "store/shards/000001"


def resign(cache: Path, relative: str, index: int = 1) -> None:
    """List a changed file of a shard in the manifest as if it were right: the parser is tested, not the checksum."""
    manifest = load_manifest(cache)
    info = next(s for s in manifest.shards if s.index == index)
    data = (cache / info.folder / relative).read_bytes()
    changed = replace(info, files=info.files | {relative: (len(data), digest(data))})
    publish_manifest(
        cache, replace(manifest, shards=tuple(changed if s is info else s for s in manifest.shards))
    )


def edit(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(at: int) -> Callable[[bytearray], object]:
    def change(data: bytearray) -> None:
        data[at] ^= 0x40

    return change


def test_one_flipped_bit_is_named_by_shard_modality_and_rows(cache: Path, samples: list[Sample]) -> None:
    opened = open_cache(cache)
    first = int(opened.first_rows("text")[14])
    edit(cache / SHARD / "text.0/values/c/0/0", flip(first * 16 + 5))
    assert verify(cache, full=False) == []
    problems = verify(cache)
    assert {(p.shard, p.modality) for p in problems} == {(1, "text")}
    assert re.search(
        r"text.0/values/c/0/0: the checksum is \w{32}, the manifest says \w{32}", problems[0].what
    )
    assert f"key {samples[14].key!r}, rows {first} to {first + 1} of the shard" in problems[1].what


def test_every_file_of_a_shard_is_covered(cache: Path) -> None:
    """Negative control for verify: flip one bit in each file in turn, and cut each file by a byte."""
    files = sorted(p for p in (cache / SHARD).rglob("*") if p.is_file())
    assert len(files) > 50
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        found = verify(cache)
        assert found, path
        assert found[0].shard == 1
        assert str(path) in found[0].what
        path.write_bytes(whole[:-1])
        assert str(path) in verify(cache, full=False)[0].what
        path.write_bytes(whole)
    assert verify(cache) == []


def test_progress_reaches_the_total(cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(cache, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (load_manifest(cache).total_bytes, load_manifest(cache).total_bytes)
    assert seen == sorted(seen)


@pytest.mark.parametrize("part", ["text.0/values/c/0/0", "audio.0/offsets/c/0", "video.0/present/c/0"])
@pytest.mark.parametrize("how", ["cut", "grown", "gone"])
def test_opening_names_a_file_of_another_size(cache: Path, part: str, how: str) -> None:
    path = cache / SHARD / part
    data = path.read_bytes()
    size = len(data)
    if how == "gone":
        path.unlink()
        message = f"cannot read {re.escape(str(path))}: No such file"
    else:
        path.write_bytes(data[:-1] if how == "cut" else data + b"x")
        message = (
            rf"{re.escape(str(path))} must have {size} bytes, and has {size + (1 if how == 'grown' else -1)}"
        )
    with pytest.raises(CacheError, match=message):
        open_cache(cache)


def number(at: int, value: int) -> Callable[[bytearray], object]:
    def change(data: bytearray) -> None:
        data[at * 8 : at * 8 + 8] = value.to_bytes(8, "little", signed=True)

    return change


LIES: dict[str, tuple[str, Callable[[bytearray], object], str]] = {
    "offset out of range": ("audio.0/offsets/c/0", number(10, 10**15), r"audio.0/offsets must rise from 0 to"),
    "offset below zero": ("audio.0/offsets/c/0", number(0, -5), r"entry 0 is -5"),
    "falling offsets": ("audio.0/offsets/c/0", number(5, 0), r"entry 5 is 0"),
    "rows of a missing sample": ("audio.0/present/c/0", lambda data: data.__setitem__(slice(0, 10), bytes(10)), "marked as missing"),
    "flags that are none": ("video.0/present/c/0", flip(3), "must hold 0 and 1"),
    "key offsets": ("samples/keys_offsets/c/0", number(1, 10**12), "keys_offsets must rise"),
    "not UTF-8": ("samples/keys/c/0", lambda data: data.__setitem__(0, 0xFF), "not UTF-8: b"),
    "class code": ("labels.0/label.digit/c/0", lambda data: data.__setitem__(slice(0, 4), b"\x09\0\0\0"), "class codes must be -1 to 1"),
    "split code": ("labels.0/split/c/0", lambda data: data.__setitem__(0, 77), "split codes go beyond"),
    "index entry": ("text.0/values/c/0/0", flip(-10), "checksum of the shard index"),
    "NaN": ("text.0/values/c/0/0", lambda data: data.__setitem__(slice(0, 4), b"\0\0\xc0\x7f"), "are not those that were written"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_resigned_lies_are_found(cache: Path, lie: str) -> None:
    part, change, message = LIES[lie]
    edit(cache / SHARD / part, change)
    resign(cache, part)
    problems = verify(cache)
    assert problems
    assert any(re.search(message, p.what) for p in problems), problems


@pytest.mark.parametrize(
    "lie",
    [
        "offset out of range",
        "offset below zero",
        "falling offsets",
        "rows of a missing sample",
        "flags that are none",
    ],
)
def test_offsets_and_flags_are_proven_when_the_cache_is_opened(cache: Path, lie: str) -> None:
    part, change, message = LIES[lie]
    edit(cache / SHARD / part, change)
    with pytest.raises(CacheError, match=message):
        open_cache(cache)


def test_a_link_out_of_the_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    for part in ("text.0/offsets/c/0", "text.0/values/c/0/0", "text.0"):
        copy = tmp_path / part.replace("/", "-")
        shutil.copytree(cache, copy)
        path = copy / SHARD / part
        outside = tmp_path / f"outside-{copy.name}"
        os.rename(path, outside)
        path.symlink_to(outside, target_is_directory=outside.is_dir())
        with pytest.raises(CacheError, match="symbolic link"):
            open_cache(copy)
        assert "symbolic link" in verify(copy)[0].what


def test_a_cache_reached_through_a_link_opens(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(cache)
    assert len(open_cache(tmp_path / "link")) == 30
    assert verify(tmp_path / "link") == []


def test_absurd_shapes_are_refused_before_anything_is_allocated(cache: Path) -> None:
    """A foreign array of 2**40 rows whose files hold nothing: bounded memory, named at once."""
    part = "text.0/values/zarr.json"
    path = cache / SHARD / part
    metadata = json.loads(path.read_text())
    metadata["shape"][0] = 1 << 40
    path.write_text(json.dumps(metadata))
    resign(cache, part)
    with pytest.raises(
        CacheError, match=r"must be float32 \[\d+, 4\] by the cache manifest, and is .*1099511627776"
    ):
        open_cache(cache).rows("text", 14)
    manifest = load_manifest(cache)
    shards = list(manifest.shards)
    shards[1] = replace(shards[1], samples=1 << 45)
    publish_manifest(cache, replace(manifest, shards=tuple(shards), samples=20 + (1 << 45)))
    with pytest.raises(
        CacheError, match=r"offsets: \[35184372088833\] int64 would need 281474976710664 bytes"
    ):
        open_cache(cache)


def test_metadata_that_is_no_metadata(cache: Path) -> None:
    part = "text.0/values/zarr.json"
    (cache / SHARD / part).write_text('{"zarr_format": 3, "node_type": "array", "shape": "many"}')
    resign(cache, part)
    with pytest.raises(CacheError, match=r"text.0/values is not a readable Zarr v3 array"):
        open_cache(cache).rows("text", 14)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "path upwards": (lambda m: m["shards"][0]["files"].update({"../../x": [1, "0" * 32]}), r"shards.0.files: '../../x'"),
    "absolute path": (lambda m: m["shards"][0]["files"].update({"/etc/passwd": [1, "0" * 32]}), "'/etc/passwd' is not a plain"),
    "empty part": (lambda m: m["shards"][0]["files"].update({"a//b": [1, "0" * 32]}), "'a//b' is not a plain"),
    "negative size": (lambda m: m["shards"][0]["files"].update({"a": [-1, "0" * 32]}), "files.a: must be 0 to"),
    "checksum": (lambda m: m["shards"][0]["files"].update({"a": [1, "zz"]}), "32 hexadecimal digits, got 'zz'"),
    "text for a number": (lambda m: m.update(version="1"), "version: .*got '1'"),
    "number for a text": (lambda m: m.update(content_fingerprint=3), "content_fingerprint: .*got 3"),
    "float for a count": (lambda m: m["shards"][0].update(samples=1.5), "shards.0.samples: .*got 1.5"),
    "true for a count": (lambda m: m.update(rejected=True), "rejected: .*got True"),
    "huge count": (lambda m: m["shards"][0]["rows"].update(audio=1 << 60), "rows.audio: must be 0 to"),
    "wrong total": (lambda m: m.update(samples=31), "samples: the shards hold 30, got 31"),
    "extra field": (lambda m: m.update(run="rm -rf"), "run: .*got 'rm -rf'"),
    "extra field of a spec": (lambda m: m["specs"][0].update(code="x"), "specs.0.code: .*got 'x'"),
    "no shards": (lambda m: m.pop("shards"), "shards: "),
    "no dim": (lambda m: m["specs"][0].update(dim=0), "dim must be at least 1, got 0"),
    "huge dim": (lambda m: m["specs"][2].update(dim=1 << 30), "specs.text.dim: must be 1 to"),
    "modality name": (lambda m: m["specs"][0].update(modality="../x"), r"'../x' cannot be used"),
    "twice": (lambda m: m["specs"].append(m["specs"][0]), "specs: names must be unique"),
    "shard order": (lambda m: m["shards"].reverse(), "indexes must increase"),
    "revisions": (lambda m: m["revisions"].pop("audio"), "revisions: must name"),
    "other format": (lambda m: m.update(format="zip"), "format: .*got 'zip'"),
    "other backend": (lambda m: m.update(backend="pickle"), "backend: .*got 'pickle'"),
    "newer format": (
        lambda m: m.update(format_version=2, shiny=[]), "reads format version 1, and the cache has format version 2; .*pip install -U",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_is_parsed_as_data(cache: Path, case: str) -> None:
    change, message = MANIFESTS[case]
    manifest = json.loads((cache / "manifest.json").read_text())
    change(manifest)
    (cache / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match=message) as caught:
        open_cache(cache)
    assert str(cache / "manifest.json") in str(caught.value)
    assert re.search(message, verify(cache)[0].what)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '"x"', "[" * 100_000, "\xff\xfe", '{"format_version": 1e999}']
)
def test_a_manifest_that_is_no_manifest(cache: Path, text: str) -> None:
    (cache / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CacheError, match="is not a cache manifest"):
        open_cache(cache)


def test_a_changed_manifest_differs_from_its_copy(cache: Path) -> None:
    path = cache / "manifest.json"
    path.write_text(path.read_text().replace('"rejected":0', '"rejected":1'))
    assert "manifests/1.json must be a copy" in verify(cache, full=False)[0].what
    (cache / "manifests/1.json").unlink()
    assert "cannot be read: No such file" in verify(cache, full=False)[0].what


def test_a_changed_label_is_found_by_the_fingerprint(cache: Path) -> None:
    part = "labels.0/label.group/c/0"
    edit(cache / SHARD / part, number(0, int(np.float64(2.5).view(np.int64))))
    resign(cache, part)
    assert verify(cache)[0].what.startswith("the content fingerprint is")


def test_nan_with_every_checksum_made_right_is_found(cache: Path, samples: list[Sample]) -> None:
    opened = open_cache(cache)
    first = int(opened.first_rows("text")[14])
    edit(
        cache / SHARD / "text.0/values/c/0/0",
        lambda data: data.__setitem__(slice(first * 16, first * 16 + 4), b"\0\0\xc0\x7f"),
    )
    row = np.frombuffer(
        (cache / SHARD / "text.0/values/c/0/0").read_bytes()[first * 16 : first * 16 + 16], np.float32
    )
    raw = row_digest(row.reshape(1, 4))
    edit(cache / SHARD / "text.0/digest/c/0/0", lambda data: data.__setitem__(slice(64, 80), raw))
    resign(cache, "text.0/values/c/0/0")
    resign(cache, "text.0/digest/c/0/0")
    problems = verify(cache)
    assert [f"key {samples[14].key!r}" in p.what and "inf or NaN in row 0" in p.what for p in problems] == [
        True
    ]


def test_keys_that_are_not_utf8_are_named_when_read(cache: Path) -> None:
    edit(cache / SHARD / "samples/keys/c/0", lambda data: data.__setitem__(0, 0xFF))
    with pytest.raises(CacheError, match=r"samples/keys holds bytes that are not UTF-8 \(b'\\xff"):
        open_cache(cache).keys()


def test_shard_info_names_its_folder() -> None:
    assert ShardInfo(index=17, samples=0, rows={}, files={}).folder == "store/shards/000017"
