"""The report's figures, each a function from plain values to one SVG text.

SVG keeps the page self-contained, sharp on any screen, and its words searchable. The same values give the same bytes.
"""

# matplotlib and scikit-learn ship without complete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusecache.cache.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Generator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE = "#2563a8", "#d9730d"
SERIES = (
    "#2563a8",
    "#d9730d",
    "#2f855a",
    "#805ad5",
    "#b83280",
    "#b7791f",
    "#2c7a7b",
    "#c53030",
    "#4a5568",
    "#00a3c4",
)
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "fusecache",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,
}


@contextmanager
def _figure(width: float, height: float, columns: int = 1) -> Generator[tuple[Figure, list[Axes]]]:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as NewFigure
    except ImportError as error:
        raise MissingExtraError(
            "a report needs matplotlib, which is not installed: pip install 'fusecache[report]'"
        ) from error
    with mpl.rc_context(STYLE):
        figure = NewFigure(figsize=(width, height))
        axes = figure.subplots(1, columns, squeeze=False)
        yield figure, list(axes[0])


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def training_curves(epochs: Sequence[Mapping[str, Any]], best_epoch: int, full: str) -> str:
    """Losses and validation accuracy by epoch.

    Args:
        epochs: the lines of ``metrics.jsonl``.
        best_epoch: the epoch whose weights were kept.
        full: label of the subset of all modalities, such as ``AVT``.
    """
    x = [each["epoch"] + 1 for each in epochs]
    judged = [each for each in epochs if each.get("val")]
    x_judged = [each["epoch"] + 1 for each in judged]
    with _figure(9.0, 3.0, 2) as (figure, (left, right)):
        left.plot(
            x, [each["train"]["loss"] for each in epochs], color=BLUE, label="training (task + auxiliary)"
        )
        left.plot(
            x,
            [each["train"]["task"] for each in epochs],
            color=BLUE,
            linestyle="--",
            label="training, task alone",
        )
        left.plot(
            x_judged, [each["val"]["loss"] for each in judged], color=ORANGE, label="validation, task alone"
        )
        left.set(xlabel="epoch", ylabel="loss", title="Loss")
        left.legend()
        subsets = list(judged[0]["val"]["accuracy"])
        for index, subset in enumerate(subsets):
            values = [each["val"]["accuracy"][subset] for each in judged]
            right.plot(
                x_judged,
                values,
                color=SERIES[index % len(SERIES)],
                label=subset,
                linewidth=2.4 if subset == full else 1.2,
                linestyle="-" if subset == full else ("--", "-.")[len(subset) > min(map(len, subsets))],
            )
        right.set(xlabel="epoch", ylabel="accuracy", title="Validation accuracy by modalities")
        right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        for axes in (left, right):
            axes.axvline(best_epoch + 1, color=FAINT, linewidth=0.8, linestyle=":")
            axes.locator_params(axis="x", integer=True)
        return _svg(figure, "training curves")


def subset_bars(
    accuracy: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], chance: float, full: str
) -> str:
    """Test accuracy on every modality subset with its 95 % interval, and the line of the most frequent class."""
    names = list(accuracy)
    values = np.array([accuracy[name] for name in names])
    errors = np.array(
        [[accuracy[name] - intervals[name][0], intervals[name][1] - accuracy[name]] for name in names]
    ).T
    with _figure(6.2, 0.9 + 0.34 * len(names)) as (figure, (axes,)):
        y = np.arange(len(names))[::-1]
        colours = [BLUE if name == full else "#8fb4da" for name in names]
        axes.barh(y, values, color=colours, height=0.66)
        axes.errorbar(values, y, xerr=errors, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
        for position, value, upper in zip(y, values, errors[1], strict=True):
            axes.text(value + upper + 0.012, position, f"{value:.3f}", va="center", fontsize=8)
        axes.axvline(chance, color=ORANGE, linewidth=1.2)
        axes.text(
            chance + 0.008,
            len(names) - 0.42,
            f"most frequent class {chance:.2f}",
            color=ORANGE,
            fontsize=7.5,
            va="bottom",
        )
        axes.set_yticks(y, names)
        axes.set(xlim=(0, 1.1), xlabel="test accuracy", ylim=(-0.6, len(names) - 0.1))
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.grid(visible=False, axis="y")
        return _svg(figure, "accuracy by modalities")


def gradient_cosines(records: Sequence[Mapping[str, Any]]) -> str:
    """Histogram, modality by modality, of the cosine between the task's and the auxiliary loss's gradient."""
    modalities = list(dict.fromkeys(str(each["modality"]) for each in records))
    with _figure(6.2, 2.9) as (figure, (axes,)):
        limit = max([0.1, *(abs(float(each["cosine"])) for each in records)])
        bins = np.linspace(-limit, limit, 41)
        for index, modality in enumerate(modalities):
            values = np.array([float(each["cosine"]) for each in records if each["modality"] == modality])
            negative = float((values < 0).mean())
            axes.hist(
                values, bins=bins.tolist(), histtype="stepfilled", alpha=0.28, color=SERIES[index], edgecolor=SERIES[index],
                linewidth=1.2, label=f"{modality}: {negative:.0%} negative",
            )  # fmt: skip
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set(xlabel="cosine of task and reconstruction gradient at the features", ylabel="sampled steps")
        axes.legend()
        return _svg(figure, "gradient cosines")


def feature_map(
    fused: NDArray[np.float32],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: Sequence[str],
) -> str:
    """t-SNE of the fused test features, coloured by class; wrong answers are crosses."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingExtraError(
            "a report's feature map needs scikit-learn, which is not installed: pip install 'fusecache[report]'"
        ) from error
    flat = TSNE(
        init="pca", perplexity=min(30.0, max(2.0, len(fused) / 4)), random_state=0, n_jobs=1
    ).fit_transform(fused.astype(np.float64))
    with _figure(6.2, 5.6) as (figure, (axes,)):
        right = labels == predicted
        for code, name in enumerate(classes):
            chosen = (labels == code) & right
            colour = SERIES[code % len(SERIES)]
            axes.scatter(flat[chosen, 0], flat[chosen, 1], s=9, color=colour, linewidths=0, alpha=0.75)
            wrong = (labels == code) & ~right
            axes.scatter(flat[wrong, 0], flat[wrong, 1], s=26, color=colour, marker="x", linewidths=1.2)
            if (labels == code).any():
                centre = np.median(flat[labels == code], axis=0)
                axes.text(
                    centre[0], centre[1], name, fontsize=9, fontweight="bold", ha="center", va="center",
                    bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": colour, "alpha": 0.85},
                )  # fmt: skip
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.set_title(
            f"{len(labels)} test samples; crosses: answered wrongly ({int((~right).sum())})", fontsize=9
        )
        return _svg(figure, "feature map")


def confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Confusion matrix at test with all modalities: rows are the truth."""
    with _figure(4.6, 4.2) as (figure, (axes,)):
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row in range(len(classes)):
            for column in range(len(classes)):
                if matrix[row, column]:
                    colour = "white" if share[row, column] > 0.55 else INK
                    axes.text(
                        column,
                        row,
                        str(matrix[row, column]),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color=colour,
                    )
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="answered", ylabel="true class")
        axes.grid(visible=False)
        return _svg(figure, "confusion matrix")
