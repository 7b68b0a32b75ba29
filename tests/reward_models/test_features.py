"""Hashed words of items and of user profiles."""

import numpy as np
import pandas as pd

from reward_models.features import MAX_WORDS, coarse, item_words, padded, profile_words


def test_only_shared_words_count_and_each_counts_once():
    items = pd.DataFrame({"title": ["Alien", "Aliens aliens", "Alien 3"], "categories": [["Horror"], ["Horror"], []]})
    words = item_words(items)
    # Shared: `alien` (items 0 and 2), the category (items 0 and 1). `aliens` and `3` belong to one item alone.
    assert [int((row > 0).sum()) for row in words] == [2, 1, 1]
    assert set(words[0]) - {0} == (set(words[1]) | set(words[2])) - {0}


def test_items_without_words_and_with_too_many():
    items = pd.DataFrame({"title": [None, " ".join(map(str, range(99))), " ".join(map(str, range(99)))]})
    words = item_words(items)
    assert words.shape == (3, MAX_WORDS) and (words[0] == 0).all()
    assert item_words(pd.DataFrame({"item_id": ["a"]})).shape == (1, 1)


def test_profile_columns_must_describe_groups():
    users = pd.DataFrame(
        {
            "user_id": [str(n) for n in range(20)],
            "age": ["21", "24"] * 9 + ["", "35"],
            "name": [f"name{n}" for n in range(20)],
        }
    )
    words = profile_words(users)
    assert words.shape == (20, 1)  # names identify people and are left out
    assert words[0] == words[1] != words[19] and words[18] == 0


def test_numbers_are_rounded_to_one_digit():
    assert [coarse(text) for text in ("21", "24", "0.034", "M", "nan", "")] == ["20", "20", "0.03", "m", "", ""]


def test_padded():
    assert np.array_equal(padded([[1, 2], []]), [[1, 2], [0, 0]])
