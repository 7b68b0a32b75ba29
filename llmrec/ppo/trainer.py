"""The PPO loop: rollout, rewards, advantages, update, evaluation. Start reading at `RecPPOTrainer.train`.

It replaces the loop of TRL's PPO trainer, which has no options for rollouts under the catalogue's mask, a reward of
parsed recommendations, gradient clipping, a reference policy that shares the model, exact item decisions or resuming.
Options and metrics keep TRL's names.
"""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import set_seed
from trl.experimental.ppo import PPOConfig as TRLPPOConfig
from trl.experimental.ppo import PPOTrainer
from trl.trainer.utils import disable_dropout_in_model

from llmrec.config import PPOConfig
from llmrec.config.batch import few_updates
from llmrec.data.decision import Decision, Decisions
from llmrec.distributed import is_main_process
from llmrec.language.grammar import ITEM
from llmrec.policy.generate import parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, pack
from llmrec.ppo.advantages import Trajectories
from llmrec.ppo.averaging import WeightAverage
from llmrec.ppo.checkpoint import load_checkpoint, save_checkpoint
from llmrec.ppo.checks import approx_kl, check_finite, check_first_step, check_start
from llmrec.ppo.experience import Counts, EpisodeRewards, Experience
from llmrec.ppo.item_objective import item_objective
from llmrec.ppo.kl import kl_estimate, kl_penalty, next_kl_coef
from llmrec.ppo.losses import policy_loss, value_loss
from llmrec.ppo.metrics import rollout_metrics, samples_of, step_means
from llmrec.ppo.network import Critic, NetworkOutput, NoRewardNetwork, PolicyWithCritic
from llmrec.ppo.rollout import Rollout, RolloutSampler
from llmrec.ppo.text import TextDecision, supervised_completions, text_decision, text_metrics
from llmrec.progress import TrainingLog
from llmrec.reward.protocol import RewardFunction
from llmrec.selection.best_adapter import evaluation_due
from llmrec.selection.guard import Guard
from llmrec.sharding import Shards, configure, set_micro_batches
from llmrec.timing import timed

# Adam's epsilon where generations are compared: the resolution of float32 at a gradient of norm 1. The generations of a
# prompt cancel in the gradients of all items that none of them recommends. What is left are rounding errors, which a
# smaller epsilon would scale up to steps of the policy.
ADAM_EPSILON = float(torch.finfo(torch.float32).eps)


