"""A small cache with every kind of sample that the format allows."""

from pathlib import Path

import pytest

from fusecache.cache import Sample
from fusecache.cache.testing import build_sample, write_cache


def nothing(handle: int) -> None:
    pass


@pytest.fixture(autouse=True)
def no_fsync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability cannot be seen without a power cut; only the writer's own tests pay for it."""
    if "test_writer" not in request.node.nodeid:
        monkeypatch.setattr("os.fsync", nothing)


@pytest.fixture
def samples() -> list[Sample]:
    return [build_sample(i) for i in range(30)]


@pytest.fixture
def cache(tmp_path: Path, samples: list[Sample]) -> Path:
    write_cache(tmp_path / "cache", samples)
    return tmp_path / "cache"
