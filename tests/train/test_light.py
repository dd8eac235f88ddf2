"""The package and its configuration import without torch; every public name is there when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fusecache.train


def test_configuration_needs_no_torch() -> None:
    code = (
        "import sys; from fusecache.train import TrainConfig; from fusecache.train.config import ScfaeConfig; "
        "TrainConfig(modalities=('a',), label='y'); print(sorted({'torch', 'zarr', 'sklearn'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    names = [name for name in fusecache.train.__all__ if not callable(getattr(fusecache.train, name))]
    assert names == []


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fusecache.train.__getattr__("nothing")


def test_deterministic_arithmetic_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from fusecache.train.runtime import deterministic\n"
        "with deterministic():\n"
        "    assert torch.are_deterministic_algorithms_enabled()\n"
        "    assert not torch.is_deterministic_algorithms_warn_only_enabled()\n"
        "assert not torch.are_deterministic_algorithms_enabled()\n"
        "assert 'torch._inductor' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
