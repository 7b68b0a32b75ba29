"""`prepare --report` on logs at the edge of what can be measured: without times, of one user, and with repeats kept."""

import html
import json
import re
from pathlib import Path

import pytest


def write(folder: Path, rows: list[tuple], header: str = "user_id,item_id,timestamp", **data) -> str:
    """A log with the items 0 to 8, and the path of its config."""
    (folder / "log.csv").write_text(header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"{n},Pan {n}\n" for n in range(9)))
    section = {
        "format": "table",
        "path": str(folder / "log.csv"),
        "items": str(folder / "items.csv"),
        "click": ["interaction"],
        "purchase": [],
        "splits": ["leave_one_out"],
        **data,
    }
    (folder / "x.yaml").write_text(json.dumps({"name": "a", "output_dir": str(folder / "runs"), "data": section}))
    return str(folder / "x.yaml")


def report(llmrec, capsys, config: str) -> tuple[str, dict, list[str]]:
    """The printed report, the card, and the titles of the charts of the page."""
    assert llmrec("prepare", config, "--report") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert llmrec("prepare", config, "--report", "--json") == 0
    page = (Path(config).parent / "runs" / "a" / "data.html").read_text(encoding="utf-8")
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(re.findall("<polyline", page)) >= len(titles)
    return printed, json.loads(capsys.readouterr().out), titles


CHARTS = [
    "Clicks over time",
    "Who has the clicks",
    "Length of sessions",
    "Time between two clicks of a user",
    "Test targets on rare items",
]


ALL_ROWS = (
    "users, items, clicks",
    "clicks at the time of a click of the user on another item",
    "histories in order of item id",
    "clicks that repeat an item of the user",
    "test rows that repeat a training row",
    "targets on the day of the item before",
    "test sequences known from training",
    "items with the title of another item",
    "median time before the target",
    "what counts reach, HR@10 / NDCG@10",
)


def test_a_log_without_times(llmrec, capsys, tmp_path: Path) -> None:
    rows = [(f"u{user}", (user * step + step) % 9) for user in range(4) for step in range(5)]
    printed, card, charts = report(
        llmrec, capsys, write(tmp_path, rows, "user_id,item_id", columns={"timestamp": None}, min_user_events=3)
    )
    assert "clicks at the time of a click of the user" in printed and "what counts reach" in printed
    assert charts == ["Who has the clicks", "Test targets on rare items"]
    assert card["time"] == {}
    assert card["checks"]["same_day_targets"] == {} and card["checks"]["median_seconds_before_target"] == {}
    assert set(card["counts"]["leave_one_out"]) == {"popularity", "first_order", "transitions"}


def test_a_log_of_one_user(llmrec, capsys, tmp_path: Path) -> None:
    printed, card, charts = report(llmrec, capsys, write(tmp_path, [("u", n, 10**9 + n) for n in (3, 1, 4, 5, 2)]))
    assert charts == CHARTS
    assert all(row in printed for row in ALL_ROWS)
    assert card["users"] == 1 and card["checks"]["known_sequences"] == {"leave_one_out": 0.0}
    # Item 2 is new: 4 of 9 items are seen, and the other four unseen ones of equal count come before it by number.
    found = card["counts"]["leave_one_out"]["popularity"]["refitted"]
    assert found["hr"] == 1.0 and 0 < found["ndcg"] < 1


def test_a_log_with_repeats_kept(llmrec, capsys, tmp_path: Path) -> None:
    rows = [(f"u{user}", item, 10**9 + 60 * n) for user in range(3) for n, item in enumerate([user, 7, user, user])]
    printed, card, charts = report(llmrec, capsys, write(tmp_path, rows, repeats="keep"))
    assert charts == CHARTS
    assert dict(card["curves"]["sessions"])[4.0] == 1.0  # all sessions have four clicks
    assert all(row in printed for row in ALL_ROWS)
    assert card["repeated_items"] == pytest.approx(0.5)  # two of four clicks of each user
    assert card["checks"]["median_seconds_before_target"] == {"leave_one_out": 60.0}
    # The last item is the one that the user has most often.
    found = card["counts"]["leave_one_out"]["personal_popularity"]["refitted"]
    assert (found["hr"], found["ndcg"]) == (1.0, 1.0)
    assert card["counted"] == {"leave_one_out": {"targets": 3, "users": 3, "of_users": 3}}


def test_a_log_of_exposures_has_plots_and_its_warnings_in_order(llmrec, capsys, tmp_path: Path) -> None:
    rows = [
        (
            f"u{user}",
            (user + n) % 9,
            10**9 + 10 * n,
            n % 5,
            "" if user * 6 + n == 3 else (0.05, 0.5)[n % 2],
            int(n != 4),
        )
        for user in range(6)
        for n in range(6)
    ]
    header = "user_id,item_id,timestamp,position,propensity,clicked"
    config = write(tmp_path, rows, header, click=["clicked==1"])
    printed, card, charts = report(llmrec, capsys, config)
    assert charts == [*CHARTS, "Propensities of exposures", "Clicks by position"]
    assert card["checks"]["exposures"]["without_propensity"] == pytest.approx(1 / 36)
    assert card["checks"]["exposures"]["smallest_propensity"] == 0.05
    assert dict(card["curves"]["click_rate"])[4.0] == 0.0  # nobody clicked at position 4
    harms = [warning["harm"] for warning in card["warnings"]]
    assert harms == sorted(harms, key=["wrong", "weak", "odd"].index) and {"wrong", "weak"} <= set(harms)
    assert "warning, wrong, 50 %: a model can predict the order of a page" in printed
    page = (tmp_path / "runs" / "a" / "data.html").read_text(encoding="utf-8")
    places = [page.index(html.escape(warning["text"][:30])) for warning in card["warnings"]]
    assert places == sorted(places) and "Warnings, most harmful first" in page
    assert "The smallest is 0.05; 2.8 % of the exposures have none." in page


def test_a_sample_of_users_is_said(llmrec, capsys, tmp_path: Path) -> None:
    rows = [(f"u{user}", (user * step + step) % 9, 10**9 + step) for user in range(4) for step in range(5)]
    config = Path(write(tmp_path, rows, min_user_events=3))
    section = json.loads(config.read_text()) | {"evaluation": {"users": 2}}
    config.write_text(json.dumps(section))
    printed, card, _ = report(llmrec, capsys, str(config))
    assert card["counted"]["leave_one_out"] == {"targets": 2, "users": 2, "of_users": 4}
    assert "2 targets of 2 users sampled from 4" in printed
    assert "2 targets of 2 users sampled from 4" in (tmp_path / "runs" / "a" / "data.html").read_text()
