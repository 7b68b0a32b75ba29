"""PPO of items and justifications on TRL's trainer: rollout, score, advantages, update, guard.

What TRL 1.12's loop cannot be told by configuration is replaced by named steps: rollouts under the catalogue's mask,
a reward that sees the parsed recommendation, gradient clipping, a reference that is the same model with the SFT
adapter, exact item decisions, resumable state. Names of options and metrics are TRL's.
"""

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from trl.experimental.ppo import PPOConfig, PPOTrainer

from llmrec.config import PPOSection
from llmrec.policy.constraint import ITEM
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packed import PackedBatch, Window, decision_log_probs, pack, taken_log_probs
from llmrec.ppo.advantages import exact_item_advantages, gae, place_rewards, whiten
from llmrec.ppo.checkpoint import load_checkpoint, save_checkpoint
from llmrec.ppo.experience import Experience, ItemExperience, ReferenceScores
from llmrec.ppo.guard import Guard
from llmrec.ppo.losses import exact_item_loss, kl_estimate, masked_mean, policy_loss, value_loss
from llmrec.ppo.reward import Reward


class Critic(nn.Module):
    """A linear value head on the policy's hidden states, which it does not change."""

    base_model_prefix = "backbone"  # TRL's wrapper asks for a backbone; ours is the policy's

    def __init__(self, hidden_size: int):
        super().__init__()
        self.backbone = nn.Identity()
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Values [...] of hidden states [..., d]."""
        return self.head(hidden.detach().float())[..., 0]


class PolicyWithCritic(nn.Module):
    """One backbone, two outputs: what `accelerate` wraps."""

    def __init__(self, policy: RecPolicy, critic: Critic):
        super().__init__()
        self.policy = policy
        self.critic = critic
        self.config = policy.config

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [B, L, d] and values [B, L] of token ids [B, L]."""
        hidden = self.policy(tokens, mask)
        return hidden, self.critic(hidden)


