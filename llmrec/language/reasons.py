"""Files of reasons: JSON lines `{"user_id", "item_id", "text"}`, each a text that recommends an item to a user."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmrec.catalogue.lookup import items_with_ids, user_with_id
from llmrec.catalogue.names import NameIndex
from llmrec.data.dataset import InteractionData
from llmrec.errors import CatalogueError, DataError
from llmrec.files import read_json_lines

EXAMPLE = '{"user_id": "42", "item_id": "7", "text": "Like \\"Heat (1995)\\", it is a thriller."}'
KEYS = {"user_id", "item_id", "text"}


@dataclass(frozen=True)
class Reason:
    """A text that recommends an item to a user.

    Attributes:
        user: index of the user.
        item: index of the item.
        text: the text, with the titles that it names.
    """

    user: int
    item: int
    text: str


def read_reasons(path: Path, data: InteractionData) -> list[Reason]:
    """Reads a file of reasons.

    Args:
        path: the file.
        data: the prepared log that its ids belong to.

    Raises:
        UserError: the file is missing or empty, or a line cannot be used. The message names the line.
    """
    index = NameIndex(data.items["title"].tolist(), data.items["item_id"].astype(str).tolist())
    reasons: list[Reason] = []
    for number, row in read_json_lines(
        path,
        lambda row: isinstance(row, dict) and row.keys() >= KEYS and isinstance(row["text"], str),
        f"a line such as {EXAMPLE}",
    ):
        if not row["text"].strip():
            raise DataError(f"{path}, line {number}: `text` is empty. Write a sentence, or remove the line.")
        try:
            user = user_with_id(data.user_index, str(row["user_id"]))
            (item,) = items_with_ids(index, [str(row["item_id"])])
        except CatalogueError as error:
            raise DataError(f"{path}, line {number}: {error} Correct the id, or remove the line.") from None
        reasons.append(Reason(user, item, " ".join(row["text"].split())))
    if not reasons:
        raise DataError(f"{path} holds no reasons; expected lines such as {EXAMPLE}.")
    return reasons


def seen_before(data: InteractionData, user: int, item: int) -> frozenset[int]:
    """The items that a user had seen before taking an item; the whole history if the user never took it."""
    history = np.asarray(data.histories[user])
    found = np.flatnonzero(history == item)
    return frozenset(history[: found[0] if len(found) else len(history)].tolist())
