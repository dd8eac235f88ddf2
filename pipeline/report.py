"""``RUN/report.html``: one self-contained page about a run, read from the run's own files.

Nothing is fetched when the page is opened: styles and figures are inside it. Everything it says about features comes
from what the cache's manifest said at training time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from fusecache.cache import InputError, MissingExtraError
from fusecache.cache.atomic import replace_file

from . import plots


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a share over ``count`` independent samples (Wilson 1927).

    >>> [round(end, 3) for end in wilson(0.9, 100)]
    [0.826, 0.945]
    """
    if count == 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): train the run to its end with fusecache train"
        ) from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): train the run to its end with fusecache train"
        ) from error


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a finished run.

    Args:
        run: the run folder.
        out: the file to write; None: ``RUN/report.html``.

    Returns:
        the page's path.

    Raises:
        InputError: the folder is not a finished run; the message names the file that is missing or broken.
        MissingExtraError: matplotlib, scikit-learn or jinja2 is not installed.
    """
    run = Path(run)
    if not (run / "result.json").exists():
        there = "it holds an unfinished run" if (run / "recipe.yaml").exists() else "there is no run in it"
        raise InputError(
            f"{run} has no result.json: {there}; finish it with fusecache train CACHE --recipe ... --out {run}"
        )
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(
            "a report needs jinja2, which is not installed: pip install 'fusecache[report]'"
        ) from error
    template = resources.files("fusecache").joinpath("templates/report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(page_values(run))
    path = Path(out) if out is not None else run / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, page.encode())
    return path


def page_values(run: Path) -> dict[str, Any]:
    """Everything that the page shows, read from the run's files."""
    result = cast("dict[str, Any]", _json(run / "result.json"))
    environment = cast("dict[str, Any]", _json(run / "environment.json"))
    recipe_text = (run / "recipe.yaml").read_text(encoding="utf-8")
    recipe = cast("dict[str, Any]", yaml.safe_load(recipe_text))
    epochs = _json_lines(run / "metrics.jsonl")
    sampled = _json_lines(run / "gradients.jsonl") if (run / "gradients.jsonl").exists() else []
    # A block without auxiliary losses has no angle between them and the task.
    gradients = [each for each in sampled if each["cosine"] is not None]
    test, val = result["test"], result["val"]["accuracy"]
    measured = cast("dict[str, float | None]", test["accuracy"])
    counts, members = cast("dict[str, int]", test["counts"]), cast("dict[str, list[str]]", result["subsets"])
    accuracy = {name: value for name, value in measured.items() if value is not None}
    if not accuracy:
        raise InputError(
            f"{run / 'result.json'}: no test sample has any of the modalities, so there is nothing to report"
        )
    full = max(accuracy, key=lambda name: len(members[name]))
    matrix = np.array(test["confusion"], dtype=np.int64)
    constant = float(matrix.sum(axis=1).max() / max(matrix.sum(), 1))
    intervals = {name: wilson(value, counts[name]) for name, value in accuracy.items()}
    train = cast("dict[str, Any]", recipe["train"])
    singles = [name for name in accuracy if len(members[name]) == 1]
    best = max(singles, key=lambda name: accuracy[name]) if singles else None
    beside = f"best single modality, {best}: {accuracy[best]:.1%}; " if best else ""
    return {
        "name": recipe["name"],
        "block": str(train["fusion"]["block"]).upper(),
        "modalities": result["modalities"],
        "headline": (
            f"With {'all modalities' if len(members[full]) == len(result['modalities']) else full} {accuracy[full]:.1%} "
            f"of {counts[full]:,} test samples are answered rightly "
            f"({beside}always the most frequent class: {constant:.1%}). One seed."
        ),
        "random_weights": result["random_weights"],
        "random_list": [name for name, producer in result["producers"].items() if "[random" in producer],
        "cards": [
            {"value": f"{accuracy[full]:.1%}", "what": f"test accuracy, {full}"},
            {
                "value": f"{np.mean(list(accuracy.values())):.1%}",
                "what": f"mean over {len(accuracy)} modality subsets",
            },
            {"value": f"{result['parameters']['total'] / 1e6:.1f} M", "what": "trained parameters"},
            {
                "value": f"{sum(each['seconds'] for each in epochs):.0f} s",
                "what": f"for {result['epochs']} epochs",
            },
        ],
        "selection": result["selection"],
        "subsets": [
            {
                "subset": name,
                "count": f"{counts[name]:,}",
                "val": _four(val.get(name)),
                "test": _four(value),
                "interval": f"{intervals[name][0]:.3f} to {intervals[name][1]:.3f}"
                if name in intervals
                else "",
            }
            for name, value in measured.items()
        ],
        "constant": f"{constant:.4f}",
        "training_note": training_note(result, train),
        "plots": {
            "subsets": plots.subset_bars(accuracy, intervals, constant, full),
            "curves": plots.training_curves(epochs, result["best_epoch"], full),
            "cosines": plots.gradient_cosines(gradients) if gradients else "",
            "confusion": plots.confusion(matrix, result["classes"]),
            "map": _feature_map(run, result["classes"]),
        },
        "cosine_count": len({each["step"] for each in gradients}),
        "cosines": cosine_rows(gradients),
        "features": [
            {
                "modality": name,
                "producer": result["producers"][name],
                "dim": result["dims"][name],
                "pooling": train["poolings"].get(name, "mean"),
                "pooled": result["pooled_dims"][name],
            }
            for name in result["modalities"]
        ],
        "fingerprint": result["cache_fingerprint"],
        "command": f"fusecache train {environment['cache']} --recipe {run / 'recipe.yaml'} --out ANOTHER_FOLDER",
        "recipe": recipe_text,
        "environment": json.dumps({k: v for k, v in environment.items() if k != "command"}, indent=2),
    }


def _four(value: float | None) -> str:
    return "none has it" if value is None else f"{value:.4f}"


def training_note(result: Mapping[str, Any], train: Mapping[str, Any]) -> str:
    """One sentence on how the run was trained and which weights were kept."""
    parts = result["parameters"]
    inside = ", ".join(f"{name} {value:,}" for name, value in parts.items() if name != "total" and value)
    return (
        f"{result['epochs']} epochs, batch size {train['batch_size']}, seed {result['seed']}, order seed {result['order_seed']}; "
        f"the weights of epoch {result['best_epoch'] + 1} were kept (dotted line). Parameters: {inside}."
    )


def cosine_rows(gradients: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Median cosine, share negative and median task gradient norm of each modality."""
    rows: list[dict[str, str]] = []
    for modality in dict.fromkeys(str(each["modality"]) for each in gradients):
        mine = [each for each in gradients if each["modality"] == modality]
        cosines = np.array([float(each["cosine"]) for each in mine])
        rows.append(
            {
                "modality": modality,
                "median": f"{np.median(cosines):+.3f}",
                "negative": f"{(cosines < 0).mean():.0%}",
                "norm": f"{np.median([float(each['task_norm']) for each in mine]):.2e}",
            }
        )
    return rows


def _feature_map(run: Path, classes: Sequence[str]) -> str:
    path = run / "features.npz"
    if not path.exists():
        return ""
    with np.load(path, allow_pickle=False) as arrays:
        return plots.feature_map(arrays["fused"], arrays["label"], arrays["predicted"], classes)
