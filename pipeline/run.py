"""A run is a folder: the resolved recipe, the environment, the metrics, the weights and the report.

``RUN/recipe.yaml`` and ``RUN/environment.json`` are written here, before training starts; everything else in the
folder is written by :func:`fusecache.train.fit` and :func:`fusecache.report.write_report`.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusecache.cache import InputError, open_cache
from fusecache.cache.atomic import replace_file

from .recipe import Recipe, recipe_tree, recipe_yaml

if TYPE_CHECKING:
    from fusecache.train import FitResult, TrainEvent

LIBRARIES = ("fusecache", "torch", "numpy", "zarr", "safetensors", "pydantic")


def library_versions(names: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Installed versions by distribution name; a library that is not installed is left out."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def torch_threads() -> int:
    """Threads that torch computes with on a CPU: sums are taken in another order with another number of them."""
    import torch

    return torch.get_num_threads()


def train_run(
    cache_path: str | Path,
    recipe: Recipe,
    run: str | Path,
    *,
    on_event: Callable[[TrainEvent], None] | None = None,
) -> FitResult:
    """Train a recipe on a cache into the folder ``run``, or go on where a killed run stopped.

    Raises:
        InputError: the recipe has no ``train`` part, or the folder holds a run of another recipe or cache.
        CacheError: the cache is missing, damaged, or made by other encoders than the recipe's.
    """
    from fusecache.train import check_fit, fit

    if recipe.train is None:
        raise InputError(
            f"recipe {recipe.name!r} has no train: part, so there is nothing to train; add one or name another recipe"
        )
    run = Path(run)
    with open_cache(cache_path, expect=recipe.expected_producers()) as cache:
        _check_same_run(run, recipe, cache.fingerprint)
        check_fit(cache, recipe.train)  # before anything is written: a typo must not lock the folder
        if not (run / "recipe.yaml").exists() or not (run / "environment.json").exists():
            # What a run was started with is written once; going on, or reading a finished run, changes nothing of it.
            if run.exists() and (not run.is_dir() or any(run.iterdir())):
                raise InputError(
                    f"run folder {run} must be new or hold a run, and it holds other files (or a run whose recipe.yaml or "
                    "environment.json is gone): name another folder with --out, nothing in it is touched"
                )
            run.mkdir(parents=True, exist_ok=True)
            environment: dict[str, Any] = {
                "cache": str(Path(cache_path).resolve()),
                "cache_fingerprint": cache.fingerprint,
                "cache_version": cache.manifest.version,
                "platform": f"{platform.system()} {platform.machine()}",
                "threads": torch_threads(),
                "versions": library_versions(),
                "command": sys.argv,
            }
            replace_file(run / "recipe.yaml", recipe_yaml(recipe).encode())
            replace_file(run / "environment.json", json.dumps(environment, indent=2).encode())
        return fit(cache, recipe.train, run, on_event=on_event)


def _check_same_run(run: Path, recipe: Recipe, fingerprint: str) -> None:
    """A run folder is continued only with the recipe and cache that it was started with."""
    import yaml

    recipe_file, environment_file = run / "recipe.yaml", run / "environment.json"
    if not recipe_file.exists() or not environment_file.exists():
        return
    before: Any = yaml.safe_load(recipe_file.read_text())
    now = recipe_tree(recipe)
    differing = sorted(_differences(before, now, ""))
    if differing:
        raise InputError(
            f"run folder {run} was started with another recipe ({'; '.join(differing[:5])}): "
            "name another folder with --out, or remove this one"
        )
    cached = json.loads(environment_file.read_text())["cache_fingerprint"]
    if cached != fingerprint:
        raise InputError(
            f"run folder {run} was started on a cache of content {cached}, this cache has {fingerprint}: "
            "name another folder with --out, or remove this one"
        )


def _differences(before: Any, now: Any, where: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found: list[str] = []
        for name in sorted({*before, *now}):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            found += _differences(before.get(name), now.get(name), f"{where}{name}.")  # pyright: ignore
        return found
    return [] if before == now else [f"{where.rstrip('.')}: {before!r} there, {now!r} here"]
