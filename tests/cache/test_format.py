"""docs/format.md, followed by a reader that shares no code with ours: plain zarr, json and xxhash."""

import itertools
import json
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import xxhash

from fusecache.cache import Sample, load_manifest
from fusecache.cache.testing import write_cache


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def text(raw: bytes) -> bytes:
    return struct.pack("<I", len(raw)) + raw


def strings(shard: Any, path: str) -> list[bytes]:
    raw, ends = shard[path][:].tobytes(), shard[f"{path}_offsets"][:].tolist()
    return [raw[a:b] for a, b in itertools.pairwise(ends)]


def modality_digest(group: Any, spec: dict[str, Any], i: int) -> bytes:
    if not group["present"][i]:
        return bytes(16)
    a, b = int(group["offsets"][i]), int(group["offsets"][i + 1])
    raw = struct.pack("<q", b - a) + group["values"][a:b].tobytes()
    if spec["timing"] == "regular":
        raw += struct.pack("<d", group["start"][i])
    if spec["timing"] == "irregular":
        raw += group["times"][a:b].tobytes()
    return xxhash.xxh3_128_digest(raw)


def records(shard: Any, manifest: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    keys, groups, parents = (strings(shard, p) for p in ("samples/keys", "labels.0/group", "samples/parent"))
    found: list[tuple[bytes, bytes]] = []
    for i, key in enumerate(keys):
        record = text(key)
        for spec in sorted(manifest["specs"], key=lambda spec: spec["modality"]):
            group = shard[f"{spec['modality']}.0"]
            value = modality_digest(group, spec, i)
            assert group["digest"][i].tobytes() == value
            record += value
        for name in sorted(column["name"] for column in manifest["label_columns"]):
            record += np.asarray(shard[f"labels.0/label.{name}"][i]).tobytes()
        facts = [shard[f"samples/{name}"][i] for name in ("position", "start", "end")]
        record += struct.pack("<qdd", *facts)
        code = int(shard["labels.0/split"][i])
        record += text(b"" if code == 255 else manifest["splits"][code].encode())
        record += text(groups[i]) + text(parents[i])
        found.append((key, xxhash.xxh3_128_digest(record)))
    return found


def test_the_fingerprint_follows_the_written_format(tmp_path: Path, samples: list[Sample]) -> None:
    import zarr

    said = write_cache(tmp_path, samples).content_fingerprint
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    root = cast(Any, zarr).open_group(str(tmp_path / "store"), mode="r")
    columns = sorted([c["name"], c["kind"], c["classes"]] for c in manifest["label_columns"])
    outside = ("licence", "note", "compression")
    specs: list[list[str]] = []
    for spec in manifest["specs"]:
        fields = {name: value for name, value in spec.items() if name not in outside}
        specs.append([spec["modality"], xxhash.xxh3_128_hexdigest(canonical(fields))])
    found = [r for s in manifest["shards"] for r in records(root[f"shards/{s['index']:06d}"], manifest)]
    assert len(found) == len(samples)
    head = canonical({"fusecache": 1, "labels": columns, "specs": sorted(specs)})
    assert xxhash.xxh3_128_hexdigest(head + b"".join(d for _, d in sorted(found))) == said


def test_every_listed_file_has_its_checksum_and_nothing_else_lies_in_the_store(cache: Path) -> None:
    listed = {"store/zarr.json", "store/shards/zarr.json"}
    for shard in load_manifest(cache).shards:
        for relative, (size, checksum) in shard.files.items():
            data = (cache / shard.folder / relative).read_bytes()
            assert (len(data), xxhash.xxh3_128_hexdigest(data)) == (size, checksum)
            listed.add(f"{shard.folder}/{relative}")
    assert {str(p.relative_to(cache)) for p in (cache / "store").rglob("*") if p.is_file()} == listed
    assert sorted(p.name for p in cache.iterdir()) == [
        ".lock",
        "manifest.json",
        "manifests",
        "provenance",
        "store",
    ]
