"""Tiny trained runs whose ids, titles, categories and user attributes are hostile."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzzing.outcomes import NASTY_TEXT
from llmrec.config import parse_config
from llmrec.errors import UserError
from llmrec.recommend import Recommender
from llmrec.run import Run, run_all
from tests.conftest import make_base

USERS = 10
ITEMS = 14
TRIES = 20  # catalogues that may be refused before a usable one
SYNTAX = (
    *("<|im_start|>", "</s>", "<|item_3|>", "<|item_3|><|im_end|>", 'Like "', 'Drama. Like "Film 1", it is War', '"."'),
    *(
        ":quit",
        ":exclude",
        "Film 1; Film 2",
        "--run",
        "-30-",
        "-",
        "--",
        "i1",
        "i2",
        "FILM 1",
        "film  1",
        "Film 1 [i1]",
    ),
    *("İstanbul", "ISTANBUL", "straße", "STRASSE", "ﬁlm", "\x1b]0;x\x07", "\r1. x", "a\x9bb", "[/bold]", "%s{0}"),
)
HOSTILE = (*NASTY_TEXT, *SYNTAX)
READING = {"click": ["interaction"], "purchase": [], "bad_rows": "skip", "min_user_events": 3}


@dataclass(frozen=True)
class Shop:
    """A run with an SFT adapter.

    Attributes:
        directory: the run directory.
        adapter: the directory of the adapter.
        recommender: the loaded policy with the log.
        titles: distinct names of the items as the policy shows them, [N].
        ids: item ids, [N].
        users: user ids, [U].
        seen: items of each user, [U].
    """

    directory: Path
    adapter: Path
    recommender: Recommender
    titles: tuple[str, ...]
    ids: tuple[str, ...]
    users: tuple[str, ...]
    seen: tuple[frozenset[int], ...]


def make_shop(folder: Path, seed: int) -> Shop:
    """Writes a hostile log, prepares it and trains the SFT adapter. Odd seeds name items by the tokens of titles.

    Args:
        folder: an empty directory.
        seed: seed of the log.
    """
    generator = random.Random(seed)
    base = make_base(folder / "base")
    for attempt in range(TRIES):
        place = folder / f"log-{attempt}"
        place.mkdir()
        _write_log(place, generator)
        run = Run.create(parse_config(_config(place, base, ("atomic", "title")[seed % 2])))
        try:
            run_all(run, "data", "sft", say=lambda line: None)
        except UserError:  # the fuzz of logs is about these
            continue
        return _opened(run)
    raise RuntimeError(f"All of {TRIES} catalogues were refused.")


def _opened(run: Run) -> Shop:
    recommender = Recommender.from_run(run)
    assert recommender.data is not None
    return Shop(
        directory=run.directory,
        adapter=run.path("sft", "adapter"),
        recommender=recommender,
        titles=recommender.policy.vocabulary.titles,
        ids=recommender.policy.vocabulary.item_ids,
        users=tuple(recommender.data.users["user_id"]),
        seen=tuple(frozenset(history.tolist()) for history in recommender.data.histories),
    )


def _config(place: Path, base: str, scheme: str) -> dict[str, object]:
    table = {"format": "table", "path": str(place / "events.jsonl"), "items": str(place / "items.jsonl")}
    return {
        "name": "run",
        "output_dir": str(place),
        "data": table | {"users": str(place / "users.jsonl"), "splits": ["leave_one_out"], **READING},
        "model": {"base": base, "lora_r": 2},
        "catalogue": {"scheme": scheme, "max_history": 4, "user_attributes": ["city"]},
        "sft": {"num_train_epochs": 1, "per_device_train_batch_size": 16, "eval_users": 4},
        "ppo": {"response_length": 40},
        "report_to": [],
    }


def _write_log(place: Path, generator: random.Random) -> None:
    """Writes a log of `USERS` users. About half of all texts are hostile."""

    def some(plain: str) -> str:
        return plain if generator.random() < 0.5 else generator.choice(HOSTILE)

    def distinct(count: int, letter: str) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < count:
            text = some(f"{letter}{len(found)}")
            if text.strip():
                found[text.strip()] = None
        return list(found)

    item_ids = distinct(ITEMS, "i")
    user_ids = distinct(USERS, "u")
    genres = ("Drama", "Comedy", "War")
    items = [
        {
            "item_id": item,
            "title": some(f"Film {number % 10}"),
            "categories": [some(generator.choice(genres)), generator.choice(genres)],
            "year": generator.choice((1987, 1999, None)),
        }
        for number, item in enumerate(item_ids)
    ]
    events = [
        {"user_id": user, "item_id": item, "timestamp": 1_000_000_000 + 86_400 * step}
        for user in user_ids
        for step, item in enumerate(generator.sample(item_ids, 6))
    ]
    users = [{"user_id": user, "city": some("Rome")} for user in user_ids]
    for name, rows in (("items", items), ("events", events), ("users", users)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
