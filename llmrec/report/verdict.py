"""The conclusions of a report in sentences that are computed from its numbers.

The rule behind "better", "worse" and "no difference" is `evaluation.estimates.verdict_of`. A verdict on PPO names all
its rivals in one sentence, so that none stands without the strongest.
"""

from llmrec.evaluation.report import HEADLINE_METRIC, Comparison, Report, SeedsReport, SplitReport, Verdict
from llmrec.report.format import measured, number
from llmrec.report.glossary import label

PHRASES: dict[Verdict, str] = {
    "better": "is better than",
    "worse": "is worse than",
    "no difference": "does not differ significantly from",
}
NAMES = {"sft": "SFT", "reward_model": "its reward model", "pool": "the pool"}  # rivals that every verdict names


def verdict(report: Report) -> str:
    """One sentence that compares PPO with SFT, its reward model, the pool and the best baseline on the first split."""
    return next(iter(_sentences(report)), "This report does not compare PPO with its SFT start.")


def remarks(report: Report) -> list[str]:
    """What a reader should know beside the verdict: guard, other splits, power, best model, reward and seeds."""
    result = [fallback_remark(report)] if report.fell_back else []
    result += _sentences(report)[1:]
    for split, found in report.splits.items():
        result += [sentence for sentence in (_best(split, found), sensitivity(split, found)) if sentence]
    changes = [
        f"{name} by {measured(change, sign=True)}"
        for name, part in (("the learned reward", "list_reward"), ("the judge's reward", "list_judge"))
        if (change := report.reward.difference(part)) is not None
    ]
    if changes:
        result.append(f"For the ten best items on validation, PPO changed {' and '.join(changes)} nats.")
    if isinstance(report, SeedsReport):
        result.append(
            f"Intervals and tests resample users and {len(report.runs)} seeds. So few seeds show the variance between "
            "seeds only in part."
        )
    return result


def fallback_remark(report: Report) -> str:
    """What it means that the guard kept the SFT adapter; empty if it did not."""
    if not report.fell_back:
        return ""
    return (
        "The guard fell back: no PPO adapter passed its tests on validation. The SFT adapter was kept, and PPO in "
        "these tables is that adapter, so its numbers are those of SFT."
    )


def sentence(report: Report, split: str) -> str:
    """The verdict on PPO on one split; empty if PPO was not compared with SFT there."""
    results = report.splits[split]
    rivals = [*NAMES, *([report.best_rival] if report.best_rival and report.best_rival not in NAMES else [])]
    found = {name: results.comparison("ppo", name, HEADLINE_METRIC) for name in rivals}
    parts = [_part(name, one, name == report.best_rival) for name, one in found.items() if one is not None]
    if found["sft"] is None:
        return ""
    return f"{label(HEADLINE_METRIC)} on the {label(split)} split: PPO {'; '.join(parts)}."


def sensitivity(split: str, results: SplitReport) -> str:
    """How large a difference of PPO and SFT must be to be found on a split; empty if the report does not say."""
    comparison = results.comparison("ppo", "sft", HEADLINE_METRIC)
    if comparison is None or comparison.detectable is None:
        return ""
    return (
        f"Smallest difference of PPO and SFT in {label(HEADLINE_METRIC)} that the {label(split)} split can see with "
        f"80 % power: {number(comparison.detectable, 4)}."
    )


def _sentences(report: Report) -> list[str]:
    return [found for split in report.splits if (found := sentence(report, split))]


def _part(name: str, comparison: Comparison, best: bool) -> str:
    rival = NAMES.get(name, label(name)) + (", the best baseline on validation" if best else "")
    if comparison.conclusion is None:
        return f"has an undefined difference from {rival}"
    return f"{PHRASES[comparison.conclusion]} {rival} ({measured(comparison, 4)})"


def _best(split: str, results: SplitReport) -> str:
    found = {name: results.metric(name, HEADLINE_METRIC) for name in results.deployable}
    known = {name: one.number for name, one in found.items() if one is not None and one.number is not None}
    if len(known) < 2:
        return ""
    best = max(known, key=lambda name: known[name])
    beside = f"; PPO has {number(known['ppo'])}" if "ppo" in known and best != "ppo" else ""
    return (
        f"Highest {label(HEADLINE_METRIC)} on the {label(split)} split: {label(best)}, {number(known[best])}{beside}."
    )