class RecPPOTrainer(PPOTrainer):
    """PPO for a `RecPolicy` with an RL adapter. The reference policy is the same model with the SFT adapter.

    Args:
        args: TRL's arguments.
        section: options that TRL does not have.
        policy: trained in place, after `policy.add_rl_adapter()`.
        reward: the reward to maximize.
        train_dataset: the prompts; see `ppo.stage.training_decisions`.
        guard: evaluates on validation and decides which adapter stays. None keeps the last adapter.

    Attributes:
        items: how item decisions are learned.
        rollouts: samples prompts and completions.
        events: decisions of the guard and early stops, each `{step, event}`.
        record: receives events and sampled completions.
        average: the weight average that is evaluated and returned instead of the weights; None without averaging.
        kl_scale: factor of all KL coefficients, moved by `ppo.adaptive_kl_target`.
        text: whether the text is trained, and the measurement behind it. None under `auto` before training begins.
    """

    def __init__(
        self,
        args: TRLPPOConfig,
        section: PPOConfig,
        policy: RecPolicy,
        reward: RewardFunction,
        train_dataset: Decisions,
        guard: Guard | None = None,
    ):
        self.policy = policy
        self.critic = Critic(policy.hidden_size)
        self.section = section
        self.reward = reward
        self.guard = guard
        self.events: list[dict[str, Any]] = []
        self.record = TrainingLog()
        self.kl_scale = 1.0
        auto = section.text == "auto" and section.advantage == "exact"
        self.text: TextDecision | None = None if auto else {"trained": section.text != "off"}
        self._first_step_checked = False
        if section.compares_generations:
            args.adam_epsilon = ADAM_EPSILON
        # The launcher's number of micro-batches would replace that of `args`.
        os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
        super().__init__(
            args=args,
            processing_class=policy.tokenizer,
            model=cast(Any, policy.model),
            ref_model=None,
            reward_model=cast(Any, NoRewardNetwork(policy.config)),  # `reward` scores parsed recommendations
            train_dataset=cast(Any, train_dataset),
            value_model=cast(Any, self.critic),
            data_collator=cast(Any, list),
        )
        policy.shards = Shards(self.model, policy.read_outside())
        self.num_updates = cast(int, args.num_total_batches)
        disable_dropout_in_model(policy)  # dropout would make sampling and scoring differ
        policy.eval()
        self.items = item_objective(section, args, policy, self._total)
        self.rollouts = RolloutSampler(policy, train_dataset, args, section.num_generations, self.accelerator)
        self.average = WeightAverage(policy, section.ema_decay) if section.ema_decay else None
        if section.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        # TRL takes one optimizer step a batch, whatever the number of mini-batches. Here each mini-batch is a step.
        set_micro_batches(self.accelerator, self.model, args.gradient_accumulation_steps // args.num_mini_batches)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Replaces TRL's wrapper of policy and critic by ours. TRL's constructor calls this method."""
        configure(self.accelerator, self.args.max_grad_norm)
        self.model = PolicyWithCritic(self.policy, self.critic)
        super().create_optimizer_and_scheduler(num_training_steps)

    # -- the PPO loop --

    def train(self, resume_from_checkpoint: str | Path | None = None) -> None:
        """Trains the RL adapter, from a checkpoint if one is given."""
        self._begin(resume_from_checkpoint)
        for update in range(self.state.global_step + 1, self.num_updates + 1):
            started = time.monotonic()
            set_seed(self._seed(update))  # for rewards that use global random generators
            experience, metrics = self.collect(update)
            metrics |= self.update(experience, update)
            if self.average is not None:
                self.average.update(update)
            self._end_update(update, metrics, time.monotonic() - started)
        self._end()

    @timed("experience")
    def collect(self, update: int) -> tuple[Experience, dict[str, float]]:
        """A batch of experience of the current policy, and metrics of it."""
        experience, metrics = self.collect_episodes(update) if self.trains_text else self.collect_items(update)
        if update == 1:
            check_start(metrics, self._tolerance)
        return experience, metrics

    @torch.no_grad()
    def collect_items(self, update: int) -> tuple[Experience, dict[str, float]]:
        """Item decisions without a rollout: the prompts are logged histories. Some have a supervised completion."""
        decisions = self.rollouts.decisions_of(update)
        with self.accelerator.autocast(), self.policy.shards.gathered():
            prompts = pack(self.policy, decisions).to(self.accelerator.device)
            hidden = self.policy(*prompts.inputs())
            completions = supervised_completions(
                self.policy, prompts, decisions, hidden, self.rollouts.positions(update), self.args.seed
            )
            reference = self.reference(decisions, completions)
            items, metrics = self.items.experience(decisions, prompts, hidden, reference, self.reward, self.kl_scale)
        experience = Experience.of_items(decisions, completions, reference.scores, items)
        return experience, self._reduce(metrics, "mean")

    @torch.no_grad()
    def collect_episodes(self, update: int) -> tuple[Experience, dict[str, float]]:
        """Sampled completions and, if items are learned exactly, item decisions."""
        with self.accelerator.autocast(), self.policy.shards.gathered():
            # 1. Rollout: the policy samples G completions of each prompt.
            rollout = self.rollouts.sample(update)
            # 2. Reference: the reference policy scores the same tokens, and the critic predicts their values.
            reference = self.reference(rollout.decisions, rollout.completions)
            values = self.critic(rollout.sampled.hidden) * rollout.sampled.mask
            kl = self.token_kl(rollout, reference)
        # 3. Reward: of the recommended item and of its justification.
        rewards = self.score(rollout, values.device)
        # 4. KL penalty: of tokens that are learned from samples.
        mask = rollout.sampled.mask
        log_probs = rollout.sampled.log_probs
        ref_log_probs = reference.scores.log_probs
        item_mask = (reference.scores.region == ITEM) & mask
        value_mask = self.items.value_mask(mask, item_mask)
        policy_mask = value_mask & reference.scores.is_choice
        kl = kl * value_mask
        penalty = kl_penalty(kl, self.kl_scale * self.args.kl_coef)
        # 5. Token advantages: rewards and penalties, credited to the tokens before them.
        token_rewards = self.items.token_rewards(rewards, penalty, mask, item_mask)
        advantages, returns = self.items.token_advantages(
            Trajectories(rewards=token_rewards, values=values, mask=mask, item_mask=item_mask, policy_mask=policy_mask)
        )
        # 6. Item experience: exact advantages of all items at each decision, if items are learned exactly.
        with self.policy.shards.gathered():
            items, item_metrics = self.items.experience(
                rollout.decisions, rollout.prompts, rollout.sampled.prompt_hidden, reference, self.reward, self.kl_scale
            )
        experience = Experience(
            decisions=rollout.decisions,
            completions=rollout.completions,
            policy_mask=policy_mask,
            value_mask=value_mask if returns is not None else torch.zeros_like(value_mask),
            item_mask=item_mask,
            anchor_mask=torch.zeros_like(mask),
            log_probs=log_probs,
            ref_log_probs=ref_log_probs,
            values=values,
            advantages=advantages,
            returns=returns if returns is not None else torch.zeros_like(values),
            items=items,
        )
        # 7. Metrics and samples.
        processes = self.accelerator.num_processes
        metrics = self._reduce(rollout_metrics(rollout, rewards, kl, penalty, processes) | item_metrics, "mean")
        if self.section.sample_steps and (update - 1) % self.section.sample_steps == 0:
            self.record.samples(samples_of(self.policy, update, rollout, rewards))
        return experience, metrics | {"objective/kl_coef": self.kl_scale * self.args.kl_coef}

    @timed("gradient steps")
    def update(self, experience: Experience, update: int) -> dict[str, float]:
        """Several epochs of clipped gradient steps over one batch of experience; returns means over the steps."""
        planned = self.args.num_ppo_epochs * self.args.num_mini_batches
        target_kl = self.section.target_kl
        steps: list[dict[str, float]] = []
        for prompts in self.rollouts.mini_batches(update):
            step = self._mini_batch(experience.select(prompts))
            steps.append(step)
            if not self._first_step_checked:
                check_first_step(step, self._tolerance)
                self._first_step_checked = True
            remaining = planned - len(steps)
            if remaining and target_kl is not None and approx_kl(step) > target_kl:
                stop = f"KL stop: {approx_kl(step):.4f} nats exceed ppo.target_kl {target_kl:g}"
                self._event(update, f"{stop}; {remaining} of {planned} mini-batches skipped")
                return step_means(steps) | {"guard/kl_stop": 1.0}
        return step_means(steps) | {"guard/kl_stop": 0.0}

    # -- steps of `collect` --

    @timed("reference policy")
    def reference(self, decisions: list[Decision], completions: list[list[list[int]]]) -> NetworkOutput:
        """Output of the reference policy: the RL adapter is off. See `network_output`."""
        with self.policy.reference():
            return self.network_output(decisions, completions)

    def token_kl(self, rollout: Rollout, reference: NetworkOutput) -> torch.Tensor:
        """KL estimate of each sampled token, [B*G, T].

        Sampling and scoring round differently. Where the generations of a prompt are compared and earn the same reward,
        that difference would be the whole advantage, and Adam would make full steps of it. The policy then scores its
        completions as the reference does, so that equal policies have a KL of exactly 0.
        """
        log_probs = rollout.sampled.log_probs
        if self.section.compares_generations:
            log_probs = self.network_output(rollout.decisions, rollout.completions).scores.log_probs
        return kl_estimate(log_probs, reference.scores.log_probs, self.args.kl_estimator)

    def network_output(self, decisions: list[Decision], completions: list[list[list[int]]]) -> NetworkOutput:
        """Output of the network for prompts with their completions, computed in parts.

        Args:
            decisions: the prompts, [B].
            completions: token ids of each prompt's completions.
        """
        width = max((len(completion) for of_prompt in completions for completion in of_prompt), default=1)
        size = max(1, self.args.local_rollout_forward_batch_size // self.section.num_generations)
        network = self.accelerator.unwrap_model(self.model)
        outputs: list[NetworkOutput] = []
        for start in range(0, len(completions), size):
            part = slice(start, start + size)
            batch = pack(self.policy, decisions[part], completions[part], width).to(self.accelerator.device)
            outputs.append(network(batch, self.args.temperature, self.items.needs_item_distributions))
        return NetworkOutput.concatenate(outputs)

    @timed("rewards")
    def score(self, rollout: Rollout, device: torch.device) -> EpisodeRewards:
        """Parses the completions and calls the reward function."""
        recommendations = parse(self.policy, rollout.sampled)
        reward = self.reward(recommendations, rollout.episodes)
        finished = torch.tensor([recommendation.finished for recommendation in recommendations]).to(device)
        penalty = cast(float, self.args.missing_eos_penalty)
        return EpisodeRewards(
            recommendations=recommendations,
            finished=finished,
            item=reward.item.to(device, torch.float32),
            text=reward.text.to(device, torch.float32) - penalty * ~finished,
            parts=reward.parts,
        )

    # -- steps of `update` --

    def _mini_batch(self, experience: Experience) -> dict[str, float]:
        """One optimizer step. Gradients are accumulated over micro-batches of similar length; returns global means."""
        counts = self._total(experience.counts().to(self.accelerator.device)).clamp(min=1)
        micro_batches = self.accelerator.gradient_accumulation_steps
        # `backward` divides by the micro-batches, and DDP by the processes. The losses are divided already.
        scale = int(micro_batches) * self.accelerator.num_processes
        sums: dict[str, torch.Tensor] = {}
        self.policy.train(self.section.gradient_checkpointing)
        parts = np.split(np.argsort(experience.lengths(), kind="stable"), micro_batches)
        for number, prompts in enumerate(parts, start=1):
            # `accelerator.accumulate` would also synchronize where a dataloader of an earlier stage has ended.
            last = number == micro_batches
            self.accelerator.gradient_state._set_sync_gradients(last)  # pyright: ignore[reportPrivateUsage]
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, shares = self._losses(experience.select(prompts), Counts.from_tensor(counts))
                self.accelerator.backward(loss * scale)
            sums = {name: sums.get(name, 0.0) + share.detach() for name, share in shares.items()}
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        means = self._reduce(sums, "sum") | {"policy/grad_norm": float(cast(torch.Tensor, norm))}
        check_finite(means)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.policy.eval()
        return means

    def packed(self, part: Experience) -> PackedBatch:
        """The tokens of a micro-batch."""
        return pack(self.policy, part.decisions, part.completions)

    def _losses(self, part: Experience, counts: Counts) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of a micro-batch and its share of the metrics, all divided by the counts of the mini-batch."""
        args = self.args
        batch = self.packed(part).to(self.accelerator.device)
        new: NetworkOutput = self.model(batch, args.temperature, self.items.needs_item_distributions)
        log_ratio = new.scores.log_probs - part.log_probs
        pg_loss, pg_clipped = policy_loss(
            new.scores.log_probs, part.log_probs, part.advantages, part.policy_mask, args.cliprange
        )
        vf_loss, vf_clipped = value_loss(new.values, part.values, part.returns, part.value_mask, args.cliprange_value)
        item_loss, item_metrics = self.items.loss(batch, new, part, counts, self.kl_scale)
        entropy = new.scores.entropy
        losses = {
            "loss/policy_avg": pg_loss / counts.policy_tokens,
            "loss/value_avg": vf_loss / counts.value_tokens,
        }
        # Without episodes these sums are 0. They stay in the loss, so that DDP sees every parameter used.
        loss = losses["loss/policy_avg"] + args.vf_coef * losses["loss/value_avg"] + item_loss
        if not self.trains_text:
            return loss, item_metrics
        metrics = {
            "policy/clipfrac_avg": pg_clipped / counts.policy_tokens,
            "val/clipfrac_avg": vf_clipped / counts.value_tokens,
            "policy/approxkl_avg": 0.5 * (log_ratio**2 * part.policy_mask).sum() / counts.policy_tokens,
            "policy/entropy_avg": (entropy * part.policy_mask).sum() / counts.policy_tokens,
            "policy/item_entropy_avg": (entropy * part.item_mask).sum() / counts.item_tokens,
            "val/ratio": (log_ratio.exp() * part.policy_mask).sum() / counts.policy_tokens,
        }
        return loss, losses | metrics | item_metrics

    # -- before, between and after updates --

    def _begin(self, checkpoint: str | Path | None = None) -> None:
        state: Any = self.state
        state.global_step = 0
        state.episode = 0
        state.max_steps = self.num_updates
        state.num_train_epochs = cast(int, self.args.total_episodes) / self.train_dataset_len
        state.logging_steps = self.args.logging_steps
        state.save_steps = self.args.save_steps
        if checkpoint is None:
            notices = few_updates(self.num_updates, "ppo.batch_size", "ppo.total_episodes")
        else:
            notices = load_checkpoint(self, checkpoint)
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        if self.text is None:
            self.text = self._measured_decision()
        for notice in notices:
            self._event(state.global_step, notice)
        if checkpoint is None and self.guard is not None:
            _, event = self.guard.on_evaluation(self.policy, step=0)
            self._event(0, event)

    def _end_update(self, update: int, metrics: dict[str, float], seconds: float) -> None:
        """Adapts the KL coefficient, evaluates if due, logs, and saves a checkpoint if due."""
        self.state.global_step = update
        self.state.episode += self.rollouts.episodes
        self.state.epoch = self.state.episode / self.section.num_generations / self.train_dataset_len
        metrics |= {"lr": float(self.lr_scheduler.get_last_lr()[0]), "episode": self.state.episode}
        self.lr_scheduler.step()
        metrics["eps"] = self.rollouts.episodes / seconds
        self._adapt_kl(metrics)
        if self.guard is not None and evaluation_due(update, self.state.max_steps, self.section.eval_steps):
            with self._averaged():
                measured, event = self.guard.on_evaluation(self.policy, update)
                metrics |= measured | self._text_drift()
            self._event(update, event)
        self.log(metrics)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if update % self.args.save_steps == 0 and update < self.state.max_steps:
            save_checkpoint(self)

    def _end(self) -> None:
        """Gives the policy the adapter that the guard decides on, or without a guard the weight average."""
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        if self.guard is not None:
            self._event(self.state.global_step, self.guard.decide(self.policy))
        elif self.average is not None:
            self.average.apply()

    def _adapt_kl(self, metrics: dict[str, float]) -> None:
        """Moves all KL coefficients toward the KL target, if there is one."""
        target = self.section.adaptive_kl_target
        if target is not None:
            kl = metrics[self.items.kl_metric]
            horizon = self.section.adaptive_kl_horizon
            self.kl_scale = next_kl_coef(self.kl_scale, kl, target, self.rollouts.episodes, horizon)

    @property
    def trains_text(self) -> bool:
        """Whether updates train the text, with rollouts and the critic."""
        return self.text is None or self.text["trained"]

    def _measured_decision(self) -> TextDecision:
        """Whether to train the text, by its reward over the first rollout."""
        started = time.monotonic()
        deviation = self.measure_text()["text/reward_std"]
        decision, event = text_decision(deviation, time.monotonic() - started, self.num_updates)
        self._event(0, event)
        return decision

    def _text_drift(self) -> dict[str, float]:
        """How far the text is from that of SFT, measured if the text is not trained; empty otherwise."""
        return {} if self.trains_text else self.measure_text()

    @torch.no_grad()
    def measure_text(self) -> dict[str, float]:
        """Text metrics of completions that the policy samples at the prompts of the first update."""
        with self.accelerator.autocast(), self.policy.shards.gathered():
            rollout = self.rollouts.sample(1)
            reference = self.reference(rollout.decisions, rollout.completions)
        rewards = self.score(rollout, self.accelerator.device)
        return text_metrics(rollout, reference.scores, rewards, self.accelerator)

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside the `with` block the policy has the weights that would be returned: the average, if there is one."""
        return self.average.applied() if self.average is not None else nullcontext()

    def _event(self, step: int, event: str) -> None:
        self.events.append({"step": step, "event": event})
        self.record.event(step, event)

    def _seed(self, update: int) -> int:
        entropy = (self.args.seed, update, self.accelerator.process_index)
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    @property
    def _tolerance(self) -> float:
        """Tolerance for the first step's mean ratio: 1e-4 in float32, 1e-2 if quantized, 0.1 in bfloat16."""
        if self.accelerator.mixed_precision != "no" or self.policy.base_dtype == torch.bfloat16:
            return 0.1
        return 1e-4 if self.policy.model_config.quantization is None else 1e-2

    def _total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes."""
        return cast(torch.Tensor, self.accelerator.reduce(tensor, "sum"))

    def _reduce(self, metrics: dict[str, torch.Tensor], how: str) -> dict[str, float]:
        """Means or sums of metrics over all processes, in float64."""
        values = [torch.as_tensor(value, dtype=torch.float64) for value in metrics.values()]
        stacked = torch.stack([value.to(self.accelerator.device) for value in values])
        reduced = cast(torch.Tensor, self.accelerator.reduce(stacked, how))
        return dict(zip(metrics, reduced.tolist(), strict=True))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        weights = self.policy.adapter_weights()
        if is_main_process():
            self.policy.save_pretrained(str(output_dir or self.args.output_dir), weights)
