"""The reward that PPO maximizes: a weighted sum of parts over parsed recommendations. Each part is also reported alone.

All parts have the unit nats of log-odds. The item reward is the lift over popularity: the user's log-odds minus
`popularity_weight` times the item's average log-odds.

Without the correction, recommending the most popular item to everybody can score higher than the items that users
take. With weight 1 and calibrated probabilities, a constant recommendation has an expected lift of at most 0. The
section "Popularity" of `docs/design/reward.md` has the proof.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.catalogue.facts import FactBook
from llmrec.config import RewardConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision
from llmrec.data.seen_mask import click_counts
from llmrec.errors import DataError
from llmrec.language.groundedness import check
from llmrec.language.prompt import Recommendation
from llmrec.requests.attributes import Attributes
from llmrec.reward.functions import call, finite, load_callable, standardized
from llmrec.reward.item_rewards import CLIP, clipped_lift, item_log_odds, log_odds, lowest_lift, sampled_prefixes
from llmrec.reward.penalties import OF_TEXT, VIOLATIONS, violations
from llmrec.reward.protocol import RewardBatch
from llmrec.timing import timed
from reward_models import UNKNOWN, EaseJudge, RewardModel, load_reward_model
from reward_models.features import profile_words
from reward_models.reward_model import Prediction

if TYPE_CHECKING:  # importing it takes seconds
    from reward_models.text.model import TextRewardModel

BATCH = 64  # decisions that the model scores in one forward pass


class CompositeReward(nn.Module):
    """A `RewardFunction` of weighted parts. Item rewards are computed on the device of the click/purchase model.

    Parts of the item: log-odds of the click/purchase model, popularity, columns of the item table, the satisfied
    request, and the penalty for seen items. Parts of the justification: groundedness, penalties, the text reward model,
    and functions of the user.

    Args:
        model: the click/purchase model.
        facts: facts about the items.
        config: weights of the parts.
        data: the log that the model was fitted on. Its item table, user table and training clicks are used.
        text: the text reward model, if one is configured.
        attributes: which items satisfy requests; None if no decision has one.

    Raises:
        ConfigError: a column of the item table or a function cannot be used.
    """

    popularity: Tensor
    term_values: Tensor
    item_terms: Tensor

    def __init__(
        self,
        model: RewardModel,
        facts: FactBook,
        config: RewardConfig,
        data: InteractionData,
        text: "TextRewardModel | None" = None,
        attributes: Attributes | None = None,
    ):
        super().__init__()
        self.model = model
        self.facts = facts
        self.config = config
        self.text = text
        self.attributes = attributes
        self.profiles = profile_words(data.users)
        self.prefixes = sampled_prefixes(data)
        popularity = self.popularity_at([config.conversion_weight])[0]
        columns = [standardized(data.items, term.column) for term in config.terms]
        values = torch.stack([*columns, torch.zeros(data.num_items)]).to(popularity.device)[:-1]  # [terms, N]
        weights = torch.tensor([term.weight for term in config.terms], device=values.device)
        self.functions = {part.callable: load_callable(part.callable) for part in config.parts}
        self.register_buffer("popularity", popularity)
        self.register_buffer("term_values", values)
        self.register_buffer("item_terms", (weights[:, None] * values).sum(0))

    @classmethod
    def from_pretrained(
        cls,
        directory: Path,
        data: InteractionData,
        facts: FactBook,
        config: RewardConfig,
        attributes: Attributes | None = None,
    ) -> "CompositeReward":
        """The reward of a run, from the models that its reward stage wrote.

        Args:
            directory: the run's `reward/`.
            data: the prepared log.
            facts: facts about the items.
            config: weights of the parts.
            attributes: which items satisfy requests; None if no decision has one.

        Raises:
            ConfigError: as the constructor.
            ModelError: a model cannot be loaded.
        """
        model = load_reward_model(directory, data.items["item_id"])
        text = None
        if config.text is not None:
            from reward_models.text.model import TextRewardModel

            text = TextRewardModel.from_pretrained(directory / "text", data.items)
        return cls(model, facts, config, data, text, attributes)

    def forward(self, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]) -> RewardBatch:
        """Scores recommendations.

        Args:
            recommendations: B parsed completions.
            decisions: the decision that each one answers, with purchases. A user's profile is looked up by `user`.

        Raises:
            DataError: an item is outside the catalogue, or a user outside the log.
            RewardError: a part fails, or does not give one finite number for every recommendation.
        """
        self._check_items(recommendations)
        log_rewards = self.model.log_rewards(
            [decision.history for decision in decisions],
            [None if d.purchased is None else np.asarray(d.purchased, dtype=bool) for d in decisions],
            self._profiles(decisions),
            self.config.conversion_weight,
        )
        items = torch.tensor([recommendation.item for recommendation in recommendations], device=log_rewards.device)
        has_item = items >= 0
        index = items.clamp(min=0)
        lowest = lowest_lift(log_rewards.shape[-1], self.config.popularity_weight)
        of_items = {
            "log_odds": torch.where(has_item, log_odds(_pick(log_rewards, index)), lowest),
            "popularity": torch.where(has_item, self.popularity[index], 0.0),
        }
        for term, values in zip(self.config.terms, self.term_values, strict=True):
            of_items[f"item_{term.column}"] = torch.where(has_item, values[index], 0.0)
        if self.attributes is not None:
            of_items["request"] = torch.where(has_item.cpu(), _pick(self._satisfied(decisions), index.cpu()), 0.0)
        parts = {name: values.cpu() for name, values in of_items.items()}
        parts |= self._text_parts(recommendations, decisions)
        for name, values in parts.items():
            finite(name, values)
        item = torch.where(has_item, _pick(self.item_rewards(log_rewards), index), lowest * self.config.item_weight)
        item = item.cpu() - self.config.penalties.seen * parts["seen"]
        if self.attributes is not None:
            item = item + self.config.request_weight * parts["request"]
        return RewardBatch(item=item, text=self._text_reward(parts), parts=parts)

    def _text_parts(
        self, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]
    ) -> dict[str, Tensor]:
        """Violations, groundedness, text reward model and functions, before weights, [B] each."""
        histories = [set(decision.history.tolist()) for decision in decisions]
        pairs = list(zip(recommendations, histories, strict=True))
        may_repeat = torch.tensor([decision.repeats for decision in decisions])
        found = [violations(recommendation, history, self.config.penalties) for recommendation, history in pairs]
        parts = {name: torch.tensor([of_one[name] for of_one in found]) for name in VIOLATIONS}
        parts["seen"] = parts["seen"].masked_fill(may_repeat, 0.0)
        parts["groundedness"] = torch.tensor([check(self.facts, *pair).score for pair in pairs])
        if self.text is not None:
            parts["text"] = self.text.scores(recommendations, decisions).clamp(-CLIP, CLIP)
        for name, function in self.functions.items():
            parts[name] = call(name, function, recommendations, decisions)
        return parts

    def _text_reward(self, parts: dict[str, Tensor]) -> Tensor:
        """Weighted reward of the justifications, [B]."""
        config = self.config
        text = config.groundedness_weight * parts["groundedness"]
        text = text - sum(getattr(config.penalties, name) * parts[name] for name in OF_TEXT)
        if config.text is not None and self.text is not None:
            text = text + config.text.weight * parts["text"]
        return text + sum(part.weight * parts[part.callable] for part in config.parts)

    def item_rewards(self, log_rewards: Tensor, popularity: Tensor | None = None) -> Tensor:
        """Weighted rewards of all items, with the columns of the item table.

        Args:
            log_rewards: log-rewards of all items, [..., N].
            popularity: average log-odds of each item under the same model, [N]; None means those of `self.model`.

        Returns:
            float [..., N].
        """
        popularity = self.popularity if popularity is None else popularity
        lift = clipped_lift(log_rewards, popularity, self.config.popularity_weight)
        return self.config.item_weight * lift + self.item_terms

    def popularity_at(self, conversion_weights: Sequence[float]) -> Tensor:
        """Average log-odds of all items at W values of `conversion_weight`, by one pass of the model, float [W, N]."""

        def log_rewards(rows: slice) -> Tensor:
            prediction = self._prediction_of_prefixes(rows)
            return torch.stack(prediction.rewards_at(conversion_weights))

        return item_log_odds(log_rewards, self.prefixes.masked, self.model.num_items)

    def judged(self, judge: EaseJudge) -> Callable[[Sequence[np.ndarray]], Tensor]:
        """The same item reward with the judge in place of the click/purchase model.

        The judge's own popularity is subtracted, so that errors of the model about an item do not reach the judge.

        Returns:
            a function from B histories to the weighted rewards of all items, float [B, N].
        """
        weight = self.config.conversion_weight
        histories_of_users = self.prefixes.histories
        popularity = item_log_odds(
            lambda rows: judge.log_rewards(histories_of_users[rows], weight), self.prefixes.masked, len(self.popularity)
        )
        return lambda histories: self.item_rewards(judge.log_rewards(histories, weight), popularity).cpu()

    @torch.no_grad()
    def predict(self, decisions: Sequence[Decision]) -> Prediction:
        """What the model predicts after the last shown item of each of B decisions, [B, N].

        The transformer reads the items that the prompt shows; those of `prior` are counted and marked as seen.

        Raises:
            DataError: a user is outside the log.
        """
        shown = [np.asarray(decision.items, dtype=np.int64) for decision in decisions]
        purchased = [
            None if decision.purchased is None else np.asarray(decision.purchased, dtype=bool)[len(decision.prior) :]
            for decision in decisions
        ]
        return self.model.predict(shown, purchased, self._profiles(decisions), self._clicks_before(decisions))

    def newest_item_rewards(self, decisions: Sequence[Decision]) -> Tensor:
        """Weighted rewards of all items after the last shown item of each of M decisions, on the CPU, float [M, N].

        They equal the last rows of `item_rewards_per_prefix`, without the cost of the rows before.

        Raises:
            DataError: a user is outside the log.
            RewardError: the click/purchase model gives a number that is not finite.
        """
        rewards: list[Tensor] = []
        for start in range(0, len(decisions), BATCH):
            prediction = self.predict(decisions[start : start + BATCH])
            of_items = self.item_rewards(prediction.rewards(self.config.conversion_weight))
            rewards.append(finite("log_odds", of_items).cpu())
        return torch.cat(rewards) + self._of_requests(decisions)

    @timed("rewards")
    def item_rewards_per_prefix(self, decisions: Sequence[Decision]) -> list[Tensor]:
        """Weighted rewards of all N items after each of the J shown items of each decision, [J, N] a decision.

        The transformer reads the items that the prompt shows; those of `prior` are counted and marked as seen.

        Raises:
            DataError: a user is outside the log.
            RewardError: the click/purchase model gives a number that is not finite.
        """
        lengths = torch.tensor([len(decision.items) for decision in decisions])
        width = int(lengths.max())
        items = torch.zeros(len(decisions), width, dtype=torch.int64)
        purchased = torch.full_like(items, UNKNOWN)
        for row, decision in enumerate(decisions):
            length = len(decision.items)
            items[row, :length] = torch.as_tensor(np.asarray(decision.items, dtype=np.int64))
            if decision.purchased is not None:
                flags = np.asarray(decision.purchased)[-length:].astype(np.int64)
                purchased[row, :length] = torch.as_tensor(flags)
        log_rewards = self.model.log_rewards_packed(
            items,
            purchased,
            mask=torch.arange(width) < lengths[:, None],
            clicks_before=self._clicks_before(decisions),
            profiles=self._profiles(decisions),
            conversion_weight=self.config.conversion_weight,
        )
        shown = [rewards[:length] for rewards, length in zip(log_rewards, lengths.tolist(), strict=True)]
        of_requests = self._of_requests(decisions).to(log_rewards.device)
        return [
            finite("log_odds", self.item_rewards(rewards)) + of_request
            for rewards, of_request in zip(shown, of_requests, strict=True)
        ]

    def _of_requests(self, decisions: Sequence[Decision]) -> Tensor:
        """Weighted reward of each item for satisfying the request of each decision, on the CPU, float [B, N or 1]."""
        return self.config.request_weight * self._satisfied(decisions)

    def _satisfied(self, decisions: Sequence[Decision]) -> Tensor:
        """1 for items that satisfy the request of each decision, else 0, float [B, N]; [B, 1] if no request can."""
        if self.attributes is None:
            return torch.zeros(len(decisions), 1)
        satisfied = torch.zeros(len(decisions), self.attributes.num_items)
        for row, decision in enumerate(decisions):
            if decision.request is not None:
                satisfied[row] = torch.from_numpy(self.attributes.satisfied(decision.request.conditions))
        return satisfied

    def _prediction_of_prefixes(self, rows: slice) -> Prediction:
        """What the model predicts after some of the sampled prefixes, [b, N]."""
        prefixes = self.prefixes
        return self.model.predict(prefixes.histories[rows], prefixes.purchases[rows], prefixes.profiles[rows])

    def _clicks_before(self, decisions: Sequence[Decision]) -> Tensor:
        """How often each decision's user took each item before those that the prompt shows, int32 [B, N]."""
        return torch.from_numpy(click_counts([decision.prior for decision in decisions], self.model.num_items))

    def _profiles(self, decisions: Sequence[Decision]) -> np.ndarray:
        """Profile words of each decision's user, int64 [B, P]; 0 (unknown) for a decision without `user`."""
        words = np.zeros((len(decisions), self.profiles.shape[1]), dtype=np.int64)
        for row, decision in enumerate(decisions):
            user = decision.user
            if user is None:
                continue
            if not 0 <= user < len(self.profiles):
                raise DataError(
                    f"Decision {row} is of user {user}, who is not in the log; expected 0 to {len(self.profiles) - 1}, "
                    "or a decision without `user` for somebody else."
                )
            words[row] = self.profiles[user]
        return words

    def _check_items(self, recommendations: Sequence[Recommendation]) -> None:
        last = len(self.popularity) - 1
        for number, recommendation in enumerate(recommendations):
            item = [] if recommendation.item == -1 else [recommendation.item]
            if wrong := [index for index in (*item, *recommendation.citations) if not 0 <= index <= last]:
                raise DataError(
                    f"Recommendation {number} names item index {wrong[0]}, which is not in the catalogue; expected 0 "
                    f"to {last}, or -1 for a completion without an item. Parse it with the vocabulary of this run."
                )


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """One value of each row: [B, N] and [B] to [B]."""
    return values.gather(1, index[:, None])[:, 0]
