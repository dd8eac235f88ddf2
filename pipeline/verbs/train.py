"""``fusecache train``: a cache to a trained fusion block."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import Progress
from ..recipe import Recipe, load_recipe
from ..run import train_run
from ..tables import print_json, print_table, say

if TYPE_CHECKING:
    from fusecache.train import FitResult, TrainEvent


def train_shown(cache: str | Path, recipe: Recipe, run: str | Path) -> FitResult:
    """Train with a progress line."""
    with Progress("train", "steps") as progress:

        def on_event(event: TrainEvent) -> None:
            waiting = f", {event.waiting_share:.0%} waiting for data" if event.waiting_share >= 0.01 else ""
            progress.update(
                event.step,
                event.steps,
                f"epoch {min(event.epoch + 1, event.epochs)} of {event.epochs}, loss {event.loss:.3f}{waiting}",
            )

        return train_run(cache, recipe, run, on_event=on_event)


def summary(result: FitResult, run: str | Path) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "run": str(run),
        "test": result.test,
        "val": result.val,
        "best_epoch": result.best_epoch,
        "parameters": result.parameters,
        "dims": result.dims,
        "pooled_dims": result.pooled_dims,
        "random_weights": result.random_weights,
        "seconds": round(result.seconds, 3),
    }


def show(result: FitResult, recipe: Recipe, run: str | Path) -> None:
    """Print accuracy on every modality subset."""
    dims = ", ".join(f"{name} {dim}" for name, dim in result.pooled_dims.items())
    block = recipe.train.fusion.block if recipe.train is not None else ""
    print_table(
        f"{block}: accuracy by modalities at test",
        ("modalities", "validation", "test"),
        [(subset, f"{result.val[subset]:.4f}", f"{value:.4f}") for subset, value in result.test.items()],
        note=f"{result.parameters['total']:,} parameters; pooled dims: {dims}; "
        f"weights of epoch {result.best_epoch + 1} of {result.epochs}, chosen on validation",
    )
    if result.random_weights:
        say("note: some features come from untrained encoders: these figures show the way, not science")
    say(f"run: {run}")


def run(args: argparse.Namespace) -> int:
    """Train and print the subset table."""
    recipe = load_recipe(args.recipe, args.overrides)
    result = train_shown(args.cache, recipe, args.out)
    if args.json:
        print_json(summary(result, args.out))
    else:
        show(result, recipe, args.out)
    return 0
