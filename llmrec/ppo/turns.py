"""PPO over several turns: the policy acts in a world that answers, and learns from whole lives. Start at `play`.

A life is an episode. Each turn shows one item, and its outcome joins the prompt. Advantages are GAE over turns.
Losses, KL penalty, mini-batches, weight average, checkpoints and checks are those of `RecPPOTrainer`.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from trl.experimental.ppo import PPOConfig as TRLPPOConfig

from llmrec.config import PPOConfig
from llmrec.data.decision import Decision
from llmrec.errors import RewardError
from llmrec.policy.distribution import sampled
from llmrec.policy.model import RecPolicy
from llmrec.policy.turns import Life, LifeBatch, Outcomes, TurnReader, pack_lives
from llmrec.ppo.advantages import Trajectories
from llmrec.ppo.experience import Experience
from llmrec.ppo.kl import kl_estimate, kl_penalty
from llmrec.ppo.network import NetworkOutput
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.ppo.worlds import Turn, World
from llmrec.timing import timed


@dataclass(frozen=True)
class TurnExperience(Experience):
    """Experience of B lives; the tensors are [B, T] over turns, and the completion of a life is what it was shown.

    Attributes:
        lives: the lives, [B].
    """

    lives: list[Life]

    def select(self, prompts: np.ndarray) -> "TurnExperience":
        """Some lives, cut to the longest among them."""
        return TurnExperience(**vars(super().select(prompts)), lives=[self.lives[p] for p in prompts])


@dataclass
class LifeRecord:
    """What B lives have come to under the policy that sampled; tensors are [B, T] over turns, 0 after the end.

    Attributes:
        lives: the lives.
        log_probs: log-probability of each shown item.
        values: critic's value of the state before each turn.
        rewards: reward of each turn.
        bootstrap: value of the state after the last turn of a life that was cut off, at that turn; 0 elsewhere.
        mask: real turns, bool.
        parts: sum of each part of the reward over a life, by name, float [B] each.
    """

    lives: list[Life]
    log_probs: torch.Tensor
    values: torch.Tensor
    rewards: torch.Tensor
    bootstrap: torch.Tensor
    mask: torch.Tensor
    parts: dict[str, np.ndarray]

    @classmethod
    def start(cls, decisions: list[Decision], turns: int, device: torch.device) -> "LifeRecord":
        """The record before the first turn."""
        shape = (len(decisions), turns)
        numbers = {name: torch.zeros(shape, device=device) for name in ("log_probs", "values", "rewards", "bootstrap")}
        lives = [Life(decision, [], [], []) for decision in decisions]
        return cls(lives=lives, mask=torch.zeros(shape, dtype=torch.bool, device=device), parts={}, **numbers)

    def add_answer(self, turn: int, live: np.ndarray, items: np.ndarray, answer: Turn) -> None:
        """Adds what came of a turn to the lives `live`, int64 [b], which showed `items`, int64 [b].

        Raises:
            RewardError: a reward is not finite.
        """
        reward = answer.reward[live]
        if not np.isfinite(reward).all():
            raise RewardError(
                f"The world rewarded turn {turn + 1} with {reward[~np.isfinite(reward)][0]}; expected finite rewards. "
                "Correct the values of items or the weights of the reward."
            )
        self.rewards[live, turn] = torch.from_numpy(reward).to(self.rewards)
        self.mask[live, turn] = True
        for b, item in zip(live.tolist(), items.tolist(), strict=True):
            self.lives[b].shown.append(item)
            self.lives[b].clicked.append(bool(answer.clicked[b]))
        for name, part in answer.parts.items():
            self.parts.setdefault(name, np.zeros(len(self.lives)))[live] += part[live]


class TurnPPOTrainer(RecPPOTrainer):
    """PPO for a `RecPolicy` with an RL adapter that acts in a world over several turns.

    Args:
        args: TRL's arguments. `response_length` is the largest number T of turns of a life; `gamma` and `lam` count
            turns.
        section: options that TRL does not have. `advantage` must be `gae`.
        policy: trained in place, after `policy.add_rl_adapter()`; one token an item.
        world: the world.
        outcomes: how the outcomes of turns stand in the prompt.
    """

    def __init__(self, args: TRLPPOConfig, section: PPOConfig, policy: RecPolicy, world: World, outcomes: Outcomes):
        lives = cast(Any, range(cast(int, args.total_episodes)))
        super().__init__(args, section, policy, cast(Any, None), lives)
        self.world = world
        self.outcomes = outcomes

    @property
    def steps(self) -> int:
        """Turns of all lives so far."""
        return round(sum(entry.get("rollout/steps", 0.0) for entry in self.state.log_history))

    @torch.no_grad()
    def collect_episodes(self, update: int) -> tuple[Experience, dict[str, float]]:
        """Lives under the policy, with turn-level advantages."""
        with self.accelerator.autocast(), self.policy.shards.gathered():
            # 1. Rollout: the policy shows items, and the world answers.
            record = self.play(update)
            # 2. Reference: the reference policy scores the same items in the same prompts.
            with self.policy.reference():
                reference = self.scores_of(record.lives)
        # 3. KL penalty: part of the reward of a turn.
        mask = record.mask
        kl = kl_estimate(record.log_probs, reference.scores.log_probs, self.args.kl_estimator) * mask
        penalty = kl_penalty(kl, self.kl_scale * self.args.kl_coef)
        # 4. Advantages: GAE over turns. A life that was cut off goes on with the critic's value.
        trajectories = Trajectories(
            rewards=record.rewards + penalty + self.args.gamma * record.bootstrap,
            values=record.values,
            mask=mask,
            item_mask=mask,
            policy_mask=mask & reference.scores.is_choice,
        )
        advantages, returns = self.items.token_advantages(trajectories)
        experience = TurnExperience(
            decisions=[life.decision for life in record.lives],
            completions=[[list(life.shown)] for life in record.lives],
            policy_mask=trajectories.policy_mask,
            value_mask=mask,
            item_mask=mask,
            anchor_mask=torch.zeros_like(mask),
            log_probs=record.log_probs,
            ref_log_probs=reference.scores.log_probs,
            values=record.values,
            advantages=advantages,
            returns=cast(torch.Tensor, returns),
            items=[],
            lives=record.lives,
        )
        metrics = self._reduce(turn_metrics(record, kl, penalty, self.accelerator.num_processes), "mean")
        return experience, metrics | {"objective/kl_coef": self.kl_scale * self.args.kl_coef}

    @timed("rollouts")
    def play(self, update: int) -> LifeRecord:
        """Lives of an update, as one batch. Lives that are over leave the batch."""
        decisions = self.world.reset(self.rollouts.positions(update))
        reader = TurnReader(self.policy, decisions)
        uniforms = self.rollouts.uniforms(update)
        turns, device = uniforms.shape[1], self.accelerator.device
        record = LifeRecord.start(decisions, turns, device)
        items = np.zeros(len(decisions), np.int64)
        live = np.arange(len(decisions))
        for turn in range(turns):
            log_probs = reader.log_probs(self.args.temperature)
            column = sampled(log_probs, uniforms[torch.from_numpy(live).to(device), turn])
            shown = self.policy.vocabulary.trie.order[column]
            items[live] = shown.cpu().numpy()
            answer = self.world.step(items)
            record.log_probs[live, turn] = log_probs.gather(1, column[:, None])[:, 0]
            record.values[live, turn] = self.critic(reader.hidden)
            record.add_answer(turn, live, items[live], answer)
            goes_on = ~answer.over[live]
            cut_off = answer.truncated[live] | (goes_on & (turn == turns - 1))
            if not (goes_on | cut_off).any():
                break
            outcomes = [
                self.outcomes.tokens(int(items[b]), bool(answer.clicked[b]), float(answer.gap[b])) for b in live
            ]
            for b, tokens in zip(live, outcomes, strict=True):
                record.lives[b].outcomes.append(tokens)
            reader.append(shown, answer.clicked[live], outcomes)
            record.bootstrap[live[cut_off], turn] = self.critic(reader.hidden[torch.from_numpy(cut_off).to(device)])
            reader.select(torch.from_numpy(np.flatnonzero(goes_on)).to(device))
            live = live[goes_on]
            if not len(live):
                break
        return record

    def scores_of(self, lives: list[Life]) -> NetworkOutput:
        """Output of the network for whole lives, computed in parts."""
        size = max(1, self.args.local_rollout_forward_batch_size)
        turns = self.args.response_length
        network = self.accelerator.unwrap_model(self.model)
        outputs: list[NetworkOutput] = []
        for start in range(0, len(lives), size):
            batch = pack_lives(self.policy, lives[start : start + size], turns).to(self.accelerator.device)
            outputs.append(network(batch, self.args.temperature, False))
        return NetworkOutput.concatenate(outputs)

    def packed(self, part: Experience) -> LifeBatch:
        """The tokens of a micro-batch."""
        return pack_lives(self.policy, cast(TurnExperience, part).lives)


def turn_metrics(
    record: LifeRecord, kl: torch.Tensor, penalty: torch.Tensor, processes: int
) -> dict[str, torch.Tensor]:
    """Means over this process's lives, under TRL's names.

    Args:
        record: the lives.
        kl: KL estimate of each turn, [B, T].
        penalty: KL penalty of each turn, [B, T].
        processes: number of processes. The mean over processes of "rollout/steps" is then their sum.
    """
    score = record.rewards.sum(1).mean()
    of_penalty = penalty.sum(1).mean()
    return {
        "objective/kl": kl.sum(1).mean(),
        "objective/entropy": -(record.log_probs * record.mask).sum(1).mean(),
        "objective/non_score_reward": of_penalty,
        "objective/scores": score,
        "objective/rlhf_reward": score + of_penalty,
        "rollout/turns": record.mask.sum(1).float().mean(),
        "rollout/steps": record.mask.sum() * processes,
        **{f"reward/{name}": torch.from_numpy(part).mean() for name, part in record.parts.items()},
    }
