"""Do items that were never trained on get a sensible score? Hides a tenth of the catalogue and looks at it.

    llmrec prepare configs/reward_ml100k_loo.yaml
    python benchmarks/research/reward_cold_items.py runs/reward_ml100k_loo --json

Every tenth item is cut out of all histories. Of the test clicks on such items the number printed is the share of the
other hidden items, not had by the user, that score below the one clicked: 0.5 is chance, and what ids alone can reach.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmrec.data.dataset import InteractionData, load_data
from llmrec.run import Run
from reward_models import fit_click_purchase
from reward_models.features import profile_words

EVERY = 10


def without(data: InteractionData, hidden: np.ndarray) -> InteractionData:
    """The training part of the log without some items; nothing is held out, so nothing is selected on."""
    keep = [~hidden[history] for history in data.train_histories]
    cut = [
        [values[: len(k)][k] for values, k in zip(lists, keep, strict=True)]
        for lists in (data.histories, data.purchases, data.timestamps)
    ]
    return replace(
        data,
        histories=cut[0],
        purchases=cut[1],
        timestamps=cut[2],
        train_lengths=np.array([k.sum() for k in keep]),
        targets={},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run whose data are prepared")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    data = load_data(run.path("data"))
    profiles = profile_words(data.users)
    hidden = np.random.default_rng(run.config.seed).permutation(data.num_items) % EVERY == 0
    model, _ = fit_click_purchase(without(data, hidden), run.config.reward, run.config.seed)
    targets = next(iter(data.targets.values()))["test"]
    shares = []
    for user, position in zip(targets.users, targets.positions, strict=True):
        history, target = data.histories[user][:position], data.histories[user][position]
        if not hidden[target]:
            continue
        known = history[~hidden[history]]
        scores = model.log_clicks([known], None, profiles[[user]])[0].numpy()
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
