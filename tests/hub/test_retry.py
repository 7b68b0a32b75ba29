"""Failures of hub and network on the loopback interface: retries, explanations, and what the repository then holds."""

import importlib
import importlib.util
import re
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import hf_raise_for_status

from llmrec.errors import UserError
from llmrec.hub import client, retry
from llmrec.hub.retry import explained, hub_fault, retried
from tests.fakes.hub import Fault, Hub, point_at
from tests.hub.pushing import NAME, TOKEN

COMMIT = "POST /api/models/alice/tiny/commit"
WEIGHTS = "GET /alice/tiny/resolve/.*safetensors"
INFO = "GET /api/models/alice/tiny/revision"


@pytest.fixture(autouse=True)
def _no_waiting(waits: list[float]) -> None:
    """No test waits before a retry."""


# --- causes


def test_the_fault_is_found_behind_errors_of_other_kinds() -> None:
    offline = OfflineModeIsEnabled("offline")
    outer = OSError("cannot load")
    outer.__context__ = offline
    assert hub_fault(outer) is offline
    refused = ConnectionError("refused")
    outer = OSError("cannot load")
    outer.__cause__ = refused
    assert hub_fault(outer) is refused


def test_missing_files_and_errors_of_libraries_are_no_faults() -> None:
    for error in (ValueError("x"), OSError("x"), EntryNotFoundError("x"), NotImplementedError("x"), None):
        assert hub_fault(error) is None


def test_an_error_that_is_its_own_cause_ends_the_search() -> None:
    error = ValueError("x")
    error.__cause__ = error
    assert hub_fault(error) is None


def missing_file() -> None:
    """Raises what huggingface_hub makes of the answer that a file is missing."""
    httpx = importlib.import_module(HTTPError.__module__.split(".")[0])  # the HTTP library that huggingface_hub uses
    request = httpx.Request("GET", "http://localhost/a/b/resolve/main/report.json")
    hf_raise_for_status(httpx.Response(404, headers={"X-Error-Code": "EntryNotFound"}, request=request))


@pytest.mark.parametrize(("number", "calls"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, retry.ATTEMPTS)])
def test_a_host_that_does_not_exist_is_asked_once(number: int, calls: int) -> None:
    """A name server that does not answer may answer later."""
    made: list[int] = []
    httpx = importlib.import_module(HTTPError.__module__.split(".")[0])

    def call() -> None:
        made.append(1)
        raise httpx.ConnectError("no name") from socket.gaierror(number, "no name")

    with pytest.raises(UserError, match="cannot be reached"), explained(NAME):
        retried(call)
    assert len(made) == calls


def test_a_missing_file_is_requested_once(waits: list[float]) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        missing_file()

    with pytest.raises(EntryNotFoundError), explained(NAME):
        retried(call)
    assert len(calls) == 1 and waits == []


def test_an_interrupt_while_a_failure_is_handled_is_not_retried(waits: list[float]) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        try:
            raise ConnectionError("refused")
        except ConnectionError:
            raise KeyboardInterrupt  # noqa: B904

    with pytest.raises(KeyboardInterrupt):
        retried(call)
    assert len(calls) == 1 and waits == []


def test_other_errors_pass_unchanged_and_at_once(waits: list[float]) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), explained(NAME):
        retried(call)
    assert len(calls) == 1 and waits == []


def test_waits_double_and_the_last_error_is_raised(waits: list[float]) -> None:
    def call() -> None:
        raise ConnectionError(f"attempt {len(waits) + 1}")

    with pytest.raises(ConnectionError, match="attempt 4"):
        retried(call)
    assert waits == [1.0, 2.0, 4.0]


# --- uploads

