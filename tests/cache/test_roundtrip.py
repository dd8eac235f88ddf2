"""What goes in comes out, bit for bit, through our reader and through two that know nothing of us."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecache.cache import (
    CacheWriter,
    FeatureSpec,
    InputError,
    LabelColumn,
    Producer,
    Rows,
    Sample,
    open_cache,
    verify,
)
from fusecache.cache.columns import from_bfloat16, to_bfloat16
from fusecache.cache.testing import COLUMNS, PRODUCER, SPECS, SPLITS, assert_same, build_sample, write_cache


def test_every_field_of_every_sample(cache: Path, samples: list[Sample]) -> None:
    with open_cache(cache) as opened:
        assert len(opened) == 30
        assert list(opened.keys()) == [sample.key for sample in samples]
        for i, sample in enumerate(samples):
            assert_same(opened.sample(i), sample)
        assert opened.starts("audio")[3] == pytest.approx(0.3)
        clock = opened.times("audio", 3)
        assert clock.shape == (opened.lengths("audio")[3], 2)
        np.testing.assert_allclose(clock[:, 1] - clock[:, 0], 0.025)
        with pytest.raises(InputError, match=r"'text'.*no times"):
            opened.times("text", 1)
        with pytest.raises(IndexError, match="sample 30 of a cache with 30"):
            opened.rows("audio", 30)
    assert verify(cache) == []


def test_missing_is_not_empty(tmp_path: Path) -> None:
    empty = Rows(values=np.zeros((0, 4), np.float32))
    write_cache(
        tmp_path, [Sample(key="empty", rows={"text": empty}), Sample(key="missing", rows={})], shards=1
    )
    opened = open_cache(tmp_path)
    assert opened.lengths("text").tolist() == [0, 0]
    assert opened.present("text").tolist() == [True, False]
    assert opened.sample(0).rows["text"].values.shape == (0, 4)
    assert not opened.sample(1).rows
    other = tmp_path / "other"
    swapped = [Sample(key="empty", rows={}), Sample(key="missing", rows={"text": empty})]
    write_cache(other, swapped, shards=1)
    assert open_cache(other).fingerprint != opened.fingerprint


KEYS = ["a.b.c", "../../etc/passwd", "/abs", "日本語 🎬", "x" * 10_000, "new\nline\0nul", "é" * 32_768]


def test_keys_are_any_text(tmp_path: Path) -> None:
    write_cache(tmp_path, [build_sample(i, key) for i, key in enumerate(KEYS)], shards=2)
    opened = open_cache(tmp_path)
    assert list(opened.keys()) == KEYS
    view = opened.select(keys=["日本語 🎬", "a.b.c"])
    assert view.index.tolist() == [3, 0]
    assert verify(tmp_path) == []


def test_plain_zarr_and_tensorstore_read_every_array(cache: Path) -> None:
    """In a fresh process with warnings as errors: equal rows, and no warning."""
    code = f"""
import json, os, warnings; warnings.simplefilter("error")
import numpy as np, tensorstore, zarr
from fusecache.cache import open_cache
opened = open_cache({str(cache)!r})
root = zarr.open_group({str(cache / "store")!r}, mode="r")
count = 0
def walk(group, path):
    global count
    for name, node in group.members():
        here = f"{{path}}/{{name}}"
        if isinstance(node, zarr.Group):
            walk(node, here)
        else:
            count += 1
            kv = {{"driver": "file", "path": here}}
            ts = tensorstore.open({{"driver": "zarr3", "kvstore": kv}}, read=True).result()
            assert ts.shape == node.shape and ts.dtype.numpy_dtype == node.dtype
            assert ts.read().result().tobytes() == node[...].tobytes(), here
walk(root, {str(cache / "store")!r})
first = 0
for shard in opened.manifest.shards:
    for name, spec in opened.specs.items():
        node = root[f"shards/{{shard.index:06d}}/{{name}}.0/values"]
        rows = [opened.rows(name, first + i) for i in range(shard.samples)]
        assert node[...].tobytes() == np.concatenate(rows).tobytes()
        assert (node.attrs.get("dtype") == "bfloat16") == (spec.dtype == "bfloat16")
    first += shard.samples
print(count)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    per_shard = 5 + 5 + 4 + 7 + 3 + len(COLUMNS)
    assert int(done.stdout) == 3 * per_shard, "every array of the store was compared"


def test_many_inner_chunks_and_the_padded_last_one(tmp_path: Path) -> None:
    spec = FeatureSpec(modality="wide", stream="image", dim=4096, producer=PRODUCER)
    values = np.arange(77 * 4096, dtype=np.int64).reshape(77, 4096) % 2048
    with CacheWriter(tmp_path, specs=[spec]) as writer:
        writer.write_shard(0, [Sample(key="a", rows={"wide": Rows(values=values.astype(np.float16))})])
    import zarr

    node = cast(Any, zarr).open_array(str(tmp_path / "store/shards/000000/wide.0/values"), mode="r")
    assert (node.shape, node.shards, node.chunks) == ((77, 4096), (96, 4096), (32, 4096))
    assert (np.asarray(node[...]) == values).all()
    assert (open_cache(tmp_path).rows("wide", 0) == values).all()
    assert os.path.getsize(tmp_path / "store/shards/000000/wide.0/values/c/0/0") == 96 * 8192 + 3 * 16 + 4


