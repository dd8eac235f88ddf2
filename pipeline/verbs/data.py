"""``fusecache data``: build a data set folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from fusecache import datasets
from fusecache.cache.errors import InputError

from ..progress import Progress
from ..tables import print_json, say

DATA_VARIABLE = "FUSECACHE_DATA"


def build(name: str, out: str | Path, *, seed: int, data: str | None) -> Path:
    """Build a data set by name with a progress line; returns its media manifest."""
    data = data or os.environ.get(DATA_VARIABLE)
    if name == "recordings" and not data:
        raise InputError(
            f"data set 'recordings' needs the folder of real recordings and none was named: pass --data DIR or set {DATA_VARIABLE}=DIR "
            "(the README says where to clone them from)"
        )
    with Progress(f"build {name}", "files") as progress:

        def on_progress(stage: str, done: int, total: int) -> None:
            progress.update(done, total, stage=stage)

        builders: dict[str, Callable[[], Path]] = {
            "digits": lambda: datasets.build_digits(out, seed=seed, on_progress=on_progress),
            "recordings": lambda: datasets.build_recordings(
                data or "", out, seed=seed, on_progress=on_progress
            ),
            "clips": lambda: datasets.build_clips(out),
        }
        return builders[name]()


def run(args: argparse.Namespace) -> int:
    """Build and say where the media manifest lies."""
    manifest = build(args.name, args.out, seed=args.seed, data=args.data)
    if args.json:
        print_json({"data": args.name, "manifest": str(manifest)})
    else:
        say(f"media manifest: {manifest}")
    return 0
