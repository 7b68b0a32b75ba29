"""`prepare --check`: the item table and the user table beside a log."""

import re
import shlex
from pathlib import Path

import pytest

from llmrec.config import parse_config
from llmrec.data.check import LogCheck, check_config, check_file
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log

LOG = "user_id,item_id,timestamp,rating\n" + "".join(
    f"u{n % 7},{1 + n % 11},{1_600_000_000 + 90_000 * n},{1 + n % 5}\n" for n in range(77)
)
ITEMS = "item_id,title,categories\n" + "".join(f"{n},Pan {n},Iron|Small\n" for n in range(1, 12))


def write(directory: Path, log: str = LOG, **tables: str | bytes) -> Path:
    """A log, and tables by their names without `.csv`."""
    (directory / "log.csv").write_text(log)
    for name, content in tables.items():
        (directory / f"{name}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory / "log.csv"


def prepared(check: LogCheck):
    config = parse_config(check.config)
    return build_data(read_log(config.data), config.data, seed=0)


def items_of(check: LogCheck) -> str | None:
    """Name of the item table in the suggested config."""
    assert check.config is not None
    return Path(check.config["data"]["items"]).name if "items" in check.config["data"] else None


def run_command(note: str) -> None:
    command = re.search(r"`(python -c [^`]*)`", note)
    assert command is not None
    exec(shlex.split(command[1])[2])


def uses(check: LogCheck) -> dict[str, str]:
    (table,) = check.tables
    return {one.name: one.use for one in table.columns}


def test_equal_rows_of_an_item_table_count_once(tmp_path):
    check = check_file(write(tmp_path, items=ITEMS + "3,Pan 3,Iron|Small\n"))
    assert items_of(check) == "items.csv" and check.notes == []
    assert "bad_rows" not in check.config["data"] and prepared(check).num_items == 11


def test_rows_that_say_something_else_of_an_item_are_said_and_skipped(tmp_path):
    check = check_file(write(tmp_path, items=ITEMS + "3,Pot 3,Steel\n"))
    assert items_of(check) == "items.csv" and check.config["data"]["bad_rows"] == "skip"
    (note,) = check.notes
    assert "items.csv: 1 row has an id of an earlier row and other values, such as line 13: '3'" in note
    assert "Correct the table." in note and prepared(check).items["title"].iloc[2] == "Pan 3"


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_of_an_item_for_each_category_are_joined_by_the_command(tmp_path, rows):
    more = "".join(f"{n},Pan {n},Kind {row}\n" for n in range(1, 12) for row in range(rows))
    check = check_file(write(tmp_path, items=ITEMS + more))
    note = check.notes[0]
    assert f"{11 * rows} rows have an id of an earlier row" in note and "Only `categories` differs." in note
    run_command(note)
    (tmp_path / "items.csv").unlink()
    check = check_file(tmp_path / "log.csv")
    kinds = [f"Kind {row}" for row in range(rows)]
    assert prepared(check).items["categories"].iloc[0] == ["Iron", "Small", *kinds]


def test_each_column_of_the_tables_is_described(tmp_path):
    items = "item_id,title,year,categories,brand,price,note\n"
    items += "".join(f"{n},Pan {n},{1990 + n},Iron|Small,Acme,{n},x\n" for n in range(1, 12))
    users = "user_id,country\n" + "".join(f"u{n},DE\n" for n in range(7))
    check = check_file(write(tmp_path, items=items, users=users))
    assert [table.title for table in check.tables] == ["the item table items.csv", "the user table users.csv"]
    assert {one.name: one.use for one in check.tables[0].columns} == {
        "item_id": "item_id: 11 different",
        "title": "title: 11 different",
        "year": "year: facts, 1991 to 2001",
        "categories": "categories: facts, 2 different",
        "brand": "brand: facts, 1 different",
        "price": "none, but `reward.terms` can name it",
        "note": "none",
    }
    assert check.tables[1].columns[1].use == "attribute, if `catalogue.user_attributes` names it"
    assert check_config(parse_config(check.config).data).tables == check.tables


@pytest.mark.parametrize("name", ["genre", "genres", "Kategorie"])
def test_categories_under_another_name_are_said(tmp_path, name):
    check = check_file(write(tmp_path, items=ITEMS.replace("categories", name)))
    assert items_of(check) == "items.csv" and uses(check)[name] == "categories, once it is renamed"
    assert f"rename `{name}` to `categories`" in check.notes[0]
    run_command(check.notes[0])
    check = check_file(tmp_path / "log.csv")  # both files are there
    assert items_of(check) == "items-items.csv"
    assert check.notes[0].startswith("items-items.csv and items.csv both fit as the item table.")
    assert "which has categories" in check.notes[0]
    assert prepared(check).items["categories"].iloc[0] == ["Iron", "Small"]


@pytest.mark.parametrize("name", ["Titel", "product", "prod_name", "product_name", "name", "Bezeichnung"])
def test_titles_under_another_name_are_found(tmp_path, name):
    items = ITEMS.replace("title", f"product_type_name,{name}").replace(",Pan", ",Iron pan,Pan")
    check = check_file(write(tmp_path, products=items))
    assert items_of(check) is None and uses(check)[name] == "title, once it is renamed"
    assert f"rename `{name}` to `title`" in check.notes[0]
    run_command(check.notes[0])
    assert prepared(check_file(tmp_path / "log.csv")).items["title"].iloc[0] == "Pan 1"


def test_an_item_table_may_have_another_encoding_than_a_plain_log(tmp_path):
    items = ITEMS.replace("Pan", "Käse").encode("cp1252")
    check = check_file(write(tmp_path, items=items))
    assert check.config["data"]["encoding"] == "cp1252"
    assert prepared(check).items["title"].iloc[0] == "Käse 1"
    path = write(tmp_path, LOG.replace("u1", "ü1"), items=items)
    assert any("items.csv, line 2: not utf-8 text" in note for note in check_file(path).notes)


def test_an_item_table_in_another_encoding_than_the_log_is_not_garbled(tmp_path):
    log = write(tmp_path, items=ITEMS.replace("Pan", "Käse"))
    log.write_bytes(LOG.replace("u1", "ü1").encode("cp1252"))
    check = check_file(log)
    assert items_of(check) is None and "it needs `data.encoding: utf-8`, and another table cp1252" in check.notes[0]
    run_command(check.notes[0])
    log.unlink()
    assert prepared(check_file(tmp_path / "log-utf-8.csv")).items["title"].iloc[0] == "Käse 1"


@pytest.mark.parametrize(("log", "table"), [("::", ","), ("^", ";"), (" ", ","), (",", "::"), ("::", "::")])
def test_an_item_table_may_have_another_separator_than_the_log(tmp_path, log, table):
    check = check_file(write(tmp_path, LOG.replace(",", log), items=ITEMS.replace(",", table)))
    assert items_of(check) == "items.csv" and prepared(check).items["title"].iloc[0] == "Pan 1"


def test_two_separators_that_must_be_named_are_too_many(tmp_path):
    check = check_file(write(tmp_path, LOG.replace(",", "^"), items=ITEMS.replace(",", "::")))
    assert items_of(check) is None and "it needs `data.separator: ::`, and another table ^" in check.notes[0]
    run_command(check.notes[0])
    (tmp_path / "items.csv").unlink()
    assert items_of(check_file(tmp_path / "log.csv")) == "items-items.csv"


@pytest.mark.parametrize(("in_log", "in_table"), [("0{}", "{}"), ("{}", "00{}"), ("{:0>4}", "{}")])
def test_zeros_at_the_beginning_of_ids_are_said(tmp_path, in_log, in_table):
    log = re.sub(r"^(u\d),(\d+)", lambda row: f"{row[1]},{in_log.format(int(row[2]) + 100)}", LOG, flags=re.M)
    items = re.sub(r"^\d+", lambda row: in_table.format(int(row[0]) + 100), ITEMS, flags=re.M)
    check = check_file(write(tmp_path, log, articles=items.replace("item_id,title", "article_id,prod_name")))
    assert "write zeros at the beginning of its ids as the log does" in check.notes[0]
    run_command(check.notes[0])
    check = check_file(tmp_path / "log.csv")
    assert items_of(check) == "articles-items.csv" and prepared(check).items["title"].iloc[0] == "Pan 1"


def test_the_choice_between_two_item_tables_is_said(tmp_path):
    check = check_file(write(tmp_path, items=ITEMS, products=ITEMS.replace("Pan", "Pot")))
    assert items_of(check) == "items.csv"
    assert check.notes == [
        "items.csv and products.csv both fit as the item table. The config uses items.csv, which comes first by name. "
        "If the other one is right, set `data.items` to it."
    ]
    check = check_file(write(tmp_path, items="".join(ITEMS.splitlines(keepends=True)[:8])))
    assert items_of(check) == "products.csv"
    assert "holds 100% of the ids of the log, the other 64%" in check.notes[0]


def test_a_user_table_of_other_ids_is_said(tmp_path):
    users = "user_id,name\n" + "".join(f"x{n},Ann\n" for n in range(7))
    check = check_file(write(tmp_path, items=ITEMS, users=users))
    assert check.notes == [
        "users.csv may be the user table, but its column `user_id` holds 0% of the ids in `user_id` of the log: the "
        "log has `u0`, the table `x0`. Write the same ids in both files."
    ]


def test_a_user_table_is_no_item_table(tmp_path):
    """Users and items with the same ids: the names of the columns decide."""
    users = "user_id,name\n" + "".join(f"{n},Ann {n}\n" for n in range(1, 12))
    check = check_file(write(tmp_path, LOG.replace("u", "").replace("ser_id", "user_id", 1), users=users))
    assert Path(check.config["data"]["users"]).name == "users.csv"
    assert [note[:43] for note in check.notes] == ["No file beside the log is its item table, s"]


def with_texts(name: str, texts: list[str]) -> str:
    """The log with another column, and its items called `p1` to `p11`."""
    header, *rows = LOG.splitlines()
    mended = [re.sub(",", ",p", row, count=1) for row in rows]
    return "\n".join([f"{header},{name}", *(f"{row},{text}" for row, text in zip(mended, texts, strict=True))]) + "\n"


@pytest.mark.parametrize("name", ["Item Name", "item_name", "Lineitem name", "Bezeichnung", "product_name", "title"])
def test_titles_in_the_log_itself_make_an_item_table(tmp_path, name):
    check = check_file(write(tmp_path, with_texts(name, [f"Pan {1 + n % 11}" if n else "" for n in range(77)])))
    (note,) = [one for one in check.notes if "No file beside the log" in one]
    assert items_of(check) is None and f"`{name}` holds the titles of the items" in note
    run_command(note)
    mended = check_file(tmp_path / "log.csv")
    assert items_of(mended) == "log-items.csv" and "No file beside the log" not in " ".join(mended.notes)
    assert set(prepared(mended).items["title"]) == {f"Pan {n}" for n in range(1, 12)}


@pytest.mark.parametrize("texts", [["Pan"] * 77, [f"Pan {n}" for n in range(77)], [str(n % 11) for n in range(77)]])
def test_a_column_without_one_title_for_each_item_makes_no_item_table(tmp_path, texts):
    check = check_file(write(tmp_path, with_texts("Item Name", texts)))
    assert items_of(check) is None and not any("holds the titles" in one for one in check.notes)
