"""PPO of items and justifications on TRL's trainer: rollout, score, advantages, update, guard.

What TRL 1.12's loop cannot be told by configuration is replaced by named steps: rollouts under the catalogue's mask,
a reward that sees the parsed recommendation, gradient clipping, a reference that is the same model with the SFT
adapter, exact item decisions, resumable state. Names of options and metrics are TRL's.
"""

import time
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn
from transformers import set_seed
from trl.experimental.ppo import PPOConfig as TRLPPOConfig
from trl.experimental.ppo import PPOTrainer
from trl.trainer.utils import disable_dropout_in_model

from llmrec.config import PPOConfig
from llmrec.data.decision import Decision, Decisions
from llmrec.language.grammar import ITEM
from llmrec.language.prompt import Recommendation
from llmrec.policy.generate import Completions, generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, decision_log_probs, pack, taken_log_probs
from llmrec.ppo.advantages import ESTIMATORS, Rewarded, adapted, exact_item_advantages, place_rewards
from llmrec.ppo.averaging import WeightAverage
from llmrec.ppo.checkpoint import load_checkpoint, save_checkpoint
from llmrec.ppo.checks import check_finite, check_first_step, check_start, drift
from llmrec.ppo.experience import Experience, ItemExperience
from llmrec.ppo.losses import exact_item_loss, kl_estimate, kl_loss, policy_loss, row_kl, value_loss
from llmrec.ppo.network import Critic, NetworkOutput, PolicyWithCritic
from llmrec.progress import Sample, TrainingLog
from llmrec.reward.protocol import Reward, RewardBatch
from llmrec.selection.guard import Guard

SAMPLES = 3  # episodes shown at every look at what the policy writes


