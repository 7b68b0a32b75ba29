"""The reader of the Open Bandit Dataset, on files made here in its format."""

import pandas as pd
import pytest

from llmrec.config import DataConfig, parse_config
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import ConfigError, DataError
from tests.data.logs import read_all


@pytest.fixture
def bandit(tmp_path):
    rows = range(40)
    features = {f"user_feature_{k}": [f"{'ab'[n % 2]}{k}hash" for n in rows] for k in range(4)}
    log = pd.DataFrame(
        {
            "timestamp": [f"2019-11-24 00:{n:02d}:00.5+00:00" for n in rows],
            "item_id": [n % 4 for n in rows],
            "position": [1 + n % 3 for n in rows],
            "click": [int(n % 5 == 0) for n in rows],
            "propensity_score": 0.25,
            **features,
        }
    )
    log.to_csv(tmp_path / "men.csv")
    context = {"item_id": range(4), **{f"item_feature_{k}": [f"f{k}x{n % 2}" for n in range(4)] for k in range(4)}}
    pd.DataFrame(context).to_csv(tmp_path / "item_context.csv")
    return tmp_path


def bandit_config(path, **changes) -> DataConfig:
    values = {"click": ["click>=1"], "purchase": [], "min_user_events": 0, "splits": ["temporal"]}
    sizes = {"temporal_valid": 0.25, "temporal_test": 0.25}
    return DataConfig(format="open_bandit", path=str(path), **values | sizes | changes)


def test_open_bandit(bandit):
    data = build_data(read_log(bandit_config(bandit)), bandit_config(bandit), seed=0)
    assert (data.num_users, data.num_items, len(data.exposures)) == (2, 4, 40)
    assert data.exposures["click"].sum() == 8 and (data.exposures["propensity"] == 0.25).all()
    assert data.users["user_feature_0"].tolist() == ["a0hash", "b0hash"]
    assert data.items["categories"].iloc[1] == ["1:f1x1", "2:f2x1", "3:f3x1"]


def test_users_without_clicks_are_kept_on_request(bandit):
    log = pd.read_csv(bandit / "men.csv", index_col=0)
    log.loc[39, "user_feature_0"] = "nobody"
    log.to_csv(bandit / "men.csv")
    data = build_data(read_log(bandit_config(bandit)), bandit_config(bandit), seed=0)
    assert sorted(map(len, data.histories))[0] == 0 and data.num_users == 3


def test_open_bandit_errors(bandit):
    (bandit / "women.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match="should hold one log"):
        read_log(bandit_config(bandit))
    (bandit / "women.csv").unlink()
    log = pd.read_csv(bandit / "men.csv", index_col=0)
    log.assign(propensity_score=0.0).to_csv(bandit / "men.csv")
    with pytest.raises(DataError, match="a probability above 0"):
        read_all(bandit_config(bandit))
    log.drop(columns="position").to_csv(bandit / "men.csv")
    with pytest.raises(DataError, match="no column `position`"):
        read_log(bandit_config(bandit))


def test_too_few_events_for_leave_one_out():
    values = {
        "name": "x",
        "data": {"format": "open_bandit", "path": ".", "min_user_events": 1, "splits": ["leave_one_out"]},
    }
    with pytest.raises(ConfigError, match="leave_one_out needs 3 clicks"):
        parse_config(values)
