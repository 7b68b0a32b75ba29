"""Faithfulness of justifications: does the recommended item depend on the items that the justification cites?"""

from collections.abc import Sequence

import numpy as np
import torch

from llmrec.data.decision import Decision
from llmrec.language.prompt import Recommendation
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack


def faithfulness(
    policy: RecPolicy,
    decisions: Sequence[Decision],
    recommendations: Sequence[Recommendation],
    seed: int,
    batch: int = 64,
) -> dict[str, dict[str, float | None]]:
    """What dropping the cited items from the history does to the recommended item's log-probability.

    A dropped item is no longer shown, but still counts as had, so that no probability moves to it. Beside it, as many
    seeded random other items of the same history are dropped: any item may matter a little. Recommendations that are
    broken off, cite nothing that is shown, or cite all of it, are left out.

    Args:
        policy: wrote the recommendations; any item scheme.
        decisions: the prompts that they answer.
        recommendations: one for each decision.
        seed: of the other items.
        batch: prompts a forward pass.

    Returns:
        `share`, of recommendations whose log-probability falls, `{rate, n}`; `fall` and `fall_of_others`, the mean
        fall in nats when the cited or the other items are dropped, `{value, n}`. None where n is 0.
    """
    generator = np.random.default_rng(seed)
    asked: list[tuple[Decision, int]] = []  # whole, without the cited, without others; three a recommendation
    for decision, recommendation in zip(decisions, recommendations, strict=True):
        cited = set(recommendation.citations) & set(map(int, decision.items))
        others = sorted(set(map(int, decision.items)) - cited)
        if recommendation.item < 0 or not cited or not others:
            continue
        drawn = generator.choice(others, min(len(cited), len(others)), replace=False).tolist()
        for dropped in (set(), cited, set(drawn)):
            asked.append((_without(decision, dropped), recommendation.item))
    parts = [item_log_probs(policy, asked[i : i + batch]) for i in range(0, len(asked), batch)]
    whole, without_cited, without_others = torch.cat([torch.empty(0), *parts]).reshape(-1, 3).T
    fall, others_fall = whole - without_cited, whole - without_others
    means = [x.double().mean().item() if len(fall) else None for x in (fall > 0, fall, others_fall)]
    return {
        name: {unit: mean, "n": len(fall)}
        for (name, unit), mean in zip(
            (("share", "rate"), ("fall", "value"), ("fall_of_others", "value")), means, strict=True
        )
    }


def _without(decision: Decision, dropped: set[int]) -> Decision:
    shown = [item for item in decision.items if item not in dropped]
    return Decision(decision.profile, [*decision.prior, *dropped], shown)


@torch.no_grad()
def item_log_probs(policy: RecPolicy, asked: Sequence[tuple[Decision, int]]) -> torch.Tensor:
    """The policy's log-probability of recommending an item at each of B decisions, over all its tokens: [B]."""
    sequences = [[policy.vocabulary.sequences[item]] for _, item in asked]
    packed = pack(policy, [decision for decision, _ in asked], sequences).to(policy.device)
    log_probs = packed.score(policy, policy(*packed.inputs())).log_probs
    return log_probs.sum(1).cpu()
