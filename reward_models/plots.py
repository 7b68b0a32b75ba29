"""ROC curves and reliability diagrams of a reward model, as PNG."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen is needed

import matplotlib.pyplot as plt
import numpy as np

from llmrec.files import write_with
from reward_models.quality import Labelled, Measured, reliability


def _roc(axes: plt.Axes, name: str, labelled: Labelled) -> None:
    """One ROC curve; equal scores are one step."""
    level = np.unique(-labelled.scores, return_inverse=True)[1]
    true, false = (np.concatenate([[0], np.cumsum(np.bincount(level, y))]) for y in (labelled.y, ~labelled.y))
    if true[-1] and false[-1]:
        axes.plot(false / false[-1], true / true[-1], label=name)


def _reliability(axes: plt.Axes, name: str, labelled: Labelled) -> None:
    """Mean probability against the share that happened, in ten bins of equal count."""
    points = reliability(labelled)
    axes.plot(points["predicted"], points["observed"], "o-", label=name)


def draw(measured: dict[str, Measured], directory: Path) -> None:
    """Writes `roc.png` (model and baselines) and `reliability.png` (model), a column a split, clicks above purchases.

    Args:
        measured: by split.
        directory: the run's `reward/`.
    """
    if not measured:
        return
    for file, title, curve, models in (
        ("roc.png", "ROC", _roc, None),
        ("reliability.png", "reliability", _reliability, ["model"]),
    ):
        figure, axes = plt.subplots(2, len(measured), figsize=(5 * len(measured), 9), squeeze=False)
        for column, (split, curves) in enumerate(measured.items()):
            for row, (what, by_name) in enumerate((("click", curves.clicks), ("purchase", curves.purchases))):
                place = axes[row][column]
                for name in models or by_name:
                    if name in by_name:
                        curve(place, name, by_name[name])
                place.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
                place.set_title(f"{what}, {split}: {title}")
                place.set_xlabel("false positives" if curve is _roc else "predicted probability")
                place.set_ylabel("true positives" if curve is _roc else "share that happened")
                if place.get_legend_handles_labels()[0]:
                    place.legend()
        figure.tight_layout()
        write_with(directory / file, lambda path, figure=figure: figure.savefig(path, format="png", dpi=100))
        plt.close(figure)
