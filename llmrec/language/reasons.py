"""Files of reasons: JSON lines `{"user_id", "item_id", "text"}`, each a text that recommends an item to a user."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.catalogue.lookup import items_with_ids, user_with_id
from llmrec.catalogue.names import NameIndex
from llmrec.data.dataset import InteractionData
from llmrec.errors import CatalogueError, DataError

EXAMPLE = '{"user_id": "42", "item_id": "7", "text": "Like \\"Heat (1995)\\", it is a thriller."}'
KEYS = ("user_id", "item_id", "text")


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
        DataError: the file is missing or empty, or a line cannot be used. The message names the line.
    """
    index = NameIndex(data.items["title"].tolist(), data.items["item_id"].astype(str).tolist())

    def build(row: dict[str, Any]) -> Reason:
        user = user_with_id(data.user_index, str(row["user_id"]))
        (item,) = items_with_ids(index, [str(row["item_id"])])
        return Reason(user, item, " ".join(row["text"].split()))

    reasons = read_rows(path, build)
    if not reasons:
        raise DataError(f"{path} holds no reasons; expected lines such as {EXAMPLE}. `llmrec reasons` writes them.")
    return reasons


def read_rows(path: Path, build: Callable[[dict[str, Any]], Reason]) -> list[Reason]:
    """The lines of a file as reasons; arguments and errors as in `read_reasons`, but the file may be empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a text may hold other line ends, such as U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Expected a file of JSON lines such as {EXAMPLE}.") from None
    reasons: list[Reason] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or any(key not in row for key in KEYS) or not isinstance(row["text"], str):
            raise DataError(f"{path}, line {number}: found {line[:60]!r}; expected a line such as {EXAMPLE}.")
        if not row["text"].strip():
            raise DataError(f"{path}, line {number}: `text` is empty. Write a sentence, or remove the line.")
        try:
            reasons.append(build(row))
        except CatalogueError as error:
            raise DataError(f"{path}, line {number}: {error} Correct the id, or remove the line.") from None
    return reasons


def position_of(data: InteractionData, user: int, item: int) -> int:
    """How many items of a user's history come before an item: all of them if the user never took it."""
    history = np.asarray(data.histories[user])
    found = np.flatnonzero(history == item)
    return int(found[0]) if len(found) else len(history)


def seen_before(data: InteractionData, user: int, item: int) -> frozenset[int]:
    """The items that a user had seen before taking an item."""
    return frozenset(np.asarray(data.histories[user])[: position_of(data, user, item)].tolist())
