"""`prepare --check` on logs as sites and data sets write them: what each is taken for, and that `prepare` reads it."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llmrec.config import parse_config
from llmrec.data.check import LogCheck, check_file
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log

EVENTS = 240
USERS = 12
ITEMS = 20


@dataclass(frozen=True)
class Case:
    """A log, and what it is taken for.

    Attributes:
        columns: a function from the number of an event to its value, by column.
        roles: `data.columns` of the suggested config.
        expected: other values of its section `data`.
        note: part of a note.
        suffix: suffix of the file.
    """

    columns: dict[str, Callable[[int], Any]]
    roles: dict[str, str | None]
    expected: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    suffix: str = ".csv"


def user(n: int) -> str:
    return f"u{n % USERS}"


def item(n: int) -> str:
    return f"i{(n // USERS) % ITEMS}"  # a user meets each item once


def stars(n: int) -> int:
    return 1 + n % 5


def epoch(n: int) -> int:
    return 1_600_000_000 + 4_000 * n


def time(form: str) -> Callable[[int], str]:
    return lambda n: pd.Timestamp(epoch(n), unit="s", tz="UTC").strftime(form)


ROLES = {"user_id": "u", "item_id": "i", "timestamp": "t"}
CASES = {
    # Names of columns.
    "h_and_m": Case(
        {
            "t_dat": time("%Y-%m-%d"),
            "customer_id": user,
            "article_id": item,
            "price": lambda n: n / 9,
            "sales_channel_id": lambda n: 1 + n % 2,
        },
        {"user_id": "customer_id", "item_id": "article_id", "timestamp": "t_dat"},
    ),
    "retail_rocket": Case(
        {
            "timestamp": lambda n: 1000 * epoch(n),
            "visitorid": lambda n: n % USERS,
            "event": lambda n: ["view", "addtocart", "transaction"][n % 3],
            "itemid": item,
            "transactionid": lambda n: "" if n % 3 < 2 else n,
        },
        {"user_id": "visitorid", "item_id": "itemid", "event_type": "event"},
        {"click": ["addtocart", "transaction", "view"], "purchase": ["transaction"]},
    ),
    "amazon_2014": Case(
        {
            "reviewerID": user,
            "asin": item,
            "reviewerName": user,
            "helpful": lambda n: "[0, 0]",
            "reviewText": lambda n: f"good {n}",
            "overall": lambda n: float(stars(n)),
            "summary": lambda n: "x",
            "unixReviewTime": epoch,
            "reviewTime": time("%m %d, %Y"),
        },
        {"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall"},
        {"purchase": ["rating>=4"]},
        suffix=".jsonl",
    ),
    "fine_foods": Case(
        {
            "Id": lambda n: n,
            "ProductId": item,
            "UserId": user,
            "ProfileName": user,
            "HelpfulnessNumerator": lambda n: n % 3,
            "Score": stars,
            "Time": epoch,
            "Summary": lambda n: "x",
        },
        {"user_id": "UserId", "item_id": "ProductId", "timestamp": "Time", "rating": "Score"},
    ),
    "online_retail": Case(
        {
            "InvoiceNo": lambda n: 536365 + n // 9,
            "StockCode": item,
            "Description": lambda n: "LAMP",
            "Quantity": lambda n: 1 + n % 6,
            "InvoiceDate": time("%m/%d/%Y %H:%M"),
            "UnitPrice": lambda n: 2.55,
            "CustomerID": lambda n: 17850 + n % USERS,
            "Country": lambda n: "UK",
        },
        {"user_id": "CustomerID", "item_id": "StockCode", "timestamp": "InvoiceDate", "session_id": "InvoiceNo"},
        {"timestamp_format": "%m/%d/%Y %H:%M", "purchase": []},
    ),
    "rees46": Case(
        {
            "event_time": time("%Y-%m-%d %H:%M:%S UTC"),
            "event_type": lambda n: ["view", "cart", "purchase"][n % 3],
            "product_id": item,
            "category_id": lambda n: n % 9,
            "brand": lambda n: "b",
            "price": lambda n: n / 9,
            "user_id": user,
            "user_session": lambda n: f"s{n // 4}",
        },
        {"item_id": "product_id", "timestamp": "event_time", "session_id": "user_session"},
        {"purchase": ["purchase"], "timestamp_format": "%Y-%m-%d %H:%M:%S UTC"},
    ),
    "yelp": Case(
        {
            "review_id": lambda n: f"r{n}",
            "user_id": user,
            "business_id": item,
            "stars": lambda n: float(stars(n)),
            "useful": lambda n: n % 4,
            "text": lambda n: "x",
            "date": time("%Y-%m-%d %H:%M:%S"),
        },
        {"item_id": "business_id", "timestamp": "date", "rating": "stars"},
        suffix=".jsonl",
    ),
    "last_fm": Case(
        {
            "userid": user,
            "timestamp": time("%Y-%m-%dT%H:%M:%SZ"),
            "musicbrainz-artist-id": lambda n: f"a{n % 4}",
            "artist-name": lambda n: f"A {n % 4}",
            "musicbrainz-track-id": item,
            "track-name": item,
        },
        {"user_id": "userid", "item_id": "musicbrainz-track-id"},
        suffix=".tsv",
    ),
    "artists_hold_no_time": Case(
        {"user": user, "song": item, "artists": lambda n: 100 + n % 7, "listened": time("%Y-%m-%d %H:%M:%S")},
        {"user_id": "user", "item_id": "song", "timestamp": "listened"},
        note="`listened` counts as the time: guessed from its values",
    ),
    "german": Case(
        {"Kundennummer": user, "Artikelnummer": item, "Datum": time("%d.%m.%Y"), "Bewertung": stars},
        {"user_id": "Kundennummer", "item_id": "Artikelnummer", "timestamp": "Datum", "rating": "Bewertung"},
        {"timestamp_format": "%d.%m.%Y"},
    ),
    "twitch": Case(
        {"streamer_id": item, "viewer_id": user, "dt": epoch},
        {"user_id": "viewer_id", "item_id": "streamer_id", "timestamp": "dt"},
    ),
    "videos": Case(
        {"video_id": item, "uid": user, "created_at": time("%Y-%m-%d")},
        {"user_id": "uid", "item_id": "video_id", "timestamp": "created_at"},
    ),
    "propensities": Case(
        {
            "timestamp": epoch,
            "user_id": user,
            "item_id": item,
            "position": lambda n: 1 + n % 3,
            "click": lambda n: int(n % 5 > 0),
            "propensity_score": lambda n: 0.1 + n % 3 / 9,
        },
        {"propensity": "propensity_score"},
        {"click": ["click==1"], "purchase": []},
    ),
    "several_numbers_that_are_no_rating": Case(
        {
            "user_id": user,
            "item_id": item,
            "timestamp": epoch,
            "average_rating": lambda n: 1 + n % 5,
            "rating_number": lambda n: n % 8,
            "helpful_vote": lambda n: n % 6,
        },
        {},
        {"click": ["interaction"]},
    ),
    # Times in other forms, in columns whose names say nothing.
    "visited": Case(
        {"user": user, "page_id": item, "visited": time("%d/%b/%Y:%H:%M:%S +0000")},
        {"user_id": "user", "item_id": "page_id", "timestamp": "visited"},
        {"timestamp_format": "%d/%b/%Y:%H:%M:%S %z"},
    ),
    "apache": Case(
        {"user": user, "url": item, "logged": time("[%d/%b/%Y:%H:%M:%S -0700]")},
        {"user_id": "user", "item_id": "url", "timestamp": "logged"},
        {"timestamp_format": "[%d/%b/%Y:%H:%M:%S %z]"},
    ),
    "twitter": Case(
        {"user": user, "item": item, "posted": time("%a %b %d %H:%M:%S +0000 %Y")},
        {"user_id": "user", "item_id": "item", "timestamp": "posted"},
        {"timestamp_format": "%a %b %d %H:%M:%S %z %Y"},
    ),
    "two_readings_of_a_date": Case(
        {"user": user, "item": item, "date": lambda n: f"{1 + n % 9:02}/{1 + n // 30:02}/2020"},
        {"user_id": "user", "item_id": "item", "timestamp": "date"},
        {"timestamp_format": "%m/%d/%Y"},
        note="can be read by %m/%d/%Y and by %d/%m/%Y",
    ),
    "days_and_times_of_day": Case(
        {"user": user, "item": item, "date": time("%Y-%m-%d"), "time": time("%H:%M:%S")},
        {"user_id": "user", "item_id": "item", "timestamp": "date"},
        note="`time` times of day",
    ),
    "times_of_day_alone": Case(
        {"user": user, "item": item, "time": time("%H:%M")},
        {"user_id": "user", "item_id": "item", "timestamp": None},
        {"splits": ["leave_one_out"]},
        note="`time` holds times of day without dates",
    ),
    "small_numbers": Case(
        {"user": user, "item": item, "day": lambda n: n // 10},
        {"user_id": "user", "item_id": "item", "timestamp": None},
        note="would be read as seconds since 1970, so it is no time",
    ),
    "days_of_excel": Case(
        {"user": user, "item": item, "date": lambda n: 43_831 + n / 10},
        {"user_id": "user", "item_id": "item", "timestamp": None},
        note="may be days as Excel counts them",
    ),
    "spent_time_is_no_time": Case(
        {"user": user, "item": item, "watch_time": lambda n: 30 + n, "release_date": time("%Y-%m-%d"), "viewed": epoch},
        {"user_id": "user", "item_id": "item", "timestamp": "viewed"},
    ),
    # Columns whose values say what they are.
    "guessed": Case(
        {"a": user, "b": item, "c": epoch, "d": stars},
        {"user_id": "a", "item_id": "b", "timestamp": "c", "rating": "d"},
        {"purchase": ["rating>=4"]},
        note="`b` counts as the item_id: guessed from its values",
    ),
    # Values.
    "stars_as_text": Case(
        {"user": user, "item": item, "ts": epoch, "stars": lambda n: f"{stars(n)} stars"},
        {"user_id": "user", "item_id": "item", "timestamp": "ts"},
        {"click": ["interaction"]},
        note="`stars` holds text such as '1 stars', so it is no rating",
    ),
    "numbers_of_kinds": Case(
        {"user_id": user, "item_id": item, "behavior_type": lambda n: 1 + n % 4, "time": epoch},
        {"timestamp": "time", "event_type": "behavior_type"},
        {"click": ["1", "2", "3", "4"]},
        note="name purchases in `data.purchase`",
    ),
}


def write_log(directory: Path, case: Case, name: str = "log") -> Path:
    path = directory / f"{name}{case.suffix}"
    frame = pd.DataFrame({name: [value(n) for n in range(EVENTS)] for name, value in case.columns.items()})
    if case.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if case.suffix == ".tsv" else ",")
    return path


def prepared(check: LogCheck):
    """The data that the suggested config gives."""
    config = parse_config(json.loads(json.dumps(check.config)))
    return build_data(read_log(config.data), config.data, seed=0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_log_is_taken_for_what_it_is(tmp_path, case):
    check = check_file(write_log(tmp_path, case))
    assert check.config is not None, check.notes
    data = check.config["data"]
    assert data["columns"] == case.roles
    for key, value in case.expected.items():
        assert data[key] == value
    assert "timestamp_format" in case.expected or not {"timestamp_format", "bad_rows"} & set(data)
    assert any(case.note in note for note in check.notes), check.notes
    result = prepared(check)
    assert (result.card["events"], result.num_users, result.num_items) == (EVENTS, USERS, ITEMS)


def test_a_log_without_users_is_no_guess(tmp_path):
    """The columns of the Open Bandit data set: the features of a user are no user."""
    columns = {
        "timestamp": time("%Y-%m-%d %H:%M:%S.%f+00:00"),
        "item_id": lambda n: n % ITEMS,
        "position": lambda n: 1 + n % 3,
        "click": lambda n: n % 2,
        "propensity_score": lambda n: 0.1 + n % 3 / 9,
        **{f"user_feature_{k}": lambda n: f"{n % USERS:x}" for k in range(4)},
    }
    check = check_file(write_log(tmp_path, Case(columns, {})))
    found, known = check.notes
    assert check.config is None
    assert found == "No column looks like the user_id. Name it in `data.columns.user_id` of a config."
    assert known.startswith("The columns are those of Open Bandit.")
    uses = {one.name: one.use for one in check.columns}
    assert uses["propensity_score"].startswith("propensity: 0.1 to") and uses["user_feature_0"].startswith("none")


def test_sessions_may_stand_in_for_users(tmp_path):
    case = Case({"session_id": user, "timestamp": epoch, "item_id": item}, {})
    check = check_file(write_log(tmp_path, case))
    assert check.config is None
    assert "If each session may count as a user, set `data.columns.user_id: session_id`." in check.notes


def commands(check: LogCheck) -> list[str]:
    """The Python code of the commands in the notes."""
    found = [one for note in check.notes for one in re.findall(r"`(python -c .*)`", note)]
    return [shlex.split(one)[2] for one in found]


@pytest.mark.parametrize(
    ("columns", "target", "roles"),
    [
        (
            {"user": user, "item": item, "date": time("%Y-%m-%d"), "time": time("%H:%M:%S")},
            "log-joined.csv",
            {"timestamp"},
        ),
        ({"user": user, "item": item, "date": lambda n: 43_831 + n / 10}, "log-dates.csv", {"timestamp"}),
        (
            {"user": user, "item": item, "Year": time("%Y"), "Month": time("%m"), "Day": time("%d")},
            "log-joined.csv",
            {"timestamp"},
        ),
        (
            {"user": user, "item": item, "ts": epoch, "rating": lambda n: f"{stars(n)} stars"},
            "log-numbers.csv",
            {"timestamp", "rating"},
        ),
        (
            {"user": user, "items": lambda n: f"['{item(n)}', \"i{(n // USERS + 1) % ITEMS}\"]", "ts": epoch},
            "log-rows.csv",
            {"timestamp"},
        ),
        ({"user": user, "items": lambda n: f"{item(n)}|x", "ts": epoch}, "log-rows.csv", {"timestamp"}),
    ],
)
def test_the_suggested_commands_mend_the_log(tmp_path, columns, target, roles):
    """A command in a note writes a file that the check accepts without that note."""
    check = check_file(write_log(tmp_path, Case(columns, {})))
    (code,) = commands(check)
    exec(code)
    mended = check_file(tmp_path / target)
    assert mended.config is not None and not commands(mended), mended.notes
    columns = {"user_id", "item_id", "timestamp", "rating"} & {use.use.split(":")[0] for use in mended.columns}
    assert columns == {"user_id", "item_id", *roles}
    assert "rating" not in roles or mended.config["data"]["purchase"] == ["rating>=4"]
    assert prepared(mended).num_users == USERS


def test_a_column_of_lists_is_no_guess_and_an_order_is_no_user(tmp_path):
    """Impressions of the MIND data set, and the products of orders of Instacart."""
    columns = {"impression_id": lambda n: n, "user_id": user, "time": epoch, "impressions": lambda n: f"N{n}-0 N3-1"}
    check = check_file(write_log(tmp_path, Case(columns, {})))
    assert check.config is None and any("The columns impressions hold objects or lists" in one for one in check.notes)
    columns = {"order_id": lambda n: n // 5, "product_id": item, "reordered": lambda n: n % 2}
    check = check_file(write_log(tmp_path, Case(columns, {})))
    assert check.config is None and check.notes[0].startswith("No column looks like the user_id.")


def test_missing_ids_do_not_count_as_ids(tmp_path):
    case = Case({"user": lambda n: "NULL" if n % 8 == 7 else f"u{n % 5}", "item": item, "ts": epoch}, {})
    check = check_file(write_log(tmp_path, case))
    column = check.columns[0]
    assert (column.use, column.missing) == ("user_id: 5 different", pytest.approx(1 / 8))
    assert check.config is not None and check.config["data"]["bad_rows"] == "skip"
    assert prepared(check).num_users == 5


def test_too_many_bad_rows_are_not_skipped(tmp_path):
    """A config with `bad_rows: skip` would be refused, because of `data.bad_rows_limit`."""
    case = Case({"user": lambda n: "NULL" if n % 8 else f"u{n % 5}", "item": item, "ts": epoch}, {})
    check = check_file(write_log(tmp_path, case))
    assert check.config is None
    assert "210 of 240 rows (87.5%) cannot be used" in check.notes[-1] and "log.csv" in check.notes[-1]
