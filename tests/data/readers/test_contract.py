"""Rules of the reading contract that need a file of their own: text of web pages, lists as text, bad rows, tables."""

import json

import pytest

from llmrec.config import DataConfig
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.data.readers.raw import ENTITIES
from llmrec.errors import DataError
from tests.data.logs import events_of, read_all

LOG = "user_id,item_id,timestamp,rating\n" + "".join(
    f"{user},{item},{1_500_000_000 + n},4\n"
    for n, (user, item) in enumerate((user, item) for user in "uv" for item in "abc")
)
ITEMS = "item_id,title\na,Alien\nb,Brazil\nc,Contact\n"


def section(folder, log: str = LOG, items: str = ITEMS, users: str = "", facts: str = "", **values) -> DataConfig:
    """Writes the tables that are not empty, and the config that reads them."""
    tables = {}
    for key, content in (("path", log), ("items", items), ("users", users), ("facts", facts)):
        if content:
            tables[key] = str(folder / f"{'log' if key == 'path' else key}.csv")
            (folder / tables[key]).write_text(content, encoding="utf-8")
    values = {"purchase": [], "splits": ["leave_one_out"], **values}
    return DataConfig(format="table", **tables, **values)


def card(config: DataConfig) -> dict:
    return build_data(read_log(config), config, seed=0).card


# --- values of items ----------------------------------------------------------------------------------


def test_html_entities_become_characters(tmp_path):
    items = (
        "item_id,title,categories\n"
        "a,Tom &amp; Jerry &#8211; &#x27;Best&#39; &lt;3,Arts &amp; Crafts|War\n"
        "b,AT&T and R&D;,&eacute;t&eacute;\n"
        "c,Contact,\n"
    )
    log = read_all(section(tmp_path, items=items))
    assert log.items["title"].tolist() == ["Tom & Jerry – 'Best' <3", "AT&T and R&D;", "Contact"]
    assert log.items["categories"].tolist() == [["Arts & Crafts", "War"], ["été"], []]
    assert log.item_source.losses[ENTITIES].count == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['Drama', 'War']", ["Drama", "War"]),
        ("""["Children's", 'Say ""hi""']""".replace('""', '\\"'), ["Children's", 'Say "hi"']),
        ("['Drama' 'War']", ["Drama", "War"]),  # as numpy writes an array
        ('["Drama", "War, Peace"]', ["Drama", "War, Peace"]),
        ("[Drama, War]", ["Drama", "War"]),
        ("[]", []),
        ("Drama|[Rec", ["Drama", "[Rec"]),
    ],
)
def test_categories_that_are_lists_written_as_text(tmp_path, text, expected):
    quoted = '"' + text.replace('"', '""') + '"'
    log = read_all(section(tmp_path, items=f"item_id,title,categories\na,Alien,{quoted}\nb,Brazil,\nc,Contact,\n"))
    assert log.items["categories"].iloc[0] == expected


# --- separators ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", "::", "^"])
def test_separators_that_are_named(tmp_path, separator):
    config = section(tmp_path, LOG.replace(",", separator), ITEMS.replace(",", separator), separator=separator)
    assert card(config)["clicks"] == 6
    with pytest.raises(DataError, match=r"log.csv: there is no column `user_id`.*`data.separator`"):
        read_log(config.model_copy(update={"separator": None}))


@pytest.mark.parametrize("named", [" ", "::", "^"])
@pytest.mark.parametrize("other", [",", ";", "\t"])
def test_each_table_of_a_log_may_have_its_own_separator(tmp_path, named, other):
    """The key holds for the tables whose header it cuts; titles and names of columns may have spaces."""
    items = "item_id,title,release year\na,Alien vs. Predator,2004\nb,Brazil,1985\nc,Contact,1997\n"
    users = "user_id,country,home town\nu,DE,Bad Ems\nv,FR,Le Mans\n"
    other_tables = {"items": items.replace(",", other), "users": users.replace(",", other)}
    config = section(tmp_path, LOG.replace(",", named), **other_tables, separator=named)
    log = read_all(config)
    assert log.items["title"].tolist() == ["Alien vs. Predator", "Brazil", "Contact"]
    assert log.users["home town"].tolist() == ["Bad Ems", "Le Mans"]
    assert card(config)["clicks"] == 6
    named_items = ITEMS.replace(",", named)
    mixed = section(tmp_path, LOG.replace(",", other), named_items, separator=named)
    assert read_all(mixed).items["title"].tolist() == ["Alien", "Brazil", "Contact"]


def test_rows_that_are_longer_than_the_header_are_said_in_plain_words(tmp_path):
    config = section(tmp_path, LOG.replace(",rating", "", 1))
    with pytest.raises(DataError, match="the first rows have more fields than the header, separated by `,`; expected"):
        read_all(config)


# --- events -------------------------------------------------------------------------------------------


def test_missing_ratings_are_counted_with_their_reason(tmp_path):
    log = LOG + "u,a,1500000100,\nv,a,1500000101,\n"
    losses = card(section(tmp_path, log, click=["rating>=1"]))["losses"]
    assert losses["events_left_out"] == {"neither click nor purchase": 2}
    assert any("2 of 8 events have no number in `rating`, so no rule" in warning for warning in losses["warnings"])
    complete = card(section(tmp_path, click=["rating>=1"]))["losses"]["warnings"]
    assert not any("no number" in warning for warning in complete)


