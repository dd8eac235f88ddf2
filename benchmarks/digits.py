"""SCFAE on the digits task over paired seeds, beside logistic regression and late fusion on the same pooled vectors."""

import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.common import finish, parser
from fusecache import datasets
from fusecache.cache import open_cache
from fusecache.extract import extract
from fusecache.progress import Progress, clock
from fusecache.recipe import load_recipe
from fusecache.run import train_run
from fusecache.train.baselines import logistic_late
from fusecache.train.config import TrainConfig


def prepare(folder: Path, data: str | None) -> Path:
    """Build the data and extract it; returns the cache. What stands already is reused."""
    name = "recordings" if data else "embedded"
    with Progress(f"build {name}", "files") as progress:
        if data:
            manifest = datasets.build_recordings(
                data,
                folder / name,
                on_progress=lambda stage, done, total: progress.update(done, total, stage=stage),
            )
        else:
            manifest = datasets.build_digits(
                folder / name,
                on_progress=lambda stage, done, total: progress.update(done, total, stage=stage),
            )
    recipe = load_recipe("digits")
    assert recipe.extract is not None
    with Progress("extract") as progress:
        extract(
            manifest,
            folder / f"{name}-cache",
            recipe.extract,
            on_event=lambda event: progress.update(event.done, event.total),
        )
    return folder / f"{name}-cache"


def main() -> None:
    """Train the shipped recipe once per seed (order and initialisation vary together) and print the table."""
    options = parser(__doc__ or "")
    options.add_argument("--seeds", type=int, default=10, help="how many paired seeds (default: 10)")
    options.add_argument(
        "--folder", type=Path, help="keep data, cache and runs here (default: a temporary folder)"
    )
    options.add_argument(
        "--data",
        default=os.environ.get("FUSECACHE_DATA"),
        help="real recordings (default: $FUSECACHE_DATA; else embedded)",
    )
    options.add_argument(
        "--set", action="append", default=[], dest="overrides", help="override a recipe field"
    )
    args = options.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = args.folder or Path(temporary)
        cache_path = prepare(folder, args.data)
        recipe = load_recipe("digits", args.overrides)
        assert recipe.train is not None
        with open_cache(cache_path) as cache:
            baselines = logistic_late(cache, recipe.train)
        runs: list[dict[str, float]] = []
        for seed in range(args.seeds):
            train: TrainConfig = dataclasses.replace(recipe.train, seed=seed, order_seed=seed)
            result = train_run(
                cache_path,
                dataclasses.replace(recipe, train=train),
                folder / f"run-{'recordings' if args.data else 'embedded'}-{seed}",
            )
            runs.append(result.test)
            print(
                f"seed {seed}: {'  '.join(f'{name} {value:.4f}' for name, value in result.test.items())}  ({result.seconds:.0f} s)",
                flush=True,
            )
    subsets = list(runs[0])
    scfae = {name: statistics.mean(run[name] for run in runs) for name in subsets}
    scfae_sd = {
        name: statistics.stdev(run[name] for run in runs) if len(runs) > 1 else 0.0 for name in subsets
    }
    logreg, late = baselines["logreg"], baselines["late"]
    print(
        f"\n{'':6} {'SCFAE mean':>11} {'sd':>7} {'late':>8} {'logreg':>8}   (test accuracy, {len(runs)} seeds, {'recordings' if args.data else 'embedded'})"
    )
    for name in subsets:
        print(f"{name:6} {scfae[name]:11.4f} {scfae_sd[name]:7.4f} {late[name]:8.4f} {logreg[name]:8.4f}")
    full = max(subsets, key=len)
    above = sum(run[full] > late[full] for run in runs)
    print(
        f"{full}: SCFAE minus late fusion {scfae[full] - late[full]:+.4f}; above it in {above} of {len(runs)} seeds; took {clock(time.monotonic() - began)}"
    )
    finish(
        args,
        {
            "data": "recordings" if args.data else "embedded",
            "seeds": len(runs),
            "scfae": scfae,
            "scfae_sd": scfae_sd,
            "late": late,
            "logreg": logreg,
            "runs": runs,
            "seconds": round(time.monotonic() - began, 1),
        },
    )


if __name__ == "__main__":
    main()
