"""The command `serve` as its own process: a real port, slow and rude clients, Gorse's client, and a kill."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from llmrec.errors import UserError
from llmrec.run import Run
from llmrec.serving.guard import Limits
from llmrec.serving.server import KEYS_VARIABLE, ServerOptions, read_keys, serve
from llmrec.versions.registry import version_label
from tests.cli.test_startup import modules_after
from tests.conftest import make_data
from tests.export.runs import finished_run
from tests.serving.test_export import command

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-sixteen-characters"


@dataclass
class Server:
    """A running server with an API key."""

    process: subprocess.Popen
    address: str
    run: Run
    log: Path

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data)
        request.add_header("Content-Type", "application/json")
        request.add_header("X-API-Key", KEY)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def connect(self) -> socket.socket:
        port = int(self.address.rpartition(":")[2])
        return socket.create_connection(("127.0.0.1", port), timeout=60)


def start(run: Run, log: Path, *options: str) -> Server:
    variables = os.environ | {"PYTHONPATH": str(ROOT), KEYS_VARIABLE: KEY}
    arguments = ["serve", "--run", str(run.directory), "--port", "0", "--rate", "100000", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "llmrec", *arguments],
        stdout=subprocess.PIPE,
        stderr=log.open("a"),
        text=True,
        env=variables,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready: "), log.read_text()
    return Server(process, line.removeprefix("ready: ").strip(), run, log)


@pytest.fixture(scope="module")
def server(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    server = start(finished_run(tiny_base, make_data(), folder / "runs"), folder / "log")
    yield server
    server.process.kill()
    server.process.wait()


def test_a_list_names_the_version_of_its_adapter(server: Server) -> None:
    answer = server.ask("/recommend", {"user": "u1", "k": 3})
    assert answer["policy"] == version_label(server.run.adapter(), "sft") and len(answer["items"]) == 3
    assert re.fullmatch(r"sft@[0-9a-f]{12}", answer["policy"])
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(server.address + "/items")
    with urllib.request.urlopen(server.address + "/readyz") as ready:
        assert json.loads(ready.read()) == {"status": "ok"}


def test_slow_clients_delay_nobody(server: Server) -> None:
    """Fifty clients send half a request, and ten ask for a stream and never read it."""
    slow = [server.connect() for _ in range(60)]
    head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    stream = json.dumps({"history": ["i1"], "k": 9, "reasons": "stream"})
    for one in slow[:50]:
        one.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    for one in slow[50:]:
        one.sendall(f"{head}Content-Length: {len(stream)}\r\n\r\n{stream}".encode())
    assert len(server.ask("/recommend", {"user": "u2", "k": 2})["items"]) == 2
    for one in slow:
        one.close()
    assert len(server.ask("/recommend", {"user": "u2", "k": 2})["items"]) == 2


@pytest.mark.parametrize(
    "garbage", [b"\x00\xff\r\n\r\n", b"GET /nothing HTTP/9.9\r\n\r\n", b"POST /feedback HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http_is_refused(server: Server, garbage: bytes) -> None:
    with server.connect() as rude:
        rude.sendall(garbage)
        assert rude.recv(100).startswith(b"HTTP/1.1 4")
    assert server.ask("/items?limit=1")["total"] == 10


def test_the_client_of_gorse_works(server: Server) -> None:
    gorse = pytest.importorskip("gorse")
    client = gorse.Gorse(server.address, KEY)
    scores = client.get_recommend("gorse-user", n=10)
    assert sum(score.score for score in scores) == pytest.approx(1, abs=1e-4)
    before = [score.id for score in scores]
    assert sorted(before) == [f"i{n}" for n in range(10)]
    stamp = "2026-01-31T12:00:00Z"
    sent = client.insert_feedback("like", "gorse-user", before[0], stamp)
    assert sent["RowAffected"] == 1
    assert client.insert_feedback("like", "gorse-user", before[0], stamp)["RowAffected"] == 0
    assert sorted(score.id for score in client.get_recommend("gorse-user", n=10)) == sorted(before[1:])
    assert {score.id for score in client.get_recommend("gorse-user", "Comedy")} == {"i1", "i2", "i6"} - {before[0]}


def test_acknowledged_feedback_survives_a_kill_of_the_server(server: Server) -> None:
    """The last test of this server. It is killed amid requests."""
    acknowledged: list[str] = []

    def send(thread: int) -> None:
        for number in range(100_000):
            event = {"event_id": f"k{thread}-{number}", "user": "k", "item": "i1", "type": "click"}
            try:
                assert server.ask("/feedback", {"events": [event]})["accepted"] == 1
            except OSError:
                return
            acknowledged.append(event["event_id"])

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 50:
        time.sleep(0.01)
    server.process.kill()
    for thread in threads:
        thread.join()
    with sqlite3.connect(server.run.directory / "feedback.db") as database:
        found = {row[0] for row in database.execute("select event_id from feedback")}
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    assert set(acknowledged) - found == set()
    assert "u1" not in server.log.read_text() and KEY not in server.log.read_text()


@pytest.mark.slow
def test_a_server_ends_cleanly_and_starts_again(tiny_base: str, tmp_path: Path) -> None:
    run = finished_run(tiny_base, make_data(), tmp_path / "runs")
    for expected in (2, 2):
        server = start(run, tmp_path / "log")
        left = len(server.ask("/recommend", {"user": "u3", "k": expected})["items"])
        assert left == expected
        server.process.terminate()
        assert server.process.wait(30) == 0


# --- before a server starts ---


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n\n  another-key-of-sixteen \n")
    monkeypatch.setenv(KEYS_VARIABLE, "a-third-key-of-sixteen,")
    assert read_keys(tmp_path / "keys") == (KEY, "another-key-of-sixteen", "a-third-key-of-sixteen")
    (tmp_path / "keys").write_text("short")
    with pytest.raises(UserError, match="API key 1 has 5 characters; expected at least 16"):
        read_keys(tmp_path / "keys")
    monkeypatch.delenv(KEYS_VARIABLE)
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(UserError, match="holds no API key"):
        read_keys(tmp_path / "keys")
    (tmp_path / "keys").write_text(KEY, encoding="utf-8-sig")
    assert read_keys(tmp_path / "keys") == (KEY,)
    (tmp_path / "keys").write_bytes(KEY.encode() + b"\xe9")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_keys(tmp_path / "keys")


def test_a_host_that_no_machine_can_have_is_refused() -> None:
    options = ServerOptions("a..b", 0, "x.db", 0.0, (KEY,), Limits())
    with pytest.raises(UserError, match="Cannot listen on a..b, port 0"):
        serve(lambda: pytest.fail("the model was loaded"), options, print)


def test_mistakes_are_reported_before_anything_is_loaded(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(finished_run(tiny_base, make_data(), tmp_path / "runs").directory)
    monkeypatch.setattr("llmrec.recommend.Recommender.from_run", lambda *_: pytest.fail("the model was loaded"))
    assert command(monkeypatch, "serve") == 2
    assert command(monkeypatch, "serve", "--run", run, "--host", "0.0.0.0") == 2
    assert command(monkeypatch, "serve", "--run", run, "--adapter", "ppo") == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert command(monkeypatch, "serve", "--run", run, "--port", port) == 2
    errors = capsys.readouterr().err
    assert "The model is not given" in errors
    assert "--host 0.0.0.0 opens the server to other machines, but there are no API keys" in errors
    assert "has no finished ppo stage" in errors
    assert f"Cannot listen on 127.0.0.1, port {port}" in errors


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert command(monkeypatch, "serve", "--model", str(tmp_path)) == 2
    assert "pip install 'llmrec[serve]'" in capsys.readouterr().err


def test_other_commands_import_no_server() -> None:
    assert not modules_after("import llmrec.cli.app") & {"fastapi", "sqlalchemy", "uvicorn"}
