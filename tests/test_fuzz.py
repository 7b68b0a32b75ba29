"""The fuzz driver: generated logs and requests are served or refused, and planted faults are counted."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import typer
from typer.testing import CliRunner

from benchmarks import fuzz
from benchmarks.fuzz import Target
from benchmarks.fuzzing import outcomes, requests, shops
from benchmarks.fuzzing.logs import Log, outcome_of, written
from benchmarks.fuzzing.outcomes import FAULTS, Hang, Outcome, time_limit
from benchmarks.fuzzing.requests import Request, answer_in_process
from benchmarks.fuzzing.shops import Shop
from llmrec.data import prepare
from llmrec.data.dataset import load_data
from llmrec.policy.model import RecPolicy
from llmrec.recommend import Recommender
from llmrec.run import Run, run_all
from tests.conftest import disturb

ROWS = [{"user_id": f"u{n // 4}", "item_id": f"i{n % 4}", "timestamp": str(10**9 + n * 86400)} for n in range(12)]
ITEMS = [{"item_id": f"i{n}", "title": f"Film {n}"} for n in range(4)]


def log(rows: int | None = 12, **data: Any) -> Log:
    files = {"events.csv": written(ROWS, "comma", "utf-8"), "items.csv": written(ITEMS, "comma", "utf-8")}
    section = {"format": "table", "path": "events.csv", "items": "items.csv", "splits": ["leave_one_out"],
               "click": ["interaction"], "purchase": []}  # fmt: skip
    return Log(files, section | data, rows)


def test_a_log_is_prepared_or_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert outcome_of(log(), tmp_path / "a") == Outcome("prepared")
    refused = outcome_of(log(click=["view"]), tmp_path / "b")
    assert refused.kind == "refused" and "names an event type that the log" in refused.about


@pytest.mark.parametrize("rows", [11, 13])
def test_rows_that_are_not_counted_are_a_loss(tmp_path: Path, rows: int) -> None:
    found = outcome_of(log(rows), tmp_path)
    assert found == Outcome("loss", f"events read are {'more' if rows == 11 else 'fewer'} than the rows of the file")


def test_events_without_a_reason_are_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = {"events.csv": written([*ROWS, ROWS[0]], "comma", "utf-8")}
    thirteen = replace(log(13), files=log().files | repeated)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert outcome_of(thirteen, tmp_path / "a") == Outcome("prepared")
    count_losses = prepare.count_losses
    monkeypatch.setattr(
        prepare, "count_losses", lambda log, data, n, rules, config: count_losses(log, data, n, {}, config)
    )
    assert outcome_of(thirteen, tmp_path / "b").kind == "loss"


def test_an_exception_and_a_hang_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    def endless(*arguments: object) -> None:
        while True:
            time.sleep(60)

    for name, function, kind, seconds in (("a", broken, "traceback", 60), ("b", endless, "hang", 1)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(prepare, "build_data", function)
        found = outcome_of(log(), tmp_path / name, seconds)
        assert found.kind == kind and "prepare.py" in found.about


def test_work_is_limited_by_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that gets a tenth of a core may go on until it has worked as long as the limit says."""
    clock = iter(number / 100 for number in range(100))  # 0.1 s are a tick of the timer, 0.01 s the work until then
    monkeypatch.setattr(outcomes.time, "process_time", lambda: next(clock))
    started = time.monotonic()
    with pytest.raises(Hang), time_limit(0.1):
        time.sleep(60)
    assert 0.9 <= time.monotonic() - started < 30


def test_the_command_counts_and_keeps_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "INPUTS_PER_ROUND", 5)
    app = typer.Typer()
    app.command()(fuzz.main)
    done = CliRunner().invoke(app, ["--minutes", "0", "--target", "logs", "--json"])
    tally = json.loads(done.stdout)
    assert sum(tally["counts"].values()) == 5 and done.exit_code == (1 if tally["faults"] else 0)

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(prepare, "read_log", broken)
    tally = fuzz.fuzz(0, seed=0, keep=tmp_path, targets=(Target.LOGS,))
    assert tally.counts == {"traceback": 5} and len(tally.faults) == 1
    assert json.loads((tmp_path / "fault-1" / "fault.json").read_text())["fault"].startswith("traceback")


