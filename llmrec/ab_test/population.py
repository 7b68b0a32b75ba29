"""A test on a population that answers a policy: a simulator, or users who are generated.

The log that comes out has the columns of a real one, so the same analysis reads both.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from llmrec.ab_test.assignment import Assigner
from llmrec.ab_test.enrollment import DAY, seconds_of
from llmrec.config import ABTestConfig


class Population(Protocol):
    """Users who answer the policy of an arm day by day."""

    @property
    def user_ids(self) -> Sequence[str]:
        """Ids of all users."""
        ...

    def live(self, day: int, arms: Sequence[str]) -> pd.DataFrame:
        """What the users do on one day. Days are asked for in ascending order, each once.

        Args:
            day: day since the start of the test; negative before it.
            arms: name of the arm whose policy serves each user that day, in the order of `user_ids`.

        Returns:
            one row for each event: `user_id`, `second` (of the day, 0 to 86399), and the columns that metrics name.
        """
        ...


def run_on(population: Population, config: ABTestConfig, days: int, days_before: int = 0) -> pd.DataFrame:
    """Runs a test on a population and returns its exposure log.

    Args:
        population: the users.
        config: the test; its salt must be set.
        days: days of the test.
        days_before: days before the test, on which the control arm serves everybody. Their rows have no arm.

    Returns:
        rows of `user_id`, `timestamp` (seconds since 1970), `arm`, `propensity` and the columns of the population.

    Raises:
        ConfigError: the test has no salt.
    """
    assigned = Assigner(config).assign(population.user_ids)
    ids = pd.Index([one.user_id for one in assigned])
    arm = np.array([one.arm for one in assigned], dtype=object)
    propensity = np.array([one.propensity for one in assigned])
    before = [config.control] * len(assigned)
    logs: list[pd.DataFrame] = []
    for day in range(-days_before, days):
        rows = population.live(day, list(arm) if day >= 0 else before)
        user = ids.get_indexer(pd.Index(rows["user_id"]))
        time = seconds_of(config.start) + day * DAY + rows["second"].to_numpy()
        served = {"arm": arm[user], "propensity": propensity[user]} if day >= 0 else {"arm": None, "propensity": np.nan}
        logs.append(rows.drop(columns="second").assign(timestamp=time, **served))
    return pd.concat(logs, ignore_index=True)
