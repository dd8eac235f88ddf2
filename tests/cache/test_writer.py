"""Nothing half-written is ever readable, whatever stops the writer, and mistakes are told all at once."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusecache.cache import (
    CacheError,
    CacheWriter,
    InputError,
    LabelColumn,
    MismatchError,
    Rows,
    Sample,
    StorageError,
    load_manifest,
    open_cache,
    verify,
)
from fusecache.cache.testing import COLUMNS, SPECS, SPLITS, build_sample, tree, write_cache

SETUP = """
import os, resource, signal, sys
from pathlib import Path
from fusecache.cache import CacheWriter, StorageError
from fusecache.cache import atomic, shard, writer
from fusecache.cache.testing import *
samples = [build_sample(i) for i in range(30)]
path = Path(sys.argv[1])
"""


def child(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SETUP + code, str(path)], capture_output=True, text=True, check=False
    )


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, samples: list[Sample]) -> None:
    write_cache(tmp_path / "a", samples)
    write_cache(tmp_path / "b", samples)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    write_cache(tmp_path / "a", samples)
    assert tree(tmp_path / "a") == tree(tmp_path / "b"), "a rerun over a finished cache changes nothing"
    assert load_manifest(tmp_path / "a").version == 1


def write_then_raise(path: Path, samples: list[Sample], error: BaseException) -> None:
    with CacheWriter(path, specs=SPECS, labels=COLUMNS, splits=SPLITS) as writer:
        writer.write_shard(0, samples, work="w/0")
        raise error


KILL_AT = {
    "before the values": ("shard", "_write_values", 5),
    "in the middle of the small arrays": ("shard", "_write_array", 40),
    "before a shard's rename": ("writer", "publish_folder", 2),
    "before the manifest": ("writer", "publish_manifest", 1),
    "between the manifest and its copy": ("manifest", "replace_file", 2),
}


@pytest.mark.parametrize("moment", KILL_AT)
def test_sigkill_leaves_a_store_that_resumes_to_the_same_bytes(
    tmp_path: Path, samples: list[Sample], moment: str
) -> None:
    module, name, count = KILL_AT[moment]
    code = f"""
