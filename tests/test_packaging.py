"""One copy of every module: nothing may reach the folders under their bare names."""

import doctest
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "pipeline": "fusecache",
    "cache": "fusecache.cache",
    "extract": "fusecache.extract",
    "train": "fusecache.train",
}


def module_names() -> list[str]:
    names: list[str] = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            names.append(".".join((package, *(p for p in parts if p != "__init__"))))
    return names


@pytest.mark.parametrize("name", [n for n in module_names() if not n.endswith("__main__")])
def test_doctests(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("fusecache"):
            raise
        pytest.skip(f"{name} needs {error.name}")
    assert doctest.testmod(module).failed == 0
    assert not FOLDERS.keys() & {m.partition(".")[0] for m in sys.modules}
