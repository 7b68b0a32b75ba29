"""Recommending to one person: the catalogue ranked by the policy, a justification for each of the best."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import stranger
from llmrec.data.profiles import NEW_USER, profile_texts
from llmrec.errors import CatalogueError
from llmrec.hub.client import find_adapter
from llmrec.language.groundedness import check
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.policy.ranking import item_scores
from llmrec.policy.saved import completion_length
from llmrec.run import Run


@dataclass(frozen=True)
class RankedItem:
    """One recommendation.

    Attributes:
        item_id: the event log's id.
        title: what people read.
        score: probability that the policy gives it, among all items that it may recommend.
        justification: what the policy says of it, with titles.
        grounded: every statement of the justification is true.
    """

    item_id: str
    title: str
    score: float
    justification: str
    grounded: bool


class Recommender:
    """A policy, and the log that it was trained on where that is at hand.

    Args:
        policy: of any device.
        max_new_tokens: tokens of item and justification.
        data: histories of known users; None: only people with a history of their own can be served.
    """

    def __init__(self, policy: RecPolicy, max_new_tokens: int, data: InteractionData | None = None):
        self.policy = policy.eval()
        self.max_new_tokens = max_new_tokens
        self.data = data
        self.profiles = profile_texts(data.users, policy.catalogue.user_attributes) if data else []

    @classmethod
    def from_run(cls, run: Run, adapter: str | None = None, quantized: bool = True) -> "Recommender":
        """Loads the policy of a run: of PPO if that stage has finished, else of SFT.

        Args:
            run: the run.
            adapter: `ppo` or `sft`, instead.
            quantized: False: the base in full precision, even if the adapter was trained on a quantised one.

        Raises:
            RunError: the stage has not finished.
        """
        policy = RecPolicy.from_pretrained(run.adapter(adapter), quantized=quantized)
        return cls(policy, run.config.ppo.response_length, load_data(run.path("data")))

    @classmethod
    def from_pretrained(cls, model: str | Path, revision: str | None = None, quantized: bool = True) -> "Recommender":
        """Loads a pushed or saved adapter, which brings its catalogue but no event log.

        Args:
            model: an adapter's directory, or `OWNER/NAME` on the hub.
            revision: branch, tag or commit on the hub.
            quantized: see `from_run`.

        Raises:
            UserError, ModelError: see `RecPolicy.from_pretrained`.
        """
        directory = find_adapter(model, revision)
        policy = RecPolicy.from_pretrained(directory, quantized=quantized)
        return cls(policy, completion_length(directory) or policy.completion_length)

    def resolve_titles(self, titles: list[str]) -> list[int]:
        """Item indices of titles (item ids where titles are withheld), whatever their case.

        Raises:
            CatalogueError: a title is not in the catalogue; the message names the nearest.
        """
        known = {title.casefold(): item for item, title in enumerate(self.policy.vocabulary.titles)}
        return [self._resolve(title, known) for title in titles]

    def _resolve(self, title: str, known: dict[str, int]) -> int:
        wanted = " ".join(title.split()).casefold()
        if wanted in known:
            return known[wanted]
        names = self.policy.vocabulary.titles
        inside = [names[item] for text, item in known.items() if wanted and wanted in text]
        near = [names[known[text]] for text in difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)]
        nearest = list(dict.fromkeys([*near[:1], *inside[:3], *near]))[:3]
        hint = "; did you mean " + " or ".join(f'"{name}"' for name in nearest) + "?" if nearest else "."
        raise CatalogueError(f'There is no item "{title}" in the catalogue{hint}')

    def recommend(
        self,
        history: list[int] | None = None,
        user: str | None = None,
        top_k: int = 5,
        exclude: list[int] | None = None,
    ) -> list[RankedItem]:
        """The most probable items, best first, none of which the person has had.

        Args:
            history: item indices, newest last, of someone who need not be in the log.
            user: id of a user of the log, instead of a history.
            top_k: how many; fewer come back if fewer are left.
            exclude: item indices not to recommend.

        Raises:
            CatalogueError: an unknown user, or nothing is left to recommend.
        """
        profile, items = self._who(history, user)
        decision = stranger(items, self.policy.catalogue.max_history, exclude or [], profile)
        scores = next(item_scores(self.policy, [decision]))[0]
        best, chosen = scores.exp().topk(min(top_k, len(scores)))
        chosen, best = chosen[best > 0], best[best > 0]
        prompts = pack(self.policy, [decision] * len(chosen)).to(self.policy.device)
        completions = generate(self.policy, prompts, self.max_new_tokens, first_items=chosen)
        return [
            RankedItem(
                self.policy.vocabulary.item_ids[item],
                self.policy.vocabulary.titles[item],
                float(score),
                recommendation.text(self.policy.vocabulary.titles),
                check(self.policy.facts, recommendation, set(items)).grounded,
            )
            for item, score, recommendation in zip(chosen.tolist(), best, parse(self.policy, completions), strict=True)
        ]

    def _who(self, history: list[int] | None, user: str | None) -> tuple[str, list[int]]:
        if user is None:
            return NEW_USER, list(history or [])
        if self.data is None:
            raise CatalogueError(f"A model without its run knows no users, so not {user}: give a history instead.")
        index = self.data.user_index.get(str(user))
        if index is None:
            near = difflib.get_close_matches(str(user), self.data.user_index, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "."
            raise CatalogueError(f"There is no user {user} among the {self.data.num_users} users of the log{hint}")
        return self.profiles[index], self.data.histories[index].tolist()
