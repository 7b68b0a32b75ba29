"""What tests in a real browser share: a server in a thread, and Chromium."""

import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from llmrec.serving.app import make_app
from llmrec.serving.guard import Limits
from llmrec.serving.service import Service
from llmrec.serving.tables import feedback

LIMITS = Limits(rate=1e6)
TIMEOUT = 120_000  # milliseconds; a busy machine is slow
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}

# The contrast of every visible text with what lies behind it, by the formula of WCAG 2.2.
CONTRASTS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = (color) => [.2126, .7152, .0722].reduce((sum, weight, i) => sum + weight * linear(color[i] / 255), 0);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = channels(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const text = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !one.checkVisibility({ visibilityProperty: true }) || one.closest(".hidden, :disabled")) continue;
    const pair = [light(channels(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
    found.push([(pair[0] + .05) / (pair[1] + .05), one.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serves an application on a free port; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def chromium() -> Iterator[Any]:
    """Chromium of the system, or the one that Playwright has installed; skips the test without either."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        own = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            browser = started.chromium.launch(executable_path=own, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in a browser, with what went wrong on it and what it asked for."""

    page: Any
    service: Service
    problems: list[str]
    asked: list[str]

    def role(self, role: str, name: str | re.Pattern[str] = "", **more: Any) -> Any:
        return self.page.get_by_role(role, name=name, **more) if name else self.page.get_by_role(role, **more)

    def says(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_role("status").filter(has_text=text).wait_for(state="attached")

    def titles(self) -> list[str]:
        return self.role("list", "Recommendations").get_by_role("heading", level=3).all_inner_texts()

    def recommend(self) -> list[str]:
        self.role("button", "Recommend", exact=True).click()
        self.says("recommendations with reasons")
        return self.titles()

    def focused(self) -> str:
        """Id of the element with the focus, or its text without an id."""
        return self.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")

    def tab_to(self, wanted: str) -> None:
        """Presses Tab until an element has the focus."""
        for _ in range(40):
            if self.focused() == wanted:
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{wanted} is not reached")

    def events(self) -> list[tuple[str, str, str]]:
        rows = self.service.store.rows(feedback, ["received"])
        return [(row["user_id"], row["type"], row["item_id"]) for row in rows]


@contextmanager
def visiting(browser: Any, service: Service, keys: Sequence[str] = (), **settings: Any) -> Iterator[Visit]:
    """An open page of a service. Nothing may go wrong on it.

    Args:
        browser: the browser.
        service: what the page talks to.
        keys: API keys of the server.
        settings: of the browser's context.
    """
    with listening(make_app(service, LIMITS, keys)) as address:
        context = browser.new_context(**({"viewport": WIDE} | settings))
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        found = Visit(page, service, [], [])
        page.on("console", lambda one: found.problems.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: found.problems.append(str(error)))
        page.on("request", lambda one: found.asked.append(one.url))
        page.goto(address)
        yield found
        context.close()
        expected = "status of 4" if keys else "nothing"  # Chromium reports each answer 401 on the console
        assert [one for one in found.problems if expected not in one] == []
        assert {url.split("/page")[0].split("?")[0] for url in found.asked} and all(
            url.startswith(address) for url in found.asked
        )
