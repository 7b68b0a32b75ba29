"""The server as an application of Ray Serve, on a local cluster of one machine."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_data
from tests.export.runs import finished_run
from tests.processes import free_port

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

START = 300  # seconds in which Ray and two replicas start on a busy machine


@pytest.fixture
def address(tiny_base: str, tmp_path: Path) -> Iterator[str]:
    """Address of a tiny run on two replicas, which `serve run` starts."""
    run = finished_run(tiny_base, make_data(), tmp_path / "runs")
    port = free_port()
    config = {
        "http_options": {"port": port},
        "applications": [
            {
                "name": "llmrec",
                "import_path": "llmrec.serving.ray_serve:application",
                "args": {"run": str(run.directory), "store": str(tmp_path / "feedback.db")},
                "deployments": [{"name": "llmrec", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}}],
            }
        ],
    }
    file = tmp_path / "serve.yaml"
    file.write_text(json.dumps(config))
    log = (tmp_path / "log.txt").open("w")
    variables = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp"}
    server = subprocess.Popen(
        [Path(sys.executable).with_name("serve"), "run", file], env=variables, stdout=log, stderr=log
    )
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(60)
    log.close()


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)


def post(address: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def ready(address: str) -> bool:
    try:
        return get(f"{address}/readyz") == {"status": "ok"}
    except OSError:
        return False


def test_replicas_of_ray_answer_like_the_server(address: str) -> None:
    end = time.monotonic() + START
    while not ready(address):
        assert time.monotonic() < end
        time.sleep(0.5)
    listed = json.loads(post(f"{address}/recommend", {"user": "new", "k": 3}))
    taken = listed["items"][0]["item"]
    events = [{"event_id": "e1", "user": "new", "item": taken, "type": "click"}]
    assert json.loads(post(f"{address}/feedback", {"events": events})) == {"accepted": 1, "duplicates": 0}
    for _ in range(8):  # of both replicas
        items = json.loads(post(f"{address}/recommend", {"user": "new", "k": 3}))["items"]
        assert taken not in [item["item"] for item in items]
    stream = post(f"{address}/recommend", {"user": "new", "k": 1, "reasons": "stream"}).decode()
    assert [line for line in stream.splitlines() if line.startswith("event:")] == [
        "event: items",
        "event: reason",
        "event: done",
    ]
