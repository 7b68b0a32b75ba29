"""Exports: what a server recorded is read by `llmrec prepare` and `llmrec off-policy` as it is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from llmrec.cli.app import main
from llmrec.config import load_config
from llmrec.data.dataset import load_data
from llmrec.off_policy.logs import read_exposure_log
from llmrec.recommend import Recommender
from llmrec.serving.app import make_app
from llmrec.serving.export import _logged, export_log
from llmrec.serving.server import Model, serving
from llmrec.serving.store import Feedback, Impression, Store
from tests.conftest import make_config, make_data
from tests.export.runs import finished_run
from tests.serving.conftest import LIMITS, options

START = 1_700_000_000.0


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["llmrec", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def filled(tmp_path: Path) -> str:
    """A store with forty lists of twenty people, who click on the first item of every second list."""
    place = str(tmp_path / "feedback.db")
    store = Store(place)
    items = [f"i{n}" for n in range(10)]
    rows = [
        {"item_id": item, "row": n, "title": f"Title {n}", "categories": "Drama|War"} for n, item in enumerate(items)
    ]
    store.put_items(rows).result()
    random = np.random.default_rng(0)
    for number in range(40):
        shown = random.permutation(items)[:3]
        at = START + 1000 * number
        request = f"r{number}"
        user = f"p{number % 20}"
        impressions = [
            Impression(request, position, user, item, 1 / (11 - position), 0.1, "p@1", True, at)
            for position, item in enumerate(shown, start=1)
        ]
        store.add_impressions(impressions).result()
        kind = "click" if number % 2 == 0 else "skip"
        event = Feedback(f"e{number}", user, shown[0], kind, None, request, at + 5, at + 5)
        store.add_feedback([event]).result()
    store.close()
    return place


def test_an_export_is_prepared_and_evaluated(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "served"
    assert command(monkeypatch, "feedback", "export", "--store", filled, "--output", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "directory": str(out),
        "impressions": 120,
        "feedback": 40,
        "logged": 0,
        "anonymous": 0,
        "unknown": 0,
        "erased": 0,
    }
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "prepare", str(out / "config.yaml")) == 0
    capsys.readouterr()
    log = read_exposure_log(out / "config.yaml")
    assert len(log.frame) == 120
    assert log.frame["click"].sum() == 20
    assert sorted(log.frame["position"].unique()) == [1, 2, 3]
    expected = 1 / (11 - log.frame["position"].to_numpy())
    assert log.frame["propensity"].to_numpy() == pytest.approx(expected)
    clicked = log.frame[log.frame["click"]]
    assert set(clicked["position"]) == {1}
    code = command(
        monkeypatch,
        "off-policy",
        str(out / "config.yaml"),
        "--target-log",
        str(out / "config.yaml"),
        "--force",
        "--json",
    )
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["on_policy"]["value"] == pytest.approx(20 / 120)


def test_a_list_that_a_client_invents_is_no_exposure(filled: str, tmp_path: Path) -> None:
    store = Store(filled)
    events = [
        Feedback("x1", "p0", "i1", "click", None, "invented", START, START),
        Feedback("x2", "p1", "i1", "click", None, "r0", START, START),  # the list of somebody else
    ]
    store.add_feedback(events).result()
    export_log(store, tmp_path / "out")
    store.close()
    log = pd.read_parquet(tmp_path / "out" / "events.parquet")
    assert log[log["event_type"] == "click"]["ranking_id"].isna().sum() == 2
    assert log[log["event_type"] == "impression"]["propensity"].notna().all()


def test_items_that_the_run_lacks_are_left_out(tiny_base: str, tmp_path: Path) -> None:
    """Two runs may share a store. An event of an item without a title could not be prepared."""
    store = Store(str(tmp_path / "shared.db"))
    for position, item in enumerate(("i1", "other"), start=1):
        store.add_impressions([Impression("r", position, "p", item, 0.5, 0.1, "v", True, START)]).result()
        store.add_feedback([Feedback(item, "p", item, "click", None, "r", START, START)]).result()
    found = export_log(store, tmp_path / "out", (make_config(tiny_base), make_data()))
    store.close()
    assert (found.impressions, found.feedback, found.unknown) == (1, 1, 2)
    log = pd.read_parquet(tmp_path / "out" / "events.parquet")
    assert set(log["item_id"]) <= set(make_data().items["item_id"])


def test_a_run_comes_first_and_erased_people_stay_out(tiny_base: str, tmp_path: Path) -> None:
    """The whole way: a run is served, people react, one is erased, and the export trains the next model."""
    run = finished_run(tiny_base, make_data(), tmp_path / "runs")
    recommender = Recommender.from_run(run)
    with serving(Model(recommender, "sft@1"), options(tmp_path / "feedback.db", sampled_share=0.5)) as service:
        client = TestClient(make_app(service, LIMITS, ()))
        for user in ("u0", "u1", "u3", "somebody"):
            shown = client.post("/recommend", json={"user": user, "k": 2}).json()
            event = {
                "event_id": user,
                "user": user,
                "item": shown["items"][0]["item"],
                "type": "purchase",
                "request_id": shown["request_id"],
            }
            assert client.post("/feedback", json={"events": [event]}).status_code == 200
        client.post("/recommend", json={"history": ["i1"], "k": 2})
        client.delete("/users/u1")
        found = export_log(service.store, tmp_path / "next", (run.config, load_data(run.path("data"))))
    lengths = [6, 4, 7, 3, 7, 4]  # of the histories; every second item is a purchase; u1 is erased
    logged = sum(n + (n + 1) // 2 for user, n in enumerate(lengths) if user != 1)
    assert (found.impressions, found.feedback, found.logged) == (6, 3, logged)
    assert (found.anonymous, found.erased) == (2, 1)
    assert (tmp_path / "next" / "erased_users.csv").read_text() == "user_id\nu1\n"
    config = load_config(tmp_path / "next" / "config.yaml")
    assert config.model == run.config.model and config.catalogue == run.config.catalogue

    from llmrec.data.prepare import build_data
    from llmrec.data.readers import read_log

    wide = config.data.model_copy(update={"temporal_valid": 0.3, "temporal_test": 0.3})  # the log is tiny
    data = build_data(read_log(wide), wide, seed=0)
    assert data.items["item_id"].tolist() == [f"i{n}" for n in range(10)]
    assert set(data.users["user_id"]) == {"u0", "u2", "u3", "u4", "u5", "somebody"}
    assert len(data.facts) == 5
    u0 = data.user_index["u0"]
    assert data.histories[u0][:6].tolist() == [0, 1, 2, 3, 4, 5] and len(data.histories[u0]) == 7
    assert data.purchases[u0].tolist() == [True, False, True, False, True, False, True]
    assert len(data.exposures) == 6 and data.exposures["click"].sum() == 3


def test_what_was_bought_late_is_exported(tiny_base: str, tmp_path: Path) -> None:
    """The run's own training must not know a purchase after the first held-out click; the next one must."""
    data = make_data()
    late = [np.full(len(history), np.nan) for history in data.histories]
    late[0][1] = 10_000.0
    none = [np.zeros(len(history), dtype=bool) for history in data.histories]
    logged = _logged(replace(data, bought_at=late, purchases=none), erased={"u1"})
    bought = logged[logged["event_type"] == "purchase"]
    assert bought[["user_id", "item_id", "timestamp"]].to_numpy().tolist() == [["u0", "i1", 10_000.0]]
    assert len(logged) == 1 + sum(len(history) for user, history in enumerate(data.histories) if user != 1)


def test_an_empty_store_and_an_existing_directory_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "f.db")
    export = ("feedback", "export", "--store", place, "--output", str(tmp_path / "out"))
    assert command(monkeypatch, *export) == 2
    assert "there is no feedback store" in capsys.readouterr().err
    assert command(monkeypatch, "feedback", "delete", "--store", f"sqlite:///{place}", "--user", "p1") == 2
    assert "there is no feedback store" in capsys.readouterr().err and not Path(place).exists()
    Store(place).close()
    assert command(monkeypatch, *export) == 2
    assert "holds no click" in capsys.readouterr().err and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert command(monkeypatch, *export) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_person_is_deleted_by_a_command(
    filled: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "feedback", "delete", "--store", filled, "--user", "p3", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"feedback": 2, "impressions": 6, "comparisons": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "--output", "x"), "The store is not named"),
        (("export", "--store", "x"), "`export` needs --output DIR"),
        (("delete", "--store", "x", "--output", "x", "--user", "y"), "`delete` takes no --output"),
        (("delete", "--store", "x"), "`delete` needs --user ID"),
    ],
)
def test_options_that_do_not_fit_are_errors(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "feedback", *arguments) == 2
    assert message in capsys.readouterr().err
