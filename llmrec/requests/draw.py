"""Draws requests that are true of a given item: for training, and for each kind of test."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

from llmrec.data.decision import Decisions
from llmrec.requests.attributes import Attributes
from llmrec.requests.request import LIKE, Condition, Request
from llmrec.requests.split import is_held_out_pair, is_held_out_value
from llmrec.requests.wording import Wording, english

Kind = Literal["trained_wording", "unseen_wording", "unseen_pair", "unseen_value"]
KINDS: tuple[Kind, ...] = ("trained_wording", "unseen_wording", "unseen_pair", "unseen_value")
NEGATED = 0.25  # share of conditions that may be negated and are
TWO = 0.5  # share of requests of two conditions
LIKENESS = 0.15  # share of stated conditions that name a similar item, where the history holds one
LIST = 10  # items that satisfy a request at least; fewer in catalogues of less than a hundred items
TRIES = 30  # draws until one fits


class RequestSampler:
    """Draws requests that an item satisfies.

    Args:
        attributes: attributes of the items.
        wording: the grammar.
    """

    def __init__(self, attributes: Attributes, wording: Wording | None = None):
        self.attributes = attributes
        self.wording = wording or english()
        self.fewest = max(1, min(LIST, attributes.num_items // 10))

    def draw(
        self,
        item: int,
        history: Sequence[int],
        generator: random.Random,
        kind: Kind = "trained_wording",
        count: int | None = None,
    ) -> Request | None:
        """A request that is true of an item.

        Args:
            item: the item that satisfies it.
            history: item indices that the person has seen; `like` names one of them.
            generator: draws conditions and words.
            kind: `trained_wording` draws what training draws. Each other kind holds one thing that training never does:
                a sentence, a pair of conditions, or a value.
            count: number of conditions; None draws one or two.

        Returns:
            the request; None if no request of the kind is true of the item.
        """
        number = count or (2 if generator.random() < TWO else 1)
        number = {"unseen_pair": 2, "unseen_value": 1}.get(kind, number)
        for _ in range(TRIES):
            conditions = self._conditions(item, history, generator, number, kind == "unseen_value")
            if not conditions or not self._is_of_kind(conditions, kind):
                continue
            if self.attributes.satisfied(conditions).sum() >= self.fewest:
                words = self.wording.sentence(conditions, "test" if kind == "unseen_wording" else "train", generator)
                return Request(words, tuple(conditions))
        return None

    def _conditions(
        self, item: int, history: Sequence[int], generator: random.Random, number: int, held_out: bool
    ) -> list[Condition]:
        """Some different conditions that hold for an item, fewer if it has none left; the first is not negated."""
        found: list[Condition] = []
        for position in range(number):
            negated = (position > 0 or number == 1) and generator.random() < NEGATED
            draw = self._negated if negated else self._stated
            condition = draw(item, history, generator, held_out)
            if condition is None or condition.key in [other.key for other in found]:
                return []
            if condition.attribute == LIKE and LIKE in [other.attribute for other in found]:
                return []
            found.append(condition)
        return found

    def _is_of_kind(self, conditions: list[Condition], kind: Kind) -> bool:
        return len(conditions) < 2 or is_held_out_pair(*conditions) == (kind == "unseen_pair")

    def _stated(self, item: int, history: Sequence[int], generator: random.Random, held_out: bool) -> Condition | None:
        """A condition that an item meets by having a value; values that few items have are drawn more often."""
        keys = [key for key in self.attributes.of_item[item] if is_held_out_value(*key) == held_out]
        weights = [-math.log(len(self.attributes.members[key]) / self.attributes.num_items) for key in keys]
        alike = self.attributes.alike(item)
        titles = [self.attributes.titles[other] for other in history if alike[other]]
        titles = [title for title in titles if is_held_out_value(LIKE, title) == held_out]
        if titles and (not keys or generator.random() < LIKENESS):
            return Condition(LIKE, generator.choice(titles))
        return Condition(*generator.choices(keys, weights)[0]) if sum(weights) > 0 else None

    def _negated(self, item: int, history: Sequence[int], generator: random.Random, held_out: bool) -> Condition | None:
        """A condition that an item meets by lacking a value; values that many items have are drawn more often."""
        attributes = sorted({attribute for attribute, _ in self.attributes.of_item[item]} & self._exclusions.keys())
        if not attributes:
            return None
        attribute = generator.choice(attributes)
        values, cumulated = self._exclusions[attribute]
        value = generator.choices(values, cum_weights=cumulated)[0]
        has = (attribute, value) in self.attributes.of_item[item]
        return None if has or is_held_out_value(attribute, value) != held_out else Condition(attribute, value, True)

    @cached_property
    def _exclusions(self) -> dict[str, tuple[list[str], list[float]]]:
        """Values of each attribute, and their cumulated weights as exclusions: minus log of the share without it."""
        found: dict[str, tuple[list[str], list[float]]] = {}
        for (attribute, value), items in self.attributes.members.items():
            lacking = 1 - len(items) / self.attributes.num_items
            if not lacking:
                continue
            values, cumulated = found.setdefault(attribute, ([], []))
            values.append(value)
            cumulated.append((cumulated[-1] if cumulated else 0.0) - math.log(lacking))
        return found


def ask(decisions: Decisions, attributes: Attributes | None, share: float, seed: int) -> Decisions:
    """The same decisions, where a share of them has a request as in training.

    A request is true of the item that the user took. If that is unknown, it is true of the newest item before.

    Args:
        decisions: M decisions.
        attributes: attributes of the items. None: nobody asks for anything.
        share: probability of a request.
        seed: seed of the draws. Nothing else is drawn from the same generator.
    """
    if attributes is None:
        return decisions
    sampler = RequestSampler(attributes)
    generator = random.Random(f"requests {seed}")
    requests: list[Request | None] = []
    for history, target in zip(decisions.histories, decisions.targets.tolist(), strict=True):
        wanted = generator.random() < share
        shown = history[-decisions.max_history :].tolist()
        item = target if target >= 0 else shown[-1] if shown else -1
        requests.append(sampler.draw(item, shown, generator) if wanted and item >= 0 else None)
    return replace(decisions, requests=requests)
