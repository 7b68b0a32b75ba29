"""The conclusions of a report in sentences that are computed from its numbers.

The rule behind "better", "worse" and "no difference" is `evaluation.estimates.verdict_of`.
"""

from llmrec.evaluation.report import HEADLINE_METRIC, Comparison, Report, SplitReport, Verdict
from llmrec.report.format import measured, number
from llmrec.report.glossary import label

PHRASES: dict[Verdict, str] = {
    "better": "is better than",
    "worse": "is worse than",
    "no difference": "does not differ significantly from",
}


def verdict(report: Report) -> str:
    """One sentence that compares PPO with its SFT start on the first split."""
    compared = _ppo_against_sft(report)
    if not compared:
        return "This report does not compare PPO with its SFT start."
    return _sentence(*compared[0])


def remarks(report: Report) -> list[str]:
    """What a reader should know beside the verdict: the guard, other splits, the best model, and the reward."""
    result = [fallback_remark(report)] if report.fell_back else []
    result += [_sentence(*one) for one in _ppo_against_sft(report)[1:]]
    result += [sentence for split, found in report.splits.items() if (sentence := _best(split, found))]
    changes = [
        f"{name} by {measured(change, sign=True)}"
        for name, part in (("the learned reward", "list_reward"), ("the judge's reward", "list_judge"))
        if (change := report.reward.difference(part)) is not None
    ]
    if changes:
        result.append(f"For the ten best items on validation, PPO changed {' and '.join(changes)} nats.")
    return result


def fallback_remark(report: Report) -> str:
    """What it means that the guard kept the SFT adapter; empty if it did not."""
    if not report.fell_back:
        return ""
    return (
        "The guard fell back: no PPO update beat the SFT start on validation. The SFT adapter was kept, and PPO in "
        "these tables is that adapter."
    )


def _ppo_against_sft(report: Report) -> list[tuple[str, Comparison]]:
    found = ((split, results.comparison("ppo", "sft", HEADLINE_METRIC)) for split, results in report.splits.items())
    return [(split, comparison) for split, comparison in found if comparison is not None]


def _sentence(split: str, comparison: Comparison) -> str:
    metric = f"{label(HEADLINE_METRIC)} on the {label(split)} split"
    if comparison.conclusion is None:
        return f"The difference between PPO and SFT in {metric} is undefined."
    return f"PPO {PHRASES[comparison.conclusion]} SFT in {metric}: {measured(comparison, 4)}."


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
