"""Users who are generated, with known effects of the arms: for the proofs of `llmrec ab-test`, and for an example log.

The parameters are made up. Users differ in how often they visit, how much they look at, and how readily they click, so
their days before a test predict their days in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
import pandas as pd

DAY_SECONDS = 86400
DAYS_BEFORE = 28
DAYS = 7  # of each metric
BUYS = 0.1  # probability of a purchase after a click
RATES = 0.3  # probability of a rating after a click


@dataclass(frozen=True)
class Effects:
    """What an arm changes.

    Attributes:
        clicks: factor of the probability of a click.
        purchases: factor of the probability of a purchase after a click.
        visits: factor of the probability of a visit on a day after the first exposure.
        ratings: what is added to ratings.
    """

    clicks: float = 1.0
    purchases: float = 1.0
    visits: float = 1.0
    ratings: float = 0.0


@dataclass(frozen=True)
class Tastes:
    """How users differ.

    Attributes:
        visits: probability of a visit on a day, float64 [U].
        shown: mean number of items seen in a visit after the first, float64 [U].
        clicks: probability of a click on an item, float64 [U].
        ratings: mean rating, float64 [U].
    """

    visits: np.ndarray
    shown: np.ndarray
    clicks: np.ndarray
    ratings: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, users: int) -> "Tastes":
        """Draws users."""
        return cls(rng.beta(2, 4, users), rng.gamma(3, 3, users), rng.beta(2, 14, users), rng.normal(3.6, 0.5, users))


def effects_of(arms: Sequence[str], effects: Mapping[str, Effects]) -> np.ndarray:
    """Effects on clicks, purchases, visits and ratings of each user's arm, float64 [4, U]."""
    names, arm = np.unique(np.asarray(arms), return_inverse=True)
    return np.array([astuple(effects.get(str(name), Effects())) for name in names])[arm].T


@dataclass
class GeneratedUsers:
    """A population for `llmrec.ab_test.population.run_on`.

    Attributes:
        count: number of users.
        effects: what each arm changes; an arm that is not named changes nothing.
        seed: seed of the users and of all days.
        joining_days: days after the start of a test over which 30 % of the users appear; 0 if all are there before.
    """

    count: int
    effects: Mapping[str, Effects] = field(default_factory=dict)
    seed: int = 0
    joining_days: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng((self.seed, 0))
        self.user_ids: Sequence[str] = [f"u{number}" for number in range(self.count)]
        self._ids = np.array(self.user_ids, dtype=object)
        self._tastes = Tastes.draw(rng, self.count)
        self._exposed = np.zeros(self.count, dtype=bool)
        joins_later = (rng.random(self.count) < 0.3) & (self.joining_days > 0)
        self._joins = np.where(joins_later, rng.integers(0, max(self.joining_days, 1), self.count), -10_000)

    def live(self, day: int, arms: Sequence[str]) -> pd.DataFrame:
        """See `llmrec.ab_test.population.Population.live`."""
        rng = np.random.default_rng((self.seed, 1, day + 10_000))
        clicks, purchases, visits, ratings = effects_of(arms, self.effects)
        # A policy changes visits once a user has seen it. A change before that would change who is exposed at all.
        visits = np.where(self._exposed, visits, 1.0)
        visitor = np.flatnonzero((rng.random(self.count) < self._tastes.visits * visits) & (self._joins <= day))
        self._exposed[visitor] |= day >= 0
        shown = 1 + rng.poisson(self._tastes.shown[visitor])
        user = np.repeat(visitor, shown)
        begin = np.repeat(rng.integers(0, DAY_SECONDS - 7200, len(visitor)), shown)
        place = np.arange(len(user)) - np.repeat(np.cumsum(shown) - shown, shown)
        click = rng.random(len(user)) < self._tastes.clicks[user] * clicks[user]
        purchase = click & (rng.random(len(user)) < BUYS * purchases[user])
        rating = np.clip((self._tastes.ratings[user] + ratings[user] + rng.normal(0, 0.8, len(user))).round(), 1, 5)
        return pd.DataFrame(
            {
                "user_id": self._ids[user],
                "second": begin + 30 * place,
                "session_id": self._ids[user] + f"-{day}",
                "click": click.astype(int),
                "purchase": purchase.astype(int),
                "rating": np.where(click & (rng.random(len(user)) < RATES), rating, np.nan),
            }
        )


def draw_values(rng: np.random.Generator, tastes: Tastes, effects: np.ndarray) -> dict[str, np.ndarray]:
    """The five metrics of users and their covariates, drawn without a log: 1,000 tests take seconds.

    Args:
        rng: random numbers.
        tastes: the users.
        effects: see `effects_of`.

    Returns:
        for each metric, numerator and denominator, then those of the covariate, float64 [U, 4].
    """
    before = _period(rng, tastes, DAYS_BEFORE, np.ones_like(effects) * np.array([[1.0], [1.0], [1.0], [0.0]]))
    during = _period(rng, tastes, DAYS - 1, effects, first_visit=1)
    one = np.ones(len(tastes.visits))
    return {
        "click_rate": np.stack([during.clicks, during.shown, before.clicks, before.shown], 1),
        "conversion": np.stack([during.purchases > 0, one, before.purchases, one], 1).astype(np.float64),
        "satisfaction": np.stack([during.stars, during.ratings, before.stars, before.ratings], 1),
        "retention": np.stack([during.visits > 1, one, before.visits, one], 1).astype(np.float64),
        "session_length": np.stack([during.shown, during.visits, before.shown, before.visits], 1),
    }


@dataclass(frozen=True)
class _Period:
    visits: np.ndarray
    shown: np.ndarray
    clicks: np.ndarray
    purchases: np.ndarray
    ratings: np.ndarray
    stars: np.ndarray


def _period(rng: np.random.Generator, tastes: Tastes, days: int, effects: np.ndarray, first_visit: int = 0) -> _Period:
    clicks, purchases, visits, stars = effects
    visited = first_visit + rng.binomial(days, np.minimum(tastes.visits * visits, 1))
    shown = visited + rng.poisson(visited * tastes.shown)
    clicked = rng.binomial(shown, np.minimum(tastes.clicks * clicks, 1))
    rated = rng.binomial(clicked, RATES)
    total = rated * (tastes.ratings + stars) + rng.normal(0, 0.8, len(rated)) * np.sqrt(rated)
    parts = (visited, shown, clicked, rng.binomial(clicked, BUYS * purchases), rated, total)
    return _Period(*(part.astype(np.float64) for part in parts))