def test_rows_are_views_of_the_map_and_outlive_the_cache(cache: Path) -> None:
    opened = open_cache(cache)
    whole = opened.source("text", 0)
    rows = opened.rows("text", 1)
    assert isinstance(whole, np.ndarray)
    assert np.shares_memory(rows, whole)
    assert not rows.flags.writeable
    before = rows.tobytes()
    opened.close()
    assert rows.tobytes() == before


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_bfloat16_rounds_to_nearest_even_as_torch_does(numbers: list[float]) -> None:
    import torch

    values = np.array(numbers, np.float32)
    expected = (
        cast(Any, torch).from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    )
    found = to_bfloat16(values)
    assert found.tolist() == expected.tolist()
    assert to_bfloat16(from_bfloat16(found)).tolist() == found.tolist()


MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # hundreds of fsyncs on a disk would take a minute


@st.composite
def one_sample(draw: st.DrawFn) -> Sample:
    rows: dict[str, Rows] = {}
    for spec in SPECS:
        count = draw(st.none() | st.integers(0, 4))
        if count is None:
            continue
        width = 16 if spec.dtype == "float16" else 32
        numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
        flat = draw(st.lists(numbers, min_size=count * spec.dim, max_size=count * spec.dim))
        values = np.array(flat, np.float16 if width == 16 else np.float32).reshape(count, spec.dim)
        if spec.dtype == "bfloat16":
            values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
        bounded = st.floats(-1e9, 1e9)
        times = None
        if spec.timing == "irregular":
            pairs = draw(st.lists(st.tuples(bounded, bounded), min_size=count, max_size=count))
            times = np.sort(np.array(pairs, np.float64).reshape(count, 2), axis=1)
        start = draw(bounded) if spec.timing == "regular" else 0.0
        rows[spec.modality] = Rows(values=values, start=start, times=times)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    labels: dict[str, Any] = {}
    if draw(st.booleans()):
        labels["digit"] = draw(st.sampled_from(COLUMNS[0].classes))
    if draw(st.booleans()):
        labels["group"] = draw(st.floats(allow_nan=False, allow_infinity=False))
    if draw(st.booleans()):
        labels["tags"] = draw(st.sampled_from([(), ("x",), ("y",), ("x", "y")]))
    return Sample(
        key=draw(text.filter(bool)),
        rows=rows,
        labels=labels,
        split=draw(st.sampled_from(["", *SPLITS])),
        group=draw(text),
        parent=draw(text),
        position=draw(st.integers(-(2**63), 2**63 - 1)),
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(one_sample(), max_size=6, unique_by=lambda sample: sample.key), st.integers(1, 3))
def test_any_lawful_samples_round_trip(drawn: list[Sample], shards: int) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        manifest = write_cache(Path(folder) / "c", drawn, shards=shards)
        with open_cache(Path(folder) / "c") as opened:
            assert len(opened) == len(drawn) == manifest.samples
            for i, sample in enumerate(drawn):
                assert_same(opened.sample(i), sample)
        assert verify(Path(folder) / "c") == []


def test_an_empty_cache_and_empty_shards_are_lawful(tmp_path: Path) -> None:
    manifest = write_cache(tmp_path, [], shards=2)
    assert (manifest.samples, len(manifest.shards)) == (0, 2)
    opened = open_cache(tmp_path)
    assert len(opened.select(split="train")) == 0
    assert opened.labels("tags").shape == (0, 2)
    assert verify(tmp_path) == []


def test_settings_with_any_float_keep_their_identity(tmp_path: Path) -> None:
    numbers = [0.1, 1 / 3, 1e-320, 5e300, 2**53 + 1, -0.0, 1e22]
    producer = Producer(
        encoder="e", weights="none", weights_hash="", settings={"n": numbers, "t": (1, 2)}, decode="d"
    )
    spec = FeatureSpec(
        modality="a", stream="audio", dim=1, producer=producer, hop=1, span=1 / 3, timing="regular"
    )
    with CacheWriter(tmp_path, specs=[spec]):
        pass
    assert open_cache(tmp_path).specs["a"].identity == spec.identity


def test_labels_may_share_names_with_arrays_of_the_store(tmp_path: Path) -> None:
    columns = [LabelColumn(name=name, kind="float") for name in ("split", "group", "keys", "group_offsets")]
    spec = SPECS[2]
    with CacheWriter(tmp_path, specs=[spec], labels=columns, splits=["a"]) as writer:
        writer.write_shard(
            0, [Sample(key="k", rows={}, labels={"split": 1.0, "group": 2.0}, split="a", group="g")]
        )
    sample = open_cache(tmp_path).sample(0)
    assert (sample.split, sample.group, dict(sample.labels)) == ("a", "g", {"split": 1.0, "group": 2.0})
