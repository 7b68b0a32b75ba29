"""What inverse propensities are worth on Open Bandit: train on the log of a policy, measure on the log of chance.

    python benchmarks/research/open_bandit_propensities.py data/open-bandit --json

`bts` logged what a bandit policy chose to show, `random` what was drawn uniformly, to the same kind of users in the
same week. A model of P(click | shown) is trained on `bts` with the weights and without them, three seeds each, and
measured on all of `random`, where weights are not needed. Rates of clicks are near 0.5 %: read the intervals.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmrec.config import load_config
from llmrec.data.dataset import InteractionData
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from reward_models import fit_click_purchase
from reward_models.exposures import exposures_of
from reward_models.features import profile_words
from reward_models.quality import exposure_quality

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "open_bandit.yaml")
SEEDS = 3


def read(directory: Path) -> InteractionData:
    """One log, all of it for training."""
    config = CONFIG.data.model_copy(update={"path": str(directory)})
    data = build_data(read_log(config), config, seed=0)
    return replace(data, targets={}, train_lengths=np.array([len(history) for history in data.histories]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="holds bts/ and random/")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    arguments = parser.parse_args()
    result = {}
    for page in ("men", "women"):
        logged, uniform = (read(arguments.directory / policy / page) for policy in ("bts", "random"))
        flat = replace(logged, exposures=logged.exposures.assign(propensity=np.nan))
        test = exposures_of(uniform, "train")
        for name, log in (("weighted", logged), ("unweighted", flat)):
            training, rows = exposures_of(log, "train"), []
            for seed in range(SEEDS):
                model, _ = fit_click_purchase(log, CONFIG.reward, seed)
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
