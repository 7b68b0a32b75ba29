"""User profiles: what a prompt says of a user before the history."""

import random
from typing import TYPE_CHECKING

from llmrec.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

NEW_USER = "new user"  # the profile of somebody of whom nothing is known


def profile_texts(users: "pd.DataFrame", attributes: list[str]) -> list[str]:
    """The profile of each user: the named attributes in order, separated by spaces; `new user` if all are empty.

    Args:
        users: the user table, [U] rows.
        attributes: columns of the user table.

    Returns:
        one text a user, [U]. Equal texts are one object.

    Raises:
        ConfigError: an attribute is not a column of the user table.
    """
    for name in attributes:
        if name not in users.columns:
            known = ", ".join(column for column in users.columns if column != "user_id") or "none"
            raise ConfigError(f"catalogue.user_attributes: the user table has no `{name}`; its attributes: {known}.")
    rows = users[attributes].fillna("").astype(str).itertuples(index=False) if attributes else [()] * len(users)
    one_of: dict[str, str] = {NEW_USER: NEW_USER}
    texts = (" ".join(value for value in row if value) or NEW_USER for row in rows)
    return [one_of.setdefault(text, text) for text in texts]


def drop_profiles(profiles: list[str], share: float, seed: int) -> list[str]:
    """Replaces a random share of profiles by `new user`, so that a policy learns to serve people without a profile.

    Args:
        profiles: the profile of each training prompt.
        share: probability of a replacement.
        seed: seed of the draws. Nothing else is drawn from the same generator.
    """
    generator = random.Random(seed)
    return [NEW_USER if generator.random() < share else profile for profile in profiles]
