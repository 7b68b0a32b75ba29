"""Measures on Open Bandit whether weighting training exposures by inverse propensities improves a click model.

    python benchmarks/research/open_bandit_propensities.py data/open-bandit --json

A model of P(click | shown) is trained on `bts`, the log of a bandit policy, with and without the weights, with three
seeds each. It is measured on `random`, the log of a uniformly random policy on the same kind of users in the same week,
which needs no weights. Click rates are about 0.5 %, so the intervals are wide.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import load_config
from llmrec.data.dataset import InteractionData
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from reward_models import ClickPurchaseModel, fit_click_purchase
from reward_models.exposures import exposures_of
from reward_models.features import profile_words
from reward_models.quality import exposure_quality

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "open_bandit.yaml")
SEEDS = 3


def read(directory: Path) -> InteractionData:
    """Reads one log, all of it as training data."""
    config = CONFIG.data.model_copy(update={"path": str(directory)})
    data = build_data(read_log(config), config, seed=0)
    return replace(data, targets={}, train_lengths=np.array([len(history) for history in data.histories]))


def main() -> None:
    """Trains and measures all models and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="Directory that holds bts/ and random/.")
    parser.add_argument("--json", action="store_true", help="Print JSON on stdout.")
    arguments = parser.parse_args()
    result: dict[str, dict[str, Any]] = {}
    for page in ("men", "women"):
        logged = read(arguments.directory / "bts" / page)
        uniform = read(arguments.directory / "random" / page)
        unweighted = replace(logged, exposures=logged.exposures.assign(propensity=np.nan))
        test = exposures_of(uniform, "train")
        for name, log in (("weighted", logged), ("unweighted", unweighted)):
            training = exposures_of(log, "train")
            rows: list[dict[str, Any]] = []
            for seed in range(SEEDS):
                model, _ = fit_click_purchase(log, CONFIG.reward, seed)
                assert isinstance(model, ClickPurchaseModel)  # the config asks for no ensemble
                rows.append(exposure_quality(model, uniform, profile_words(uniform.users), training, test, seed))
            result[f"{page}, {name}"] = {
                "training_exposures": len(training),
                "effective": round(training.effective_sample_size),
                "auc": [row["auc"]["value"] for row in rows],
                "log_loss": [row["log_loss"]["value"] for row in rows],
                "auc_ci95_of_first_seed": rows[0]["auc"]["ci95"],
                "log_loss_ci95_of_first_seed": rows[0]["log_loss"]["ci95"],
                "log_loss_of_baselines": {k: v["log_loss"]["value"] for k, v in rows[0]["baselines"].items()},
                "auc_of_item_rate": rows[0]["baselines"]["item_rate"]["auc"]["value"],
            }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, row in result.items():
        print(f"{name:<18} AUC {np.mean(row['auc']):.3f}, log-loss {np.mean(row['log_loss']):.4f}, {SEEDS} seeds")


if __name__ == "__main__":
    main()
