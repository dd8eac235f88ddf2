"""The README's example, run once as it stands; several tests look at what it leaves."""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Example:
    folder: Path
    printed: str

    @property
    def manifest(self) -> Path:
        return self.folder / "data" / "digits" / "manifest.csv"

    @property
    def cache(self) -> Path:
        return self.folder / "caches" / "digits"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "digits"


def block_of(document: str) -> str:
    """The block of a document that promises to run as it stands."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.search(
        r"<!-- The tests run this block as it stands. -->\n```python\n(.*?)```", text, re.DOTALL
    )
    assert found, f"{document} has no such block"
    return found.group(1)


@pytest.fixture
def python_block() -> Callable[[str], str]:
    """The block of a document that promises to run as it stands."""
    return block_of


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """Data, cache and run of the README's example."""
    folder = tmp_path_factory.mktemp("example")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block_of("README.md"), "README.md", "exec"), {"__name__": "readme"})  # noqa: S102
        yield Example(folder, printed.getvalue())
    finally:
        os.chdir(before)
