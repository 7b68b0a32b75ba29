"""`People`: the users of a world, advanced as one batch. They click, buy, get bored, leave and come back.

A life is one user from the first session to the end of the horizon or to churn. In each step a life is shown a slate.
The choice among its K items and "nothing" is a multinomial logit. A session ends by a hazard that grows with its length
and with missed clicks. After a session the user comes back after some days, or never.
"""

from collections.abc import Sequence

import numpy as np

from llmrec.errors import CatalogueError, DataError, RewardError
from llmrec.simulator.behavior import Behavior, satisfaction, sigmoid
from llmrec.simulator.draws import Purpose, keys, uniforms
from llmrec.simulator.state import NEVER, REWARD_PARTS, Outcome, Population, State

CLICK_MEMORY = 0.9  # share of the recent click rate that remains after a step


class People:
    """The users of a world as one batch.

    Args:
        population: who they are.
        behavior: how they act.
        weights: weights of the reward's parts, in the order of `REWARD_PARTS`.
        history: number H of recent clicks that a state holds.
        users: users whose lives are lived; None for all of them.

    Raises:
        RewardError: a value of an item or a weight is not finite.
        DataError: nobody comes back after an average session, or there are no users.
    """

    def __init__(
        self,
        population: Population,
        behavior: Behavior,
        weights: Sequence[float] = (1.0, 1.0, 0.0),
        history: int = 8,
        users: np.ndarray | None = None,
    ) -> None:
        self.population = population
        self.behavior = behavior
        self.weights = np.asarray(weights, dtype=np.float64)
        self.history = history
        self.users = np.arange(len(population.known)) if users is None else users
        self.num_items = population.tastes.num_items
        self._gap_quantiles = np.asarray(behavior.gap_quantiles, dtype=np.float64)
        self._gap_probabilities = np.linspace(0.0, 1.0, len(self._gap_quantiles))
        self._seed = 0
        self._check()

    def _check(self) -> None:
        values = np.asarray(self.population.values, dtype=np.float64)
        if not np.isfinite(values).all():
            worst = int(np.flatnonzero(~np.isfinite(values))[0])
            raise RewardError(
                f"The value of item {worst} is {values[worst]}; expected a finite number, because the reward of a "
                "purchase is that value. Correct the price in the item table."
            )
        if not np.isfinite(self.weights).all():
            raise RewardError(
                f"The weights of the reward's parts {REWARD_PARTS} are {self.weights.tolist()}; expected finite "
                "numbers. Correct `simulator.rewards`."
            )
        if not len(self.users):
            raise DataError("The world has no users; expected at least one. Use a longer log.")
        returning = float(sigmoid(np.asarray(self.behavior.return_intercept)))
        if returning < 0.01 and self.behavior.return_satisfaction <= 0:
            raise DataError(
                f"Everybody leaves for good: after any session a user comes back with probability {returning:.4f}. "
                "Expected at least 0.01. Use a log in which users have several sessions, a shorter "
                "`simulator.session_gap`, or set `simulator.assumptions.return_rate`."
            )

    # --- lives ---

    def reset(self, seed: int, n: int, first: int = 0) -> State:
        """Starts n lives.

        Args:
            seed: seed of the world. Lives of the same seed and number are the same under every policy.
            n: number of lives.
            first: number of the first life.

        Returns:
            their state. Each begins with the known clicks of its user.
        """
        self._seed = seed
        rows = np.arange(n)
        state = State(
            life=first + rows,
            user=np.zeros(n, np.int64),
            steps=np.zeros(n, np.int64),
            session_steps=np.zeros(n, np.int64),
            session_purchases=np.zeros(n, np.int64),
            sessions=np.ones(n, np.int64),
            day=np.zeros(n),
            last_gap=np.zeros(n),
            taken=np.zeros(n, np.int64),
            recent=np.full((n, self.history), self.num_items),
            last_click=np.full((n, self.num_items), NEVER, np.float32),
            fatigue=np.zeros((n, self.population.categories.shape[1]), np.float32),
            click_rate=np.full(n, self.behavior.click_rate),
            over=np.zeros(n, bool),
        )
        self._begin(state, rows)
        return state

    def restart(self, state: State, rows: np.ndarray, lives: np.ndarray) -> None:
        """Replaces lives by new ones.

        Args:
            state: changed in place.
            rows: which lives, int64 [r].
            lives: numbers of the new lives, int64 [r].
        """
        state.life[rows] = lives
        for name in ("steps", "session_steps", "session_purchases", "day", "last_gap", "fatigue", "over"):
            getattr(state, name)[rows] = 0
        state.sessions[rows] = 1
        state.recent[rows] = self.num_items
        state.last_click[rows] = NEVER
        state.click_rate[rows] = self.behavior.click_rate
        self._begin(state, rows)

    def _begin(self, state: State, rows: np.ndarray) -> None:
        """Draws the users of new lives and gives them their known clicks."""
        draws = uniforms(keys(self._seed, state.life[rows], np.zeros(len(rows), np.int64)), Purpose.USER)
        state.user[rows] = self.users[(draws * len(self.users)).astype(np.int64)]
        for row in rows.tolist():
            known = self.population.known[int(state.user[row])]
            state.last_click[row, known] = 0.0
            state.taken[row] = len(known)
            newest = known[-self.history :]
            if len(newest):
                state.recent[row, self.history - len(newest) :] = newest

    # --- steps ---

    def step(self, state: State, slates: np.ndarray) -> Outcome:
        """Shows each life a slate.

        Args:
            state: changed in place.
            slates: items, best position first, int64 [n, K].

        Raises:
            CatalogueError: an item is unknown, or a slate holds an item twice or is longer than the catalogue.
        """
        slates = self._checked(state, slates)
        n, width = slates.shape
        behavior = self.behavior
        live = ~state.over
        key = keys(self._seed, state.life, state.steps)
        utility = self.utilities(state, slates) / behavior.noise
        utility += np.log(behavior.position) * np.arange(width, dtype=np.float32)
        # The uniform number is compared with "nothing" first, so a higher utility never turns a click into a miss.
        weights = np.exp(np.clip(utility - behavior.no_click / behavior.noise, -60.0, 60.0))
        bounds = (1.0 + np.cumsum(weights, axis=1)) / (1.0 + weights.sum(axis=1))[:, None]
        draw = uniforms(key, Purpose.CHOICE)
        place = (draw[:, None] >= bounds).sum(axis=1)
        is_click = live & (draw >= 1.0 / (1.0 + weights.sum(axis=1)))
        clicked = np.where(is_click, slates[np.arange(n), np.minimum(place, width - 1)], -1)
        shown = self.population.categories[slates].mean(axis=1)
        return self._advance(state, key, clicked, shown, behavior.click_rate)

    def browse(self, state: State) -> Outcome:
        """Lets each life choose an unseen item from the whole catalogue by itself, as in a log of clicks.

        Args:
            state: changed in place.
        """
        key = keys(self._seed, state.life, state.steps)
        weights = self.all_utilities(state) / self.behavior.noise
        weights[state.seen] = -np.inf
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        bounds = np.cumsum(weights, axis=1, dtype=np.float64)
        draw = uniforms(key, Purpose.CHOICE) * bounds[:, -1]
        item = np.minimum((draw[:, None] >= bounds).sum(axis=1), self.num_items - 1)
        clicked = np.where(state.over, -1, item)
        return self._advance(state, key, clicked, self.population.categories[item], 1.0)

    def utilities(self, state: State, items: np.ndarray) -> np.ndarray:
        """Utilities of some items at present, with satiation, float32 [n, K]."""
        rows = np.arange(len(items))[:, None]
        base = self.population.tastes.utilities(state.moments, items)
        tired = np.einsum("nkc,nc->nk", self.population.categories[items], state.fatigue)
        return base - self.behavior.category_satiation * tired - self._item_loss(state, state.last_click[rows, items])

    def all_utilities(self, state: State) -> np.ndarray:
        """Utilities of all items at present, with satiation, float32 [n, N]: what no recommender knows."""
        base = self.population.tastes.all_utilities(state.moments)
        tired = state.fatigue @ self.population.categories.T
        return base - self.behavior.category_satiation * tired - self._item_loss(state, state.last_click)

    def _item_loss(self, state: State, last_click: np.ndarray) -> np.ndarray:
        """Utility that items have lost by earlier clicks on them, shaped as `last_click`."""
        days = state.day[:, None].astype(np.float32) - last_click
        return np.float32(self.behavior.item_satiation) * np.exp(-days / np.float32(self.behavior.item_recovery))

    def _advance(
        self, state: State, key: np.ndarray, clicked: np.ndarray, shown: np.ndarray, expected: float
    ) -> Outcome:
        """What follows a choice: purchase, fatigue, patience, the end of the session, and the return.

        Args:
            state: changed in place.
            key: random keys of the step, uint64 [n].
            clicked: clicked item, -1 for none, int64 [n].
            shown: mean category row of the slate, float32 [n, C].
            expected: click rate that the user is used to.
        """
        behavior = self.behavior
        live = ~state.over
        rows = np.flatnonzero(clicked >= 0)
        purchased = np.zeros(len(clicked), bool)
        purchased[rows] = uniforms(key[rows], Purpose.PURCHASE) < self.purchase_probabilities(
            state.user[rows], clicked[rows], state.taken[rows]
        )
        state.last_click[rows, clicked[rows]] = state.day[rows]
        state.taken[rows] += 1
        state.recent[rows, :-1] = state.recent[rows, 1:]
        state.recent[rows, -1] = clicked[rows]
        memory = np.float32(behavior.category_memory)
        state.fatigue[live] = memory * state.fatigue[live] + (1 - memory) * shown[live]
        state.click_rate[live] = CLICK_MEMORY * state.click_rate[live] + (1 - CLICK_MEMORY) * (clicked >= 0)[live]
        state.steps += live
        state.session_steps += live
        state.session_purchases += purchased
        ended, returned, gap = self._end_sessions(state, key, live, expected)
        truncated = live & ~state.over & (state.steps >= behavior.max_steps)
        state.over |= truncated
        parts = np.zeros((len(clicked), len(REWARD_PARTS)))
        parts[:, 0] = clicked >= 0
        parts[rows, 1] = purchased[rows] * self.population.values[clicked[rows]]
        parts[:, 2] = returned
        reward = parts @ self.weights
        return Outcome(clicked, purchased, ended, returned, gap, state.over.copy(), truncated, parts, reward)

    def purchase_probabilities(self, users: np.ndarray, items: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """Probability that a click of a user on an item, after `taken` clicks, is a purchase, float [r]."""
        of_users, of_items = self.population.purchase_logits
        products = of_users[users] * of_items[items]
        return sigmoid(products[:, :-1].sum(axis=1) + products[:, -1] * np.log1p(taken))

    def _end_sessions(
        self, state: State, key: np.ndarray, live: np.ndarray, expected: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ends sessions, draws who comes back and when, and moves their clocks.

        Returns:
            whether the session ended, whether the user came back in time, and after how many days, each [n].
        """
        behavior = self.behavior
        missed = (expected - state.click_rate) / expected if expected < 1.0 else np.zeros(len(live))
        hazard = behavior.end_intercept + behavior.end_log_step * np.log(np.maximum(state.session_steps, 1))
        ended = live & (uniforms(key, Purpose.END) < sigmoid(hazard + behavior.patience * missed))
        rows = np.flatnonzero(ended)
        returned = np.zeros(len(live), bool)
        gap = np.zeros(len(live))
        pleased = satisfaction(
            state.session_purchases[rows], state.session_steps[rows], expected * behavior.purchase_rate
        )
        stays = uniforms(key[rows], Purpose.RETURN) < sigmoid(
            behavior.return_intercept + behavior.return_satisfaction * pleased
        )
        days = np.interp(uniforms(key[rows], Purpose.GAP), self._gap_probabilities, self._gap_quantiles)
        days = days * np.exp(behavior.gap_satisfaction * pleased)
        in_time = stays & (state.day[rows] + days < behavior.horizon)
        state.over[rows[~in_time]] = True
        back = rows[in_time]
        returned[back] = True
        gap[back] = days[in_time]
        state.day[back] += days[in_time]
        state.last_gap[back] = days[in_time]
        state.sessions[back] += 1
        state.session_steps[back] = 0
        state.session_purchases[back] = 0
        state.click_rate[back] = behavior.click_rate
        state.fatigue[back] *= np.exp(-days[in_time] / behavior.category_recovery).astype(np.float32)[:, None]
        return ended, returned, gap

    def _checked(self, state: State, slates: np.ndarray) -> np.ndarray:
        slates = np.asarray(slates, dtype=np.int64)
        slates = slates[:, None] if slates.ndim == 1 else slates
        check_slate_size(slates.shape[1], self.num_items)
        if len(slates) != len(state.life):
            raise CatalogueError(f"There are {len(slates)} slates for {len(state.life)} lives; expected one for each.")
        if slates.min() < 0 or slates.max() >= self.num_items:
            wrong = slates[(slates < 0) | (slates >= self.num_items)][0]
            raise CatalogueError(f"A slate holds the item {wrong}; expected 0 to {self.num_items - 1}.")
        if slates.shape[1] > 1:
            ordered = np.sort(slates, axis=1)
            twice = np.argwhere(ordered[:, 1:] == ordered[:, :-1])
            if len(twice):
                row, place = twice[0]
                raise CatalogueError(
                    f"Slate {row} holds the item {ordered[row, place]} twice; expected distinct items."
                )
        return slates


def check_slate_size(size: int, num_items: int) -> None:
    """Checks that a slate fits the catalogue.

    Raises:
        CatalogueError: it does not.
    """
    if not 1 <= size <= num_items:
        raise CatalogueError(
            f"A slate has {size} items, but the catalogue has {num_items}; expected 1 to {num_items}. "
            "Lower `simulator.slate`."
        )
