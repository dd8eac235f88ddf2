"""What all benchmarks share: options, the machine's own speed, the last line of JSON."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np


def parser(about: str) -> argparse.ArgumentParser:
    """An argument parser that has ``--json``."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--json", action="store_true", help="end with one line of JSON")
    return made


def memory_copy_gb_s(megabytes: int = 64, repeats: int = 7) -> float:
    """Median speed of copying a warm buffer, in GB/s: the yardstick beside every throughput."""
    source = np.ones(megabytes * 1_000_000, np.uint8)
    target = np.zeros_like(source)
    speeds: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        np.copyto(target, source)
        speeds.append(source.nbytes / 1e9 / (time.perf_counter() - began))
    return statistics.median(speeds)


def machine() -> dict[str, Any]:
    """Cores and memory-copy speed."""
    return {"cores": os.cpu_count(), "memory_copy_gb_s": round(memory_copy_gb_s(), 2)}


def spread(values: Sequence[float]) -> str:
    """Median with the extremes.

    >>> spread([1.0, 3.0, 2.0])
    '2 [1 to 3]'
    """
    return f"{statistics.median(values):.3g} [{min(values):.3g} to {max(values):.3g}]"


def finish(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the last line where JSON was asked for."""
    if args.json:
        print(json.dumps(figures, allow_nan=False))
