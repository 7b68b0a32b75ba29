"""Whether PPO trains the justifications, and how far they drift from those of SFT while it does not."""

import random
from collections.abc import Sequence
from typing import NotRequired, TypedDict, cast

import torch
from accelerate import Accelerator

from llmrec.data.decision import Decision
from llmrec.distributed import gathered, num_processes
from llmrec.language.grammar import ITEM
from llmrec.language.templates import sample_justification
from llmrec.policy.distribution import TokenLogProbs, sampled
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch
from llmrec.ppo.experience import EpisodeRewards
from llmrec.ppo.kl import kl_estimate
from llmrec.ppo.rollout import Rollout

LOWEST_STD = 0.05  # nats; below it, `ppo.text: auto` does not train the text
ANCHOR_EVERY = 4  # one prompt in so many has a supervised completion while the text is not trained


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


def text_metrics(
    rollout: Rollout, reference: TokenLogProbs, rewards: EpisodeRewards, accelerator: Accelerator
) -> dict[str, float]:
    """Variation of the text and its distance from the reference policy, over the rollouts of all processes.

    Args:
        rollout: B*G sampled completions.
        reference: scores of the same tokens under the reference policy, [B*G, T].
        rewards: rewards of the completions.
        accelerator: gathers from all processes.

    Returns:
        the standard deviation of the text's reward (nats), the mean KL to the reference of a justification (`k3`, nats)
        and the share of distinct wordings. Cited items do not make a wording distinct.
    """
    completions = rollout.sampled
    text = completions.mask & (reference.region != ITEM)
    kl = kl_estimate(completions.log_probs, reference.log_probs, "k3") * text
    wordings = [
        tuple(segment if isinstance(segment, str) else None for segment in recommendation.segments)
        for recommendation in rewards.recommendations
    ]
    of_all = gathered(wordings, len(wordings) * num_processes())
    numbers = cast(torch.Tensor, accelerator.gather(torch.stack([rewards.text, kl.sum(1)], 1)))
    return {
        "text/reward_std": float(numbers[:, 0].std(correction=0)),
        "text/kl": float(numbers[:, 1].mean()),
        "text/distinct_wordings": len(set(of_all)) / len(of_all),
    }


def supervised_completions(
    policy: RecPolicy,
    prompts: PackedBatch,
    decisions: Sequence[Decision],
    hidden: torch.Tensor,
    positions: range,
    seed: int,
) -> list[list[list[int]]]:
    """Completions on which the text is kept near that of SFT while it is not trained.

    One prompt in `ANCHOR_EVERY` gets an item that the policy samples, with a true justification as SFT has learned
    them. The policy writes no text for it.

    Args:
        policy: the policy; each item is one token.
        prompts: the prompts as tokens.
        decisions: the prompts, [B].
        hidden: last hidden states of the prompts, [B, L, d].
        positions: number of each prompt in the training. It determines who gets a completion, and its randomness.
        seed: seed of items and justifications.

    Returns:
        token ids of the completions of each prompt, one or none.
    """
    chosen = [row for row, position in enumerate(positions) if position % ANCHOR_EVERY == 0]
    completions: list[list[list[int]]] = [[] for _ in decisions]
    if not chosen:  # a process with few prompts
        return completions
    rows = torch.tensor(chosen, device=hidden.device)
    generators = [random.Random(f"{seed} {positions[row]}") for row in chosen]
    state = prompts.start(policy).select(rows)
    last = hidden[rows, prompts.prompt_length[rows] - 1]
    log_probs = policy.distribution.items(last, state.node, state.available)
    uniforms = torch.tensor([generator.random() for generator in generators], dtype=torch.float64)
    columns = sampled(log_probs, uniforms.to(log_probs.device))
    items = policy.vocabulary.trie.order[columns].tolist()
    for row, item, generator in zip(chosen, items, generators, strict=True):
        shown = [int(of_prompt) for of_prompt in decisions[row].items]
        justification = policy.prompts.justification(sample_justification(policy.facts, item, shown, generator))
        completions[row].append([*policy.vocabulary.sequences[item], *justification, policy.prompts.end])
    return completions
