"""Plain rows that stand beside every fusion method: logistic regression, late fusion of it, and the constant answer.

They see the same pooled vectors and the same splits. Scaling and strength of the penalty are chosen on the validation
split, for each modality, by log-loss: late fusion adds log-probabilities, so calibration is what it needs. The test
split is scored once, after the choice.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import Cache, MissingExtraError, Stream, View

from .checks import check_fit
from .config import TrainConfig
from .data import open_split, pooled
from .subsets import subsets

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0)
"""Inverse penalties ``C`` that are tried, each on centred vectors scaled as a whole and scaled dimension by dimension."""


def logistic_late(cache: Cache, config: TrainConfig) -> dict[str, dict[str, float]]:
    """Test accuracy of the plain methods, by modality subset.

    Args:
        cache: features and labels.
        config: the run whose pooled vectors, label and splits are used; nothing else of it has an effect. A learned
            pooling counts as ``mean``.

    Returns:
        ``logreg`` (one regression on the concatenated vectors of the subset), ``late`` (log-probabilities of the
        single modalities' regressions added) and ``constant`` (the most frequent training class); each a table from
        subset label to accuracy over the samples that have something of the subset, NaN where none has. In the
        concatenation, an absent modality is the training mean.

    Raises:
        InputError: the configuration does not fit the cache.
        MissingExtraError: scikit-learn is not installed.
    """
    classes = len(check_fit(cache, config))
    train, val = (open_split(cache, config, split) for split in config.splits[:2])
    x_train, x_val = pooled(train, config), pooled(val, config)
    y_train, y_val = _labels(train, config), _labels(val, config)
    has_train, has_val = train.present(), val.present()
    place = {name: m for m, name in enumerate(config.modalities)}
    models: dict[str, _Chosen] = {}
    for name, m in place.items():
        a, b = has_train[:, m], has_val[:, m]
        models[name] = _choose(x_train[name][a], y_train[a], x_val[name][b], y_val[b], classes)

    def joined(
        x: Mapping[str, NDArray[np.float32]], has: NDArray[np.bool_], chosen: Sequence[str]
    ) -> NDArray[np.float32]:
        scaled = [(x[name] - models[name].centre) * models[name].scale for name in chosen]
        parts = [
            np.where(has[:, place[name], None], part, 0.0) for name, part in zip(chosen, scaled, strict=True)
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    streams: dict[str, Stream] = {name: cache.specs[name].stream for name in config.modalities}
    choices = subsets(config.modalities, streams)
    together: dict[str, _Chosen] = {}
    for label, chosen in choices.items():
        if len(chosen) > 1:
            mine = joined(x_train, has_train, chosen), joined(x_val, has_val, chosen)
            together[label] = _choose(mine[0], y_train, mine[1], y_val, classes, scalings=("as it is",))
    test = open_split(cache, config, config.splits[2])
    x_test, y_test, has_test = pooled(test, config), _labels(test, config), test.present()
    scores = {name: model.log_probabilities(x_test[name], classes) for name, model in models.items()}
    most = int(np.bincount(y_train, minlength=classes).argmax())
    tables: dict[str, dict[str, float]] = {"logreg": {}, "late": {}, "constant": {}}
    for label, chosen in choices.items():
        column = {name: has_test[:, place[name]] for name in chosen}
        there = np.any(np.stack(list(column.values())), axis=0)
        total = np.sum([np.where(column[name][:, None], scores[name], 0.0) for name in chosen], axis=0)
        whole = (
            together[label].log_probabilities(joined(x_test, has_test, chosen), classes)
            if label in together
            else total
        )
        answers = {
            "late": total.argmax(axis=1),
            "logreg": whole.argmax(axis=1),
            "constant": np.full(len(y_test), most),
        }
        for method, answer in answers.items():
            tables[method][label] = float((answer == y_test)[there].mean()) if there.any() else float("nan")
    return tables


class _Chosen:
    """A fitted logistic regression with the scaling it was chosen with."""

    def __init__(self, model: Any, centre: NDArray[np.float32], scale: NDArray[np.float32]) -> None:
        self.model, self.centre, self.scale = model, centre, scale

    def log_probabilities(self, x: NDArray[np.float32], classes: int) -> NDArray[np.float64]:
        """``[n, classes]``; a class that training never showed gets the logarithm of 1e-12."""
        out = np.full((len(x), classes), np.log(1e-12))
        if len(x):
            probabilities = self.model.predict_proba((x - self.centre) * self.scale)
            out[:, self.model.classes_] = np.log(np.maximum(probabilities, 1e-12))
        return out


def _choose(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    x_val: NDArray[np.float32],
    y_val: NDArray[np.int64],
    classes: int,
    scalings: Sequence[str] = ("modality", "dimension"),
) -> _Chosen:
    """The scaling and penalty of the lowest validation log-loss; ties go to the stronger penalty."""
    try:
        from sklearn.exceptions import ConvergenceWarning  # pyright: ignore[reportMissingTypeStubs]
        from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise MissingExtraError(
            "the logistic-regression rows need scikit-learn, which is not installed; "
            "run: pip install 'fusecache[bench]'"
        ) from error
    centre, deviation = x.mean(axis=0), x.std(axis=0)
    whole = np.full_like(deviation, 1.0 / max(float(np.sqrt(np.square(deviation).mean())), 1e-8))
    each = np.where(deviation > 1e-8, 1.0 / np.maximum(deviation, 1e-8), 1.0).astype(np.float32)
    known = {
        "modality": (centre, whole),
        "dimension": (centre, each),
        "as it is": (np.zeros_like(centre), np.ones_like(centre)),
    }
    best: tuple[float, _Chosen] | None = None
    for centre, factor in (known[name] for name in scalings):
        for strength in STRENGTHS:
            with warnings.catch_warnings():
                # Weak penalties stop early on purpose: they are candidates, and validation judges them as they are.
                warnings.simplefilter("ignore", ConvergenceWarning)
                fitted: Any = LogisticRegression(C=strength, max_iter=200)
                fitted.fit((x - centre) * factor, y)
            candidate = _Chosen(fitted, centre, factor)
            found = candidate.log_probabilities(x_val, classes)
            loss = -float(found[np.arange(len(y_val)), y_val].mean()) if len(y_val) else 0.0
            if best is None or loss < best[0]:
                best = loss, candidate
    assert best is not None
    return best[1]


def _labels(view: View, config: TrainConfig) -> NDArray[np.int64]:
    return np.asarray(view.labels(config.label)).astype(np.int64)
