"""Measures how well the reward model scores items without training clicks, on a hidden tenth of the catalogue.

    llmrec prepare configs/reward_ml100k_loo.yaml
    python benchmarks/research/reward_cold_items.py runs/reward_ml100k_loo --json

A random tenth of the items is removed from all training histories. The result is the AUC of test clicks on hidden
items: the share of other hidden items, unseen by the user, that score below the clicked one. Chance is 0.5, which a
model of item ids alone cannot exceed.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmrec.data.dataset import InteractionData, load_data
from llmrec.run import Run
from reward_models import fit_click_purchase
from reward_models.features import profile_words

FOLDS = 10  # one of them is hidden


def without(data: InteractionData, hidden: np.ndarray) -> InteractionData:
    """The training events of a log without the hidden items, bool [N]. There is no validation set."""
    keep = [~hidden[history] for history in data.train_histories]

    def kept(columns: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [values[: len(mask)][mask] for values, mask in zip(columns, keep, strict=True)]

    return replace(
        data,
        histories=kept(data.histories),
        purchases=kept(data.purchases),
        timestamps=kept(data.timestamps),
        train_lengths=np.array([mask.sum() for mask in keep]),
        targets={},
    )


def main() -> None:
    """Fits the model, measures it and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Run whose data are prepared.")
    parser.add_argument("--json", action="store_true", help="Print JSON on stdout.")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    data = load_data(run.path("data"))
    profiles = profile_words(data.users)
    hidden = np.random.default_rng(run.config.seed).permutation(data.num_items) % FOLDS == 0
    model, _ = fit_click_purchase(without(data, hidden), run.config.reward, run.config.seed)
    targets = next(iter(data.targets.values()))["test"]
    shares = []
    for user, position in zip(targets.users, targets.positions, strict=True):
        history = data.histories[user][:position]
        target = data.histories[user][position]
        if not hidden[target]:
            continue
        scores = model.log_clicks([history[~hidden[history]]], None, profiles[[user]])[0].numpy()
        others = hidden.copy()
        others[[*history, target]] = False
        shares.append((scores[others] < scores[target]).mean() + (scores[others] == scores[target]).mean() / 2)
    shares = np.array(shares)
    draws = np.random.default_rng(0).choice(shares, (1000, len(shares))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    result = {
        "hidden_items": int(hidden.sum()),
        "clicks_on_them": len(shares),
        "auc_among_hidden": {"value": float(shares.mean()), "ci95": [float(low), float(high)]},
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{len(shares)} clicks on {hidden.sum()} hidden items: AUC {shares.mean():.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
