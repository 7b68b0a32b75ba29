"""What PPO logs: metrics of a rollout, means over optimizer steps, and sample completions."""

import numpy as np
import torch

from llmrec.policy.model import RecPolicy
from llmrec.ppo.experience import EpisodeRewards
from llmrec.ppo.rollout import Rollout
from llmrec.progress import Sample

SAMPLES = 3  # completions in one record of samples


def rollout_metrics(
    rollout: Rollout, rewards: EpisodeRewards, kl: torch.Tensor, kl_penalty: torch.Tensor, processes: int
) -> dict[str, torch.Tensor]:
    """Means over this process's episodes, under TRL's names.

    Args:
        rollout: the sampled completions.
        rewards: their rewards.
        kl: KL estimate of each token, [B*G, T].
        kl_penalty: KL penalty of each token, [B*G, T].
        processes: number of processes. The mean over processes of "val/num_eos_tokens" is then their sum.
    """
    score = (rewards.item + rewards.text).mean()
    penalty = kl_penalty.sum(1).mean()
    valid = torch.tensor([float(recommendation.item >= 0) for recommendation in rewards.recommendations])
    return {
        "objective/kl": kl.sum(1).mean(),
        "objective/entropy": -(rollout.sampled.log_probs * rollout.sampled.mask).sum(1).mean(),
        "objective/non_score_reward": penalty,
        "objective/scores": score,
        "objective/rlhf_reward": score + penalty,
        "val/num_eos_tokens": rewards.finished.sum() * processes,
        "rollout/validity": valid.mean(),
        **{f"reward/{name}": part.float().mean() for name, part in rewards.parts.items()},
    }


def step_means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Means over the optimizer steps of an update, and the variance of the mean probability ratio."""
    means = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    ratios = [step["val/ratio"] for step in steps if "val/ratio" in step]
    return means | ({"val/ratio_var": float(np.var(ratios))} if ratios else {})


def samples_of(policy: RecPolicy, update: int, rollout: Rollout, rewards: EpisodeRewards) -> list[Sample]:
    """At most `SAMPLES` episodes of an update, spread evenly, with titles instead of indices."""
    titles = policy.vocabulary.titles
    episodes = len(rollout.episodes)
    samples: list[Sample] = []
    for number in range(0, episodes, max(1, episodes // SAMPLES))[:SAMPLES]:
        decision = rollout.episodes[number]
        recommendation = rewards.recommendations[number]
        samples.append(
            Sample(
                step=update,
                profile=decision.profile,
                history=[titles[item] for item in decision.items],
                item=titles[recommendation.item] if recommendation.item >= 0 else "(truncated)",
                text=recommendation.text(titles),
                rewards={name: float(part[number]) for name, part in rewards.parts.items()},
            )
        )
    return samples
