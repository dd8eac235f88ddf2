"""The order is a function, every sample comes once, and a restart anywhere gives the same batches."""

import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.cache import Batch, CacheError, InputError, Loader, open_cache, plan

Copy = tuple[list[int], dict[str, bytes], dict[str, list[int]], list[list[bool]], dict[str, bytes]]


def copied(batches: Iterable[Batch]) -> list[Copy]:
    return [
        (
            batch.items.tolist(),
            {name: block.tobytes() for name, block in batch.x.items()},
            {name: lengths.tolist() for name, lengths in batch.lengths.items()},
            batch.present.tolist(),
            {name: values.tobytes() for name, values in batch.labels.items()},
        )
        for batch in batches
    ]


@given(st.integers(0, 2**64), st.integers(0, 1000), st.integers(0, 200), st.integers(1, 50), st.booleans())
def test_a_plan_holds_every_item_once(seed: int, epoch: int, n: int, size: int, shuffle: bool) -> None:
    batches = plan(order_seed=seed, epoch=epoch, n=n, batch_size=size, shuffle=shuffle)
    assert sorted(item for batch in batches for item in batch.tolist()) == list(range(n))
    assert [len(batch) for batch in batches[:-1]] == [size] * max(0, len(batches) - 1)


def test_the_order_is_frozen() -> None:
    """Golden: a change here breaks the resumption of every run that exists."""
    found = [batch.tolist() for batch in plan(order_seed=7, epoch=3, n=10, batch_size=4)]
    assert found == [[2, 5, 9, 7], [3, 0, 6, 8], [4, 1]]
    assert [b.tolist() for b in plan(order_seed=7, epoch=4, n=10, batch_size=4)] != found
    assert [b.tolist() for b in plan(order_seed=8, epoch=3, n=10, batch_size=4)] != found


def test_a_plan_of_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size=0, n=5"):
        plan(order_seed=0, epoch=0, n=5, batch_size=0)


@pytest.mark.parametrize("prefetch", [True, False])
def test_batches_are_the_samples_and_restart_anywhere(cache: Path, prefetch: bool) -> None:
    view = open_cache(cache).select(modalities=["video", "audio"])
    loader = Loader(view, batch_size=7, order_seed=3, labels=["digit", "tags"], prefetch=prefetch)
    assert loader.batches_per_epoch == 5
    whole = copied(loader.epoch(2))
    assert sorted(i for copy in whole for i in copy[0]) == list(range(30))
    for skip in range(6):
        assert copied(loader.epoch(2, skip=skip)) == whole[skip:]
    for batch in loader.epoch(2):
        for name in view.modalities:
            block, lengths = view.padded(batch.items, name)
            assert batch.x[name].tobytes() == block.tobytes()
            assert batch.lengths[name].tolist() == lengths.tolist()
        assert batch.present.tolist() == view.present()[batch.items].tolist()
        assert batch.labels["tags"].tolist() == view.labels("tags")[batch.items].tolist()
    in_order = Loader(view, batch_size=30, shuffle=False, prefetch=prefetch)
    assert next(iter(in_order.epoch(0))).items.tolist() == list(range(30))


def test_a_batch_is_not_touched_before_the_next_is_drawn(cache: Path) -> None:
    loader = Loader(open_cache(cache).select(), batch_size=2)
    for batch in loader.epoch(0):
        before = {name: block.copy() for name, block in batch.x.items()}
        threading.Event().wait(0.005)  # time for the thread to run ahead
        for name, block in batch.x.items():
            assert (block == before[name]).all()


def test_buffers_are_reused(cache: Path) -> None:
    view = open_cache(cache).select(modalities=["audio"])
    seen = {batch.x["audio"].ctypes.data for batch in Loader(view, batch_size=3, prefetch=True).epoch(0)}
    assert len(seen) < 8, "ten batches out of two buffers that grow now and then"


def test_leaving_early_ends_the_thread(cache: Path) -> None:
    before = threading.active_count()
    batches = Loader(open_cache(cache).select(), batch_size=1).epoch(0)
    next(batches)
    cast(Generator[Batch], batches).close()
    assert threading.active_count() == before


def test_an_error_in_the_thread_reaches_the_caller(cache: Path) -> None:
    view = open_cache(cache).select()
    path = cache / "store/shards/000001/audio.0/values/c/0/0"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheError, match=r"000001/audio.0/values/c/0/0: the checksum of the shard index"):
        copied(Loader(view, batch_size=4).epoch(0))
    assert not [t for t in threading.enumerate() if t.name == "fusecache-loader"]


def test_loader_mistakes(cache: Path) -> None:
    view = open_cache(cache).select()
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        Loader(view, batch_size=0)
    with pytest.raises(InputError, match=r"no labels \['mood'\]; it has \['digit', 'group', 'tags'\]"):
        Loader(view, batch_size=1, labels=["mood"])
    with pytest.raises(InputError, match="has 4 batches, and cannot go on after 5"):
        Loader(view, batch_size=8).epoch(0, skip=5)


def test_an_empty_view_has_no_batches(cache: Path) -> None:
    view = open_cache(cache).select(keys=[])
    assert copied(Loader(view, batch_size=4).epoch(0)) == []
    assert np.asarray(view.present()).shape == (0, 3)