class RecPPOTrainer(PPOTrainer):
    """PPO for a `RecPolicy` with an RL adapter.

    Args:
        args: TRL's options.
        section: what TRL has no option for.
        policy: trained in place; `policy.add_rl_adapter()` was called.
        reward: see `Reward`.
        train_dataset: the prompts to learn from; see `ppo.stage.training_decisions`.
        guard: looks at validation and keeps the best adapter; None: the last adapter stays.

    Attributes:
        events: what the guard and the KL stop did, each `{step, event}`.
        record: hears of events, and of samples of what the policy writes.
        average: of the policy's weights, which the guard looks at and which is handed over; None: the weights are.
        kl_scale: factor of both KL coefficients, which `adaptive_kl_target` moves.
    """

    def __init__(
        self,
        args: TRLPPOConfig,
        section: PPOConfig,
        policy: RecPolicy,
        reward: Reward,
        train_dataset: Decisions,
        guard: Guard | None = None,
    ):
        self.policy = policy
        self.section = section
        self.reward = reward
        self.guard = guard
        self.exact = section.advantage == "exact"
        self.events: list[dict] = []
        self.record = TrainingLog()
        self.kl_scale = 1.0
        self._checked = False
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
        disable_dropout_in_model(policy)  # sampling and scoring are one distribution
        policy.eval()
        self.average = WeightAverage(policy, section.ema_decay) if section.ema_decay else None
        if section.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        # TRL steps once a batch whatever the number of mini-batches; here each mini-batch is a step.
        self.accelerator.gradient_accumulation_steps = args.gradient_accumulation_steps // args.num_mini_batches

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Called by TRL's constructor once its own wrapper stands: here ours takes its place."""
        self.model = PolicyWithCritic(self.policy, self.value_model)
        super().create_optimizer_and_scheduler(num_training_steps)

    # -- the loop --

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Trains, from a checkpoint if one is given."""
        self._begin(resume_from_checkpoint)
        for update in range(self.state.global_step + 1, self.args.num_total_batches + 1):
            started = time.monotonic()
            set_seed(self._seed(update))  # ours needs none, but a reward may
            experience, metrics = self.collect(update)
            metrics |= self.update(experience, update)
            if self.average is not None:
                self.average.update(update)
            self._end_update(update, metrics, time.monotonic() - started)
        self._end()

    @torch.no_grad()
    def collect(self, update: int) -> tuple[Experience, dict[str, float]]:
        """Rolls out, scores and turns rewards into advantages; also what is logged of it."""
        args, section = self.args, self.section
        decisions = self.decisions_of(update)
        prompts = pack(self.policy, decisions).to(self.accelerator.device)
        with self.accelerator.autocast():
            sampled = self.rollout(prompts, update)
            completions = _by_prompt(sampled.lists(), section.num_generations)
            reference = self._reference(decisions, completions)
            values = self.accelerator.unwrap_model(self.model).critic(sampled.hidden) * sampled.mask
        episodes = [decision for decision in decisions for _ in range(section.num_generations)]
        recommendations = parse(self.policy, sampled)
        reward = self.reward(recommendations, episodes)
        finished = torch.tensor([r.finished for r in recommendations]).to(values.device)
        text_reward = reward.text.to(values) - args.missing_eos_penalty * ~finished
        item_reward = reward.item.to(values)

        item = (reference.scores.region == ITEM) & sampled.mask
        valued = sampled.mask & ~item if self.exact else sampled.mask
        learned = valued & reference.scores.is_choice
        kl = kl_estimate(sampled.log_probs, reference.scores.log_probs, args.kl_estimator) * valued
        penalty = -self.kl_scale * args.kl_coef * kl
        earned = torch.zeros_like(item_reward) if self.exact else item_reward
        # Under `exact` the text's KL is a loss of its own, as the items' is: rewards would carry it as noise.
        charged = torch.zeros_like(penalty) if self.exact else penalty
        rewards = place_rewards(charged, item, sampled.mask, earned, text_reward)
        advantages, returns = ESTIMATORS[section.advantage](
            Rewarded(rewards, values, sampled.mask, item, learned),
            section.num_generations, args.gamma, args.lam, self._total,
        )  # fmt: skip
        items, item_metrics = self._item_experience(decisions, prompts, sampled, reference) if self.exact else ([], {})
        if returns is None:  # there is no critic
            valued, returns = torch.zeros_like(valued), torch.zeros_like(values)
        experience = Experience(
            decisions=decisions,
            completions=completions,
            learned=learned,
            valued=valued,
            item=item,
            log_probs=sampled.log_probs,
            ref_log_probs=reference.scores.log_probs,
            values=values,
            advantages=advantages,
            returns=returns,
            items=items,
        )
        self._show_samples(update, episodes, recommendations, reward)
        score = (item_reward + text_reward).mean()
        metrics = {
            "objective/kl": kl.sum(1).mean(),
            "objective/entropy": -(sampled.log_probs * sampled.mask).sum(1).mean(),
            "objective/non_score_reward": penalty.sum(1).mean(),
            "objective/scores": score,
            "objective/rlhf_reward": score + penalty.sum(1).mean(),
            "val/num_eos_tokens": finished.sum() * self.accelerator.num_processes,
            "rollout/validity": torch.tensor([float(r.item >= 0) for r in recommendations]).mean(),
            **{f"reward/{name}": part.float().mean() for name, part in reward.parts.items()},
            **item_metrics,
        }
        metrics = self._reduce(metrics, "mean")
        if update == 1:
            check_start(metrics, self._tolerance)
        return experience, metrics | {"objective/kl_coef": self.kl_scale * args.kl_coef}

    def update(self, experience: Experience, update: int) -> dict[str, float]:
        """Several epochs of clipped gradient steps over one batch of experience."""
        order = np.random.default_rng((self.args.seed, update, self.accelerator.process_index))
        steps: list[dict[str, float]] = []
        for _ in range(self.args.num_ppo_epochs):
            for prompts in np.split(order.permutation(len(experience.decisions)), self.args.num_mini_batches):
                steps.append(self._mini_batch(experience.select(prompts)))
                if not self._checked:
                    check_first_step(steps[0], self._tolerance)
                    self._checked = True
                left = self.args.num_ppo_epochs * self.args.num_mini_batches - len(steps)
                if left and self.section.target_kl is not None and drift(steps[-1]) > self.section.target_kl:
                    self._event(update, f"KL stop: {drift(steps[-1]):.4f} nats, {left} mini-batches left out")
                    return _averages(steps) | {"guard/kl_stop": 1.0}
        return _averages(steps) | {"guard/kl_stop": 0.0}

    def _mini_batch(self, experience: Experience) -> dict[str, float]:
        """One optimiser step, its gradient gathered over micro-batches of like length; returns global means."""
        counts = self._total(experience.counts().to(self.accelerator.device)).clamp(min=1)
        micro_batches = self.accelerator.gradient_accumulation_steps
        # `backward` divides by the micro-batches and DDP by the processes; the losses are divided already.
        scale = micro_batches * self.accelerator.num_processes
        sums: dict[str, torch.Tensor] = {}
        self.policy.train(self.section.gradient_checkpointing)
        parts = np.split(np.argsort(experience.lengths(), kind="stable"), micro_batches)
        for number, prompts in enumerate(parts, start=1):
            # Not `accelerator.accumulate`: it also steps wherever a dataloader of an earlier stage has come to its end.
            last = number == micro_batches
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, shares = self._losses(experience.select(prompts), counts)
                self.accelerator.backward(loss * scale)
            sums = {name: sums.get(name, 0.0) + value.detach() for name, value in shares.items()}
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        means = self._reduce(sums, "sum") | {"policy/grad_norm": float(norm)}
        check_finite(means)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.policy.eval()
        return means

    def _losses(self, part: Experience, counts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a micro-batch, and its share of what is logged; all divided by the counts of the mini-batch."""
        args, section = self.args, self.section
        learned, valued, items, decisions, taken = counts
        batch = pack(self.policy, part.decisions, part.completions).to(self.accelerator.device)
        new: NetworkOutput = self.model(batch, args.temperature, self.exact)
        difference = new.scores.log_probs - part.log_probs
        pg_loss, pg_clipped = policy_loss(
            new.scores.log_probs, part.log_probs, part.advantages, part.learned, args.cliprange
        )
        vf_loss, vf_clipped = value_loss(new.values, part.values, part.returns, part.valued, args.cliprange_value)
        sums = {
            "loss/policy_avg": pg_loss / learned,
            "loss/value_avg": vf_loss / valued,
            "policy/clipfrac_avg": pg_clipped / learned,
            "val/clipfrac_avg": vf_clipped / valued,
            "policy/approxkl_avg": 0.5 * (difference**2 * part.learned).sum() / learned,
            "policy/entropy_avg": (new.scores.entropy * part.learned).sum() / learned,
            "policy/item_entropy_avg": (new.scores.entropy * part.item).sum() / items,
            "val/ratio": (difference.exp() * part.learned).sum() / learned,
        }
        loss = sums["loss/policy_avg"] + args.vf_coef * sums["loss/value_avg"]
        if part.items:
            old = torch.cat([e.log_probs for e in part.items])
            advantages = torch.cat([e.advantages for e in part.items])
            item_loss, clipped = exact_item_loss(torch.cat(new.items), old, advantages, args.cliprange)
            likelihood = sum(
                taken_log_probs(self.policy, d, row).sum() for d, row in zip(new.items, batch.items, strict=True)
            )
            sums |= {
                "loss/item_avg": item_loss / decisions,
                # PPO-ptx (Ouyang et al., 2022) keeps RL from unlearning what users take.
                "loss/ptx_avg": -likelihood / taken,
                "policy/item_clipfrac_avg": clipped / decisions,
                "policy/item_kl_avg": row_kl(old, torch.cat(new.items)).sum() / decisions,
            }
            kl = kl_loss(new.scores.log_probs, part.ref_log_probs, part.learned)
            sums["loss/text_kl_avg"] = kl / learned
            loss = loss + self.kl_scale * args.kl_coef * sums["loss/text_kl_avg"]
            weight = section.item_loss_weight
            loss = loss + weight * (sums["loss/item_avg"] + section.ptx_coef * sums["loss/ptx_avg"])
        return loss, sums

    # -- pieces of a rollout --

    def rollout(self, prompts: PackedBatch, update: int) -> Completions:
        """Samples G completions of each prompt."""
        generations = self.section.num_generations
        uniforms = self._uniforms(update)
        return generate(
            self.policy, prompts, self.args.response_length, uniforms, generations, self.args.temperature
        )  # fmt: skip

    def _reference(self, decisions: list[Decision], completions: list[list[list[int]]]) -> NetworkOutput:
        """What the reference (the RL adapter off) makes of completions, and of the decisions that prompts show."""
        parts = []
        width = max(len(completion) for of_prompt in completions for completion in of_prompt)
        size = max(1, self.args.local_rollout_forward_batch_size // self.section.num_generations)
        network = self.accelerator.unwrap_model(self.model)
        with self.policy.reference():
            for start in range(0, len(decisions), size):
                part = slice(start, start + size)
                batch = pack(self.policy, decisions[part], completions[part], width)
                parts.append(network(batch.to(self.accelerator.device), self.args.temperature, self.exact))
        return NetworkOutput.concatenate(parts)

    def _item_experience(
        self, decisions: list[Decision], prompts: PackedBatch, sampled: Completions, reference: NetworkOutput
    ) -> tuple[list[ItemExperience], dict[str, torch.Tensor]]:
        """Advantages of all items at every decision that the prompts show and at the one that each ends in."""
        coefficient = self.kl_scale * self.section.item_kl_coef
        columns = self.policy.vocabulary.trie.order
        log_probs = decision_log_probs(self.policy, prompts, sampled.prompt_hidden, self.args.temperature)
        experience, kl, expected = [], [], []
        for b, (new, ref, rewards) in enumerate(
            zip(log_probs, reference.items, self.reward.decisions(decisions), strict=True)
        ):
            rewards = rewards.to(new.device)[:, columns]
            taken = len(taken_log_probs(self.policy, new, prompts.items[b]))
            advantages = exact_item_advantages(rewards, new, ref, coefficient, self.section.item_entropy_coef)
            experience.append(ItemExperience(new, advantages, taken))
            kl.append(row_kl(new, ref).mean())
            expected.append((new.exp() * rewards).sum(1).mean())
        metrics = {"objective/item_kl": torch.stack(kl).mean(), "objective/item_reward": torch.stack(expected).mean()}
        return experience, metrics

    def decisions_of(self, update: int) -> list[Decision]:
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

    def _seed(self, update: int) -> int:
        entropy = (self.args.seed, update, self.accelerator.process_index)
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _show_samples(
        self, update: int, decisions: list[Decision], recommendations: list[Recommendation], reward: RewardBatch
    ) -> None:
        if not self.section.sample_steps or (update - 1) % self.section.sample_steps:
            return
        titles = self.policy.vocabulary.titles
        self.record.samples(
            [
                Sample(
                    update,
                    decision.profile,
                    [titles[item] for item in decision.items],
                    titles[said.item] if said.item >= 0 else "(broke off)",
                    said.text(titles),
                    {name: float(part[number]) for name, part in reward.parts.items()},
                )
                for number in range(0, len(decisions), max(1, len(decisions) // SAMPLES))[:SAMPLES]
                for decision, said in [(decisions[number], recommendations[number])]
            ]
        )

    @property
    def _tolerance(self) -> float:
        """Of a mean ratio: float32 keeps four digits, activations rounded to 8 bits two, lower precision hardly one."""
        if self.accelerator.mixed_precision != "no":
            return 0.1
        return 1e-4 if self.policy.model_config.quantization is None else 1e-2

    # -- over all processes --

    def _total(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, "sum")

    def _reduce(self, metrics: dict[str, torch.Tensor], how: str) -> dict[str, float]:
        values = [torch.as_tensor(value, dtype=torch.float64) for value in metrics.values()]
        reduced = self.accelerator.reduce(torch.stack([v.to(self.accelerator.device) for v in values]), how)
        return dict(zip(metrics, reduced.tolist(), strict=True))

    # -- before, between and after --

    def _begin(self, checkpoint: str | None = None) -> None:
        self.state.global_step = self.state.episode = 0
        self.state.max_steps = self.args.num_total_batches
        self.state.num_train_epochs = self.args.total_episodes / self.train_dataset_len
        self.state.logging_steps, self.state.save_steps = self.args.logging_steps, self.args.save_steps
        if checkpoint is not None:
            load_checkpoint(self, checkpoint)
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        if checkpoint is not None:
            return
        if self.guard is not None:
            self._event(0, self.guard.on_evaluation(self.policy, step=0)[1])

    def _end_update(self, update: int, metrics: dict[str, float], seconds: float) -> None:
        self.state.global_step = update
        self.state.episode += self.args.batch_size
        self.state.epoch = self.state.episode / self.section.num_generations / self.train_dataset_len
        metrics |= {"lr": self.lr_scheduler.get_last_lr()[0], "episode": self.state.episode}
        self.lr_scheduler.step()
        metrics["eps"] = self.args.batch_size / seconds
        self._adapt_kl(metrics)
        if self.guard is not None and (update % self.section.eval_steps == 0 or update == self.state.max_steps):
            with self._averaged():
                seen, event = self.guard.on_evaluation(self.policy, update)
            metrics |= seen
            self._event(update, event)
        self.log(metrics)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if update % self.args.save_steps == 0 and update < self.state.max_steps:
            save_checkpoint(self)

    def _adapt_kl(self, metrics: dict[str, float]) -> None:
        """Moves both KL coefficients towards the KL that is wanted."""
        target = self.section.adaptive_kl_target
        if target is None:
            return
        kl = metrics["objective/item_kl" if self.exact else "objective/kl"]
        horizon = self.section.adaptive_kl_horizon
        self.kl_scale = adapted(self.kl_scale, kl, target, self.args.batch_size, horizon)

    def _end(self) -> None:
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        if self.guard is not None:
            self.guard.restore_best(self.policy)
        elif self.average is not None:
            self.average.apply()

    def _averaged(self) -> AbstractContextManager:
        """Within, the policy is the one to be handed over."""
        return self.average.applied() if self.average is not None else nullcontext()

    def _event(self, step: int, event: str) -> None:
        self.events.append({"step": step, "event": event})
        self.record.event(step, event)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self.policy.save_pretrained(output_dir or self.args.output_dir)


def _averages(steps: list[dict[str, float]]) -> dict[str, float]:
    """Means over the optimiser steps of an update."""
    averages = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
    return averages | {"val/ratio_var": float(np.var([step["val/ratio"] for step in steps]))}


def _by_prompt(completions: list[list[int]], group: int) -> list[list[list[int]]]:
    """Completions of consecutive prompts, `group` each."""
    return [completions[start : start + group] for start in range(0, len(completions), group)]
