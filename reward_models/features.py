"""Words of items and of user profiles as small integers: what is known of an item nobody clicked yet.

A word becomes a bucket by a hash, so nothing has to be stored to read the words of a new item or user.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

WORD_BUCKETS = 8192  # of item words; bucket 0 is padding
PROFILE_BUCKETS = 512  # of profile words; bucket 0 is padding
MAX_WORDS = 24  # of one item
USERS_A_VALUE = 5  # a profile column with fewer users a value names people, not groups, and is left out


def bucket(word: str, buckets: int) -> int:
    """A hash of a word in 1 .. buckets - 1, the same in every process."""
    return 1 + int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) % (buckets - 1)


def padded(rows: Sequence[Sequence[int]], width: int | None = None) -> np.ndarray:
    """Lists of integers as an int64 [R, W] array, filled up with 0; longer lists are cut to `width`."""
    width = max([1, *map(len, rows)]) if width is None else width
    result = np.zeros((len(rows), width), dtype=np.int64)
    for row, values in enumerate(rows):
        result[row, : len(values[:width])] = values[:width]
    return result


def item_words(items: pd.DataFrame) -> np.ndarray:
    """Hashed words of categories and title of every item, int64 [N, W], 0 is padding.

    A category is one word. A word that only one item has would be a second id, and is left out.

    Args:
        items: rows with `title` (text) and `categories` (list of text), either of which may be missing.
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
    """A number with one significant digit, other text as it is: ages 21 and 24 are both `20`."""
    try:
        number = float(value)
    except ValueError:
        return value.lower()
    if not math.isfinite(number):
        return ""
    return f"{float(f'{number:.0e}'):g}"


def profile_words(users: pd.DataFrame) -> np.ndarray:
    """Hashed `column=value` words of every user, int64 [U, P], 0 is padding and stands for what is not known.

    Args:
        users: rows of `user_id` and attributes as text, "" where there is none.
    """
    columns = []
    for column in users.columns.drop("user_id", errors="ignore"):
        values = users[column].map(coarse)
        if 1 < values.nunique() <= max(2, len(users) / USERS_A_VALUE):
            columns.append([bucket(f"{column}={value}", PROFILE_BUCKETS) if value else 0 for value in values])
    return np.array(columns, dtype=np.int64).T if columns else np.zeros((len(users), 1), dtype=np.int64)
