"""Views, expectations, foreign layouts, and fingerprints: reading gives the right rows or says why not."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fusecache.cache import (
    CacheError,
    CacheWriter,
    InputError,
    MismatchError,
    Rows,
    Sample,
    load_manifest,
    open_cache,
    verify,
)
from fusecache.cache.manifest import publish_manifest
from fusecache.cache.spec import digest
from fusecache.cache.testing import COLUMNS, SPECS, SPLITS, assert_same, build_sample, write_cache
from fusecache.cache.zarrfile import ForeignRows


def test_importing_the_cache_is_light() -> None:
    code = (
        "import sys, fusecache.cache; print({'torch', 'zarr', 'pydantic', 'webdataset'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_fingerprint_is_of_the_content_and_not_of_its_cutting(
    tmp_path: Path, samples: list[Sample]
) -> None:
    one = write_cache(tmp_path / "one", samples, shards=1)
    five = write_cache(tmp_path / "five", samples[::-1], shards=5)
    assert one.content_fingerprint == five.content_fingerprint
    rows = dict(samples[7].rows)
    flipped = rows["text"].values.copy()
    flipped[0, 3] = np.nextafter(flipped[0, 3], np.float32(9))
    changes: dict[str, dict[str, Any]] = {
        "one bit of one value": {"rows": rows | {"text": Rows(values=flipped)}},
        "start": {"rows": rows | {"audio": replace(rows["audio"], start=0.25)}},
        "times": {"rows": rows | {"video": replace(rows["video"], times=cast(Any, rows["video"].times) + 1)}},
        "missing": {"rows": {k: v for k, v in rows.items() if k != "text"}},
        "label": {"labels": {"digit": "one"}},
        "split": {"split": "test" if samples[7].split != "test" else "train"},
        "group": {"group": "other"},
        "parent": {"parent": "other"},
        "position": {"position": 99},
        "key": {"key": "other"},
    }
    seen = {one.content_fingerprint}
    for change in changes.values():
        changed = [*samples[:7], replace(samples[7], **change), *samples[8:]]
        seen.add(write_cache(tmp_path / str(len(seen)), changed, shards=1).content_fingerprint)
    assert len(seen) == 1 + len(changes)


def test_a_note_or_licence_is_not_content(tmp_path: Path, samples: list[Sample]) -> None:
    found: list[str] = []
    for note in ("", "made of noise"):
        specs = [replace(spec, note=note, licence=note) for spec in SPECS]
        with CacheWriter(tmp_path / (note or "none"), specs=specs, labels=COLUMNS, splits=SPLITS) as writer:
            writer.write_shard(0, samples)
            found.append(writer.commit().content_fingerprint)
    assert found[0] == found[1]


def test_views_select_and_pack(cache: Path, samples: list[Sample]) -> None:
    opened = open_cache(cache)
    view = opened.select(split="test", modalities=["video", "text"])
    chosen = [s for s in samples if s.split == "test"]
    assert view.keys() == [s.key for s in chosen]
    assert view.groups() == [s.group for s in chosen]
    assert view.present().tolist() == [["video" in s.rows, "text" in s.rows] for s in chosen]
    assert view.labels("digit").tolist() == [
        -1 if "digit" not in s.labels else ("zero", "one").index(cast(str, s.labels["digit"])) for s in chosen
    ]
    order = [4, 0, 7, 7, 2]
    for name in ("video", "text"):
        values, offsets = view.packed(order, name)
        assert values.dtype == opened.stored_dtype(name)
        for at, item in enumerate(order):
            expected = opened.rows(name, int(view.index[item]))
            assert values[offsets[at] : offsets[at + 1]].tobytes() == expected.tobytes()
        buffer = np.full((40, opened.specs[name].dim), 7, values.dtype)
        again, _ = view.packed(order, name, out=buffer)
        assert np.shares_memory(again, buffer)
        assert again.tobytes() == values.tobytes()
        with pytest.raises(ValueError, match=re.escape("out must be")):
            view.packed(order, name, out=buffer[:1] if len(values) > 1 else buffer[:0])


@pytest.mark.parametrize("shards", [1, 4])
def test_pooled_vectors_take_the_gather_path_with_equal_rows(tmp_path: Path, shards: int) -> None:
    values = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    samples = [Sample(key=str(i), rows={"text": Rows(values=values[i : i + 1])}) for i in range(40)]
    write_cache(tmp_path, samples, shards=shards)
    view = open_cache(tmp_path).select(modalities=["text"])
    order = np.random.default_rng(1).permutation(40)
    assert (view.packed(order, "text")[0] == values[order]).all()
    block, lengths = view.padded(order, "text")
    assert block.shape == (40, 1, 4)
    assert (block[:, 0] == values[order]).all()
    assert lengths.tolist() == [1] * 40


def test_padding_is_zero_and_bfloat16_becomes_float32(cache: Path, samples: list[Sample]) -> None:
    view = open_cache(cache).select()
    for name in ("audio", "video", "text"):
        dirty = np.full(30 * 9 * 9, 5, np.float16 if name == "audio" else np.float32)
        block, lengths = view.padded(range(30), name, out=dirty)
        assert block.shape[1] == max(1, lengths.max())
        for i, sample in enumerate(samples):
            count = int(lengths[i])
            assert (block[i, count:] == 0).all()
            if name in sample.rows:
                assert block[i, :count].tobytes() == sample.rows[name].values.tobytes()
    with pytest.raises(ValueError, match=re.escape("out must be float32 [at least")):
        view.padded([0, 1], "video", out=np.empty(1, np.float32))


def test_selection_mistakes_list_what_there_is(cache: Path) -> None:
    opened = open_cache(cache)
    with pytest.raises(InputError) as caught:
        opened.select(split="dev", modalities=["smell"], keys=["nobody"])
    for part in ("'dev'", "['train', 'test']", "['smell']", "['audio', 'text', 'video']", "'nobody'"):
        assert part in str(caught.value)
    with pytest.raises(InputError, match=r"no label 'mood'; it has \['digit', 'group', 'tags'\]"):
        opened.labels("mood")
    with pytest.raises(InputError, match=r"no modality 'smell'; it has \['audio', 'text', 'video'\]"):
        opened.lengths("smell")


def test_expectations_list_every_mismatch(cache: Path) -> None:
    fine = {"audio": {"encoder": "logmel", "weights": "none", "settings": {"n_mels": 5}, "dim": 5}}
    assert len(open_cache(cache, expect=fine)) == 30
    wrong = {
        "audio": {"encoder": "wavlm-base", "settings": {"n_mels": 6, "layer": 9}},
        "smell": {"encoder": "nose"},
    }
    with pytest.raises(MismatchError) as caught:
        open_cache(cache, expect=wrong)
    message = str(caught.value)
    for part in (
        str(cache),
        "extract again",
        "extract.encoders.audio.encoder",
        "encoder: the recipe asks for 'wavlm-base', the cache was made with 'logmel'",
        "settings.n_mels: the recipe asks for 6, the cache was made with 5",
        "settings.layer: the recipe asks for 9, the cache does not have it",
        "'smell'",
    ):
        assert part in message


def rewrite_with_zarr(cache: Path, **options: Any) -> int:
    """Write every array anew with zarr-python in another layout, and list the new files in the manifest."""
    import zarr

    manifest = load_manifest(cache)
    shards = list(manifest.shards)
    count = 0
    for k, info in enumerate(shards):
        folder = cache / info.folder
        for metadata in sorted(folder.rglob("zarr.json")):
            if json.loads(metadata.read_text())["node_type"] == "array":
                node = cast(Any, zarr).open_array(str(metadata.parent), mode="r")
                data, attributes = np.asarray(node[...]), dict(node.attrs)
                if 0 in data.shape:
                    continue
                fresh = cast(Any, zarr).create_array(
                    store=str(metadata.parent), data=data, attributes=attributes, overwrite=True,
                    chunks=tuple(max(1, n // 2) for n in data.shape), **options,
                )  # fmt: skip
                assert fresh.shape == data.shape
                count += 1
        files = {
            str(p.relative_to(folder)): (p.stat().st_size, digest(p.read_bytes()))
            for p in folder.rglob("*")
            if p.is_file()
        }
        shards[k] = replace(info, files=files)
    publish_manifest(cache, replace(manifest, shards=tuple(shards)))
    return count


def test_compressed_and_rechunked_stores_read_equal_through_zarr(cache: Path, samples: list[Sample]) -> None:
    fast = open_cache(cache).select()
    blocks = {name: fast.padded(range(30), name)[0].copy() for name in fast.modalities}
    fingerprint = fast.cache.fingerprint
    assert rewrite_with_zarr(cache) > 60
    opened = open_cache(cache)
    assert isinstance(opened.source("audio", 0), ForeignRows)
    for i, sample in enumerate(samples):
        assert_same(opened.sample(i), sample)
    view = opened.select()
    for name, block in blocks.items():
        assert view.padded(range(30), name)[0].tobytes() == block.tobytes()
    assert verify(cache) == []
    assert opened.fingerprint == fingerprint


def test_an_old_reader_keeps_its_rows_when_files_are_replaced(cache: Path) -> None:
    opened = open_cache(cache)
    before = opened.rows("audio", 1).tobytes()
    path = cache / "store/shards/000000/audio.0/values/c/0/0"
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    os.replace(other, path)
    assert opened.rows("audio", 1).tobytes() == before


def test_a_path_without_a_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"nothing, and there is no .*nothing/manifest.json; check the path"):
        open_cache(tmp_path / "nothing")


def test_samples_of_many_shards_are_found(tmp_path: Path) -> None:
    samples = [build_sample(i) for i in range(13)]
    write_cache(tmp_path, samples, shards=13)
    opened = open_cache(tmp_path)
    for i in (0, 5, 12, -1):
        assert_same(opened.sample(i), samples[i])
