"""Several servers that share a PostgreSQL database answer like one, also behind the proxy of `configs/deploy`."""

import itertools
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from llmrec.run import Run
from llmrec.serving import tables
from llmrec.serving.app import make_app
from llmrec.serving.live import Follower
from llmrec.serving.server import Model, serving
from llmrec.serving.service import Service
from llmrec.serving.store import Store
from llmrec.versions.registry import Registry
from tests.conftest import make_data
from tests.export.runs import finished_run
from tests.processes import free_port
from tests.serving.conftest import LIMITS, options
from tests.serving.test_live import until
from tests.serving.test_server import KEY, Server, start

DEPLOY = Path(__file__).parents[2] / "configs" / "deploy"


def click(event_id: str, user: str, item: str, kind: str = "click") -> dict[str, Any]:
    return {"events": [{"event_id": event_id, "user": user, "item": item, "type": kind}]}


@pytest.fixture
def replicas(registry: Registry, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Service]]:
    """Two servers of one run and one database."""
    monkeypatch.setattr(Follower.__init__, "__defaults__", (0.02,))
    with ExitStack() as stack:
        model = Model.of_registry(registry, quantized=True)
        yield [stack.enter_context(serving(model, options(postgres))) for _ in range(2)]


@pytest.fixture
def clients(replicas: list[Service]) -> list[TestClient]:
    return [TestClient(make_app(one, LIMITS, ())) for one in replicas]


def items(client: TestClient, user: str) -> list[str]:
    answer = client.post("/recommend", json={"user": user, "k": 10})
    assert answer.status_code == 200, answer.text
    return [item["item"] for item in answer.json()["items"]]


def test_feedback_to_one_server_reaches_the_lists_of_the_other(clients: list[TestClient]) -> None:
    first, second = clients
    before = items(second, "shared")
    assert items(first, "shared") == before
    taken, refused = before[:2]
    assert first.post("/feedback", json=click("shared-1", "shared", taken)).json()["accepted"] == 1
    assert second.post("/feedback", json=click("shared-1", "shared", taken)).json()["duplicates"] == 1
    assert second.post("/feedback", json=click("shared-2", "shared", refused, "skip")).json()["accepted"] == 1
    after = [items(client, "shared") for client in clients]
    assert after[0] == after[1] and not {taken, refused} & set(after[0])
    assert first.delete("/users/shared").status_code == 200
    assert [set(items(client, "shared")) for client in clients] == [set(before)] * 2


def test_a_comparison_of_one_server_is_voted_on_at_the_other(clients: list[TestClient]) -> None:
    first, second = clients
    shown = first.post("/comparisons", json={"history": ["i1"], "k": 3}).json()
    place = f"/comparisons/{shown['comparison_id']}/vote"
    said = second.post(place, json={"verdict": "left"})
    assert said.status_code == 200 and said.json()["left"] != said.json()["right"]
    assert first.post(place, json={"verdict": "right"}).status_code == 409
    assert first.get("/comparisons").json() == second.get("/comparisons").json()


def test_both_servers_give_a_person_the_same_version(
    clients: list[TestClient], replicas: list[Service], registry: Registry
) -> None:
    registry.start_canary(1, 0.5, "it passed", {})
    until(lambda: all(one.live.traffic == registry.traffic() for one in replicas))
    people = [f"person-{number}" for number in range(20)]
    policies = [
        [client.post("/recommend", json={"user": person, "k": 1}).json()["policy"] for person in people]
        for client in clients
    ]
    assert policies[0] == policies[1]
    assert set(policies[0]) == {registry.find(0).label, registry.find(1).label}
    recorded = {row["policy"] for row in replicas[0].store.rows(tables.impressions, ["policy"])}
    assert recorded >= set(policies[0])


# --- behind a proxy -----------------------------------------------------------------------------------


@pytest.fixture
def behind_nginx(postgres: str, tiny_base: str, tmp_path: Path) -> Iterator[tuple[str, list[Server]]]:
    """The address of nginx with the shipped configuration, and the two servers behind it."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    run: Run = finished_run(tiny_base, make_data(), tmp_path / "runs")
    servers = [start(run, tmp_path / f"log{number}", "--store", postgres) for number in range(2)]
    port = free_port()
    ports = [one.address.rpartition(":")[2] for one in servers]
    text = (DEPLOY / "nginx.conf").read_text()
    text, listens = re.subn(r"listen 8080;", f"listen 127.0.0.1:{port};", text)
    text, upstreams = re.subn(r"server server:8000;", " ".join(f"server 127.0.0.1:{one};" for one in ports), text)
    assert listens == upstreams == 1
    (tmp_path / "nginx.conf").write_text(text)
    command = [nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "errors")]
    settings = f"daemon off; pid {tmp_path / 'pid'};"
    subprocess.run([*command, "-t", "-g", settings], check=True, capture_output=True)
    proxy = subprocess.Popen([*command, "-g", settings])
    yield f"http://127.0.0.1:{port}", servers
    proxy.terminate()
    for one in servers:
        one.process.kill()
    proxy.wait()


def ask(address: str, path: str, body: Any) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json", "X-API-Key": KEY}
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.slow
def test_requests_go_on_when_a_server_is_killed(behind_nginx: tuple[str, list[Server]], postgres: str) -> None:
    """Only requests that the killed server had begun may fail, and no acknowledged event is lost."""
    address, (killed, _) = behind_nginx
    acknowledged: list[str] = []
    failed: list[float] = []
    numbers = itertools.count()
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            number = next(numbers)
            status, _ = ask(address, "/feedback", click(f"proxied-{number}", f"u-{number % 7}", "i1"))
            if status == 200:
                acknowledged.append(f"proxied-{number}")
            else:
                failed.append(time.monotonic())

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(acknowledged) > 100)
    died = time.monotonic()
    killed.process.kill()
    before = len(acknowledged)
    until(lambda: len(acknowledged) > before + 200)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(failed) <= len(threads) and all(moment - died < 1 for moment in failed)
    store = Store(postgres)
    stored = {row["event_id"] for row in store.rows(tables.feedback, ["event_id"])}
    store.close()
    assert set(acknowledged) <= stored
    status, body = ask(address, "/recommend", {"user": "u-1", "k": 3})
    assert status == 200 and len(json.loads(body)["items"]) == 3


# --- the files ----------------------------------------------------------------------------------------


def test_the_compose_file_names_what_exists(command_here: Callable[..., Any]) -> None:
    """Files that it mounts or builds from are in the folder, and its commands have the options that they use."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {"postgres", "server", "learn", "proxy", "prometheus"}
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).exists(), source
    for name in ("server", "learn"):
        arguments = services[name]["command"]
        helped = command_here(arguments[0], "--help")
        assert helped.returncode == 0
        assert all(option in helped.stdout for option in arguments if option.startswith("--"))
    assert (DEPLOY / services["server"]["build"]["dockerfile"]).name == "Dockerfile"
    assert (DEPLOY / services["server"]["build"]["context"] / "pyproject.toml").is_file()
