"""Hashed words of items and of user profiles, from which the model represents items and users without clicks.

A word becomes an integer by a hash, so the words of new items and users can be read without a stored vocabulary.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

WORD_BUCKETS = 8192  # number of hash values of item words; 0 is padding
PROFILE_BUCKETS = 512  # number of hash values of profile words; 0 is padding
MAX_WORDS = 24  # largest number of words of one item
USERS_PER_VALUE = 5  # profile columns with fewer users per value identify people instead of groups and are left out


def bucket(word: str, buckets: int) -> int:
    """Hash of a word, from 1 to `buckets` - 1; the same in every process."""
    return 1 + int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) % (buckets - 1)


def padded(rows: Sequence[Sequence[int]], width: int | None = None) -> np.ndarray:
    """R lists of integers as an array, int64 [R, W], padded with 0; lists longer than `width` are cut."""
    width = max([1, *map(len, rows)]) if width is None else width
    result = np.zeros((len(rows), width), dtype=np.int64)
    for row, values in enumerate(rows):
        result[row, : len(values[:width])] = values[:width]
    return result


def item_words(items: pd.DataFrame) -> np.ndarray:
    """Hashed words of the categories and the title of every item.

    A category is one word. A word of only one item is left out, because it would act as a second id.

    Args:
        items: item table with `title` (text) and `categories` (lists of text); both columns are optional.

    Returns:
        int64 [N, W]; 0 is padding.
    """
    rows = []
    titles = items["title"].fillna("") if "title" in items else [""] * len(items)
    categories = items["categories"] if "categories" in items else [()] * len(items)
    for title, names in zip(titles, categories, strict=True):
        words = [f"category={name.lower()}" for name in names] + re.findall(r"\w+", str(title).lower())
        rows.append([bucket(word, WORD_BUCKETS) for word in dict.fromkeys(words)])
    shared = Counter(word for row in rows for word in set(row))
    return padded([[word for word in row if shared[word] > 1][:MAX_WORDS] for row in rows])


def coarse(value: str) -> str:
    """Rounds a number to one significant digit, so that ages 21 and 24 are both `20`; other text is lower-cased."""
    try:
        number = float(value)
    except ValueError:
        return value.lower()
    if not math.isfinite(number):
        return ""
    return f"{float(f'{number:.0e}'):g}"


def profile_words(users: pd.DataFrame) -> np.ndarray:
    """Hashed `column=value` words of every user.

    Args:
        users: user table of `user_id` and attributes as text; "" means unknown.

    Returns:
        int64 [U, P]; 0 means unknown.
    """
    columns = []
    for column in users.columns.drop("user_id", errors="ignore"):
        values = users[column].map(coarse)
        if 1 < values.nunique() <= max(2, len(users) / USERS_PER_VALUE):
            columns.append([bucket(f"{column}={value}", PROFILE_BUCKETS) if value else 0 for value in values])
    return np.array(columns, dtype=np.int64).T if columns else np.zeros((len(users), 1), dtype=np.int64)
