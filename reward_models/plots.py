"""ROC curves and reliability diagrams of a reward model, as PNG files."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws without a screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from llmrec.files import write_with
from reward_models.binary_metrics import LabeledEvents, auc, reliability
from reward_models.quality import Curves


def draw(curves: dict[str, Curves], directory: Path) -> None:
    """Writes `roc.png` (model and baselines) and `reliability.png` (model alone).

    Each has a column a split, with clicks above purchases.

    Args:
        curves: labeled events by split. If empty, nothing is written.
        directory: the run's `reward/`.
    """
    if curves:
        _draw_roc(curves, directory / "roc.png")
        _draw_reliability(curves, directory / "reliability.png")


def _draw_roc(curves: dict[str, Curves], path: Path) -> None:
    figure, panels = _panels(curves)
    for axes, title, events in panels:
        for name, labeled in events.items():
            if auc(labeled.scores, labeled.labels) is not None:
                false_positives, true_positives, _ = roc_curve(labeled.labels, labeled.scores)
                axes.plot(false_positives, true_positives, label=name)
        _finish(axes, f"{title}: ROC", "false positives", "true positives")
    _save(figure, path)


def _draw_reliability(curves: dict[str, Curves], path: Path) -> None:
    figure, panels = _panels(curves)
    for axes, title, events in panels:
        if "model" in events:
            points = reliability(events["model"])
            axes.plot(points["predicted"], points["observed"], "o-", label="model")
        _finish(axes, f"{title}: reliability", "predicted probability", "share that happened")
    _save(figure, path)


def _panels(curves: dict[str, Curves]) -> tuple[Figure, list[tuple[Axes, str, dict[str, LabeledEvents]]]]:
    """An empty figure, and the axes, title and events of each panel."""
    figure, grid = plt.subplots(2, len(curves), figsize=(5 * len(curves), 9), squeeze=False)
    panels = []
    for column, (split, of_split) in enumerate(curves.items()):
        panels.append((grid[0][column], f"click, {split}", of_split.clicks))
        panels.append((grid[1][column], f"purchase, {split}", of_split.purchases))
    return figure, panels


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))
    plt.close(figure)
