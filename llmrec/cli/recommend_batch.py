"""`llmrec recommend --batch`: recommendations for every line of a file."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.cli.process import reserve_stdout
from llmrec.errors import UserError
from llmrec.files import read_json_lines

if TYPE_CHECKING:
    from llmrec.recommend import Recommender


def recommend_batch(
    load: Callable[[], "Recommender"], file: Path, top_k: int, exclude: list[str], has_users: bool
) -> None:
    """Recommends for every line of a file and prints a JSON line for each, in order, after all have succeeded.

    Args:
        load: Loads the model.
        file: JSON Lines; each holds `user` or `history` (titles), and `request` if the person asks for something.
        top_k: Number of recommendations.
        exclude: Titles that are excluded.
        has_users: Whether the event log is at hand, so that lines may name its users.

    Raises:
        UserError: A line cannot be read or answered. The message names it.
    """
    rows = _read_batch(file, has_users)
    answers: list[str] = []
    with reserve_stdout(True):
        recommender = load()
        excluded = recommender.resolve_titles(exclude)
        for number, row in rows:
            try:
                items = None if "user" in row else recommender.resolve_titles(row.get("history", []))
                ranked = recommender.recommend(
                    history=items, user=row.get("user"), top_k=top_k, exclude=excluded, request=row.get("request")
                )
            except UserError as error:
                raise UserError(f"{file}, line {number}: {error}") from None
            answers.append(json.dumps({**row, "recommendations": [asdict(item) for item in ranked]}))
    for answer in answers:
        print(answer)


def _read_batch(file: Path, has_users: bool) -> list[tuple[int, dict[str, Any]]]:
    """The lines of a batch as mappings, with their numbers.

    Raises:
        UserError: The file is missing or empty, or a line is not what `recommend_batch` expects.
    """
    people = ("user", "history") if has_users else ("history",)
    example = (
        '{"user": "42", "request": "something funny"}' if has_users else '{"history": [], "request": "something funny"}'
    )
    rows = read_json_lines(
        file,
        lambda row: isinstance(row, dict) and sum(name in row for name in people) == 1 and _has_types(row),
        f"a JSON object with {' or '.join(people)}, and an optional request, such as {example}",
    )
    if not rows:
        raise UserError(f"{file} is empty; expected a JSON object on each line.")
    return rows


def _has_types(row: dict[str, Any]) -> bool:
    """Whether the values of a line have the expected types, and no key is unknown."""
    history = row.get("history", [])
    is_titles = isinstance(history, list) and all(isinstance(title, str) for title in history)
    texts = all(isinstance(row.get(name, ""), str) for name in ("user", "request"))
    return is_titles and texts and row.keys() <= {"user", "history", "request"}