TEMPORARY = {
    "create 500": Fault("POST /api/repos/create", status=500),
    "create cut": Fault("POST /api/repos/create", cut="before"),
    "tree 503": Fault("GET .*/tree/", status=503),
    "preupload 429": Fault("POST .*/preupload/", status=429, headers={"Retry-After": "7"}),
    "upload 500": Fault("PUT /lfs/", status=500),
    "upload cut": Fault("PUT /lfs/", cut="before"),
    "upload answer cut": Fault("PUT /lfs/", cut="answer"),
    "commit 429": Fault(COMMIT, status=429, headers={"Retry-After": "9"}),
    "commit 409": Fault(COMMIT, status=409),
    "commit 502 three times": Fault(COMMIT, status=502, times=3),
    "commit cut": Fault(COMMIT, cut="before"),
    "commit answer cut": Fault(COMMIT, cut="answer"),
    "commit slow": Fault(COMMIT, delay=2.0),
    "commit 412": Fault(COMMIT, status=412),
    "batch 503": Fault("POST .*/objects/batch", status=503),
    "info 500": Fault(INFO, status=500),
    "branch 503": Fault("POST .*/branch/", status=503),
}


@pytest.mark.parametrize("name", TEMPORARY)
def test_a_push_survives_a_temporary_fault(
    earlier: Hub, files: dict[str, Path], others: dict[str, bytes], waits: list[float], monkeypatch, name: str
) -> None:
    monkeypatch.setattr(retry, "SILENCE_TIMEOUT", 0.5)
    fault = TEMPORARY[name]
    earlier.faults = [Fault(**vars(fault))]
    client.upload(files, NAME, revision="feat/x", message="push")
    assert earlier.faults[0].times == 0
    threading.Event().wait(fault.delay)  # the request that was given up still reaches the hub, too late
    branch = earlier.repositories[NAME].branches["feat/x"]
    assert len(branch) == 2  # the start of the branch, and one commit even if the answer to it was lost
    assert branch[-1].files == {path: file.read_bytes() for path, file in files.items()} | others
    if fault.delay:
        assert len([request for request in earlier.requests if re.search(fault.pattern, request)]) == 2
    if "Retry-After" in fault.headers:
        assert max(waits) >= float(fault.headers["Retry-After"])


def test_retry_after_can_be_a_date(earlier: Hub, files: dict[str, Path], waits: list[float]) -> None:
    def at(seconds: int) -> dict[str, str]:
        return {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)}

    earlier.faults = [Fault(COMMIT, status=429, headers=at(30))]
    client.upload(files, NAME, message="push")
    assert 20 < max(waits) <= 30
    earlier.faults = [Fault(INFO, status=429, headers=at(3600))]
    with pytest.raises(UserError, match=r"after 3[56]\d\d seconds"):
        client.upload(files, NAME, message="push")