def test_exact_duplicates_of_events_count_once(tmp_path):
    config = section(tmp_path, LOG + LOG.partition("\n")[2])
    for repeats in ("first", "keep"):
        found = card(config.model_copy(update={"repeats": repeats}))
        assert found["clicks"] == 6
        assert found["losses"]["events_left_out"] == {"repeated click on an item at the same time": 6}
        assert "remove exact duplicates" in found["losses"]["warnings"][0]
        assert found["tied_events"] == found["checks"]["repeated_clicks"] == 0


def test_a_time_beyond_the_horizon_names_its_line(tmp_path):
    with pytest.raises(DataError, match=r"log.csv, line 8: `timestamp` is '9999999999'; expected .*to 2100"):
        read_all(section(tmp_path, LOG + "u,a,9999999999,4\n"))


def test_a_time_in_the_future_is_a_warning_with_its_line(tmp_path):
    (warning,) = card(section(tmp_path, LOG + "v,a,4000000000,4\n"))["losses"]["warnings"]
    assert "1 event is in the future, on 2096-10-02 (log.csv, line 8). Correct" in warning
    assert "`data.timestamp_format`" in warning


def test_a_key_that_a_json_line_lacks_is_empty(tmp_path):
    rows = [{"user_id": "u", "item_id": "a", "timestamp": 1}, {"user_id": "u", "timestamp": 2}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = section(tmp_path).model_copy(update={"path": str(tmp_path / "log.jsonl")})
    with pytest.raises(DataError, match=r"log.jsonl, line 2: `item_id` is empty; expected an id"):
        read_all(config)


def test_skipped_rows_have_a_limit(tmp_path):
    bad = "".join(f"u,a,never,{n}\n" for n in range(4)) + ",a,1,4\n"
    config = section(tmp_path, LOG + bad, bad_rows="skip")
    assert card(config)["losses"]["events_left_out"] == {"unusable user_id": 1, "unusable timestamp": 4}
    with pytest.raises(DataError) as caught:
        card(config.model_copy(update={"bad_rows_limit": 0.4}))
    for part in (
        *("log.csv: 5 of 11 rows (45.5%) cannot be used", "1 for unusable user_id, 4 for unusable timestamp"),
        *("log.csv, line 12: empty", "expected at most 40%", "`data.bad_rows_limit`"),
    ):
        assert part in str(caught.value)
    assert caught.value.exit_code == 2
    too_many = section(tmp_path, LOG + bad * 2, bad_rows="skip")
    with pytest.raises(DataError, match=r"10 of 16 rows \(62.5%\)"):
        card(too_many)


def test_amazon_reviews_with_0_stars_are_left_out(tmp_path):
    reviews = [
        {"user_id": "U", "parent_asin": "A", "rating": stars, "timestamp": 1588687728923 + stars} for stars in (5, 0)
    ]
    (tmp_path / "Home.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reviews))
    (tmp_path / "meta_Home.jsonl").write_text('{"parent_asin": "A", "title": "Pan"}\n')
    log = read_all(DataConfig(format="amazon2023", path=str(tmp_path / "Home.jsonl")))
    assert events_of(log)["rating"].tolist() == [5]
    assert log.event_source.losses["review with 0 stars"].count == 1


# --- users and facts ----------------------------------------------------------------------------------


def test_users_that_never_match_are_said(tmp_path):
    losses = card(section(tmp_path, users="user_id,country\nU,DE\nV,FR\n"))["losses"]
    assert losses["users_with_attributes"] == 0
    assert any("None of the 2 rows of the user table" in warning for warning in losses["warnings"])


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        ({"users": "name,country\nu,DE\n"}, ["users.csv: there is no column `user_id`", "found name, country"]),
        ({"users": "user_id,country\nu,DE\nu,FR\n"}, ["users.csv, line 3: `user_id` is 'u'", "on line 2"]),
        ({"users": "user_id,country\n,DE\n"}, ["users.csv, line 2: `user_id` is empty"]),
        ({"facts": "head,tail\na,x\n"}, ["facts.csv: there is no column `relation`"]),
        ({"facts": "head,relation,tail\na,by,\n"}, ["facts.csv, line 2: `tail` is empty"]),
        ({"facts": "head,relation,tail\nz,by,x\n"}, ["facts.csv, line 2: `head` is 'z'", "items.csv"]),
        (
            {"facts": "head,relation,tail,named\na,by,x,maybe\n"},
            ["facts.csv, line 2: `named` is 'maybe'", "true or false"],
        ),
        ({"items": "item_id,title\n,Alien\n"}, ["items.csv, line 2: `item_id` is empty"]),
        ({"items": "item_id,title\na,Alien\na,Aliens\n"}, ["items.csv, line 3: `item_id` is 'a'", "on line 2"]),
    ],
)
def test_other_tables_that_cannot_be_used(tmp_path, tables, parts):
    with pytest.raises(DataError) as caught:
        read_all(section(tmp_path, **tables))
    assert all(part in str(caught.value) for part in parts), caught.value
    assert caught.value.exit_code == 2


def test_a_relative_path_that_is_missing_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs.csv").write_text("")
    with pytest.raises(DataError) as caught:
        read_log(DataConfig(format="table", path="log.csv"))
    assert f"there is no log.csv in {tmp_path}, where relative paths begin" in str(caught.value)
    assert "Did you mean logs.csv?" in str(caught.value)
