"""``fusecache extract``: media to a cache."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusecache.cache.errors import InputError

from ..progress import Progress, clock
from ..recipe import Recipe, load_recipe
from ..tables import print_json, print_table, say

if TYPE_CHECKING:
    from fusecache.extract import Event, ExtractReport


def extract_run(manifest: str | Path, out: str | Path, recipe: Recipe) -> ExtractReport:
    """Extract a recipe's encoders over a media manifest, with a progress line."""
    from fusecache.extract import extract

    if recipe.extract is None:
        raise InputError(
            f"recipe {recipe.name!r} has no extract: part, so there is nothing to extract; add one or name another recipe"
        )
    with Progress("extract") as progress:

        def on_event(event: Event) -> None:
            limit = [f"limited by {event.bottleneck}"] if event.bottleneck else []
            rejected = [f"{event.rejected} rejected"] if event.rejected else []
            progress.update(event.done, event.total, ", ".join([*limit, *rejected]))

        return extract(manifest, out, recipe.extract, on_event=on_event)


def summary(report: ExtractReport) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "cache": str(report.cache),
        "samples": report.samples,
        "rejected": [
            {"key": reject.key, "modality": reject.modality, "stage": reject.stage, "reason": reject.reason}
            for reject in report.rejected
        ],
        "decoded_files": report.decoded_files,
        "reused": report.reused,
        "stage_seconds": {name: round(value, 3) for name, value in report.stage_seconds.items()},
        "bottleneck": report.bottleneck,
        "wall_seconds": round(report.wall_seconds, 3),
        "dims": {spec.modality: spec.dim for spec in report.specs},
        "encoders": {spec.modality: spec.producer.label for spec in report.specs},
        "random_weights": any(spec.producer.is_random for spec in report.specs),
    }


def show(report: ExtractReport) -> None:
    """Print what was made, where the time went, and every reject."""
    if not report.decoded_files and report.skipped_shards:
        say(f"{report.samples:,} samples in {report.cache}: complete before, nothing was left to do")
        return
    total = sum(report.stage_seconds.values()) or 1.0
    shares = ", ".join(f"{name} {value / total:.0%}" for name, value in report.stage_seconds.items())
    say(
        f"{report.samples:,} samples in {report.cache} ({clock(report.wall_seconds)}; {report.decoded_files:,} files decoded once, "
        f"{report.reused:,} of them for several samples; work: {shares}; limited by {report.bottleneck or 'nothing'})"
    )
    if report.rejected:
        print_table(
            f"{len({reject.key for reject in report.rejected})} samples rejected",
            ("key", "modality", "stage", "reason"),
            [(reject.key, reject.modality, reject.stage, reject.reason) for reject in report.rejected[:20]],
            note=f"all of them: {Path(report.cache) / 'rejects.jsonl'}",
        )
    for spec in report.specs:
        if spec.producer.is_random:
            say(
                f"note: {spec.modality} was made by {spec.producer.label}: untrained, so these features show the way, not science"
            )


def run(args: argparse.Namespace) -> int:
    """Extract and print the summary."""
    report = extract_run(args.manifest, args.out, load_recipe(args.recipe, args.overrides))
    if args.json:
        print_json(summary(report))
    else:
        show(report)
    return 0
