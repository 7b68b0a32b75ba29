"""`prepare --check` on exports of trackers and shops: its config is right, and leaves out what was not sold."""

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
from llmrec.data.check import LogCheck, check_config, check_file, files, spread
from llmrec.data.check.kind_names import is_no_sale, is_purchase, shows_interest, withdraws
from llmrec.data.check.names import rank
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import DataError

EVENTS = 240
USERS = 12
ITEMS = 20
Column = Callable[[int], Any]


def user(n: int) -> str:
    return f"u{n % USERS}"


def item(n: int) -> str:
    return f"i{(n // USERS) % ITEMS}"  # a user meets each item once


def mail(n: int) -> str:
    return f"u{n % USERS}@shop.example"


def time(form: str) -> Column:
    return lambda n: pd.Timestamp(1_600_000_000 + 4_000 * n, unit="s", tz="UTC").strftime(form)


def cycle(*values: Any) -> Column:
    return lambda n: values[n % len(values)]


def some(column: Column, each: int) -> Column:
    """A column that is empty on all rows but each so many."""
    return lambda n: column(n) if n % each == 0 else ""


def log_of(path: Path, columns: dict[str, Column], separator: str = ",") -> Path:
    frame = pd.DataFrame({name: [value(n) for n in range(EVENTS)] for name, value in columns.items()})
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False, sep=separator)
    return path


def prepared(check: LogCheck):
    """The data that the suggested config gives."""
    assert check.config is not None, check.notes
    config = parse_config(json.loads(json.dumps(check.config)))
    return build_data(read_log(config.data), config.data, seed=0)


@dataclass(frozen=True)
class Export:
    """An export, the roles of its columns, the rules of `data.drop`, and how many events and purchases are left."""

    columns: dict[str, Column]
    roles: dict[str, str | None]
    drop: list[str] = field(default_factory=list)
    events: int = EVENTS
    purchases: int = 0
    separator: str = ","


