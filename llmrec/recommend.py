"""Recommends items to one person: ranks the catalogue and writes a justification for each of the best items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from llmrec.catalogue.lookup import items_named, items_with_ids, user_with_id
from llmrec.catalogue.names import NameIndex
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decision, stranger
from llmrec.data.profiles import NEW_USER, profile_texts
from llmrec.distributed import own_device
from llmrec.errors import CatalogueError, ModelError
from llmrec.hub.client import find_adapter
from llmrec.language.groundedness import Statement, check, statements
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.policy.ranking import item_scores
from llmrec.policy.saved import completion_length
from llmrec.requests.reading import Reader
from llmrec.requests.request import Request
from llmrec.run import Run


@dataclass(frozen=True)
class RankedItem:
    """One recommendation.

    Attributes:
        item_id: the item's id in the event log.
        title: the item's title.
        score: probability of the item under the policy, among all items that may be recommended. None: the recommender
            has no probabilities.
        justification: the text that the policy writes for the item, "" without one.
        grounded: whether every statement of the justification is true.
        satisfies: whether the item satisfies what was recognized in the request; None without a recognized request.
    """

    item_id: str
    title: str
    score: float | None
    justification: str
    grounded: bool
    satisfies: bool | None = None


@dataclass(frozen=True)
class Justification:
    """Why an item is recommended.

    Attributes:
        text: the text that the policy writes.
        grounded: whether every statement of it is true.
        statements: its statements and the words between them, in order.
    """

    text: str
    grounded: bool
    statements: tuple[Statement, ...] = ()


class Recommender:
    """Recommends with a policy, to users of the event log or to people with a history of their own.

    Args:
        policy: the policy. It moves to the device of this process.
        max_new_tokens: tokens of an item and its justification at most.
        data: the prepared event log, or a function that reads it when a user of the log is first served. None if it
            is not at hand; then only people with a history can be served.
    """

    def __init__(
        self,
        policy: RecPolicy,
        max_new_tokens: int,
        data: InteractionData | Callable[[], InteractionData] | None = None,
    ):
        self.policy = policy.eval().to(own_device())
        self.max_new_tokens = max_new_tokens
        self._data = data

    @cached_property
    def data(self) -> InteractionData | None:
        """The prepared event log; None if it is not at hand."""
        return self._data() if callable(self._data) else self._data

    @cached_property
    def profiles(self) -> list[str]:
        """The profile of each user of the event log."""
        return [] if self.data is None else profile_texts(self.data.users, self.policy.catalogue.user_attributes)

    @classmethod
    def from_run(cls, run: Run, adapter: str | None = None, quantized: bool = True) -> "Recommender":
        """Loads the policy of a run.

        Args:
            run: the run.
            adapter: `ppo` or `sft`; None for `ppo` if that stage has finished, else `sft`.
            quantized: False to load the base model in full precision even if training quantized it.

        Raises:
            RunError: the stage that trains the adapter has not finished.
        """
        policy = RecPolicy.from_pretrained(run.adapter(adapter), quantized=quantized)
        return cls(policy, run.config.ppo.response_length, partial(load_data, run.path("data")))

    @classmethod
    def from_pretrained(cls, model: str | Path, revision: str | None = None, quantized: bool = True) -> "Recommender":
        """Loads a pushed or saved adapter. It includes the catalogue, but no event log.

        Args:
            model: directory of an adapter, or `OWNER/NAME` on the hub.
            revision: branch, tag or commit on the hub.
            quantized: see `from_run`.

        Raises:
            UserError, ModelError: see `RecPolicy.from_pretrained`.
        """
        directory = find_adapter(model, revision)
        policy = RecPolicy.from_pretrained(directory, quantized=quantized)
        return cls(policy, completion_length(directory) or policy.completion_length)

    @cached_property
    def names(self) -> NameIndex:
        """The names and ids of the catalogue."""
        return NameIndex(self.policy.vocabulary.titles, self.policy.vocabulary.item_ids)

    def resolve_titles(self, titles: Sequence[str]) -> list[int]:
        """Finds items by title: exactly, else without regard to case. An id stands for an item without such a title.

        Returns:
            Item indices, in the order of `titles`.

        Raises:
            CatalogueError: a title is not in the catalogue, or several items have it; the message lists candidates.
        """
        return items_named(self.names, titles)

    def resolve_ids(self, item_ids: Sequence[str]) -> list[int]:
        """Finds items by id.

        Returns:
            Item indices, in the order of `item_ids`.

        Raises:
            CatalogueError: there is no item with an id; the message suggests the most similar one.
        """
        return items_with_ids(self.names, item_ids)

    def recommend(
        self,
        history: Sequence[int] | None = None,
        user: str | None = None,
        top_k: int = 5,
        exclude: Sequence[int] | None = None,
        request: str | None = None,
    ) -> list[RankedItem]:
        """Recommends the most probable items, best first. Seen items are left out, unless the log's repeats were kept.

        Items that people cannot tell apart, because title, year, brand and category are equal, count as one: if one
        is seen or excluded, none is recommended, and at most one is in the result.

        Args:
            history: item indices of somebody who need not be in the event log, oldest first.
            user: id of a user of the event log, instead of a history.
            top_k: number of items. Fewer are returned if fewer are left.
            exclude: item indices that are not recommended.
            request: what the person asks for in words. The policy reads it; it filters nothing.

        Raises:
            CatalogueError: the user is unknown, no item is left to recommend, or none satisfies the request.
            UserError: the request cannot be read; see `understand`.
        """
        asked = None if request is None else self.understand(request)
        profile, items = self._profile_and_history(history, user)
        decision = self.decision(items, exclude or (), profile, asked)
        satisfies = self.satisfying(decision)
        scores = next(item_scores(self.policy, [decision]))[0].exp().cpu()
        chosen = self._best(scores, top_k)
        vocabulary = self.policy.vocabulary
        return [
            RankedItem(
                item_id=vocabulary.item_ids[item],
                title=vocabulary.titles[item],
                score=float(scores[item]),
                justification=reason.text,
                grounded=reason.grounded,
                satisfies=None if satisfies is None else bool(satisfies[item]),
            )
            for item, reason in zip(chosen, self.justify([decision] * len(chosen), chosen), strict=True)
        ]

    def decision(
        self,
        items: Sequence[int],
        exclude: Sequence[int] = (),
        profile: str = NEW_USER,
        request: Request | None = None,
    ) -> Decision:
        """The prompt of a person. Items that look like one that must not be recommended are left out as well.

        Args:
            items: indices of seen items, oldest first.
            exclude: indices of items that are not recommended.
            profile: what the prompt says of the person.
            request: what the person asks for.
        """
        seen = [] if self.policy.repeats else items
        left_out = {other for item in [*seen, *exclude] for other in self.names.alike(item)}
        return stranger(
            items,
            self.policy.catalogue.max_history,
            sorted(left_out - set(seen)),
            profile,
            request,
            self.policy.repeats,
        )

    def distinct(self, items: Sequence[int]) -> tuple[int, ...]:
        """A history as the policy was trained on: each item once, at its first click, unless repeats were kept."""
        return tuple(items if self.policy.repeats else dict.fromkeys(items))

    def justify(self, decisions: Sequence[Decision], items: Sequence[int]) -> list[Justification]:
        """Writes a justification for one item of each of B decisions.

        Args:
            decisions: the prompts, [B].
            items: item indices, [B].
        """
        prompts = pack(self.policy, decisions).to(self.policy.device)
        chosen = torch.tensor(items, dtype=torch.long)
        completions = generate(self.policy, prompts, self.max_new_tokens, first_items=chosen)
        titles = self.policy.vocabulary.titles
        facts = self.policy.facts
        justifications: list[Justification] = []
        for decision, recommendation in zip(decisions, parse(self.policy, completions), strict=True):
            shown = set(map(int, decision.items))
            justifications.append(
                Justification(
                    text=recommendation.text(titles),
                    grounded=check(facts, recommendation, shown).grounded,
                    statements=tuple(statements(facts, recommendation, shown)),
                )
            )
        return justifications

    def understand(self, request: str) -> Request:
        """The request with the conditions that are recognized in it.

        The policy reads the words themselves, so it may follow a request in which nothing is recognized.

        Raises:
            ModelError: the policy was trained without requests.
            UserError: the request is empty, too long or in another script.
        """
        return self._reader.read(request)

    @cached_property
    def _reader(self) -> Reader:
        attributes = self.policy.attributes
        if attributes is None:
            raise ModelError(
                "This adapter was trained without requests, so it reads none. Leave the request out, or train with "
                "`sft.requests` above 0, for instance 0.5."
            )
        return Reader(attributes)

    def satisfying(self, decision: Decision) -> np.ndarray | None:
        """Which items satisfy what was recognized in the request of a decision, bool [N]; None if nothing was.

        Raises:
            CatalogueError: no item that may be recommended does.
        """
        request = decision.request
        if request is None or not request.conditions:
            return None
        satisfied = self._reader.attributes.satisfied(request.conditions)
        available = np.ones_like(satisfied)
        available[decision.masked] = False
        self._reader.check_satisfiable(request, available)
        return satisfied

    def _best(self, scores: torch.Tensor, count: int) -> list[int]:
        """The possible items of the highest score, one of those that people cannot tell apart.

        Args:
            scores: probability of each item, [N].
            count: number of items at most.
        """
        chosen: dict[int, int] = {}
        for item in scores.argsort(descending=True, stable=True).tolist():
            if len(chosen) == count or scores[item] <= 0:
                break
            chosen.setdefault(self.names.representative(item), item)
        return list(chosen.values())

    def _profile_and_history(self, history: Sequence[int] | None, user: str | None) -> tuple[str, list[int]]:
        if user is None:
            return NEW_USER, list(history or [])
        if self.data is None:
            raise CatalogueError(
                f"An adapter loaded without a run has no user data, so user {user} is not known: give a history "
                "instead."
            )
        index = user_with_id(self.data.user_index, user)
        return self.profiles[index], self.data.histories[index].tolist()
