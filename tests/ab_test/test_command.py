"""The command `ab-test`: files, tables, JSON and exit codes."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from llmrec.ab_test.analyze import analyze
from llmrec.ab_test.log import read_events, typed_events
from llmrec.cli.ab_test import print_report
from llmrec.config import ABTestConfig, load_section
from llmrec.config.section import fields
from llmrec.data.readers.raw import Source, Table
from llmrec.errors import ConfigError
from llmrec.progress.console import console_for
from tests.ab_test import EXAMPLE, config_of

ROOT = Path(__file__).parents[2]


def test_analyze_writes_a_report_a_page_and_a_plot(written, command, tmp_path):
    path = written()
    code, out, err = command("analyze", path, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    folder = tmp_path / "runs" / "small"
    assert report == json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["decisions"] == {"new": "ship"}
    first = report["comparisons"][0]
    assert first["metric"] == "click_rate" and len(first["looks"]) == 17 and first["looks"][0]["interval"] is None
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert f"{first['difference']:+.4f}" in page and page.count("<polyline points") >= 15
    assert (folder / "effect.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in folder.iterdir()) == [
        "effect.png",
        "experiment.json",
        "report.html",
        "report.json",
    ]


def test_the_table_shows_the_numbers_of_the_report(log, config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    report = analyze(typed_events(Table(log, Source()), config), config)
    print_report(console_for(), report)
    out = capsys.readouterr().out
    for one in report.comparisons:
        assert f"{one.difference:+.4f}" in out and f"[{one.interval[0]:+.4f}, {one.interval[1]:+.4f}]" in out
    assert "new: ship" in out and "better, day" in out and "holds, day" in out
    assert max(map(len, out.splitlines())) <= 120


def test_parquet_and_csv_give_the_same(written, log, tmp_path):
    written()
    log.to_parquet(tmp_path / "log.parquet")
    reports = []
    for name in ("log.csv", "log.parquet"):
        config = config_of(data=EXAMPLE["data"] | {"path": str(tmp_path / name)})
        reports.append(analyze(read_events(config), config))
    assert reports[0] == reports[1] and reports[0].decisions == {"new": "ship"}


def test_a_log_can_be_cut(written, command):
    report = json.loads(command("analyze", written(), "--until", "2026-03-10", "--json")[1])
    assert report["until"] == "2026-03-10T00:00:00+00:00" and len(report["comparisons"][0]["looks"]) == 9


def test_assign_writes_arms_and_propensities(written, command, log, tmp_path):
    users = tmp_path / "users.csv"
    log[["user_id"]].to_csv(users, index=False)
    path = written()
    code, out, _ = command("assign", path, "--users", users, "--json")
    found = json.loads(out)
    assigned = pd.read_csv(found["file"])
    assert code == 0 and list(assigned.columns) == ["user_id", "arm", "propensity"]
    assert assigned["arm"].value_counts().to_dict() == found["users"] and not assigned["user_id"].duplicated().any()
    served = log[log["arm"].notna()].drop_duplicates("user_id").set_index("user_id")["arm"]
    assert (assigned.set_index("user_id")["arm"].loc[served.index] == served).all()


def test_plan_computes_users_and_days(written, command, tmp_path):
    path = written(minimum_effect=0.2)
    code, out, _ = command("plan", path, "--json")
    plan = json.loads(out)
    assert code == 0 and not (tmp_path / "runs").exists()  # a plan fixes nothing
    clicks = plan["metrics"][0]
    assert clicks["baseline"] == pytest.approx(0.125, abs=0.02) and clicks["effect"] == clicks["baseline"] * 0.2
    assert plan["planned_users"] == clicks["users_always_valid"] > clicks["users_one_look"] > 100
    assert plan["days_always_valid"] >= plan["days_one_look"] > 7 and plan["history_users"] > 200
    halved = json.loads(command("plan", written(minimum_effect=0.1), "--json")[1])
    assert halved["planned_users"] == pytest.approx(4 * plan["planned_users"], rel=0.01)
    code, out, _ = command("plan", path)
    assert f"Set `planned_users: {halved['planned_users']}`" in out


def test_what_was_fixed_may_not_change_in_flight(written, command, tmp_path):
    path = written()
    users = ("--users", path.parent / "log.csv")
    assert command("assign", path, *users)[0] == 0
    assert command("assign", written(end="2026-03-20", power=0.9), *users)[0] == 0
    for changes, shown in (
        ({"planned_users": 900}, "`planned_users` of the test small is 900, and the record has 400"),
        ({"alpha": 0.1}, "`alpha` of the test small"),
        ({"metrics": EXAMPLE["metrics"][:2]}, "`metrics` of the test small"),
    ):
        code, _, err = command("analyze", written(**changes))
        assert code == 2 and shown in err and "expected no change in flight" in err
    recorded = json.loads((tmp_path / "runs" / "small" / "experiment.json").read_text(encoding="utf-8"))
    assert recorded["salt"] not in ("s", None)  # the record does not tell the secret
    code, _, err = command("assign", written(salt="t"), *users)
    assert code == 2 and "`salt` of the test small is another one" in err


def test_a_wrong_sample_ratio_exits_with_2(written, command, log, tmp_path):
    treated = log.loc[log["arm"] == "new", "user_id"].unique()
    code, out, err = command("analyze", written(log[~log["user_id"].isin(treated[:100])]), "--json")
    assert code == 2 and "do not have their shares of users" in err
    assert json.loads(out)["comparisons"] == [] and not (tmp_path / "runs" / "small" / "effect.png").exists()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"arms": {"live": 0.5, "new": 0.4}}, "the shares add up to 0.9"),
        ({"arms": {"live": 1.0}}, "`arms`"),
        ({"arms": {"live": 1.5, "new": -0.5}}, "expected positive shares"),
        ({"end": "2026-02-01"}, "before start"),
        ({"metrics": EXAMPLE["metrics"][1:]}, "0 are primary; expected exactly one"),
        ({"metrics": [*EXAMPLE["metrics"][:1], EXAMPLE["metrics"][1] | {"event": None}]}, "lacks `event`"),
        ({"metrics": [EXAMPLE["metrics"][0] | {"column": "x"}]}, "has `column`"),
        ({"metrics": [EXAMPLE["metrics"][0] | {"margin": 0.1}]}, "is primary and has a margin"),
        ({"metrics": [EXAMPLE["metrics"][4] | {"window_days": 1}]}, "has window_days 1; expected at least 2"),
        ({"metrics": [EXAMPLE["metrics"][0], *EXAMPLE["metrics"]]}, "2 are primary"),
        ({"metrics": [*EXAMPLE["metrics"], EXAMPLE["metrics"][1]]}, "expected each name once"),
        ({"metrics": [EXAMPLE["metrics"][0] | {"kind": "ratio"}]}, "Did you mean `rate`?"),
        ({"salts": "x"}, "unknown key `salts`: did you mean `salt`?"),
        ({"planned_users": None}, "`planned_users` is null"),
        ({"data": {"path": "none.csv"}}, "there is no none.csv"),
    ],
)
def test_a_wrong_test_exits_with_2_and_writes_nothing(written, command, tmp_path, change, shown):
    code, out, err = command("analyze", written(**change))
    assert code == 2 and out == "" and shown in err.replace("\n", " ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("edit", "shown"),
    [
        (lambda log: log.drop(columns="arm"), "there is no column `arm`; found user_id"),
        (lambda log: log.rename(columns={"timestamp": "time"}), "there is no column `timestamp`"),
        (lambda log: log[:0], "there are no rows; expected at least one exposure"),
        (lambda log: log.drop(columns="click"), "needs a column `click` that can be compared"),
        (lambda log: log.assign(propensity=0.3), "the propensity of the arm"),
    ],
)
def test_a_wrong_log_exits_with_2_and_writes_nothing(written, command, log, tmp_path, edit, shown):
    code, out, err = command("analyze", written(edit(log)))
    assert code == 2 and out == "" and shown in err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["assign"], "`assign` needs --users FILE"),
        (["plan", "--users", "x.csv"], "`plan` takes no --users"),
        (["plan", "--until", "2026-03-03"], "`plan` takes no --until"),
        (["assign", "--users", "none.csv"], "There is no file none.csv"),
        (["launch"], "'launch' is not one of"),
    ],
)
def test_wrong_arguments(written, command, arguments, shown):
    code, out, err = command(arguments[0], written(), *arguments[1:])
    assert code == 2 and out == "" and shown in err


def test_plan_needs_a_log_before_the_test(written, command, log):
    code, _, err = command("plan", written(log[log["timestamp"] >= log["timestamp"].max() - 17 * 86400]))
    assert code == 2 and "expected a log of the time before the test" in err
    few = log[log["user_id"].isin([f"u{n}" for n in range(60)])]
    code, _, err = command("plan", written(few))
    assert code == 2 and "users have 7 days behind them" in err and "expected at least 200" in err
    code, _, err = command("plan", written(log.assign(click=0)))
    assert code == 2 and "The metric `click_rate` is 0 with variance 0" in err


def test_a_share_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="expected positive shares"):
        config_of(arms={"live": float("nan"), "new": 0.5})


def test_the_guide_names_every_key():
    page = (ROOT / "docs" / "guide" / "ab_test.md").read_text(encoding="utf-8")
    keys = [name.rpartition(".")[2] for name, _ in fields(ABTestConfig)]
    assert [key for key in keys if not re.search(rf"(?<!\w){key}(?!\w)", page)] == []


def test_the_example_is_valid():
    config = load_section(ROOT / "configs" / "ab_test_example.yaml", ABTestConfig)
    assert config.control == "live" and config.treatments == ["ppo"]
