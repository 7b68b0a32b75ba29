"""The catalogue as clients see it: items by id, by words of their title and by category."""

from collections.abc import Sequence

import numpy as np

from llmrec.catalogue.names import folded
from llmrec.errors import nearest
from llmrec.recommend import Recommender
from llmrec.serving.errors import ApiError
from llmrec.serving.messages import Item

MOST_COMPARED = 1000  # names that an unknown one is compared with at most, which takes milliseconds


class Items:
    """The items of a recommender, by index 0 to N-1.

    Args:
        recommender: the model with its catalogue.

    Attributes:
        ids: id of each item, [N].
        titles: title of each item, [N].
        categories: the F categories of the catalogue.
        has_category: which of them each item has, bool [N, F].
        representatives: one of the items that look like each item, the same for all of them, int64 [N].
    """

    def __init__(self, recommender: Recommender):
        self._recommender = recommender
        self.ids = recommender.policy.vocabulary.item_ids
        self.titles = recommender.policy.vocabulary.titles
        self._folded = [folded(title) for title in self.titles]
        self.representatives = np.array([recommender.names.representative(item) for item in range(len(self.ids))])
        facts = recommender.policy.facts
        columns = [column for column, fact in enumerate(facts.facts) if fact.kind == "category"]
        self.categories = [facts.facts[column].value for column in columns]
        self.has_category = facts.on_host.own_facts[:, columns].cpu().numpy().astype(bool)

    def __len__(self) -> int:
        return len(self.ids)

    def indices(self, item_ids: Sequence[str]) -> list[int]:
        """Finds items by id.

        Raises:
            ApiError: there is no such item. In a small catalogue, the message suggests the most similar id.
        """
        names = self._recommender.names
        found = [names.of_id(item_id) for item_id in item_ids]
        for item_id, items in zip(item_ids, found, strict=True):
            if not items:
                # The search compares the id with all others. In a large catalogue, clients could keep the server busy.
                near = nearest(item_id, self.ids) if len(self) <= MOST_COMPARED else None
                hint = f"; did you mean {near}?" if near else ". `GET /items` lists all."
                message = f"There is no item with the id {item_id} in the catalogue{hint}"
                raise ApiError(404, "unknown_item", message)
        return [items[0] for items in found]

    def known(self, item_ids: Sequence[str]) -> list[int]:
        """Indices of the items that are in the catalogue, in order."""
        names = self._recommender.names
        return [item for item_id in item_ids for item in names.of_id(item_id)]

    def without(self, categories: Sequence[str]) -> list[int]:
        """Indices of the items that have none of some categories.

        Raises:
            ApiError: there is no such category.
        """
        return np.flatnonzero(~self.has_category[:, self._columns(categories)].any(1)).tolist()

    def find(self, words: str | None, category: str | None) -> list[int]:
        """Indices of the items whose title contains some words and that have a category; None allows any.

        Raises:
            ApiError: there is no such category.
        """
        fits = np.ones(len(self), dtype=bool)
        if category is not None:
            fits &= self.has_category[:, self._columns([category])[0]]
        wanted = folded(words or "")
        return [item for item in np.flatnonzero(fits).tolist() if wanted in self._folded[item]]

    def describe(self, items: Sequence[int]) -> list[Item]:
        """Items as clients see them."""
        return [Item(item=self.ids[item], title=self.titles[item], categories=self.of_item(item)) for item in items]

    def of_item(self, item: int) -> list[str]:
        """Categories of an item."""
        return [self.categories[column] for column in np.flatnonzero(self.has_category[item]).tolist()]

    def _columns(self, categories: Sequence[str]) -> list[int]:
        for category in categories:
            if category not in self.categories:
                near = nearest(category, self.categories) if len(self.categories) <= MOST_COMPARED else None
                hint = f" Did you mean {near}?" if near else f" There are {', '.join(self.categories[:20]) or 'none'}."
                raise ApiError(404, "unknown_category", f"There is no category {category} in the catalogue.{hint}")
        return [self.categories.index(category) for category in categories]
