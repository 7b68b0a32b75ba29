"""What a report comes to, in sentences that are computed from its comparisons."""

from collections.abc import Mapping

from llmrec.report.tables import difference_in_words, interval, label, number, number_of

METRIC = "ndcg@10"
WORDS = {"better": "better than", "worse": "worse than", "no difference": "not seen to differ from"}


def verdict(report: Mapping) -> str:
    """One sentence on PPO against its SFT start; says so if that was not compared."""
    compared = _compared(report)
    if not compared:
        return "This report does not compare PPO with its SFT start."
    return _sentence(*compared[0])


def remarks(report: Mapping) -> list[str]:
    """What to know beside the verdict: the guard, the other splits, the best model, the reward and its judge."""
    guard = report.get("guard") or {}
    result = []
    if guard.get("fell_back_to_sft"):
        result.append(
            "The guard fell back: no PPO step beat the SFT start on validation, so the SFT adapter was handed "
            "over, and PPO in these tables is SFT."
        )
    result += [_sentence(*one) for one in _compared(report)[1:]]
    result += [line for split, results in report.get("splits", {}).items() if (line := _best(split, results))]
    reward = report.get("reward") or {}
    changes = [
        f"{name} by {number(number_of(reward[key]), 3, sign=True)} {interval(reward[key], 3, sign=True)}".rstrip()
        for name, part in (("the learned reward", "reward"), ("an independent judge's", "judge"))
        for key in [f"list_{part}_difference"]
        if key in reward
    ]
    if changes:
        result.append(f"Of the ten best items on validation, PPO changed {' and '.join(changes)} nats.")
    return result


def _compared(report: Mapping) -> list[tuple[str, Mapping]]:
    comparisons = {
        split: results.get("comparisons", {}).get("ppo_vs_sft", {}).get(METRIC)
        for split, results in report.get("splits", {}).items()
    }
    return [(split, entry) for split, entry in comparisons.items() if entry]


def _sentence(split: str, entry: Mapping) -> str:
    size = f"{number(number_of(entry), 4, sign=True)} {interval(entry, 4, sign=True)}".rstrip()
    words = WORDS[difference_in_words(entry, METRIC)]
    return f"PPO is {words} SFT in {label(METRIC)} on the {label(split)} split: {size}."


def _best(split: str, results: Mapping) -> str:
    scores = {name: number_of(metrics.get(METRIC)) for name, metrics in results.get("models", {}).items()}
    known = {name: value for name, value in scores.items() if value is not None and name != "optimum"}
    if len(known) < 2:
        return ""
    best = max(known, key=known.get)
    beside = f"; PPO has {number(known['ppo'], 3)}" if "ppo" in known and best != "ppo" else ""
    return f"Highest {label(METRIC)} on the {label(split)} split: {label(best)}, {number(known[best], 3)}{beside}."
