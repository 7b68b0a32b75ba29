"""Generated event logs: file syntax, ids, times, ratings, titles, attributes and damage."""

import csv
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzzing.outcomes import NASTY_TEXT, TEXT, Hang, Outcome, place_of, seldom, time_limit, without_values
from llmrec.config import parse_config
from llmrec.data.dataset import load_data
from llmrec.errors import UserError
from llmrec.run import Run, run_all

NASTY_NUMBERS = ("", " ", "nan", "inf", "-1", "1e400", "1,5", "abc", "99999999999999999999", "0x10", "٣", "-0")
PLAIN_IDS = st.one_of(st.integers(0, 30).map(str), st.integers(1, 30).map(lambda number: f"i{number}"))
ANY_IDS = st.one_of(PLAIN_IDS, st.sampled_from(NASTY_TEXT), st.text(min_size=1, max_size=5))
TIMES: dict[str, Callable[[int], str]] = {
    "seconds": str,
    "milliseconds": lambda second: str(second * 1000),
    "decimals": lambda second: f"{second}.25",
    "ISO": lambda second: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)),
    "ISO with zone": lambda second: time.strftime("%Y-%m-%d %H:%M:%S+02:00", time.gmtime(second)),
    "days": lambda second: time.strftime("%Y-%m-%d", time.gmtime(second)),
    "digits of days": lambda second: time.strftime("%Y%m%d", time.gmtime(second)),
    "American": lambda second: time.strftime("%m/%d/%Y %H:%M", time.gmtime(second)),
}
SYNTAXES = ("comma", "semicolon", "tab", "bar", "jsonl", "recbole")
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "recbole": "\t"}
RECBOLE_TYPES = {"timestamp": "float", "rating": "float"}


@dataclass(frozen=True)
class Log:
    """A generated event log with the config that reads it.

    Attributes:
        files: name to content.
        data: the config section `data`, with paths relative to the directory of the files.
        rows: rows of the event log; None if the file was damaged, so that nobody can say.
    """

    files: dict[str, bytes]
    data: dict[str, Any]
    rows: int | None


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Small logs of up to 60 events."""
    syntax = draw(st.sampled_from(SYNTAXES))
    encoding = draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252")))
    events = draw(event_rows())
    items = draw(item_rows(events))
    users = draw(user_rows(events))
    names = {"events": "x.inter", "items": "x.item", "users": "x.user"}
    if syntax != "recbole":
        names = {table: f"{table}.{'jsonl' if syntax == 'jsonl' else 'csv'}" for table in names}
    tables = {"events": events, "items": items, "users": users}
    files = {names[table]: written(rows, syntax, encoding) for table, rows in tables.items() if rows}
    damaged = None
    if draw(seldom()):
        damaged = draw(st.sampled_from(sorted(files)))
        files[damaged] = draw(damage(files[damaged]))
    data: dict[str, Any] = {
        "format": "recbole" if syntax == "recbole" else "table",
        "path": "." if syntax == "recbole" else names["events"],
        "bad_rows": draw(st.sampled_from(("error", "skip", "skip"))),
        "splits": draw(st.sampled_from((["leave_one_out"], ["leave_one_out"], ["temporal"]))),
        "min_user_events": draw(st.sampled_from((None, 3, 3, 3))),
        "click": draw(st.sampled_from((["rating>=0"], ["rating>=2"]))) if "rating" in events[0] else ["interaction"],
        "purchase": ["rating>=4"] if "rating" in events[0] and draw(st.booleans()) else [],
        "temporal_valid": 0.2,
        "temporal_test": 0.2,
    }
    if syntax != "recbole":
        data |= {table: names[table] for table in ("items", "users") if names[table] in files}
    if encoding == "cp1252":
        data["encoding"] = encoding
    known = damaged != names["events"] and encoding != "cp1252"  # which lacks characters
    return Log(files, data, len(events) if known else None)


@st.composite
def event_rows(draw: st.DrawFn) -> list[dict[str, str]]:
    """Rows of an event log: users of 3 to 8 events each, with now and then a value that nobody expects."""
    clock = TIMES[draw(st.sampled_from(sorted(TIMES)))]
    step = draw(st.sampled_from((86400, 86400, 86400, 1, 0)))
    rated = draw(st.booleans())
    ids = ANY_IDS if draw(seldom()) else PLAIN_IDS
    user_ids = draw(st.lists(ids, min_size=2, max_size=7, unique=True))
    item_ids = draw(st.lists(ids, min_size=4, max_size=10, unique=True))
    repeated = draw(seldom())
    rows = []
    for user in user_ids:
        for item in draw(st.lists(st.sampled_from(item_ids), min_size=3, max_size=8, unique=not repeated)):
            second = 1_000_000_000 + step * len(rows)
            row = {"user_id": user, "item_id": item, "timestamp": clock(second)}
            if rated:
                row["rating"] = draw(st.sampled_from(("1", "2.5", "3", "4", "5.0")))
            rows.append(row)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 3)))):
        row = draw(st.sampled_from(rows))
        column = draw(st.sampled_from(sorted(row)))
        row[column] = draw(TEXT if column.endswith("id") else st.sampled_from(NASTY_NUMBERS))
    return rows


@st.composite
def item_rows(draw: st.DrawFn, events: list[dict[str, str]]) -> list[dict[str, str]]:
    """An item table for most items of the events, with titles of any kind."""
    item_ids = list(dict.fromkeys(row["item_id"] for row in events))
    kept = item_ids[1:] if draw(seldom()) else item_ids
    columns = draw(st.sets(st.sampled_from(("categories", "year", "notes"))))
    rows = [
        {"item_id": item, "title": draw(TEXT), **{column: draw(TEXT) for column in sorted(columns)}} for item in kept
    ]
    if rows and draw(seldom()):
        rows.append(dict(rows[0]))
    return rows


@st.composite
def user_rows(draw: st.DrawFn, events: list[dict[str, str]]) -> list[dict[str, str]]:
    """A user table with attributes of any kind, or none."""
    if draw(st.booleans()):
        return []
    user_ids = list(dict.fromkeys(row["user_id"] for row in events))
    return [{"user_id": user, "age": draw(TEXT), "city": draw(TEXT)} for user in user_ids]


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with some bytes cut out, doubled or replaced."""
    start = draw(st.integers(0, max(0, len(content) - 1)))
    length = draw(st.sampled_from((1, 2, 20)))
    put = draw(st.sampled_from((b"", b'"', b"\n", b"\x00", b"\xff", b"\t", content[start : start + length] * 2)))
    return content[:start] + put + content[start + length :]