EXPORTS = {
    "ga4": Export(
        {
            "event_date": time("%Y%m%d"),
            "event_timestamp": lambda n: (1_600_000_000 + 4_000 * n) * 1_000_000,
            "event_name": cycle("view_item", "page_view", "purchase", "scroll"),
            "user_pseudo_id": lambda n: f"{1000455 + n % USERS}.{3180 + n % USERS}",
            "user_id": some(user, 10),
            "items.item_id": lambda n: item(n // 2) if n % 2 == 0 else "",
            "items.item_name": lambda n: item(n // 2) if n % 2 == 0 else "",
        },
        {
            "user_id": "user_pseudo_id",
            "item_id": "items.item_id",
            "timestamp": "event_timestamp",
            "event_type": "event_name",
        },
        ["event_name==page_view", "event_name==scroll"],
        events=120,
        purchases=60,
    ),
    "segment": Export(
        {
            "id": lambda n: f"ajs-{n}",
            "received_at": time("%Y-%m-%d %H:%M:%S UTC"),
            "anonymous_id": lambda n: f"9f8c-{n % USERS}",
            "user_id": some(user, 4),
            "original_timestamp": time("%Y-%m-%dT%H:%M:%S.120Z"),
            "event": cycle("Product Viewed", "Order Completed", "Product Removed", "Product Viewed", "Product Viewed"),
            "properties.product_id": item,
        },
        {
            "user_id": "anonymous_id",
            "item_id": "properties.product_id",
            "timestamp": "original_timestamp",
            "event_type": "event",
        },
        purchases=48,
    ),
    "snowplow": Export(
        {
            "app_id": lambda n: "web",
            "etl_tstamp": time("%Y-%m-%d %H:%M:%S"),
            "collector_tstamp": time("%Y-%m-%d %H:%M:%S"),
            "event": lambda n: "unstruct",
            "user_id": some(user, 100),
            "domain_userid": user,
            "event_name": cycle("product_view", "transaction"),
            "ti_sku": item,
        },
        {
            "user_id": "domain_userid",
            "item_id": "ti_sku",
            "timestamp": "collector_tstamp",
            "event_type": "event_name",
        },
        purchases=120,
    ),
    "matomo": Export(
        {
            "idvisitor": user,
            "server_time": time("%Y-%m-%d %H:%M:%S"),
            "idorder": lambda n: n // 2,
            "idaction_sku": item,
            "deleted": cycle(0, 0, 0, 1),
        },
        {"user_id": "idvisitor", "item_id": "idaction_sku", "timestamp": "server_time"},
        ["deleted>0"],
        events=180,
    ),
    "woocommerce": Export(
        {
            "Order Number": lambda n: 5000 + n // 3,
            "Order Status": cycle("completed", "refunded", "cancelled", "failed", "pending", "processing"),
            "Order Date": time("%Y-%m-%d %H:%M"),
            "Email (Billing)": mail,
            "SKU": item,
            "Item #": lambda n: 1 + n % 3,
            "Item Name": item,
            "Quantity (- Refund)": cycle(1, 2),
        },
        {"user_id": "Email (Billing)", "item_id": "SKU", "timestamp": "Order Date"},
        [f"Order Status=={one}" for one in ("refunded", "cancelled", "failed", "pending")],
        events=80,
    ),
    "woocommerce_of_another_plugin": Export(
        {
            "Customer Email": mail,
            "Order Date": time("%Y-%m-%d %H:%M"),
            "Product SKU": item,
            "Item Name": item,
            "Quantity": cycle(1, 2, 3, 0, -1),
        },
        {"user_id": "Customer Email", "item_id": "Product SKU", "timestamp": "Order Date"},
        ["Quantity<=0"],
        events=144,
    ),
    "shopify": Export(
        {
            "Name": lambda n: f"#{1000 + n // 2}",
            "Email": mail,
            "Financial Status": cycle("paid", "paid", "refunded", "voided"),
            "Fulfillment Status": cycle("fulfilled", "pending"),
            "Created at": time("%Y-%m-%d %H:%M:%S +0100"),
            "Lineitem quantity": lambda n: 1,
            "Lineitem name": item,
            "Lineitem sku": some(item, 2),
            "Cancelled at": some(time("%Y-%m-%d %H:%M:%S +0100"), 12),
        },
        {"user_id": "Email", "item_id": "Lineitem name", "timestamp": "Created at"},
        ["Financial Status==refunded", "Financial Status==voided", "Cancelled at"],
        events=100,
    ),
    "magento": Export(
        {
            "increment_id": lambda n: f"{n // 2:09}",
            "created_at": time("%Y-%m-%d %H:%M:%S"),
            "customer_email": mail,
            "status": cycle("complete", "closed", "canceled", "holded"),
            "sku": item,
            "qty_ordered": lambda n: 1.0,
            "qty_refunded": lambda n: float(n % 8 == 0),
        },
        {"user_id": "customer_email", "item_id": "sku", "timestamp": "created_at"},
        ["status==closed", "status==canceled", "status==holded", "qty_refunded>0"],
        events=30,
    ),
    "german": Export(
        {
            "Bestellnummer": lambda n: 700 + n // 2,
            "Bestelldatum": time("%d.%m.%Y %H:%M"),
            "Kunden-Nr.": user,
            "Artikelnr": item,
            "Artikelbezeichnung": item,
            "Menge": cycle("1", "2", "1", "1", "-1"),
            "Status": cycle("bezahlt", "storniert", "retourniert", "erstattet"),
        },
        {"user_id": "Kunden-Nr.", "item_id": "Artikelnr", "timestamp": "Bestelldatum"},
        ["Menge<=0", "Status==storniert", "Status==retourniert", "Status==erstattet"],
        events=48,
        separator=";",
    ),
    "french": Export(
        {
            "Date de commande": time("%d/%m/%Y %H:%M"),
            "Identifiant client": user,
            "Référence produit": item,
            "Désignation": item,
            "Statut de la commande": cycle("Payée", "Annulée", "Remboursée", "En attente"),
        },
        {"user_id": "Identifiant client", "item_id": "Référence produit", "timestamp": "Date de commande"},
        [f"Statut de la commande=={one}" for one in ("Annulée", "Remboursée", "En attente")],
        events=60,
        separator=";",
    ),
    "spanish": Export(
        {
            "Pedido": lambda n: n // 2,
            "Fecha de pedido": time("%d/%m/%Y %H:%M"),
            "Correo electrónico": mail,
            "Código de producto": item,
            "Estado": cycle("enviado", "cancelado", "devuelto"),
        },
        {"user_id": "Correo electrónico", "item_id": "Código de producto", "timestamp": "Fecha de pedido"},
        ["Estado==cancelado", "Estado==devuelto"],
        events=80,
        separator=";",
    ),
    "kinds_and_states": Export(
        {
            "user_id": user,
            "item_id": item,
            "timestamp": lambda n: 1_600_000_000 + 4_000 * n,
            "event": cycle("view", "purchase", "view", "purchase"),
            "payment_status": cycle("", "paid", "", "refunded"),
            "qty": lambda n: 0 if n % 2 == 0 else -1 if n % 40 == 1 else 1,
        },
        {"event_type": "event"},
        ["payment_status==refunded", "qty<0"],
        events=174,
        purchases=54,
    ),
}


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_an_export_gets_a_config_that_is_right(tmp_path, export):
    check = check_file(log_of(tmp_path / "log.csv", export.columns, export.separator))
    assert check.config is not None, check.notes
    data = check.config["data"]
    assert data["columns"] == export.roles
    assert sorted(data.get("drop", [])) == sorted(export.drop)
    assert all(f"`{rule}` (" in " ".join(check.notes) for rule in export.drop if not rule.startswith("event_name"))
    card = prepared(check).card
    assert (card["events"], card["purchase_events"]) == (export.events, export.purchases)
    assert "bad_rows" not in data and check_config(parse_config(check.config).data).outcome == check.outcome


def test_ids_that_look_like_decimals_stay_as_they_are(tmp_path):
    users = prepared(check_file(log_of(tmp_path / "log.csv", EXPORTS["ga4"].columns))).users["user_id"]
    assert "1000455.3180" in set(users) and len(users) == USERS / 2  # every second row names an item


def test_counts_of_dropped_rows_are_said(tmp_path):
    check = check_file(log_of(tmp_path / "log.csv", EXPORTS["shopify"].columns))
    (note,) = [one for one in check.notes if "`Financial Status==refunded`" in one]
    assert "`Financial Status==refunded` (60), `Financial Status==voided` (60) of 240. It keeps `paid` (120)." in note
    card = prepared(check).card
    reasons = card["losses"]["events_left_out"]
    assert reasons["dropped by `Cancelled at`"] == 20
    assert not any("are left out" in one["text"] for one in card["warnings"])


def test_a_state_on_the_first_row_of_an_order_is_repeated(tmp_path):
    """As Shopify exports orders of several items. The other rows would count as sold."""
    columns = {
        **EXPORTS["shopify"].columns,
        "Email": lambda n: mail(n // 2),
        "Financial Status": some(lambda n: "refunded" if n % 6 == 0 else "paid", 2),
        "Cancelled at": lambda n: "",
    }
    check = check_file(log_of(tmp_path / "log.csv", columns))
    assert check.config is None and check.outcome == "nothing until a column is changed"
    (code,) = commands(check)
    exec(code)
    mended = check_file(tmp_path / "log-filled.csv")
    assert not commands(mended) and prepared(mended).card["events"] == 160


@pytest.mark.parametrize("once", ["Financial Status", "Total"])
def test_a_mark_on_the_first_row_of_an_order_is_repeated(tmp_path, once):
    """All states are those of sales, so that the mark alone withdraws an order."""
    columns = {
        **EXPORTS["shopify"].columns,
        "Email": lambda n: mail(n // 2),
        "Financial Status": lambda n: "paid",
        "Total": lambda n: 20 + n % 7,
        "Cancelled at": some(time("%Y-%m-%d %H:%M:%S +0100"), 12),
    }
    columns[once] = some(columns[once], 2)
    check = check_file(log_of(tmp_path / "log.csv", columns))
    assert check.config is None and "Only the first row of each `Name` says `Cancelled at`," in " ".join(check.notes)
    (code,) = commands(check)
    exec(code)
    mended = check_file(tmp_path / "log-filled.csv")
    assert not commands(mended) and prepared(mended).card["events"] == EVENTS - 40


def commands(check: LogCheck) -> list[str]:
    """The Python code of the commands in the notes."""
    found = [one for note in check.notes for one in re.findall(r"`(python -c .*)`", note)]
    return [shlex.split(one)[2] for one in found]


def nested_rows() -> list[dict[str, Any]]:
    ids = {"distinct_id": "", "time": 0}
    return [
        {
            "event": "view" if n % 2 else "purchase",
            "properties": ids | {"distinct_id": user(n), "time": 1_600_000_000 + 4_000 * n},
            "items": [{"item_id": item(n), "price": 3}] if n % 4 else [],
        }
        for n in range(EVENTS)
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.filterwarnings("error:.*convert_dates")
def test_ids_inside_of_objects_are_brought_out(tmp_path, suffix):
    """Objects as such, and as text of JSON in a CSV file."""
    path = tmp_path / f"log{suffix}"
    frame = pd.DataFrame(nested_rows())
    if suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.assign(**{name: frame[name].map(json.dumps) for name in ("properties", "items")}).to_csv(
            path, index=False
        )
    check = check_file(path)
    assert check.config is None
    (code,) = commands(check)
    exec(code)
    mended = check_file(tmp_path / "log-flat.csv")
    assert mended.config is not None
    assert mended.config["data"]["columns"] == {
        "user_id": "properties.distinct_id",
        "item_id": "items.item_id" if "items.item_id" in Path(tmp_path / "log-flat.csv").read_text() else "item_id",
        "timestamp": "properties.time",
        "event_type": "event",
    }
    card = prepared(mended).card
    assert (card["events"], card["purchase_events"]) == (180, 60)


@pytest.mark.parametrize(
    "column", ["position", "position_of_words", "position_of_numbers", "position_below_0", "position_far_off"]
)
def test_a_position_that_is_no_rank_is_not_read(tmp_path, column):
    values = {
        "position": lambda n: 1 + n % 9,  # every event is a click
        "position_of_words": cycle("Manager", "Clerk"),
        "position_of_numbers": lambda n: 48 + n / 1000,
        "position_below_0": lambda n: n % 9 - 4,
        "position_far_off": lambda n: 5000 * n,
    }
    columns = {"user_id": user, "item_id": item, "timestamp": lambda n: 1_600_000_000 + n, "position": values[column]}
    check = check_file(log_of(tmp_path / "log.csv", columns))
    assert check.config is not None and check.config["data"]["columns"] == {"position": None}
    assert any("`data.columns.position: null`" in one or "does not read `position`" in one for one in check.notes)
    assert len(prepared(check).exposures) == 0


def test_a_rank_is_a_position(tmp_path):
    columns = {
        "user_id": user,
        "item_id": item,
        "timestamp": lambda n: 1_600_000_000 + n,
        "rank": lambda n: 1 + n % 9,
        "event": cycle("impression", "click", "impression"),
    }
    check = check_file(log_of(tmp_path / "log.csv", columns))
    assert check.config is not None and check.config["data"]["columns"] == {"position": "rank", "event_type": "event"}
    assert len(prepared(check).exposures) == EVENTS / 3  # of the users who click


def test_later_rows_decide_on_the_form_of_dates(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LINES", 60)
    monkeypatch.setattr(spread, "WHOLE", 0)
    monkeypatch.setattr(spread, "BLOCK", 400)
    rows = [f"{user(n)},{item(n)},{1 + n % 5 + 12 * (n >= 100):02}/{1 + n // 60:02}/2020" for n in range(EVENTS)]
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,date\n" + "\n".join(rows) + "\n")
    check = check_file(path)
    assert check.config is not None and check.config["data"]["timestamp_format"] == "%d/%m/%Y"
    assert any("can be read by %d/%m/%Y and by %m/%d/%Y; later rows only by %d/%m/%Y" in one for one in check.notes)
    assert prepared(check).card["events"] == EVENTS
    path.write_text(path.read_text() + "u1,i1,01/30/2020\n")
    with pytest.raises(DataError, match="line 242: `date` is '01/30/2020'"):
        prepared(check)


@pytest.mark.parametrize(
    ("name", "own"),
    [("E-Mail-Adresse", "user_id"), ("idvisitor", "user_id"), ("Code article", "item_id"), ("Art.-Nr.", "item_id")]
    + [("Rechnungsdatum", "timestamp"), ("orderTime", "timestamp"), ("Ereignis", "event_type")],
)
def test_names_of_columns(name, own):
    assert rank(name, own) is not None


@pytest.mark.parametrize(
    ("name", "own"),
    [("email_subject", "user_id"), ("email_campaign_id", "user_id"), ("Geburtsdatum", "timestamp")]
    + [("Cancelled at", "timestamp"), ("item_list_id", "item_id"), ("Bestellnummer", "item_id")],
)
def test_names_of_other_columns(name, own):
    assert rank(name, own) is None


@pytest.mark.parametrize("state", ["storniert", "Rückerstattung", "annulé", "remboursée", "devuelto", "Chargeback"])
def test_states_that_withdraw(state):
    assert withdraws(state) and is_no_sale(state) and not shows_interest(state)


@pytest.mark.parametrize("state", ["pending", "on-hold", "not paid", "nicht bezahlt", "ausstehend", "En attente"])
def test_states_of_what_is_not_paid(state):
    assert is_no_sale(state) and not withdraws(state)


@pytest.mark.parametrize("state", ["paid", "versendet", "completed", "no refund", "nicht storniert", "payé", "open"])
def test_states_of_what_was_sold(state):
    assert not is_no_sale(state)


@pytest.mark.parametrize("kind", ["Kauf", "gekauft", "Bestellung", "achat", "compra"])
def test_purchases_in_other_languages(kind):
    assert is_purchase(kind) and not is_purchase(f"{kind} storniert")
