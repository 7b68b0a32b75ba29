"""Recommendations by a trained agent: it observes what a person has clicked, and its action ranks the catalogue."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llmrec.agents.kit import Kit
from llmrec.agents.language import LanguagePolicy
from llmrec.agents.registry import contenders
from llmrec.agents.report import AGENTS_REPORT
from llmrec.agents.stage import FOLDER, RESULT_FILE, agent_folder
from llmrec.catalogue.lookup import items_named, items_with_ids, user_with_id
from llmrec.catalogue.names import NameIndex, distinct_names
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.profiles import NEW_USER, profile_texts
from llmrec.errors import CatalogueError, RunError, UserError, nearest
from llmrec.files import read_json
from llmrec.recommend import RankedItem
from llmrec.requests.request import Request
from llmrec.run import Run
from llmrec.simulator.people import People
from llmrec.simulator.policies import Scores
from llmrec.simulator.stage import FOLDER as WORLDS
from llmrec.simulator.stage import PLANS
from llmrec.simulator.world import World, load_world, profile_features

BEST = "best"  # stands for the agent that the report chose


class AgentRecommender:
    """Recommends with an agent that was trained in the first world of a run.

    Args:
        policy: the agent's scores of all items.
        world: its world, which says what an observation holds.
        data: the prepared log.
        texts: what a prompt says of each user of the log.
    """

    def __init__(self, policy: Scores, world: World, data: InteractionData, texts: Sequence[str] = ()) -> None:
        self.policy = policy
        self.world = world
        self.data = data
        self.names = NameIndex(distinct_names(data.items), data.items["item_id"].astype(str).tolist())
        self._profiles = profile_features(data.users)
        self._texts = texts

    @classmethod
    def from_run(cls, run: Run, name: str) -> "AgentRecommender":
        """Loads an agent of a run, of the training seed that was best on training users.

        Args:
            run: a run with trained agents.
            name: name of the agent, or `best`.

        Raises:
            RunError: there are no trained agents, or none of that name.
        """
        report = run.directory / FOLDER / AGENTS_REPORT
        if not report.is_file():
            raise RunError(f"{run.directory} has no trained agents. Run `llmrec agents {run.directory}` first.")
        found = read_json(report)
        name = found["best"]["name"] if name == BEST else name
        every = {one.name: one for one in contenders(run.config.agents.names, run.config.agents.gamma)}
        if name not in every:
            similar = nearest(name, every)
            hint = f"; did you mean {similar}?" if similar else "."
            raise RunError(f"There is no agent {name}. Trained are {', '.join(every)}{hint}")
        world = PLANS[0].name
        results = [(_validation(run, world, name, seed), -seed) for seed in range(found["seeds"])]
        folder = agent_folder(run, world, name, -max(results)[1])
        data = load_data(run.path("data"))
        texts = profile_texts(data.users, run.config.catalogue.user_attributes)
        home = load_world(run.directory / WORLDS / world)
        return cls(Kit.of(run, data).load(every[name], home, folder), home, data, texts)

    def resolve_titles(self, titles: Sequence[str]) -> list[int]:
        """Items by title; see `items_named`."""
        return items_named(self.names, titles)

    def resolve_ids(self, item_ids: Sequence[str]) -> list[int]:
        """Items by id; see `items_with_ids`."""
        return items_with_ids(self.names, item_ids)

    def understand(self, request: str) -> Request:
        """Refuses a request.

        Raises:
            UserError: always.
        """
        raise UserError("Agents read no requests in words. Leave the request out, or recommend with an adapter.")

    def recommend(
        self,
        history: Sequence[int] | None = None,
        user: str | None = None,
        top_k: int = 5,
        exclude: Sequence[int] | None = None,
        request: str | None = None,
    ) -> list[RankedItem]:
        """The unseen items that the agent's action ranks highest at the start of a session, best first.

        Items that people cannot tell apart count as one, as in `Recommender.recommend`.

        Args:
            history: item indices of somebody who need not be in the event log, oldest first.
            user: id of a user of the event log, instead of a history.
            top_k: number of items. Fewer are returned if fewer are left.
            exclude: item indices that are not recommended.
            request: refused unless None; see `understand`.

        Raises:
            CatalogueError: the user is unknown, or no item is left to recommend.
            UserError: there is a request.
        """
        if request is not None:
            self.understand(request)
        index = None if user is None else user_with_id(self.data.user_index, user)
        items = np.array(history if index is None else self.data.histories[index], dtype=np.int64)
        profile = np.zeros(self._profiles.shape[1], np.float32) if index is None else self._profiles[index]
        people = self._alone(items, profile)
        scores = self._policy_for(index)(people, people.reset(0, 1))[0]
        left_out = [other for item in [*items.tolist(), *(exclude or [])] for other in self.names.alike(item)]
        left = np.setdiff1d(np.arange(len(scores)), left_out)
        if not len(left):
            raise CatalogueError("Every item was seen or excluded, so none is left to recommend.")
        best: dict[int, int] = {}
        for item in left[np.argsort(-scores[left], kind="stable")].tolist():
            best.setdefault(self.names.representative(item), item)
        chosen = list(best.values())[:top_k]
        return [RankedItem(self.names.ids[item], self.names.names[item], None, "", True) for item in chosen]

    def _policy_for(self, user: int | None) -> Scores:
        """The policy, with the words of a user of the log in the prompt of a language model, or of nobody."""
        if not isinstance(self.policy, LanguagePolicy):
            return self.policy
        return self.policy.alone(NEW_USER if user is None else self._texts[user])

    def _alone(self, items: np.ndarray, profile: np.ndarray) -> People:
        """A world in which one person lives, whose clicks are known."""
        population = replace(self.world.population, known=[items], profiles=profile[None])
        return People(population, self.world.people().behavior)


def _validation(run: Run, world: str, name: str, seed: int) -> float:
    return read_json(agent_folder(run, world, name, seed) / RESULT_FILE)["validation"]