def written(rows: list[dict[str, str]], syntax: str, encoding: str) -> bytes:
    """The rows in a file syntax."""
    if syntax == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=encoding == "cp1252") + "\n" for row in rows)
    else:
        columns = list(rows[0])
        stream = io.StringIO()
        has_return = any("\r" in value for row in rows for value in row.values())  # which csv would not quote
        quoting = csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
        writer = csv.writer(stream, delimiter=SEPARATORS[syntax], lineterminator="\n", quoting=quoting)
        if syntax == "recbole":
            writer.writerow([f"{name}:{RECBOLE_TYPES.get(name, 'token')}" for name in columns])
        else:
            writer.writerow(columns)
        writer.writerows([row[name] for name in columns] for row in rows)
        text = stream.getvalue()
    return text.encode(encoding, errors="replace")


def outcome_of(log: Log, folder: Path, seconds: float = 60) -> Outcome:
    """Writes a log into an empty directory and prepares it."""
    for name, content in log.files.items():
        (folder / name).write_bytes(content)
    data = {**log.data, **{key: str(folder / log.data[key]) for key in ("path", "items", "users") if key in log.data}}
    try:
        with time_limit(seconds):
            return prepared(log, parse_config({"name": "run", "output_dir": str(folder), "data": data}))
    except Hang as hang:
        return Outcome("hang", place_of(hang))
    except UserError as error:
        return Outcome("refused", without_values(str(error), folder))
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__} in {place_of(error)}")


def prepared(log: Log, config: Any) -> Outcome:
    """Runs the stage and checks that every event was kept or counted."""
    run = Run.create(config)
    run_all(run, "data", say=lambda line: None)
    losses = load_data(run.path("data")).card["losses"]
    kept = run.metrics("data")["clicks"]
    left_out = losses.get("events_left_out", {})
    read = losses["events_read"]
    if log.rows is not None and read != log.rows:
        return Outcome("loss", f"events read are {'fewer' if read < log.rows else 'more'} than the rows of the file")
    if read != kept + sum(left_out.values()):
        return Outcome("loss", f"events kept and left out are not all events; reasons: {', '.join(sorted(left_out))}")
    return Outcome("prepared")
