"""Ids inside of objects, as trackers export them: `{"properties": {"product_id": 1}}` and lists of such objects."""

import json
from typing import Any

import numpy as np
import pandas as pd

from llmrec.data.check.files import Sample
from llmrec.data.check.names import rank
from llmrec.data.check.values import SAMPLE, SURE, nested
from llmrec.data.readers.other_files import quote
from llmrec.data.readers.raw import as_text


def objects_as_text(values: pd.Series) -> bool:
    """Whether most values are text of an object or of a list of objects, as JSON writes them."""
    text = as_text(values.dropna().iloc[:SAMPLE])
    return (
        not nested(values)
        and len(text) > 0
        and bool(text.str.fullmatch(r"(?s)\{.*\}|\[\s*\{.*\}\s*\]|\[\]").mean() >= SURE)
    )


def holds_objects(values: pd.Series) -> bool:
    """Whether a column holds objects or lists, as such or as text of JSON."""
    return nested(values) or objects_as_text(values)


def objects_note(sample: Sample) -> str:
    """The command that writes the fields of objects as columns of their own; "" if no column has objects."""
    frame = sample.table.frame
    as_text_names = [name for name in sample.table.columns if objects_as_text(frame[name])]
    names = [*as_text_names, *(name for name in sample.table.columns if nested(frame[name]))]
    objects = {name: _parsed(frame[name], name in as_text_names) for name in names}
    lists = [name for name, values in objects.items() if _lists_items(values)]
    if not lists and not any(isinstance(one, dict) for values in objects.values() for one in values):
        return ""
    steps = [
        f"t[{quote(name)}] = t[{quote(name)}].map(json.loads, na_action={quote('ignore')})" for name in as_text_names
    ]
    steps += [f"t = t.explode({quote(name)}, ignore_index=True)" for name in lists]
    change = "; ".join([*steps, 't = pd.json_normalize(t.to_dict("records"))'])
    return (
        f"The columns {', '.join(names)} hold objects or lists. Write their fields as columns of their own, then check "
        f"the new file: {sample.command(change, 'flat', objects=True)}."
    )


def _parsed(values: pd.Series, is_text: bool) -> list[Any]:
    """Some values as objects and lists; None for one that cannot be read."""
    some = values.dropna().iloc[:SAMPLE]
    return [_json(value) for value in some] if is_text else some.tolist()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _lists_items(values: list[Any]) -> bool:
    """Whether values are lists of objects with a key for the id of an item."""
    first = (one[0] for one in values if isinstance(one, (list, np.ndarray)) and len(one))
    return any(isinstance(one, dict) and any(rank(key, "item_id") is not None for key in one) for one in first)
