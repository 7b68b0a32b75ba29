"""The reward that PPO receives: weighted parts over parsed recommendations, each also reported alone.

All parts are in one unit, nats of log-odds. What a user takes next is scored by how much likelier *this* user takes
and keeps it than anybody: `popularity_weight` of an item's own log-odds is taken off. Without that, the item that
sells best anywhere would out-earn what users really take: log P(item | user) of the true next item averages to minus
an entropy, and a constant answer can lie above it. With a weight of 1 it cannot: for calibrated probabilities the mean
of log P(item | user) - log P(item) over users is at most 0 for any fixed item (Jensen) and at least 0, the mutual
information, for the items that users take.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue.facts import FactBook
from llmrec.config import RewardConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision
from llmrec.errors import DataError
from llmrec.language.groundedness import check
from llmrec.language.prompt import Recommendation
from llmrec.reward.functions import (
    FAULTS,
    call,
    faults,
    finite,
    item_log_odds,
    load_callable,
    log_odds,
    places,
    standardised,
)
from llmrec.reward.protocol import RewardBatch
from reward_models.click_purchase import UNKNOWN
from reward_models.ensemble import load_reward_model
from reward_models.features import profile_words
from reward_models.judge import EaseJudge
from reward_models.reward_model import Rewarder

if TYPE_CHECKING:  # importing it takes seconds
    from reward_models.text.model import TextRewardModel


class CompositeReward:
    """Weighted parts of the item (what is likely, terms) and of the justification (grounded, faults, text, functions).

    Args:
        model: the click/purchase model.
        facts: what is known of the items.
        config: the weights.
        data: the log that the model was fitted on; item table, user table and training clicks are used.
        text: the text reward model, where one is configured.

    Raises:
        ConfigError: a term's column or a part's function cannot be used.
    """

    CLIP = 12.0  # nats: no single absurd value may outweigh a batch

    def __init__(
        self,
        model: Rewarder,
        facts: FactBook,
        config: RewardConfig,
        data: InteractionData,
        text: "TextRewardModel | None" = None,
    ):
        self.model = model
        self.facts = facts
        self.config = config
        self.text = text
        self.profiles = profile_words(data.users)
        self.histories, purchases, words = places(data)
        self.popularity = item_log_odds(
            lambda rows: model.log_rewards(
                self.histories[rows], purchases[rows], words[rows], config.conversion_weight
            ),
            self.histories,
            data.num_items,
        )
        self.terms = {f"item_{term.column}": standardised(data.items, term.column) for term in config.terms}
        self.functions = {part.callable: load_callable(part.callable) for part in config.parts}
        weighted = [term.weight * self.terms[f"item_{term.column}"] for term in config.terms]
        self.item_terms = torch.stack(weighted).sum(0) if weighted else torch.zeros(data.num_items)

    @classmethod
    def from_pretrained(
        cls, directory: Path, data: InteractionData, facts: FactBook, config: RewardConfig
    ) -> "CompositeReward":
        """The reward of a run, from what its reward stage left in `directory`.

        Raises:
            ConfigError, ModelError: a part of it cannot be used.
        """
        model, text = load_reward_model(directory, data.items["item_id"]), None
        if config.text is not None:
            from reward_models.text.model import TextRewardModel

            text = TextRewardModel.from_pretrained(directory / "text", data.items)
        return cls(model, facts, config, data, text)

    def __call__(self, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]) -> RewardBatch:
        """Scores recommendations.

        Args:
            recommendations: B parsed completions.
            decisions: what each answers, purchases included. The reward model knows a user's profile by `user`.

        Raises:
            DataError: an item outside the catalogue, or a user outside the log.
            RewardError: a part fails, or gives a value that is not one finite number a recommendation.
        """
        self._check_items(recommendations)
        config, items = self.config, torch.tensor([r.item for r in recommendations])
        whole, index = items >= 0, items.clamp(min=0)
        log_rewards = self.model.log_rewards(
            *_histories(decisions), self._profiles(decisions), config.conversion_weight
        ).cpu()
        parts = {
            "log_odds": torch.where(whole, log_odds(_pick(log_rewards, index)), -self.CLIP),
            "popularity": torch.where(whole, self.popularity[index], 0.0),
            **{name: torch.where(whole, values[index], 0.0) for name, values in self.terms.items()},
            **self._text_parts(recommendations, decisions),
        }
        for name, values in parts.items():
            finite(name, values)
        item = torch.where(whole, _pick(self.item_rewards(log_rewards), index), -self.CLIP * config.item_weight)
        text = config.groundedness_weight * parts["groundedness"]
        text = text - sum(getattr(config.penalties, name) * parts[name] for name in FAULTS if name != "had")
        if self.text is not None:
            text = text + config.text.weight * parts["text"]
        text = text + sum(part.weight * parts[part.callable] for part in config.parts)
        return RewardBatch(item - config.penalties.seen * parts["had"], text, parts)

    def _text_parts(
        self, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]
    ) -> dict[str, Tensor]:
        histories = [set(decision.history.tolist()) for decision in decisions]
        pairs = list(zip(recommendations, histories, strict=True))
        found = [faults(recommendation, history, self.config.penalties) for recommendation, history in pairs]
        parts = {name: torch.tensor([fault[name] for fault in found]) for name in FAULTS}
        parts["groundedness"] = torch.tensor([check(self.facts, *pair).score for pair in pairs])
        if self.text is not None:
            parts["text"] = self.text.scores(recommendations, decisions).clamp(-self.CLIP, self.CLIP)
        for name, function in self.functions.items():
            parts[name] = call(name, function, recommendations, decisions)
        return parts

    def item_rewards(self, log_rewards: Tensor, popularity: Tensor | None = None) -> Tensor:
        """Weighted rewards of all items, terms included, [..., N].

        Args:
            log_rewards: of all items, [..., N].
            popularity: the same model's log-odds of each item, whoever the user is, [N]; None: of `self.model`.
        """
        popularity = self.popularity if popularity is None else popularity
        lift = log_odds(log_rewards) - self.config.popularity_weight * popularity.to(log_rewards.device)
        terms = self.item_terms.to(log_rewards.device)
        return self.config.item_weight * lift.clamp(-self.CLIP, self.CLIP) + terms

    def judged(self, judge: EaseJudge) -> Callable[[Sequence[np.ndarray]], Tensor]:
        """Weighted rewards of all items after histories, [B] to [B, N], with a judge in the place of the model.

        Its own popularity is taken off: what the model gets wrong about an item must not reach the judge.
        """
        weight = self.config.conversion_weight
        popularity = item_log_odds(
            lambda rows: judge.log_rewards(self.histories[rows], weight), self.histories, len(self.popularity)
        )
        return lambda histories: self.item_rewards(judge.log_rewards(histories, weight).cpu(), popularity)

    def decisions(self, decisions: Sequence[Decision]) -> list[Tensor]:
        """Weighted item rewards of all N items after each shown item of each decision, per decision [J, N].

        The model reads what the prompt shows; of `prior` it knows only that it is had.

        Raises:
            DataError: a user outside the log.
            RewardError: the click/purchase model gives what is no finite number.
        """
        lengths = torch.tensor([len(decision.items) for decision in decisions])
        width = int(lengths.max())
        items = torch.zeros(len(decisions), width, dtype=torch.int64)
        purchased = torch.full_like(items, UNKNOWN)
        had = torch.zeros(len(decisions), self.model.config.num_items, dtype=torch.bool)
        for b, decision in enumerate(decisions):
            shown = len(decision.items)
            items[b, :shown] = torch.as_tensor(np.asarray(decision.items, dtype=np.int64))
            if decision.purchased is not None:
                purchased[b, :shown] = torch.as_tensor(np.asarray(decision.purchased)[-shown:].astype(np.int64))
            had[b, np.asarray(decision.prior, dtype=np.int64)] = True
        mask = torch.arange(width) < lengths[:, None]
        weight = self.config.conversion_weight
        log_rewards = self.model.log_rewards_packed(items, purchased, mask, had, self._profiles(decisions), weight)
        shown = [r[:length] for r, length in zip(log_rewards, lengths.tolist(), strict=True)]
        return [finite("log_odds", self.item_rewards(r)) for r in shown]

    def _profiles(self, decisions: Sequence[Decision]) -> np.ndarray:
        """Profile words of each decision's user, int64 [B, P]; 0, not known, for a decision without `user`."""
        words = np.zeros((len(decisions), self.profiles.shape[1]), dtype=np.int64)
        for b, decision in enumerate(decisions):
            user = decision.user
            if user is None:
                continue
            if not 0 <= user < len(self.profiles):
                raise DataError(
                    f"Decision {b} is of user {user}, who is not in the log; expected 0 to {len(self.profiles) - 1}, "
                    "or a decision without `user` for somebody else."
                )
            words[b] = self.profiles[user]
        return words

    def _check_items(self, recommendations: Sequence[Recommendation]) -> None:
        last = len(self.popularity) - 1
        for place, recommendation in enumerate(recommendations):
            named = [recommendation.item, *recommendation.citations][recommendation.item == -1 :]
            if wrong := [item for item in named if not 0 <= item <= last]:
                raise DataError(
                    f"Recommendation {place} names item index {wrong[0]}, which is not in the catalogue; expected 0 to "
                    f"{last}, or -1 for a completion without an item. Parse it with the vocabulary of this run."
                )


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """One value a row: [B, N], [B] -> [B]."""
    return values.gather(1, index[:, None])[:, 0]


def _histories(decisions: Sequence[Decision]) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    purchased = [None if d.purchased is None else np.asarray(d.purchased, dtype=bool) for d in decisions]
    return [decision.history for decision in decisions], purchased
