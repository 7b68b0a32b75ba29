"""Attributes of items and the items that satisfy a request, checked by hand on the catalogue of `tests.conftest`."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llmrec.errors import ModelError
from llmrec.requests.attributes import FILE_NAME, Attributes
from llmrec.requests.request import Condition


@pytest.fixture
def attributes(data) -> Attributes:
    return Attributes.from_data(data)


def items(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([Condition("category", "Comedy")], [1, 2, 6]),
        ([Condition("category", "Comedy", negated=True)], [0, 3, 4, 5, 7, 8, 9]),
        ([Condition("decade", "1980s")], [2, 6]),
        ([Condition("category", "Comedy"), Condition("decade", "1980s", negated=True)], [1]),
        ([Condition("category", "Opera")], []),
        ([Condition("brand", "Acme", negated=True)], list(range(10))),
        # Drama alone is half of {Drama, War}, of {Sci-Fi, Drama} and of {Comedy, Drama}, but not of {War}.
        ([Condition("like", "Blue Note [1999]")], [0, 5, 6]),
        ([Condition("like", "Red Sky")], [3, 7]),
        ([Condition("like", "Echo")], []),  # without categories nothing is alike
        ([Condition("like", "No Such Title")], []),
        ([], list(range(10))),
    ],
)
def test_items_that_satisfy_conditions(attributes, conditions, expected):
    assert items(attributes.satisfied(conditions)) == expected


def test_prices_fall_into_three_bands(data):
    prices = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "from 3"]
    attributes = Attributes.from_data(replace(data, items=data.items.assign(price=prices)))
    bands = {value: found.tolist() for (name, value), found in attributes.members.items() if name == "price"}
    assert bands == {"under 3.7": [0, 1, 2], "3.7 to 6.3": [3, 4, 5], "over 6.3": [6, 7, 8]}


def test_equal_prices_have_no_bands(data):
    attributes = Attributes.from_data(replace(data, items=data.items.assign(price=3.0)))
    assert "price" not in {name for name, _ in attributes.members}


def test_people_and_brands_count_if_they_are_named(data):
    facts = pd.DataFrame(
        {
            "item": [0, 5, 1, 2, 3],
            "relation": ["directed_by", "directed_by", "actor", "actor", "sequel"],
            "tail": ["Ida Lupino", "Ida Lupino", "m.3", "Peter Lorre", "Quiet"],
            "named": [True, True, False, True, True],
        }
    )
    changed = replace(data, facts=facts, items=data.items.assign(brand=["Acme", "", None, *["Zeta"] * 7]))
    found = {key: value.tolist() for key, value in Attributes.from_data(changed).members.items()}
    named = {key: value for key, value in found.items() if key[0] not in ("category", "decade")}
    assert named == {
        ("actor", "Peter Lorre"): [2],
        ("brand", "Acme"): [0],
        ("brand", "Zeta"): [3, 4, 5, 6, 7, 8, 9],
        ("director", "Ida Lupino"): [0, 5],
    }


def test_a_saved_table_is_read_back(attributes, tmp_path):
    attributes.save(tmp_path)
    again = Attributes.load(tmp_path, attributes.titles)
    assert again is not None
    assert {key: value.tolist() for key, value in again.members.items()} == {
        key: value.tolist() for key, value in attributes.members.items()
    }
    assert Attributes.load(tmp_path / "elsewhere", attributes.titles) is None


def test_a_damaged_table_is_refused(attributes, tmp_path):
    attributes.save(tmp_path)
    (tmp_path / FILE_NAME).write_text('{"format": 1, "mem')
    with pytest.raises(ModelError, match=FILE_NAME):
        Attributes.load(tmp_path, attributes.titles)
