"""``fusecache report``: one HTML page about a run."""

from __future__ import annotations

import argparse

from ..report import write_report
from ..tables import say


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    say(f"report: {write_report(args.run, args.out)}")
    return 0
