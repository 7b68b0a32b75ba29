"""Scored (user, item) pairs per second: the whole catalogue in one pass against one pair at a time.

    python benchmarks/reward_throughput.py --json

Both ways score the same pairs with the same random weights and must agree. Scoring single pairs reads the history again
for every item, as a model must that takes user and item as one input.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from reward_models import ClickPurchaseConfig, ClickPurchaseModel

ITEMS = 1682  # as many as in MovieLens-100K
USERS = 64  # one batch
LENGTH = 50  # items per history, a full window
PAIRS = 512  # pairs that are scored one at a time


def seconds(action: Callable[[], object], repeats: int) -> float:
    """Median seconds of an action, after one run to warm up."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


@torch.no_grad()
def main() -> None:
    """Measures both ways and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="Print JSON on stdout.")
    as_json = parser.parse_args().json
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = ClickPurchaseModel(ClickPurchaseConfig(ITEMS, words=8)).eval()
    model.get_buffer("item_words").copy_(torch.from_numpy(rng.integers(1, 500, (ITEMS, 8))))
    histories = [rng.choice(ITEMS, LENGTH, replace=False) for _ in range(USERS)]
    users = rng.integers(0, USERS, PAIRS)
    items = rng.integers(0, ITEMS, PAIRS)

    def pair_by_pair(batch: int) -> torch.Tensor:
        parts = []
        for start in range(0, PAIRS, batch):
            chosen = slice(start, start + batch)
            states, _ = model.last_states([histories[u] for u in users[chosen]])
            parts.append(model.pair_scores(states, torch.from_numpy(items[chosen]))[0])
        return torch.cat(parts)

    states, _ = model.last_states(histories)
    catalogue_scores = model.click_scores(states)[users, items]
    if not torch.allclose(catalogue_scores, pair_by_pair(PAIRS), atol=1e-4):
        raise SystemExit("The two ways of scoring disagree, so the model is wrong.")
    rates = {
        "all_catalogue": USERS * ITEMS / seconds(lambda: model.log_rewards(histories), 5),
        "pair_by_pair": PAIRS / seconds(lambda: pair_by_pair(1), 1),
        "pair_by_pair_in_batches_of_64": PAIRS / seconds(lambda: pair_by_pair(64), 3),
    }
    result = {
        "items": ITEMS,
        "users": USERS,
        "history": LENGTH,
        "threads": torch.get_num_threads(),
        "pairs_per_second": {name: round(rate) for name, rate in rates.items()},
        "ratio": round(rates["all_catalogue"] / rates["pair_by_pair"], 1),
        "ratio_to_batches": round(rates["all_catalogue"] / rates["pair_by_pair_in_batches_of_64"], 1),
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for name, rate in rates.items():
        print(f"{name:<32}{rate:>14,.0f} pairs/s")
    print(f"The whole catalogue in one pass is {result['ratio']:,.0f} times as fast as single pairs.")


if __name__ == "__main__":
    main()
