"""Tests on real recordings run where ``FUSECACHE_DATA`` names them; otherwise one line says that they did not."""

import os
from pathlib import Path

import pytest

DATA = os.environ.get("FUSECACHE_DATA", "")

collect_ignore_glob = [] if DATA else ["test_*.py"]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the recordings."""
    if not DATA:
        pytest.skip("set FUSECACHE_DATA=DIR")
    return Path(DATA)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not DATA:
        left = sorted(path.name for path in Path(__file__).parent.glob("test_*.py"))
        terminalreporter.write_line(f"tests/real left out: set FUSECACHE_DATA=DIR to run {', '.join(left)}")
