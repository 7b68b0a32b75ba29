"""Items learned exactly: the policy gradient is an expectation over the whole catalogue instead of a sample.

Each item must be one token, so that one softmax gives the probabilities of all items.
"""

from collections.abc import Sequence

import torch
from trl.experimental.ppo import PPOConfig as TRLPPOConfig

from llmrec.config import PPOConfig
from llmrec.data.decision import Decision
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, decision_log_probs, taken_log_probs
from llmrec.ppo.advantages import Sum, Trajectories, add_span_rewards, exact_item_advantages, text_advantages
from llmrec.ppo.experience import Counts, EpisodeRewards, Experience, ItemExperience
from llmrec.ppo.kl import anchor_loss, categorical_kl, kl_loss
from llmrec.ppo.losses import distillation_loss, exact_item_loss
from llmrec.ppo.network import NetworkOutput
from llmrec.reward.protocol import RewardFunction


class ExactItems:
    """The item objective of `exact`; see `ItemObjective`.

    Every item of the catalogue is learned from at every decision: after each item that the prompt shows, and at the
    prompt's end. Only text tokens are learned from samples, with a critic. The KL penalties of items and text are
    losses. As rewards, they would add noise to the advantages.

    Args:
        section: the item loss, and coefficients of item loss, item KL, entropy bonus and PPO-ptx.
        args: temperature, clip range, KL coefficient, gamma and lambda.
        policy: the policy that learns.
        total: sums a tensor over all processes.
    """

    needs_item_distributions = True
    kl_metric = "objective/item_kl"

    def __init__(self, section: PPOConfig, args: TRLPPOConfig, policy: RecPolicy, total: Sum):
        self.section = section
        self.args = args
        self.policy = policy
        self.total = total

    def value_mask(self, mask: torch.Tensor, item_mask: torch.Tensor) -> torch.Tensor:
        """Text tokens only."""
        return mask & ~item_mask

    def token_rewards(
        self, rewards: EpisodeRewards, kl_penalty: torch.Tensor, mask: torch.Tensor, item_mask: torch.Tensor
    ) -> torch.Tensor:
        """The text reward at the last token. Item reward and KL penalty enter through `experience` and `loss`."""
        no_penalty = torch.zeros_like(kl_penalty)
        return add_span_rewards(no_penalty, item_mask, mask, torch.zeros_like(rewards.item), rewards.text)

    def token_advantages(self, trajectories: Trajectories) -> tuple[torch.Tensor, torch.Tensor]:
        """GAE of text tokens, never scaled up."""
        return text_advantages(trajectories, self.args.gamma, self.args.lam, self.total)

    def experience(
        self,
        decisions: Sequence[Decision],
        prompts: PackedBatch,
        hidden: torch.Tensor,
        reference: NetworkOutput,
        reward: RewardFunction,
        kl_scale: float,
    ) -> tuple[list[ItemExperience], dict[str, torch.Tensor]]:
        """Advantages of all items at every decision that a prompt shows and at its end; mean KL and expected reward."""
        columns = self.policy.vocabulary.trie.order
        distributions = decision_log_probs(self.policy, prompts, hidden, self.args.temperature)
        rewards = reward.item_rewards_per_prefix(decisions)
        experience: list[ItemExperience] = []
        kl: list[torch.Tensor] = []
        expected_reward: list[torch.Tensor] = []
        for b, (log_probs, ref_log_probs, of_items) in enumerate(
            zip(distributions, reference.items, rewards, strict=True)
        ):
            of_columns = of_items.to(log_probs.device)[:, columns]
            advantages = exact_item_advantages(
                of_columns,
                log_probs,
                ref_log_probs,
                kl_coef=kl_scale * self.section.item_kl_coef,
                entropy_coef=self.section.item_entropy_coef,
            )
            observed = len(taken_log_probs(self.policy, log_probs, prompts.items[b], decisions[b].request))
            experience.append(ItemExperience(log_probs=log_probs, advantages=advantages, observed=observed))
            kl.append(categorical_kl(log_probs, ref_log_probs).mean())
            expected_reward.append((log_probs.exp() * of_columns).sum(1).mean())
        metrics = {
            "objective/item_kl": torch.stack(kl).mean(),
            "objective/item_reward": torch.stack(expected_reward).mean(),
        }
        return experience, metrics

    def loss(
        self, batch: PackedBatch, new: NetworkOutput, part: Experience, counts: Counts, kl_scale: float
    ) -> tuple[torch.Tensor | float, dict[str, torch.Tensor]]:
        """Item loss, PPO-ptx loss (Ouyang et al., 2022, arXiv:2203.02155) and KL loss of the text, weighted.

        The PPO-ptx loss is the negative log-likelihood of the items that users took. It counters forgetting.
        """
        log_probs = torch.cat(new.items)
        old_log_probs = torch.cat([item.log_probs for item in part.items])
        advantages = torch.cat([item.advantages for item in part.items])
        item_loss, clipped = self._item_loss(log_probs, old_log_probs, advantages, kl_scale)
        likelihoods = [
            taken_log_probs(self.policy, log_probs_of_prompt, shown, decision.request).sum()
            for log_probs_of_prompt, shown, decision in zip(new.items, batch.items, part.decisions, strict=True)
        ]
        text_kl = kl_loss(new.scores.log_probs, part.ref_log_probs, part.policy_mask) / counts.policy_tokens
        anchor = anchor_loss(new.scores.log_probs, part.ref_log_probs, part.anchor_mask) / counts.anchor_tokens
        metrics = {
            "loss/item_avg": item_loss / counts.decisions,
            "loss/ptx_avg": -sum(likelihoods) / counts.observed,
            "policy/item_clipfrac_avg": clipped / counts.decisions,
            "policy/item_kl_avg": categorical_kl(old_log_probs, log_probs).sum() / counts.decisions,
            "loss/text_kl_avg": text_kl + anchor,
        }
        weighted_items = metrics["loss/item_avg"] + self.section.ptx_coef * metrics["loss/ptx_avg"]
        weighted_text_kl = kl_scale * self.args.kl_coef * metrics["loss/text_kl_avg"]
        return weighted_text_kl + self.section.item_loss_weight * weighted_items, metrics

    def _item_loss(
        self, log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, kl_scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss that `ppo.item_loss` selects, and the clipped probability mass; both summed over decisions."""
        section = self.section
        if section.item_loss == "clipped":
            return exact_item_loss(log_probs, old_log_probs, advantages, self.args.cliprange)
        weight = kl_scale * section.item_kl_coef + section.item_entropy_coef
        return distillation_loss(log_probs, old_log_probs, advantages, weight, section.item_loss == "forward_kl")
