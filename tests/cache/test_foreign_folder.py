"""A cache is never mixed into somebody's folder."""

from pathlib import Path

import pytest

from fusecache.cache import InputError
from fusecache.cache.testing import build_sample, write_cache


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(
        InputError, match=r"must be new, empty or a cache, and it holds other files such as 'thesis\.tex'"
    ):
        write_cache(tmp_path, [build_sample(0)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    write_cache(tmp_path, [build_sample(0)])
    assert (tmp_path / "manifest.json").exists()
