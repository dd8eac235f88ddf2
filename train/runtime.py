"""Where and how the arithmetic runs: the device, and a context in which it gives the same bits every time."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from fusecache.cache import InputError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def pick_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means here.

    Raises:
        InputError: if a GPU is asked for and there is none of that number.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(f"train.device is {name!r}, this machine has {count} usable GPUs; write auto or cpu")
    return device


@contextmanager
def deterministic() -> Generator[None]:
    """Deterministic kernels only, inside; every global setting is put back outside."""
    switch: Any = (
        torch.utils.deterministic
    )  # its one property is set on the module, which checkers do not see
    before = torch.get_deterministic_debug_mode()
    fill: bool = switch.fill_uninitialized_memory
    workspace = os.environ.get(_WORKSPACE)
    os.environ.setdefault(_WORKSPACE, ":4096:8")  # cuBLAS asks for it before it promises equal bits
    # The same switch as use_deterministic_algorithms, which also imports torch's compiler: seconds, for nothing here.
    torch.set_deterministic_debug_mode("error")
    switch.fill_uninitialized_memory = False  # a debugging aid that costs a pass over memory
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        switch.fill_uninitialized_memory = fill
        if workspace is None:
            del os.environ[_WORKSPACE]
