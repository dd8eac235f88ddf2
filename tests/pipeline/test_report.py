"""The report: one self-contained page that says what the run's files say."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusecache.cache import InputError
from fusecache.recipe import load_recipe, recipe_yaml
from fusecache.report import wilson, write_report

SUBSETS = ("A", "V", "T", "AV", "AT", "VT", "AVT")


def make_run(run: Path, *, random_weights: bool = False) -> None:
    """A run folder as training leaves it, with made-up numbers: what is tested is the page, not the training."""
    rng = np.random.default_rng(0)
    accuracy = {name: 0.5 + 0.07 * index for index, name in enumerate(SUBSETS)}
    run.mkdir()
    recipe = load_recipe("digits", ["name=<b>mine</b>"])
    (run / "recipe.yaml").write_text(recipe_yaml(recipe))
    (run / "environment.json").write_text(
        json.dumps({"cache": "/c", "cache_fingerprint": "f" * 32, "versions": {}, "command": []})
    )
    epochs: list[dict[str, Any]] = [
        {
            "epoch": epoch, "step": epoch * 10, "lr": 1e-4, "train": {"loss": 2.0 / epoch, "task": 1.5 / epoch, "recon": 0.5 / epoch},
            "val": {"loss": 1.6 / epoch, "accuracy": accuracy, "selected": 0.7}, "seconds": 2.0, "waiting_share": 0.0,
        }
        for epoch in range(1, 4)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in epochs))
    gradients = [
        {
            "step": step,
            "epoch": 1,
            "modality": name,
            "cosine": float(rng.normal(0, 0.1)),
            "task_norm": 1.0,
            "auxiliary_norm": 0.5,
        }
        for step in range(20)
        for name in ("audio", "image", "text")
    ]
    (run / "gradients.jsonl").write_text("".join(json.dumps(each) + "\n" for each in gradients))
    producers = {"audio": "logmel", "image": "pixels", "text": "ngrams"}
    if random_weights:
        producers["audio"] = "wavlm-base [random:0 weights]"
    result = {
        "test": {"accuracy": accuracy, "samples": 300, "counts": dict.fromkeys(accuracy, 300), "confusion": (np.eye(3, dtype=int) * 100).tolist()},
        "subsets": {name: [{"A": "audio", "V": "image", "T": "text"}[letter] for letter in name] for name in SUBSETS},
        "val": {"accuracy": accuracy}, "best_epoch": 2, "epochs": 3,
        "parameters": {"block": 10, "head": 5, "pooling": 0, "total": 15}, "dims": {"audio": 40, "image": 256, "text": 512},
        "pooled_dims": {"audio": 400, "image": 256, "text": 512}, "classes": ["zero", "one", "two"],
        "modalities": ["audio", "image", "text"], "producers": producers, "random_weights": random_weights,
        "selection": "mean accuracy on validation", "seed": 0, "order_seed": 0, "cache_fingerprint": "f" * 32,
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    labels = rng.integers(0, 3, 60)
    np.savez(
        run / "features.npz",
        fused=rng.normal(size=(60, 8)).astype(np.float32) + labels[:, None] * 3,
        label=labels,
        predicted=labels,
    )


def test_the_page_is_self_contained_and_says_what_the_files_say(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    page = write_report(tmp_path / "run").read_text()
    loads = re.findall(r"(?:src|href)\s*=\s*[\"']?(?!#)([^\"'\s>]+)", page)
    assert [each for each in loads if not each.startswith("data:")] == []
    assert "@import" not in page
    assert page.count("<svg") == 5
    for name, value in zip(SUBSETS, [0.5 + 0.07 * index for index in range(7)], strict=True):
        assert f"<td>{name}</td>" in page
        assert f"{value:.4f}" in page
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert "<b>mine</b>" not in page
    assert "Untrained" not in page
    assert "f" * 32 in page


def test_untrained_features_are_marked(tmp_path: Path) -> None:
    make_run(tmp_path / "run", random_weights=True)
    page = write_report(tmp_path / "run").read_text()
    assert "Untrained encoder weights" in page
    assert "wavlm-base [random:0 weights]" in page


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    first = write_report(tmp_path / "run", tmp_path / "a.html").read_bytes()
    assert write_report(tmp_path / "run", tmp_path / "b.html").read_bytes() == first


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no result\.json: there is no run in it"):
        write_report(tmp_path)


def test_an_unfinished_run(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(InputError, match="it holds an unfinished run"):
        write_report(tmp_path / "run")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("{not json")
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be read"):
        write_report(tmp_path / "run")


def change(run: Path, name: str, edit: Callable[[Any], None]) -> None:
    value = json.loads((run / name).read_text())
    edit(value)
    (run / name).write_text(json.dumps(value))


def test_the_best_single_modality_is_found_by_what_it_holds_not_by_its_name(tmp_path: Path) -> None:
    make_run(tmp_path / "run")

    def rename(result: Any) -> None:
        result["test"]["accuracy"] = {"mel": 0.57, "wavlm_base": 0.91, "mel+wavlm_base": 0.93}
        result["test"]["counts"] = {"mel": 14, "wavlm_base": 100, "mel+wavlm_base": 100}
        result["subsets"] = {
            "mel": ["mel"],
            "wavlm_base": ["wavlm_base"],
            "mel+wavlm_base": ["mel", "wavlm_base"],
        }
        result["val"]["accuracy"] = dict.fromkeys(result["test"]["accuracy"], 0.5)

    change(tmp_path / "run", "result.json", rename)
    page = write_report(tmp_path / "run").read_text()
    assert "best single modality, wavlm_base: 91.0%" in page
    assert "0.325 to 0.785" in page, "the interval of 57 % over 14 samples"


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("count", [1, 6, 21, 31, 3000])
def test_an_interval_holds_its_share(share: float, count: int) -> None:
    low, high = wilson(share, count)
    assert 0.0 <= low <= share <= high <= 1.0


def test_a_perfect_run_without_auxiliary_loss_and_with_odd_class_names(tmp_path: Path) -> None:
    make_run(tmp_path / "run")

    def perfect(result: Any) -> None:
        result["test"]["accuracy"] = {**dict.fromkeys(SUBSETS, 1.0), "T": None}
        result["test"]["counts"]["T"] = 0
        result["classes"] = ["$\\frac{$", "<script>alert(1)</script>", "two"]

    change(tmp_path / "run", "result.json", perfect)
    lines = (tmp_path / "run" / "gradients.jsonl").read_text().splitlines()
    empty = [{**json.loads(line), "cosine": None, "auxiliary_norm": None} for line in lines]
    (tmp_path / "run" / "gradients.jsonl").write_text("".join(json.dumps(each) + "\n" for each in empty))
    page = write_report(tmp_path / "run").read_text()
    assert "none has it" in page
    assert "<script>" not in page
    assert page.count("<svg") == 4
