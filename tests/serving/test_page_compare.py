"""The comparison on the page, in a real browser: nothing names a version before the vote."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmrec.serving.server import Model, serving
from llmrec.serving.tables import comparisons, impressions
from llmrec.versions.registry import Registry
from tests.serving.browser import CONTRASTS, PHONE, Visit, visiting
from tests.serving.conftest import options


@pytest.fixture
def answers() -> list[Any]:
    """What the server answered to the page."""
    return []


@pytest.fixture
def visit(
    request: pytest.FixtureRequest, browser: Any, registry: Registry, tmp_path: Path, answers: list[Any]
) -> Iterator[Visit]:
    """An open page of version 0, with the candidates 1 and 2. Its parameters are those of `visiting`."""
    with (
        serving(Model.of_registry(registry, quantized=True), options(tmp_path / "feedback.db")) as service,
        visiting(browser, service, **getattr(request, "param", {})) as found,
    ):

        def keep(answer: Any) -> None:  # Playwright takes no built-in function
            answers.append(answer)

        found.page.on("response", keep)
        yield found


def lists(visit: Visit) -> list[list[str]]:
    """Titles on the left and on the right."""
    shown = [visit.role("list", side).get_by_role("listitem").all_inner_texts() for side in ("Left", "Right")]
    return [[text.split(". ", 1)[1] for text in side] for side in shown]


def compare(visit: Visit, button: str = "Compare two versions") -> list[list[str]]:
    visit.page.evaluate("document.getElementById('status').textContent = ''")
    visit.role("button", button).click()
    visit.says(re.compile("^Two (equal )?lists"))
    return lists(visit)


def vote(visit: Visit, button: str) -> re.Match[str]:
    """Votes; returns the names of the left and the right version."""
    visit.role("button", button).click()
    visit.says(re.compile("Left was .*, right was "))
    visit.role("list", "Tally of the votes").wait_for()
    said = re.search(r"Left was (\S+), right was (\S+)\.$", visit.page.locator("#verdict").inner_text())
    assert said is not None
    return said


def names_in(registry: Registry, texts: list[str]) -> list[str]:
    return [one.label for one in registry.versions() if any(one.label in text for text in texts)]


def test_versions_are_named_after_the_vote_alone(visit: Visit, registry: Registry, answers: list[Any]) -> None:
    visit.recommend()
    assert names_in(registry, [visit.page.content()]) == [registry.find(0).label]
    answers.clear()
    for button, verdict in (("Left is better", "left"), ("No difference", "tie"), ("Right is better", "right")):
        left, right = compare(visit, "Compare two versions" if verdict == "left" else "Next person")
        assert left and sorted(left) == sorted(right)
        told = [answer.text() for answer in answers]
        assert any("comparison_id" in one for one in told)
        assert names_in(registry, [visit.page.content(), *told]) == []
        said = vote(visit, button)
        row = visit.service.store.rows(comparisons, ["at"])[-1]
        assert (row["left_policy"], row["right_policy"], row["verdict"]) == (said[1], said[2], verdict)
        assert set(said.groups()) == {registry.find(0).label, registry.find(2).label}
        ranked = visit.service.recommender.recommend(user=row["user_id"], top_k=10)
        assert [item.title for item in ranked] == (left if said[1] == registry.find(0).label else right)
        assert visit.focused() == "next-person"
        answers.clear()
    tally = visit.role("list", "Tally of the votes").inner_text()
    assert "no difference: 1." in tally and "95 % interval" in tally
    people = [row["user_id"] for row in visit.service.store.rows(comparisons, ["at"])]
    assert people[0] == "u0" and people[1] != people[0] and people[2] != people[1]
    assert len({row["request_id"] for row in visit.service.store.rows(impressions, ["at"])}) == 1  # of `recommend`
    visit.recommend()
    assert not visit.role("heading", "Which list is better?").is_visible()


def test_versions_are_chosen_with_the_keyboard_alone(visit: Visit, registry: Registry) -> None:
    keys = visit.page.keyboard
    visit.page.get_by_text("Items: 6.").wait_for()
    visit.tab_to("compare")
    keys.press("Enter")
    visit.says(re.compile("^Two (equal )?lists"))
    visit.tab_to("Choose the versions")
    keys.press("Enter")
    visit.page.get_by_text("You know the two, but not which is on which side.").wait_for()
    visit.tab_to("first-version")
    keys.press("ArrowDown")  # from version 0 to version 1
    visit.page.evaluate("document.getElementById('status').textContent = ''")
    visit.tab_to("compare-these")
    keys.press("Enter")
    visit.says(re.compile("^Two (equal )?lists"))
    assert visit.focused() == "comparison-title"
    visit.tab_to("Right is better")
    keys.press("Space")
    visit.says(re.compile("You prefer the right list. Left was .*, right was "))
    row = visit.service.store.rows(comparisons, ["at"])[-1]
    assert {row["left_policy"], row["right_policy"]} == {registry.find(1).label, registry.find(2).label}


def test_a_second_vote_and_a_lost_server_are_reported(visit: Visit) -> None:
    compare(visit)
    visit.page.context.set_offline(True)
    visit.role("button", "Left is better").click()
    visit.page.get_by_role("alert").filter(has_text="The server does not answer.").wait_for()
    visit.page.context.set_offline(False)
    visit.service.store.vote(visit.service.store.rows(comparisons, ["at"])[-1]["comparison_id"], "right").result()
    visit.role("button", "Left is better").click()
    visit.page.get_by_role("alert").filter(has_text="has the vote `right` already").wait_for()
    compare(visit, "Next person")
    assert visit.page.get_by_role("alert").inner_text() == ""
    visit.problems.clear()  # Chromium reports the failed requests


@pytest.mark.parametrize(
    "visit",
    [
        {"viewport": PHONE, "has_touch": True, "color_scheme": "light"},
        {"viewport": PHONE, "has_touch": True, "color_scheme": "dark"},
    ],
    indirect=True,
    ids=["light", "dark"],
)
def test_a_phone_shows_both_lists_side_by_side(visit: Visit, tmp_path: Path) -> None:
    visit.page.get_by_text("somebody with a history").click()
    visit.role("combobox", "Add a seen item").fill("moon. l")
    visit.role("option", "Moon. Light").click()
    compare(visit)
    assert not visit.role("button", "Next person").is_visible()
    vote(visit, "Left is better")
    visit.page.get_by_text("Choose the versions").click()
    visit.page.get_by_text("You know the two, but not which is on which side.").wait_for()
    visit.page.screenshot(path=tmp_path / "page.png", full_page=True)
    boxes = [visit.role("list", side).bounding_box() for side in ("Left", "Right")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    assert visit.page.evaluate("document.scrollingElement.scrollWidth") == PHONE["width"]
    shown = [*visit.page.get_by_role("button").all(), *visit.page.locator("summary").all()]
    assert all(box["height"] >= 44 for one in shown if (box := one.bounding_box()))
    contrasts = visit.page.evaluate(CONTRASTS)
    assert len(contrasts) > 40 and [one for one in contrasts if one[0] < 4.5] == []
    assert visit.service.store.rows(comparisons, ["at"])[0]["user_id"].startswith("page-")
