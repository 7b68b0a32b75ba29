"""The page at `/`: its files and headers, and in a real browser what a person does with it."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import llmrec.serving.page
from llmrec.policy.model import RecPolicy
from llmrec.recommend import Recommender
from llmrec.serving.app import make_app
from llmrec.serving.server import Model, serving
from llmrec.serving.service import Service
from llmrec.serving.tables import feedback, impressions
from tests.conftest import disturb, make_base, make_config, make_data
from tests.serving.browser import CONTRASTS, PHONE, TIMEOUT, Visit, visiting
from tests.serving.conftest import LIMITS, options

FILES = Path(llmrec.serving.page.__file__).parent / "page_files"
KEY = "a-key-of-sixteen-characters"
HOSTILE = '<img src=x onerror="document.title=1">'


# --- without a browser ---


def test_the_page_and_its_files_are_served_under_a_strict_policy(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(named) == 3
    for name in named:
        assert client.get(f"/{name}").status_code == 200
    rules = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"] == rules["style-src"] == "'self'"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert client.get("/page/main.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/page/nothing.js").json()["error"]["code"] == "not_found"
    assert client.get("/page/..%2fpage.py").status_code == 404


@pytest.mark.parametrize("file", sorted(FILES.iterdir()), ids=lambda file: file.name)
def test_files_hold_neither_inline_code_nor_addresses(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"' ]+", text) in ([], ["http://www.w3.org/2000/svg"])
    assert not re.search(
        r"<style|<script(?! type=\"module\" src=)|\sstyle=|\son\w+=\"|innerHTML|outerHTML|eval\(", text
    )


def test_the_page_needs_no_key_and_its_data_does(service: Service) -> None:
    client = TestClient(make_app(service, LIMITS, [KEY]))
    assert client.get("/").status_code == client.get("/page/page.css").status_code == 200
    assert client.get("/users").status_code == client.get("/metrics").status_code == 401
    assert client.get("/page").status_code == 401


# --- in a browser ---


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """A policy that reads requests. The title of an item is markup. The seed is as in `recommender`."""
    data = make_data()
    items = data.items.assign(title=[HOSTILE if n == 6 else title for n, title in enumerate(data.items["title"])])
    data = replace(data, items=items)
    policy = RecPolicy.create(make_config(make_base(tmp_path_factory.mktemp("base")), sft={"requests": 0.5}), data)
    disturb(policy)
    return Recommender(policy, 24, data)


@pytest.fixture
def served(readers: Recommender, tmp_path: Path) -> Iterator[Service]:
    with serving(Model(readers, "tiny@1"), options(tmp_path / "feedback.db")) as service:
        yield service


@pytest.fixture
def visit(request: pytest.FixtureRequest, browser: Any, served: Service) -> Iterator[Visit]:
    """An open page. Its parameters are those of `visiting`."""
    with visiting(browser, served, **getattr(request, "param", {})) as found:
        yield found


def test_a_person_of_the_log_clicks_and_buys_and_refuses(visit: Visit) -> None:
    field = visit.role("combobox", "Person")
    visit.page.get_by_text("Items: 6.").wait_for()
    assert field.input_value() == "u0"
    field.fill("u")
    visit.role("option", "u3").click()
    visit.page.get_by_text("Items: 3.").wait_for()  # u3 has seen the items 8, 6 and 4
    before = visit.recommend()
    assert len(before) == 7 and HOSTILE in visit.role("list", "History").inner_text()
    bought, refused = before[1], before[0]
    visit.role("button", f"Buy {bought}", exact=True).click()
    visit.says(re.compile("^6 recommendations"))
    after = visit.titles()
    assert sorted(after) == sorted(set(before) - {bought})
    assert visit.page.evaluate("document.activeElement.textContent") == after[1]
    assert visit.role("list", "History").get_by_role("listitem").first.inner_text() == bought
    visit.role("button", f"Not interested {refused}", exact=True).click()
    visit.says(re.compile("^5 recommendations"))
    assert refused not in visit.titles() and len(visit.titles()) == 5
    ids = dict(zip(visit.service.items.titles, visit.service.items.ids, strict=True))
    assert visit.events() == [("u3", "purchase", ids[bought]), ("u3", "skip", ids[refused])]
    lists = {row["request_id"] for row in visit.service.store.rows(impressions, ["at"])}
    assert {row["request_id"] for row in visit.service.store.rows(feedback, ["received"])} <= lists and len(lists) == 3


def test_reasons_arrive_and_say_what_is_true_of_what(visit: Visit) -> None:
    visit.role("combobox", "Person").fill("u3")
    visit.recommend()
    rows = visit.role("list", "Recommendations").locator(":scope > li")
    answer = visit.service.recommender.recommend(user="u3", top_k=10)
    assert len(answer) == rows.count()
    for number, item in enumerate(answer):
        spoken = rows.nth(number).locator(".reason > p").first.text_content()
        assert re.sub(r" \((true|false)\)", "", spoken).split() == item.justification.split()
    cites = re.compile(r'"(Delta|The 39 Moons)"')
    cited = next(number for number, item in enumerate(answer) if cites.search(item.justification))
    rows.nth(cited).get_by_text("What is true of what").click()
    claims = rows.nth(cited).locator("details li").all_inner_texts()
    for title in cites.findall(answer[cited].justification):
        assert f'✓ "{title}" is in the history' in claims
    assert all(claim.startswith("✓") for claim in claims)  # the mask allows no false statement


def test_the_keyboard_alone_is_enough(visit: Visit) -> None:
    keys = visit.page.keyboard
    visit.page.get_by_text("Items: 6.").wait_for()
    keys.press("Tab")
    keys.press("ArrowDown")  # the second radio button
    visit.tab_to("item")
    for words, title in (("moon. l", "Moon. Light"), ("quiet s", "Quiet Storm")):
        keys.type(words)
        found = visit.role("listbox", "Items").get_by_role("option")
        pytest.importorskip("playwright.sync_api").expect(found).to_have_count(1, timeout=TIMEOUT)
        keys.press("ArrowDown")
        assert visit.role("listbox", "Items").get_by_role("option", selected=True).inner_text() == title
        keys.press("Enter")
        visit.says(f"Added {title}.")
    keys.type("echo")
    visit.role("option", "Echo").wait_for()
    keys.press("Escape")
    assert visit.role("combobox", "Add a seen item").get_attribute("aria-expanded") == "false"
    keys.press("Enter")
    visit.says(re.compile("^8 recommendations"))
    first = visit.titles()[0]
    visit.tab_to(f"Click {first}")
    keys.press("Enter")
    visit.says(re.compile("^7 recommendations"))
    assert [event[1] for event in visit.events()] == ["click"] and visit.events()[0][0].startswith("page-")
    assert visit.role("list", "History").get_by_role("listitem").count() == 3
    visit.tab_to(f"Remove {first}")  # past the rest of the list
    keys.press("Space")
    visit.says(f"Removed {first}.")
    assert visit.focused() == "item"


def test_words_are_followed_or_refused(visit: Visit) -> None:
    visit.role("textbox", "In words").fill("funny")
    visit.recommend()
    comedies = {
        title
        for title, has in zip(visit.service.items.titles, visit.service.items.has_category, strict=True)
        if has[visit.service.items.categories.index("Comedy")]
    }
    rows = visit.role("list", "Recommendations").locator(":scope > li")
    for row, title in zip(rows.all(), visit.titles(), strict=True):
        badge = "fits the request" if title in comedies else "does not fit the request"
        assert badge in row.locator(".badge").all_inner_texts()
    visit.role("textbox", "In words").fill("смешной")
    visit.role("button", "Recommend", exact=True).click()
    visit.page.get_by_role("alert").filter(has_text=re.compile(".+")).wait_for()
    assert visit.page.evaluate("document.activeElement.id") == "words" and visit.titles() == []
    visit.problems.clear()  # Chromium reports the answer 422


def test_a_server_that_does_not_answer_is_reported(visit: Visit) -> None:
    shown = visit.recommend()
    visit.page.context.set_offline(True)
    visit.role("button", f"Buy {shown[0]}", exact=True).click()
    visit.page.get_by_text("Not stored: The server does not answer.").wait_for()
    assert visit.titles() == shown and visit.events() == []
    visit.page.context.set_offline(False)
    visit.role("button", f"Buy {shown[0]}", exact=True).click()
    visit.says(f"{len(shown) - 1} recommendations")
    assert len(visit.events()) == 1
    visit.problems.clear()  # Chromium reports the failed requests


def test_live_numbers_are_those_of_the_metrics(visit: Visit) -> None:
    live = visit.role("checkbox", "Update every 5 seconds")
    live.uncheck()
    visit.recommend()
    while b'llmrec_request_seconds_count{route="/recommend"} 1.0' not in visit.service.metrics.text():
        time.sleep(0.1)  # the server counts a stream after its end
    live.check()  # reads at once
    visit.role("img", re.compile("Requests per second .* Now (0\\.[0-9]*[1-9]|[1-9])")).wait_for()
    visit.role(
        "img", re.compile("Seconds until a list is complete .* half within [0-9.]+, 95 % within [0-9.]+;")
    ).wait_for()
    numbers = visit.page.evaluate(
        """async () => {
          const { parseMetrics, growth, quantile } = await import("./page/numbers.js");
          const text = (a, b, c) => `# HELP llmrec_request_seconds x\\n` +
            `llmrec_request_seconds_bucket{le="0.1",route="/recommend"} ${a}\\n` +
            `llmrec_request_seconds_bucket{le="0.5",route="/recommend"} ${b}\\n` +
            `llmrec_request_seconds_bucket{le="+Inf",route="/recommend"} ${c}\\n` +
            `llmrec_feedback_events_total{outcome="a \\\\"b"} 2.0\\n`;
          const then = parseMetrics(text(1, 1, 1)), now = parseMetrics(text(3, 7, 11));
          return [...[0.1, 0.5, 0.95].map((level) => quantile(now, then, level)), quantile(now, now, 0.5),
            growth(now, [], "llmrec_feedback_events_total", (one) => one.outcome === 'a \\\\"b')];
        }"""
    )
    # 10 lists: 2 below .1, 4 up to .5, 4 above. The first is half way to .1; the fifth is the third of four after .1.
    assert numbers == pytest.approx([0.05, 0.4, 0.5, None, 2])


@pytest.mark.parametrize("visit", [{"keys": (KEY,)}], indirect=True)
def test_a_key_is_asked_for_and_kept_in_the_tab(visit: Visit) -> None:
    dialog = visit.role("dialog", "API key")
    dialog.get_by_label("Key", exact=True).fill("a-wrong-key-of-some-length")
    dialog.get_by_role("button", name="Use this key").click()
    dialog.get_by_text("does not know this key").wait_for()
    dialog.get_by_label("Key", exact=True).fill(KEY)
    dialog.get_by_label("Key", exact=True).press("Enter")
    dialog.wait_for(state="hidden")
    assert len(visit.recommend()) == 4
    visit.page.reload()
    assert len(visit.recommend()) == 4
    assert visit.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert not any(KEY in url for url in visit.asked)


@pytest.mark.parametrize("visit", [{"viewport": PHONE, "has_touch": True}], indirect=True)
def test_a_phone_shows_everything_without_scrolling_sideways(visit: Visit) -> None:
    visit.recommend()
    visit.page.get_by_text("What is true of what").first.click()
    assert visit.page.evaluate("document.scrollingElement.scrollWidth") == PHONE["width"]
    boxes = [button.bounding_box() for button in visit.page.get_by_role("button").all()]
    assert len(boxes) > 10 and all(box["height"] >= 44 and box["x"] + box["width"] <= PHONE["width"] for box in boxes)


@pytest.mark.parametrize(
    "visit", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=["light", "dark"]
)
def test_text_is_readable_in_light_and_dark(visit: Visit) -> None:
    visit.role("textbox", "In words").fill("funny")
    visit.recommend()
    visit.page.get_by_text("What is true of what").first.click()
    visit.role("combobox", "Person").fill("u")
    visit.role("option", "u0").wait_for()
    visit.page.keyboard.press("ArrowDown")
    contrasts = visit.page.evaluate(CONTRASTS)
    assert len(contrasts) > 40 and [one for one in contrasts if one[0] < 4.5] == []
