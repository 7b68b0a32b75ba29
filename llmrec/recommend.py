"""Recommends items to one person: ranks the catalogue and writes a justification for each of the best items."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import stranger
from llmrec.data.profiles import NEW_USER, profile_texts
from llmrec.errors import CatalogueError, nearest
from llmrec.hub.client import find_adapter
from llmrec.language.groundedness import check
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.policy.ranking import item_scores
from llmrec.policy.saved import completion_length
from llmrec.run import Run

SUGGESTED_TITLES = 3  # titles that an error message suggests at most


@dataclass(frozen=True)
class RankedItem:
    """One recommendation.

    Attributes:
        item_id: the item's id in the event log.
        title: the item's title.
        score: probability of the item under the policy, among all items that the person has not seen.
        justification: the text that the policy writes for the item.
        grounded: whether every statement of the justification is true.
    """

    item_id: str
    title: str
    score: float
    justification: str
    grounded: bool


class Recommender:
    """Recommends with a policy, to users of the event log or to people with a history of their own.

    Args:
        policy: the policy, on any device.
        max_new_tokens: tokens of an item and its justification at most.
        data: the prepared event log. None if it is not at hand; then only people with a history can be served.
    """

    def __init__(self, policy: RecPolicy, max_new_tokens: int, data: InteractionData | None = None):
        self.policy = policy.eval()
        self.max_new_tokens = max_new_tokens
        self.data = data
        self.profiles = profile_texts(data.users, policy.catalogue.user_attributes) if data else []

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
        return cls(policy, run.config.ppo.response_length, load_data(run.path("data")))

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

    def resolve_titles(self, titles: Sequence[str]) -> list[int]:
        """Finds items by title, without regard to case. Where titles are withheld, item ids stand for them.

        Returns:
            Item indices, in the order of `titles`.

        Raises:
            CatalogueError: a title is not in the catalogue; the message suggests similar ones.
        """
        index_of = {title.casefold(): item for item, title in enumerate(self.policy.vocabulary.titles)}
        return [self._resolve(title, index_of) for title in titles]

    def _resolve(self, title: str, index_of: dict[str, int]) -> int:
        wanted = " ".join(title.split()).casefold()
        if wanted in index_of:
            return index_of[wanted]
        titles = self.policy.vocabulary.titles
        similar = [titles[index_of[key]] for key in similar_titles(wanted, list(index_of))]
        hint = "; did you mean " + " or ".join(f'"{name}"' for name in similar) + "?" if similar else "."
        raise CatalogueError(f'There is no item "{title}" in the catalogue{hint}')

    def recommend(
        self,
        history: Sequence[int] | None = None,
        user: str | None = None,
        top_k: int = 5,
        exclude: Sequence[int] | None = None,
    ) -> list[RankedItem]:
        """Recommends the most probable items that the person has not seen, best first.

        Args:
            history: item indices of somebody who need not be in the event log, oldest first.
            user: id of a user of the event log, instead of a history.
            top_k: number of items. Fewer are returned if fewer are left.
            exclude: item indices that are not recommended.

        Raises:
            CatalogueError: the user is unknown, or no item is left to recommend.
        """
        profile, items = self._profile_and_history(history, user)
        decision = stranger(items, self.policy.catalogue.max_history, exclude or [], profile)
        log_probs = next(item_scores(self.policy, [decision]))[0]
        scores, chosen = log_probs.exp().topk(min(top_k, len(log_probs)))
        is_possible = scores > 0
        scores, chosen = scores[is_possible], chosen[is_possible]

        prompts = pack(self.policy, [decision] * len(chosen)).to(self.policy.device)
        completions = generate(self.policy, prompts, self.max_new_tokens, first_items=chosen)
        vocabulary = self.policy.vocabulary
        return [
            RankedItem(
                item_id=vocabulary.item_ids[item],
                title=vocabulary.titles[item],
                score=float(score),
                justification=recommendation.text(vocabulary.titles),
                grounded=check(self.policy.facts, recommendation, set(items)).grounded,
            )
            for item, score, recommendation in zip(
                chosen.tolist(), scores, parse(self.policy, completions), strict=True
            )
        ]

    def _profile_and_history(self, history: Sequence[int] | None, user: str | None) -> tuple[str, list[int]]:
        if user is None:
            return NEW_USER, list(history or [])
        if self.data is None:
            raise CatalogueError(
                f"An adapter loaded without a run has no user data, so user {user} is not known: give a history "
                "instead."
            )
        index = self.data.user_index.get(str(user))
        if index is None:
            similar = nearest(str(user), self.data.user_index)
            hint = f"; did you mean {similar}?" if similar else "."
            raise CatalogueError(f"There is no user {user} among the {self.data.num_users} users of the log{hint}")
        return self.profiles[index], self.data.histories[index].tolist()


def similar_titles(wanted: str, titles: list[str]) -> list[str]:
    """Titles to suggest instead of one that does not exist: the most similar first, then those that contain it."""
    similar = difflib.get_close_matches(wanted, titles, n=SUGGESTED_TITLES, cutoff=0.5)
    containing = [title for title in titles if wanted and wanted in title][:SUGGESTED_TITLES]
    return list(dict.fromkeys([*similar[:1], *containing, *similar]))[:SUGGESTED_TITLES]