class RecPPOTrainer(PPOTrainer):
    """PPO for a `RecPolicy` with an RL adapter.

    Args:
        args: TRL's options.
        section: what TRL has no option for.
        policy: trained in place; `policy.add_rl_adapter()` was called.
        reward: see `Reward`.
        train_dataset: rows `profile, prior, items, purchased`; see `ppo.stage.training_rows`.
        guard: looks at validation and keeps the best adapter; None: the last adapter stays.
    """

    def __init__(
        self,
        args: PPOConfig,
        section: PPOSection,
        policy: RecPolicy,
        reward: Reward,
        train_dataset: Dataset,
        guard: Guard | None = None,
    ):
        self.policy = policy
        self.section = section
        self.reward = reward
        self.guard = guard
        super().__init__(
            args=args,
            processing_class=policy.tokenizer,
            model=policy.model,
            ref_model=None,
            reward_model=nn.Identity(),  # TRL's place for a reward *network*; ours is an object over recommendations
            train_dataset=train_dataset,
            value_model=Critic(policy.hidden_size),
            data_collator=list,
        )
        policy.eval()
        # TRL steps once a batch whatever the number of mini-batches; here each mini-batch is a step.
        self.accelerator.gradient_accumulation_steps = args.gradient_accumulation_steps // args.num_mini_batches

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Called by TRL's constructor once its own wrapper stands: here ours takes its place."""
        self.model = PolicyWithCritic(self.policy, self.value_model)
        super().create_optimizer_and_scheduler(num_training_steps)

    # -- the loop --

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Trains, from a checkpoint if one is given."""
        self._begin()
        if resume_from_checkpoint is not None:
            load_checkpoint(self, resume_from_checkpoint)
        elif self.guard is not None:
            self.guard.look(self.policy, step=0)
        for update in range(self.state.global_step + 1, self.args.num_total_batches + 1):
            started = time.monotonic()
            experience, metrics = self.collect(update)
            metrics |= self.update(experience, update)
            self._end_update(update, metrics, time.monotonic() - started)
        self._end()

    @torch.no_grad()
    def collect(self, update: int) -> tuple[Experience, dict[str, float]]:
        """Rolls out, scores and turns rewards into advantages; also what is logged of it."""
        section, policy, args = self.section, self.policy, self.args
        prompt_rows = self.rows_of(update)
        prompts = pack(policy, [_window(row) for row in prompt_rows]).to(self.accelerator.device)
        sampled = generate(
            policy,
            prompts,
            args.response_length,
            self._uniforms(update),
            section.num_generations,
            args.temperature,
        )
        recommendations = parse(policy, sampled)
        rows = [row for row in prompt_rows for _ in range(section.num_generations)]
        windows = [_window(row, tokens) for row, tokens in zip(rows, sampled.lists(), strict=True)]
        reference = self._score_with_reference(windows)
        reward = self.reward(recommendations, rows)
        finished = torch.tensor([r.finished for r in recommendations])
        text_reward = reward.text - args.missing_eos_penalty * ~finished

        exact = section.advantage == "exact"
        learned = sampled.mask & (reference.region != ITEM) if exact else sampled.mask
        item_reward = torch.zeros_like(reward.item) if exact else reward.item
        kl = kl_estimate(sampled.log_probs, reference.log_probs, args.kl_estimator) * learned
        rewards = place_rewards(-args.kl_coef * kl, reference.region, sampled.mask, item_reward, text_reward)
        values = self.accelerator.unwrap_model(self.model).critic(sampled.hidden) * sampled.mask
        advantages, returns = gae(rewards, values, sampled.mask, args.gamma, args.lam)
        items = self._item_experience(prompt_rows, prompts, sampled.prompt_hidden, reference) if exact else []
        experience = Experience(
            windows,
            learned,
            sampled.log_probs,
            values.detach(),
            whiten(advantages, learned),
            returns.detach(),
            items,
        )
        metrics = {
            "objective/kl": kl.sum(1).mean(),
            "objective/entropy": -(sampled.log_probs * sampled.mask).sum(1).mean(),
            "objective/non_score_reward": (-args.kl_coef * kl).sum(1).mean(),
            "objective/scores": (reward.item + text_reward).mean(),
            "objective/rlhf_reward": (reward.item + text_reward).mean() - args.kl_coef * kl.sum(1).mean(),
            "val/num_eos_tokens": finished.sum(),
            "rollout/validity": torch.tensor([float(r.item >= 0) for r in recommendations]).mean(),
            **{f"reward/{name}": part.mean() for name, part in reward.parts.items()},
        }
        if items:
            metrics["objective/item_kl"] = torch.cat([_row_kl(e.log_probs, e.ref_log_probs) for e in items]).mean()
            metrics["objective/item_reward"] = torch.cat([e.expected_reward for e in items]).mean()
        return experience, {name: float(value) for name, value in metrics.items()}

    def update(self, experience: Experience, update: int) -> dict[str, float]:
        """Several epochs of clipped gradient steps over one batch of experience."""
        stats: dict[str, list[float]] = defaultdict(list)
        order = np.random.default_rng((self.args.seed, update, self.accelerator.process_index))
        for _ in range(self.args.num_ppo_epochs):
            episodes = order.permutation(len(experience.windows))
            for mini_batch in np.split(episodes, self.args.num_mini_batches):
                for micro_batch in np.split(mini_batch, len(mini_batch) // self.args.per_device_train_batch_size):
                    self._gradient_step(experience, micro_batch, stats)
        averages = {name: float(np.mean(values)) for name, values in stats.items()}
        return averages | {"val/ratio_var": float(np.var(stats["val/ratio"]))}

    def _gradient_step(self, experience: Experience, episodes: np.ndarray, stats: dict[str, list[float]]) -> None:
        args = self.args
        with self.accelerator.accumulate(self.model):
            batch = pack(self.policy, [experience.windows[e] for e in episodes]).to(self.accelerator.device)
            hidden, values = self.model(batch.tokens, batch.mask)
            states = batch.completion_states(hidden)
            log_probs, entropy, _ = self.policy.distribution.score(
                states, batch.completion, batch.start(self.policy), args.temperature
            )
            values = batch.completion_states(values[..., None])[..., 0]
            part = experience.select(episodes, width=batch.completion.shape[1])
            pg_loss, pg_clipped = policy_loss(log_probs, part.log_probs, part.advantages, part.learned, args.cliprange)
            vf_loss, vf_clipped = value_loss(values, part.values, part.returns, part.learned, args.cliprange_value)
            loss = pg_loss + args.vf_coef * vf_loss
            if part.items:
                item_loss, taken_loss, item_clipped = self._exact_loss(batch, hidden, part.items)
                loss = loss + self.section.item_loss_weight * (item_loss + self.section.ptx_coef * taken_loss)
                stats["loss/item_avg"].append(item_loss.item())
                stats["loss/ptx_avg"].append(taken_loss.item())
                stats["policy/item_clipfrac_avg"].append(item_clipped.item())
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                norm = self.accelerator.clip_grad_norm_(self.model.parameters(), args.max_grad_norm)
                stats["policy/grad_norm"].append(float(norm))
            self.optimizer.step()
            self.optimizer.zero_grad()
        with torch.no_grad():
            difference = log_probs - part.log_probs
            stats["policy/approxkl_avg"].append(0.5 * masked_mean(difference**2, part.learned).item())
            stats["policy/clipfrac_avg"].append(pg_clipped.item())
            stats["loss/policy_avg"].append(pg_loss.item())
            stats["loss/value_avg"].append(vf_loss.item())
            stats["val/clipfrac_avg"].append(vf_clipped.item())
            stats["policy/entropy_avg"].append(masked_mean(entropy, part.learned).item())
            stats["val/ratio"].append(masked_mean(difference.exp(), part.learned).item())

    # -- exact item decisions --

    def _item_experience(
        self, rows: list[dict], prompts: PackedBatch, hidden: torch.Tensor, reference: ReferenceScores
    ) -> list[ItemExperience]:
        """Advantages of all items at every decision that the prompts show and at the one that each ends in.

        Args:
            hidden: last hidden states of the prompts, [B, L, d].
        """
        columns = self.policy.vocabulary.trie.order
        log_probs = decision_log_probs(self.policy, prompts, hidden, self.args.temperature)
        experience = []
        for new, ref, rewards in zip(log_probs, reference.items, self.reward.decisions(rows), strict=True):
            rewards = rewards.to(new.device)[:, columns]
            advantages = exact_item_advantages(rewards, new, ref, self.section.item_kl_coef)
            expected = (new.exp() * rewards).sum(1)
            experience.append(ItemExperience(new, ref, advantages, expected))
        return [e for e in experience for _ in range(self.section.num_generations)]

    def _exact_loss(
        self, batch: PackedBatch, hidden: torch.Tensor, items: list[ItemExperience]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The exact surrogate; the negative log-likelihood of the items that the prompts show (PPO-ptx, Ouyang et
        al., 2022), which keeps RL from unlearning what users take; and the clipped probability mass.
        """
        decisions = decision_log_probs(self.policy, batch, hidden, self.args.temperature)
        new = torch.cat(decisions)
        old = torch.cat([e.log_probs for e in items])
        advantages = torch.cat([e.advantages for e in items])
        loss, clipped = exact_item_loss(new, old, advantages, self.args.cliprange)
        taken = torch.cat([taken_log_probs(self.policy, d, row) for d, row in zip(decisions, batch.items, strict=True)])
        return loss, -taken.mean() if len(taken) else loss.new_zeros(()), clipped

    # -- pieces of a step --

    @torch.no_grad()
    def _score_with_reference(self, windows: list[Window]) -> ReferenceScores:
        """Scores completions, and the decisions that their prompts show, with the RL adapter off."""
        log_probs, regions, items = [], [], []
        width = max(len(window.completion) for window in windows)
        size = self.args.local_rollout_forward_batch_size
        with self.policy.reference():
            for i in range(0, len(windows), size):
                batch = pack(self.policy, windows[i : i + size], width).to(self.accelerator.device)
                hidden = self.policy(batch.tokens, batch.mask)
                scores, _, region = self.policy.distribution.score(
                    batch.completion_states(hidden),
                    batch.completion,
                    batch.start(self.policy),
                    self.args.temperature,
                )
                log_probs.append(scores)
                regions.append(region)
                if self.section.advantage == "exact":
                    items += decision_log_probs(self.policy, batch, hidden, self.args.temperature)
        return ReferenceScores(torch.cat(log_probs), torch.cat(regions), items[:: self.section.num_generations])

    def rows_of(self, update: int) -> list[dict]:
        """This process's prompts of an update: seeded permutations of the dataset, one after the other.

        Nothing but the number of the update decides, so a resumed run sees what an uninterrupted one would have.
        """
        total = self.args.batch_size // self.section.num_generations
        local = total // self.accelerator.num_processes
        first = (update - 1) * total + self.accelerator.process_index * local
        size = len(self.train_dataset)
        places = range(first, first + local)
        orders = {e: np.random.default_rng((self.args.seed, e)).permutation(size) for e in {p // size for p in places}}
        return [self.train_dataset[int(orders[p // size][p % size])] for p in places]

    def _uniforms(self, update: int) -> torch.Tensor:
        """Randomness of this process's rollouts, [episodes, T]: a slice of what all processes share."""
        shape = (self.args.batch_size, self.args.response_length)
        numbers = np.random.default_rng((self.args.seed, update, 7)).random(shape)
        local = self.args.local_batch_size
        start = self.accelerator.process_index * local
        return torch.from_numpy(numbers[start : start + local]).to(self.accelerator.device)

    # -- before, between and after --

    def _begin(self) -> None:
        self.state.global_step = self.state.episode = 0
        self.state.max_steps = self.args.num_total_batches
        self.state.num_train_epochs = self.args.total_episodes / self.train_dataset_len
        self.state.logging_steps, self.state.save_steps = self.args.logging_steps, self.args.save_steps
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)

    def _end_update(self, update: int, metrics: dict[str, float], seconds: float) -> None:
        self.state.global_step = update
        self.state.episode += self.args.batch_size
        self.state.epoch = self.state.episode / self.section.num_generations / self.train_dataset_len
        metrics |= {"lr": self.lr_scheduler.get_last_lr()[0], "episode": self.state.episode}
        self.lr_scheduler.step()
        metrics["eps"] = self.args.batch_size / seconds
        if self.guard is not None and (update % self.section.eval_steps == 0 or update == self.state.max_steps):
            metrics |= self.guard.look(self.policy, update)
        self.log(metrics)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if update % self.args.save_steps == 0 and update < self.state.max_steps:
            save_checkpoint(self)

    def _end(self) -> None:
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        if self.guard is not None:
            self.guard.restore_best(self.policy)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self.policy.save_pretrained(output_dir or self.args.output_dir)


def _row_kl(log_probs: torch.Tensor, ref_log_probs: torch.Tensor) -> torch.Tensor:
    """KL(policy || reference) of each row, exact, [R]."""
    difference = (log_probs - ref_log_probs).masked_fill(log_probs.isneginf(), 0)
    return (log_probs.exp() * difference).sum(1)


def _window(row: dict, completion: Sequence[int] = ()) -> Window:
    return Window(row["profile"], row["prior"], row["items"], completion)