LASTING = {
    "commit 401": (Fault(COMMIT, status=401, times=99), "Set HF_TOKEN"),
    "branch 403": (Fault("POST .*/branch/", status=403, times=99), "may not write"),
    "commit 500": (Fault(COMMIT, status=500, times=99), "HTTP 500"),
    "commit 409": (Fault(COMMIT, status=409, times=99), "HTTP 409"),
    "commit 429": (Fault(COMMIT, status=429, headers={"Retry-After": "3600"}, times=99), "after 3600 seconds"),
    "commit cut": (Fault(COMMIT, cut="before", times=99), "cannot be reached"),
    "upload cut": (Fault("PUT /lfs/", cut="before", times=99), "cannot be reached"),
    "upload 400": (Fault("PUT /lfs/", status=400, times=99), "HTTP 400"),
    "batch 500": (Fault("POST .*/objects/batch", status=500, times=99), "HTTP 500"),
    "info 503": (Fault(INFO, status=503, times=99), "HTTP 503"),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_fault_leaves_the_repository_as_it_was(
    earlier: Hub, files: dict[str, Path], waits: list[float], name: str
) -> None:
    fault, message = LASTING[name]
    earlier.faults = [Fault(**vars(fault))]
    repository = earlier.repositories[NAME]
    before = dict(repository.files)
    with pytest.raises(UserError, match=message) as raised:
        client.upload(files, NAME, revision="v2", message="push")
    assert "pushing again is safe" in str(raised.value) and TOKEN not in str(raised.value)
    assert repository.files == before and repository.branches.get("v2", repository.branches["main"])[-1].files == before
    assert sum(waits) < 180
    earlier.faults = []
    client.upload(files, NAME, revision="v2", message="push")
    assert repository.branches["v2"][-1].files["README.md"] == b"new" and repository.files == before


def test_the_token_is_in_no_message(server: Hub, files: dict[str, Path]) -> None:
    server.faults = [Fault("POST .*/preupload/", status=400, message=f"bad header: Bearer {TOKEN}")]
    with pytest.raises(UserError, match="<token>") as raised:
        client.upload(files, NAME, message="push")
    assert TOKEN not in str(raised.value)


# --- downloads


@pytest.mark.parametrize(
    "fault",
    [
        Fault(INFO, status=500),
        Fault(INFO, status=429, headers={"Retry-After": "5"}),
        Fault("GET .*/tree/", cut="answer"),
        Fault(WEIGHTS, status=503),
        Fault(WEIGHTS, cut="before"),
        Fault(WEIGHTS, cut="answer"),
        Fault(WEIGHTS, delay=2.0),
    ],
    ids=str,
)
def test_a_download_survives_a_temporary_fault(earlier: Hub, files: dict[str, Path], monkeypatch, fault: Fault) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    client.upload(files, NAME, revision="feat/x", message="push")
    earlier.requests.clear()
    earlier.faults = [fault]
    got = client.find_adapter(NAME, "feat/x") / "adapter_model.safetensors"
    assert got.read_bytes() == files["adapter_model.safetensors"].read_bytes() and fault.times == 0
    assert len([request for request in earlier.requests if re.search(fault.pattern, request)]) > 1


@pytest.mark.parametrize(
    ("pattern", "status", "message"),
    [(WEIGHTS, 500, "HTTP 500"), (WEIGHTS, 401, "set HF_TOKEN"), (INFO, 403, "may not read"), (INFO, 503, "HTTP 503")],
)
def test_a_lasting_fault_of_a_download_is_explained(
    earlier: Hub, files: dict[str, Path], pattern: str, status: int, message: str
) -> None:
    client.upload(files, NAME, message="push")
    earlier.faults = [Fault(pattern, status=status, times=99)]
    with pytest.raises(UserError, match=message):
        client.find_adapter(NAME)


def test_offline_and_unreachable_hubs_are_explained(server: Hub, monkeypatch, tmp_path: Path, folder: Path) -> None:
    server.store(NAME, folder)
    kept = client.find_adapter(NAME)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert client.find_adapter(NAME) == kept  # from the cache
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        client.find_adapter("alice/other")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        client.upload({}, NAME, message="")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    point_at("http://127.0.0.1:1", monkeypatch, tmp_path / "empty", TOKEN)
    with pytest.raises(UserError, match="cannot be reached"):
        client.find_adapter(NAME)


# --- Xet


@pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="hf_xet is not installed")
def test_a_failed_upload_by_xet_is_a_fault_of_the_hub(earlier: Hub, files: dict[str, Path], monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    earlier.faults = [Fault("GET .*/xet-write-token/", status=403, times=99)]
    before = dict(earlier.repositories[NAME].files)
    with pytest.raises(UserError, match="pushing again is safe"):
        client.upload(files, NAME, message="push")
    assert len([request for request in earlier.requests if "/preupload/" in request]) == 4
    assert earlier.repositories[NAME].files == before


@pytest.mark.parametrize("kind", [ConnectionError, TimeoutError, RuntimeError])
def test_a_failed_download_by_xet_is_retried(
    earlier: Hub, files: dict[str, Path], monkeypatch, waits: list[float], kind: type[Exception]
) -> None:
    client.upload(files, NAME, message="push")

    def fail(*_, **__) -> None:
        raise kind("no shard")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"cannot be reached .*no shard"):
        client.find_adapter(NAME)
    assert len(waits) == 3
