"""Fixtures: a service of the tiny policy with a store in SQLite, and a client of its application."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from llmrec.policy.model import RecPolicy
from llmrec.recommend import Recommender
from llmrec.serving.app import make_app
from llmrec.serving.server import Model, ServerOptions, serving
from llmrec.serving.service import Service
from llmrec.versions.registry import Registry
from tests.conftest import disturb, make_base, make_config, make_data
from tests.export.runs import finished_run
from tests.serving.browser import LIMITS, chromium


@pytest.fixture(scope="session")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Recommends the ten items of `tests.conftest.TITLES`; the log has the users u0 to u5.

    A new base sets the seed of torch, so that the adapter does not depend on the tests before.
    """
    data = make_data()
    policy = RecPolicy.create(make_config(make_base(tmp_path_factory.mktemp("base"))), data)
    disturb(policy)
    return Recommender(policy, 24, data)


@pytest.fixture
def service(recommender: Recommender, tmp_path: Path) -> Iterator[Service]:
    with serving(Model(recommender, "tiny@1"), options(tmp_path / "feedback.db")) as service:
        yield service


@pytest.fixture
def registry(tiny_base: str, tmp_path: Path) -> Registry:
    """A run with two candidates whose rankings differ."""
    run = finished_run(tiny_base, make_data(), tmp_path / "runs")
    registry = Registry(run)
    for number in (1, 2):
        policy = RecPolicy.from_pretrained(run.adapter())
        disturb(policy, scale=0.3 * number)
        policy.save_pretrained(tmp_path / f"round-{number}" / "adapter")
        registry.register(number, 0, tmp_path / f"round-{number}", "better", {})
    return registry


def options(store: Path | str, sampled_share: float = 0.0) -> ServerOptions:
    return ServerOptions("127.0.0.1", 0, str(store), sampled_share, (), LIMITS)


@pytest.fixture
def client(service: Service) -> TestClient:
    return TestClient(make_app(service, LIMITS, ()), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, if they are installed."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in folders if (folder / "initdb").is_file()), None)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty PostgreSQL database, on a server that the test starts. It refuses to run as root."""
    pytest.importorskip("psycopg")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    folder = tmp_path_factory.mktemp("postgres")
    user = _server_user(folder)
    run = ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
    start = ["-o", f"-k {folder} -c listen_addresses=", "-l", str(folder / "log")]
    control = [*run, str(programs / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    subprocess.run(
        [*run, str(programs / "initdb"), "-D", str(folder / "data"), "-U", "llmrec", "-A", "trust", "-N"],
        check=True,
        capture_output=True,
    )
    subprocess.run([*control, *start, "start"], check=True, capture_output=True)
    yield f"postgresql://llmrec@/postgres?host={folder}"
    # It fails if the server is gone, for instance because another session of pytest has removed the folder.
    subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True)


def _server_user(folder: Path) -> str | None:
    """The user that the server runs as: `postgres` if the test runs as root, which the server refuses."""
    import os

    if os.geteuid() != 0:
        return None
    shutil.chown(folder, "postgres")
    for parent in folder.parents:
        if parent.stat().st_mode & 0o001 == 0 and parent.is_relative_to("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    return "postgres"
