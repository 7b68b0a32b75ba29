"""Whether PPO trains the justifications, and how far they drift from those of SFT while it does not."""

from typing import NotRequired, TypedDict

import torch

from llmrec.language.grammar import ITEM
from llmrec.policy.distribution import TokenLogProbs
from llmrec.ppo.experience import EpisodeRewards
from llmrec.ppo.kl import kl_estimate
from llmrec.ppo.rollout import Rollout

LOWEST_STD = 0.05  # nats; below it, `ppo.text: auto` does not train the text


class TextDecision(TypedDict):
    """Whether the text is trained and, under `ppo.text: auto`, what decided. Checkpoints hold it.

    Attributes:
        trained: whether PPO trains the text.
        reward_std: standard deviation of the text's reward over the first rollout, nats.
        rollout_seconds: duration of that rollout with its scores.
        saved_seconds: that duration times the number of updates, if the text is not trained.
    """

    trained: bool
    reward_std: NotRequired[float]
    rollout_seconds: NotRequired[float]
    saved_seconds: NotRequired[float]


def text_decision(reward_std: float, seconds: float, updates: int) -> tuple[TextDecision, str]:
    """Decides whether to train the text.

    Args:
        reward_std: standard deviation of the text's reward over a rollout, nats.
        seconds: duration of that rollout with its scores.
        updates: number of updates of the training.

    Returns:
        the decision, and one sentence that says it.
    """
    decision = TextDecision(trained=reward_std >= LOWEST_STD, reward_std=reward_std, rollout_seconds=seconds)
    measured = f"the standard deviation of its reward over the first rollout is {reward_std:.4f} nats"
    if decision["trained"]:
        return decision, f"text: trained, because {measured}, at least {LOWEST_STD:g}"
    decision["saved_seconds"] = updates * seconds
    saved = f"{updates} updates need no rollout of {seconds:.1f} s each, {updates * seconds:.0f} s in all"
    return decision, f"text: not trained, because {measured}, below {LOWEST_STD:g}; {saved}"


def text_metrics(rollout: Rollout, reference: TokenLogProbs, rewards: EpisodeRewards) -> dict[str, torch.Tensor]:
    """Variation of the text and its distance from the reference policy.

    Args:
        rollout: B*G sampled completions.
        reference: scores of the same tokens under the reference policy, [B*G, T].
        rewards: rewards of the completions.

    Returns:
        the standard deviation of the text's reward (nats), the mean KL to the reference of a justification (`k3`, nats)
        and the share of distinct wordings. Cited items do not make a wording distinct.
    """
    sampled = rollout.sampled
    text = sampled.mask & (reference.region != ITEM)
    kl = kl_estimate(sampled.log_probs, reference.log_probs, "k3") * text
    wordings = {
        tuple(segment if isinstance(segment, str) else None for segment in recommendation.segments)
        for recommendation in rewards.recommendations
    }
    return {
        "text/reward_std": rewards.text.std(correction=0),
        "text/kl": kl.sum(1).mean(),
        "text/distinct_wordings": torch.tensor(len(wordings) / len(text)),
    }