# --- requests -----------------------------------------------------------------------------------------


def save_untrained_adapter(run: Run, *stages: str, say: Callable[[str], Any]) -> None:
    """Replaces training, which takes most of the time of a round."""
    run_all(run, "data", say=say)
    policy = RecPolicy.create(run.config, load_data(run.path("data")))
    disturb(policy)
    run.begin("sft")
    policy.save_pretrained(run.path("sft", "adapter"))
    run.finish("sft", {})


@pytest.fixture(scope="module", params=[0, 1], ids=["atomic", "title"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shops, "run_all", save_untrained_adapter)
        return shops.make_shop(tmp_path_factory.mktemp("shop"), request.param)


@pytest.fixture(autouse=True)
def no_global_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrec.cli.process.silence_libraries", lambda: None)


def asked(shop: Shop, *titles: str, **changed: Any) -> Request:
    values: dict[str, Any] = {
        "source": ("--run", str(shop.directory)),
        "titles": titles,
        "ids": (),
        "user": None,
        "exclude": (),
        "top_k": "3",
        "flags": (),
        "lines": (),
        "encoding": "utf-8",
        "columns": "80",
        "known": True,
    }
    return Request(**(values | changed))


def test_generated_requests_are_served_or_refused(shop: Shop) -> None:
    found: dict[str, int] = {}

    def count(request: Request) -> None:
        outcome = requests.outcome_of(shop, request)
        assert outcome.kind not in FAULTS, (outcome, request)
        found[outcome.kind] = found.get(outcome.kind, 0) + 1

    settings = hypothesis.settings(max_examples=12, deadline=None, database=None, derandomize=True)
    settings(hypothesis.given(requests.requests(shop))(count))()
    assert set(found) == {"recommended", "refused"} and found["recommended"] >= 2


@pytest.mark.parametrize(
    ("changed", "kind", "about"),
    [
        ({}, "recommended", ""),
        ({"flags": ("--json",)}, "recommended", ""),
        ({"flags": ("--interactive",), "lines": ("no such film", ":exclude x")}, "recommended", ""),
        ({"exclude": ("no such film",), "known": False}, "refused", 'error: There is no item "*"'),
        ({"exclude": ("no such film",)}, "wrong", "a right request is refused"),
    ],
)
def test_outcomes_of_requests(shop: Shop, changed: dict[str, Any], kind: str, about: str) -> None:
    found = requests.outcome_of(shop, asked(shop, shop.titles[0], **changed))
    assert found.kind == kind and found.about.startswith(about.replace('"*"', "*"))


def test_planted_faults_of_requests_are_seen(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = Recommender.resolve_titles
    best = Recommender._best
    ask = asked(shop, *shop.titles[:2])

    def outcome_with(name: str, function: Callable[..., Any], seconds: float = 60) -> tuple[str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(Recommender, name, function)
            found = requests.outcome_of(shop, ask, seconds)
            return found.kind, found.about

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    def forgetful(self: Recommender, titles: list[str]) -> list[int]:
        return resolve(self, titles[-1:])

    assert outcome_with("resolve_titles", forgetful)[0] == "loss"
    assert outcome_with("_best", broken)[0] == "traceback"
    assert outcome_with("_best", lambda self, *a: [0])[1] == "a seen or excluded item is recommended"
    assert outcome_with("_best", lambda self, *a: best(self, *a)[:1] * 2)[1] == "an item is recommended twice"
    assert outcome_with("_best", lambda self, *a: time.sleep(60), seconds=1)[0] == "hang"


def test_an_answer_holds_what_was_printed(shop: Shop) -> None:
    answer = answer_in_process(shop, asked(shop, shop.titles[0], flags=("--json",), encoding="ascii"))
    value = json.loads(answer.out)
    assert answer.code == 0 and value["history"] == [shop.titles[0]] and len(answer.calls) == 1
    assert [one["item_id"] for one in value["recommendations"]] == [one.item_id for one in answer.calls[0].answer]
