"""Logs of exposures with propensities: what a policy showed to whom, how likely it was, and whether it was clicked.

Each exposure is one round. Its position is part of the context. Items shown above or below are assumed to have no
influence on its click. A policy that fills a list never repeats the items above, so its probabilities are those given
the items that the log shows above.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import DataConfig, load_config
from llmrec.data.dataset import InteractionData, load_data
from llmrec.errors import DataError
from llmrec.off_policy.bootstrap import Estimate, bootstrap
from llmrec.run import Run

BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class ExposureLog:
    """What a policy showed.

    Attributes:
        name: the path that the user gave.
        source: resolved `data.path` of its config.
        data: histories, items and users of the log.
        frame: rows of `user, item, timestamp, click, position, propensity, ranking`; an unknown position is 0, an
            unknown list -1.
    """

    name: str
    source: str
    data: InteractionData
    frame: pd.DataFrame

    def click_rate(self) -> Estimate:
        """Clicks per exposure with its interval over users: the value of the policy that wrote the log."""
        clicks = self.frame["click"].to_numpy(dtype=np.float64)
        users = self.frame["user"].to_numpy()
        return bootstrap(lambda rows: {"rate": float(clicks[rows].mean())}, users, BOOTSTRAP_SAMPLES)["rate"]


@dataclass(frozen=True)
class Support:
    """Which items a log shows at which position.

    Attributes:
        items: item indices that the log shows, ascending, int [A].
        positions: positions at which it shows items, ascending, int [K].
        shown: whether an item is shown at a position, bool [K, A].
    """

    items: np.ndarray
    positions: np.ndarray
    shown: np.ndarray

    @classmethod
    def from_log(cls, log: ExposureLog) -> "Support":
        """The support of a log."""
        items, item = np.unique(log.frame["item"], return_inverse=True)
        positions, position = np.unique(log.frame["position"], return_inverse=True)
        shown = np.zeros((len(positions), len(items)), dtype=bool)
        shown[position, item] = True
        return cls(items=items, positions=positions, shown=shown)


def read_exposure_log(path: Path) -> ExposureLog:
    """Reads the log of a run whose `prepare` stage has finished, or a directory of the Open Bandit dataset.

    Args:
        path: a run directory, its YAML config, or a directory that holds `item_context.csv`.

    Raises:
        DataError: the log has no exposures, some have no propensity, or rare clickers were removed from it.
        RunError: the run's `prepare` stage has not finished.
    """
    if (path / "item_context.csv").is_file():
        config, data = _read_open_bandit(path)
    else:
        config, data = _read_run(path)
    if data.exposures.empty or data.exposures["propensity"].isna().any():
        known = 0 if data.exposures.empty else int(data.exposures["propensity"].notna().sum())
        raise DataError(
            f"{path}: {known} of {len(data.exposures)} exposures have a propensity. Off-policy evaluation needs the "
            "probability with which each was shown. Name its column in `data.columns.propensity`."
        )
    frame = data.exposures.assign(position=data.exposures["position"].fillna(0).astype("int64"))
    if "ranking" not in frame:  # prepared by an earlier version
        frame["ranking"] = -1
    source = str(Path(config.path).expanduser().resolve())
    return ExposureLog(name=str(path), source=source, data=data, frame=frame)


def _read_open_bandit(path: Path) -> tuple[DataConfig, InteractionData]:
    from llmrec.data.prepare import build_data
    from llmrec.data.readers import read_log

    config = DataConfig.model_validate(
        {
            "format": "open_bandit",
            "path": str(path),
            "click": ["click>=1"],
            "purchase": [],
            "min_user_events": 0,
            # A prepared log must have a split. It is not used here. Clicks are rare, so narrow windows would be empty.
            "splits": ["temporal"],
            "temporal_valid": 0.2,
            "temporal_test": 0.2,
        }
    )
    return config, build_data(read_log(config), config, seed=0)


def _read_run(path: Path) -> tuple[DataConfig, InteractionData]:
    run = Run.open(path) if path.is_dir() else Run.create(load_config(path))
    run.require("data")
    config = run.config.data
    if config.min_user_events != 0:
        raise DataError(
            f"{path} holds only the exposures of users who clicked often enough (data.min_user_events: "
            f"{config.min_user_events}), so its click rate is not that of the log. Prepare it with "
            "`data.min_user_events: 0` and `data.splits: [temporal]`."
        )
    return config, load_data(run.path("data"))
