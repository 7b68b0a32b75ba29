"""Faithfulness of justifications: does the recommended item depend on the items that the justification cites?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from llmrec.data.decision import Decision
from llmrec.evaluation.report import Estimate, Faithfulness, Rate
from llmrec.language.prompt import Recommendation
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack


def faithfulness(
    policy: RecPolicy,
    decisions: Sequence[Decision],
    recommendations: Sequence[Recommendation],
    seed: int,
    batch: int = 64,
) -> Faithfulness:
    """Measures how the log-probability of the recommended item changes when the cited items leave the prompt.

    As a control, the same number of random other items of the same prompt is dropped. A dropped item is no longer
    shown but still counts as seen, so it cannot be recommended and takes no probability. Recommendations are left out
    if they are unfinished, cite no shown item, or cite all of them. The measure is comprehensiveness (DeYoung et al.,
    ACL 2020) with a control.

    Args:
        policy: the policy that wrote the recommendations; any item scheme.
        decisions: the decisions that it was prompted with.
        recommendations: one for each decision.
        seed: seed of the control.
        batch: prompts per forward pass.
    """
    generator = np.random.default_rng(seed)
    asked: list[tuple[Decision, int]] = []  # per recommendation: all items, without the cited, without the control
    for decision, recommendation in zip(decisions, recommendations, strict=True):
        shown = set(map(int, decision.items))
        cited = shown & set(recommendation.citations)
        others = sorted(shown - cited)
        if recommendation.item < 0 or not cited or not others:
            continue
        control = set(generator.choice(others, min(len(cited), len(others)), replace=False).tolist())
        asked += [(_without(decision, dropped), recommendation.item) for dropped in (set(), cited, control)]
    if not asked:
        return Faithfulness(
            share=Rate(rate=None, n=0), fall=Estimate(value=None, n=0), fall_of_others=Estimate(value=None, n=0)
        )
    parts = [recommended_item_log_prob(policy, asked[i : i + batch]) for i in range(0, len(asked), batch)]
    complete, without_cited, without_control = torch.cat(parts).reshape(-1, 3).T
    fall = complete - without_cited
    n = len(fall)
    return Faithfulness(
        share=Rate(rate=_mean(fall > 0), n=n),
        fall=Estimate(value=_mean(fall), n=n),
        fall_of_others=Estimate(value=_mean(complete - without_control), n=n),
    )


def _mean(values: torch.Tensor) -> float:
    return values.double().mean().item()


def _without(decision: Decision, dropped: set[int]) -> Decision:
    """The decision with some items counted as seen but no longer shown."""
    shown = [item for item in decision.items if item not in dropped]
    return replace(decision, prior=[*decision.prior, *dropped], items=shown, purchased=None, user=None, target=None)


@torch.no_grad()
def recommended_item_log_prob(policy: RecPolicy, asked: Sequence[tuple[Decision, int]]) -> torch.Tensor:
    """The log-probability of recommending a given item, summed over its tokens.

    Args:
        policy: the policy.
        asked: B pairs of a decision and an item.

    Returns:
        float [B], on the CPU.
    """
    sequences = [[policy.vocabulary.sequences[item]] for _, item in asked]
    packed = pack(policy, [decision for decision, _ in asked], sequences).to(policy.device)
    log_probs = packed.score(policy, policy(*packed.inputs())).log_probs
    return log_probs.sum(1).cpu()