from fusecache.cache import {module} as module
true, left = module.{name}, {count}
def fatal(*args, **kwargs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return true(*args, **kwargs)
module.{name} = fatal
write_cache(path, samples, work="w")
"""
    done = child(code, tmp_path / "killed")
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(CacheError, match="did not finish: run it again to resume"):
        open_cache(tmp_path / "killed")
    write_cache(tmp_path / "killed", samples, work="w")
    write_cache(tmp_path / "whole", samples, work="w")
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert verify(tmp_path / "killed") == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_publishes_nothing(
    tmp_path: Path, samples: list[Sample], error: type[BaseException]
) -> None:
    with pytest.raises(error, match="stop"):
        write_then_raise(tmp_path, samples[:3], error("stop"))
    assert not (tmp_path / "manifest.json").exists()
    assert not (tmp_path / "manifests").joinpath("1.json").exists()


def test_an_exception_keeps_the_version_before(cache: Path) -> None:
    before = tree(cache)
    with (
        pytest.raises(RuntimeError, match="stop"),
        CacheWriter(cache, specs=SPECS, labels=COLUMNS, splits=SPLITS),
    ):
        raise RuntimeError("stop")
    assert tree(cache) == before
    assert len(open_cache(cache)) == 30


def test_resume_keeps_shards_of_the_same_work_and_refuses_others(
    tmp_path: Path, samples: list[Sample]
) -> None:
    with pytest.raises(RuntimeError, match="half way"):
        write_then_raise(tmp_path, samples[:10], RuntimeError("half way"))
    stamp = (tmp_path / "store/shards/000000/zarr.json").stat().st_mtime_ns
    with CacheWriter(tmp_path, specs=SPECS, labels=COLUMNS, splits=SPLITS) as writer:
        assert writer.has_shard(0, work="w/0")
        assert not writer.has_shard(1, work="w/1")
        with pytest.raises(MismatchError, match=r"(?s)shard 0 .*'other'.*'w/0'"):
            writer.has_shard(0, work="other")
        with pytest.raises(MismatchError, match=r"(?s)shard 0 .*'content:[0-9a-f]{32}'.*'w/0'"):
            writer.write_shard(0, samples[:9])
        with pytest.raises(InputError, match="in shard 0 and in shard 1"):
            writer.write_shard(1, samples[9:12], work="w/1")
        writer.write_shard(1, samples[10:], work="w/1")
    assert (tmp_path / "store/shards/000000/zarr.json").stat().st_mtime_ns == stamp
    assert [s.samples for s in load_manifest(tmp_path).shards] == [10, 20]


def test_shards_that_the_run_does_not_know_stop_the_commit(cache: Path) -> None:
    before = tree(cache)
    with (
        pytest.raises(MismatchError, match=r"holds shards \[0, 1, 2\] that this run neither wrote"),
        CacheWriter(cache, specs=SPECS, labels=COLUMNS, splits=SPLITS),
    ):
        pass
    assert tree(cache) == before


def test_a_cache_of_other_specs_is_refused_with_every_difference(cache: Path) -> None:
    other = [replace(SPECS[0], dim=6, hop=0.02), SPECS[1]]
    with (
        pytest.raises(MismatchError) as caught,
        CacheWriter(cache, specs=other, labels=COLUMNS, splits=["x"]),
    ):
        pass
    message = str(caught.value)
    for part in ("dim: the cache has 5, this run 6", "hop: the cache has 0.01, this run 0.02", "'text': not in this run",
                 "splits: the cache has ['train', 'test'], this run ['x']"):  # fmt: skip
        assert part in message


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        CacheWriter(tmp_path, specs=SPECS),
        pytest.raises(StorageError, match=f"process {os.getpid()} is writing"),
        CacheWriter(tmp_path, specs=SPECS),
    ):
        pass
    with CacheWriter(tmp_path, specs=SPECS):
        pass


def text_rows(*values: float) -> dict[str, Rows]:
    return {"text": Rows(values=np.array([values], np.float32))}


def audio(values: Any, start: float = 0.0) -> dict[str, Rows]:
    return {"audio": Rows(values=values, start=start)}


BAD: dict[str, tuple[Sample, str]] = {
    "overflow": (
        Sample(key="k", rows=audio(np.array([[0] * 5, [0, 1, 70000, 0, 0]], np.float32))),
        r"key 'k', modality 'audio', row 1: 70000\.0 does not fit float16",
    ),
    "nan": (
        Sample(key="k", rows=text_rows(0, 1, float("nan"), 2)),
        r"modality 'text', row 0: nan does not fit float32",
    ),
    "bfloat16": (
        Sample(
            key="k", rows={"video": Rows(values=np.full((1, 3), 3.4e38, np.float32), times=np.zeros((1, 2)))}
        ),
        r"modality 'video', row 0: 3\.\d*e\+38 does not fit bfloat16",
    ),
    "width": (
        Sample(key="k", rows=audio(np.zeros((2, 4), np.float32))),
        r"must be an array \[rows, 5\], got \[2, 4\]",
    ),
    "list": (Sample(key="k", rows=audio([[0.0] * 5])), r"must be an array \[rows, 5\], got list"),
    "integers": (Sample(key="k", rows=audio(np.zeros((1, 5), np.int64))), "float16 or float32, got int64"),
    "start": (
        Sample(key="k", rows=audio(np.zeros((1, 5)), start=float("nan"))),
        "finite number of seconds, got nan",
    ),
    "no times": (
        Sample(key="k", rows={"video": Rows(values=np.zeros((1, 3)))}),
        "got no times with timing='irregular'",
    ),
    "times": (
        Sample(key="k", rows={"video": Rows(values=np.zeros((2, 3)), times=np.zeros((1, 2)))}),
        r"times must be \[2, 2\], got \[1, 2\]",
    ),
    "modality": (Sample(key="k", rows={"smell": Rows(values=np.zeros((1, 1)))}), r"\['smell'\] have no spec"),
    "label": (Sample(key="k", rows={}, labels={"mood": "good"}), r"\['mood'\] have no column"),
    "class": (
        Sample(key="k", rows={}, labels={"digit": "two"}),
        r"'digit': must be one of \['zero', 'one'\], got 'two'",
    ),
    "number": (Sample(key="k", rows={}, labels={"group": "3"}), "'group': must be a number, got '3'"),
    "infinite": (
        Sample(key="k", rows={}, labels={"group": float("inf")}),
        "'group': must be finite, got inf",
    ),
    "tags": (Sample(key="k", rows={}, labels={"tags": ("x", "z")}), r"got \['z'\] among them"),
    "split": (Sample(key="k", rows={}, split="dev"), r"split 'dev' is not one of \['train', 'test'\]"),
    "bounds": (Sample(key="k", rows={}, start=2.0, end=1.0), r"start <= end, got 2\.0 and 1\.0"),
    "empty key": (Sample(key="", rows={}), "1 to 65536 bytes, got 0"),
    "long key": (Sample(key="x" * 65_537, rows={}), "1 to 65536 bytes, got 65537"),
    "surrogate": (Sample(key="\ud800", rows={}), r"'\\ud800' is not valid Unicode"),
    "group": (Sample(key="k", rows={}, group="\udc00"), r"group '\\udc00' is not valid Unicode"),
    "position": (Sample(key="k", rows={}, position=1 << 63), "position 9223372036854775808 does not fit"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_stored_is_named(tmp_path: Path, case: str) -> None:
    sample, message = BAD[case]
    with (
        pytest.raises(InputError, match=message),
        CacheWriter(tmp_path, specs=SPECS, labels=COLUMNS, splits=SPLITS) as writer,
    ):
        writer.write_shard(0, [build_sample(0), sample])
    assert not list((tmp_path / "store/shards").glob("0*"))


def test_all_mistakes_of_a_shard_are_told_at_once(tmp_path: Path) -> None:
    bad = [
        BAD["overflow"][0],
        replace(BAD["class"][0], key="c"),
        replace(BAD["width"][0], key="w"),
        Sample(key="w", rows={}),
    ]
    with pytest.raises(InputError) as caught, CacheWriter(tmp_path, specs=SPECS, labels=COLUMNS) as writer:
        writer.write_shard(0, bad)
    for part in ("70000.0", "'two'", "[2, 4]", "key 'w' comes more than once"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"specs": []}, "at least one modality"),
        ({"specs": [SPECS[0], SPECS[0]]}, "modality 'audio' is named more than once"),
        ({"specs": [replace(SPECS[0], compression="zstd")]}, "compression='zstd'; set compression='none'"),
        ({"specs": SPECS, "splits": [str(i) for i in range(256)]}, "at most 255 non-empty names, got 256"),
        (
            {"specs": SPECS, "labels": [LabelColumn(name="a", kind="class", classes=("\ud800",))]},
            "not valid Unicode",
        ),
        (
            {"specs": [replace(SPECS[0], producer=replace(SPECS[0].producer, settings={"x": float("nan")}))]},
            "plain finite JSON data",
        ),
    ],
)
def test_a_header_that_cannot_be_stored_is_refused(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        CacheWriter(tmp_path, **arguments)


def test_a_path_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(StorageError, match=r"file/cache: Not a directory \(ENOTDIR\); a part of that path"),
        CacheWriter(tmp_path / "file" / "cache", specs=SPECS),
    ):
        pass


def test_a_full_disk_is_a_storage_error_and_leaves_what_was_committed(
    tmp_path: Path, samples: list[Sample]
) -> None:
    """A file size limit stands in for a full disk: the kernel refuses the write in the middle of a file."""
    code = """
big = [Sample(key="big", rows={"text": Rows(values=np.zeros((20000, 4), np.float32))})]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with CacheWriter(path, specs=SPECS, labels=COLUMNS, splits=SPLITS) as writer:
        for k in range(3):
            assert writer.has_shard(k, work=f"w/{k}")
        writer.write_shard(3, big, work="w/3")
except StorageError as error:
    print(error)
"""
    write_cache(tmp_path, samples, work="w")
    before = tree(tmp_path)
    done = child(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cannot write shard 3 to .*000003: .*\(EFBIG\); the file size limit", done.stdout), (
        done.stdout
    )
    assert tree(tmp_path) == before
    assert verify(tmp_path) == []


def test_no_space_left_and_io_errors_name_path_and_remedy(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    write_cache(tmp_path, samples)
    before = tree(tmp_path)
    for code, remedy in (
        (errno.ENOSPC, "free space"),
        (errno.EIO, "hardware error"),
        (errno.EROFS, "read-only"),
    ):

        def refuse(*_: object, code: int = code) -> None:
            raise OSError(code, "refused")

        monkeypatch.setattr("fusecache.cache.writer.publish_folder", refuse)
        with (
            pytest.raises(StorageError, match=rf"000003: .*{errno.errorcode[code]}.*{remedy}"),
            CacheWriter(tmp_path, specs=SPECS, labels=COLUMNS, splits=SPLITS) as writer,
        ):
            writer.write_shard(3, [build_sample(77)])
    assert tree(tmp_path) == before


def test_writing_outside_the_context_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside `with CacheWriter"):
        CacheWriter(tmp_path, specs=SPECS).write_shard(0, [])


def test_provenance_lies_beside_the_manifest(tmp_path: Path, samples: list[Sample]) -> None:
    with CacheWriter(tmp_path, specs=SPECS, labels=COLUMNS, splits=SPLITS) as writer:
        writer.write_shard(4, samples)
        manifest = writer.commit(provenance={"torch": "2.11", "seconds": 1.5}, rejected=2)
        with pytest.raises(InputError, match="plain JSON data"):
            writer.commit(provenance={"x": object()}, rejected=3)
    assert (manifest.version, manifest.rejected, manifest.shards[0].index) == (1, 2, 4)
    assert '"torch": "2.11"' in (tmp_path / "provenance/1.json").read_text()
    assert (tmp_path / "manifest.json").read_bytes() == (tmp_path / "manifests/1.json").read_bytes()


def test_a_longer_run_makes_version_two_and_keeps_version_one(tmp_path: Path, samples: list[Sample]) -> None:
    write_cache(tmp_path, samples, work="w")
    first = (tmp_path / "manifests/1.json").read_bytes()
    old = open_cache(tmp_path)
    with CacheWriter(tmp_path, specs=SPECS, labels=COLUMNS, splits=SPLITS) as writer:
        assert all(writer.has_shard(k, work=f"w/{k}") for k in range(3))
        writer.write_shard(3, [build_sample(99)], work="w/3")
    assert (load_manifest(tmp_path).version, len(open_cache(tmp_path)), len(old)) == (2, 31, 30)
    assert (tmp_path / "manifests/1.json").read_bytes() == first
    assert old.rows("audio", 1).shape[1] == 5
    assert verify(tmp_path) == []


def test_a_resumed_shard_of_other_specs_or_a_damaged_one_is_refused(
    tmp_path: Path, samples: list[Sample]
) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        write_then_raise(tmp_path, samples, RuntimeError("stop"))
    other = [replace(SPECS[0], hop=0.02), *SPECS[1:]]
    with CacheWriter(tmp_path, specs=other, labels=COLUMNS, splits=["x"]) as writer:
        with pytest.raises(
            MismatchError, match=r"(?s)shard 0 .*'audio': the shard has.*splits: the shard has"
        ):
            writer.has_shard(0, work="w/0")
        shutil.rmtree(tmp_path / "store/shards/000000")
    with pytest.raises(RuntimeError, match="stop"):
        write_then_raise(tmp_path / "b", samples, RuntimeError("stop"))
    (tmp_path / "b/store/shards/000000/audio.0/values/c/0/0").write_bytes(b"")
    with (
        pytest.raises(CacheError, match=r"values/c/0/0 must have \d+ bytes and has 0 bytes; delete .*000000"),
        CacheWriter(tmp_path / "b", specs=SPECS, labels=COLUMNS, splits=SPLITS) as writer,
    ):
        writer.has_shard(0, work="w/0")
