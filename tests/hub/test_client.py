"""What happens when hub and network fail: over real HTTP on the loopback interface. No model is needed here."""

import importlib.util
import re
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import huggingface_hub
import pytest

from llmrec.errors import UserError
from llmrec.hub import client as hub
from tests.fakes.hub import Commit, Fault, Hub, Repository, point_at

TOKEN = "hf_secretsecret"
NAME = "alice/tiny"


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Seconds that would have been waited."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Hub(token=TOKEN) as running:
        point_at(running.url, monkeypatch, tmp_path, TOKEN)
        yield running


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "llmrec.json").write_text("{}")
    return tmp_path / "folder"


@pytest.mark.parametrize(
    ("model", "revision", "says"),
    [
        ("alice/none", None, "There is no directory `alice/none` here, and the hub"),
        (NAME, "v9", "has no revision `v9`"),
        ("no/such/directory", None, "cannot be a hub id"),
        (".", "v2", "has no revisions"),
    ],
)
def test_what_is_not_there(server, folder, model, revision, says):
    server.store(NAME, folder)
    with pytest.raises(UserError, match=says):
        hub.find_adapter(model, revision)


def test_no_network_and_offline(server, monkeypatch, tmp_path, folder):
    server.store(NAME, folder)
    kept = hub.find_adapter(NAME)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.find_adapter(NAME) == kept  # from the cache
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        hub.find_adapter("alice/other")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        hub.upload({}, NAME, message="")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    point_at("http://127.0.0.1:1", monkeypatch, tmp_path / "empty", TOKEN)
    with pytest.raises(UserError, match="cannot be reached"):
        hub.find_adapter(NAME)


# --- faults

COMMIT = "POST /api/models/alice/tiny/commit"
GETS = "GET /alice/tiny/resolve/.*safetensors"
INFO = "GET /api/models/alice/tiny/revision"
MINE = {"LICENSE": b"mine", "reward/notes.md": b"mine", "notes/roc.png": b"mine"}


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """What a push brings; 100 kB by LFS."""
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(250)) * 400)
    (tmp_path / "README.md").write_text("new")
    (tmp_path / "llmrec.json").write_text("new")
    return {name: tmp_path / name for name in ("adapter_model.safetensors", "README.md", "llmrec.json")}


@pytest.fixture
def earlier(server) -> Hub:
    """A hub that has an earlier push, with files that the next one no longer brings and some of somebody else."""
    repository = server.repositories.setdefault(NAME, Repository())
    old = {"README.md": b"old", "llmrec.json": b"old", "reward/member0/config.json": b"{}", "reward/roc.png": b""}
    repository.branches["main"][-1].files.update(old | MINE)
    return server


PASSING = {
    "create 500": Fault("POST /api/repos/create", status=500),
    "create cut": Fault("POST /api/repos/create", cut="before"),
    "tree 503": Fault("GET .*/tree/", status=503),
    "preupload 429": Fault("POST .*/preupload/", status=429, headers={"Retry-After": "7"}),
    "upload 500": Fault("PUT /lfs/", status=500),
    "upload cut": Fault("PUT /lfs/", cut="before"),
    "upload answer cut": Fault("PUT /lfs/", cut="answer"),
    "commit 429": Fault(COMMIT, status=429, headers={"Retry-After": "9"}),
    "commit 409": Fault(COMMIT, status=409),
    "commit 502 thrice": Fault(COMMIT, status=502, times=3),
    "commit cut": Fault(COMMIT, cut="before"),
    "commit answer cut": Fault(COMMIT, cut="answer"),
    "commit slow": Fault(COMMIT, delay=2.0),
    "commit 412": Fault(COMMIT, status=412),
    "batch 503": Fault("POST .*/objects/batch", status=503),
    "info 500": Fault(INFO, status=500),
    "branch 503": Fault("POST .*/branch/", status=503),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_push_outlives_a_passing_fault(earlier, files, waits, monkeypatch, name):
    monkeypatch.setattr(hub, "_SILENCE", 0.5)
    fault = PASSING[name]
    earlier.faults = [Fault(**vars(fault))]
    hub.upload(files, NAME, revision="feat/x", message="push")
    assert earlier.faults[0].times == 0
    threading.Event().wait(fault.delay)  # what was given up is done all the same, and comes too late
    branch = earlier.repositories[NAME].branches["feat/x"]
    assert len(branch) == 2  # the branch's start, and one commit even where the answer to it was lost
    assert branch[-1].files == {place: file.read_bytes() for place, file in files.items()} | MINE
    if fault.delay:
        assert len([request for request in earlier.requests if re.search(fault.pattern, request)]) == 2
    if "Retry-After" in fault.headers:
        assert max(waits) >= float(fault.headers["Retry-After"])


def test_two_pushes_at_once_do_not_mix(earlier, files):
    branch = earlier.repositories[NAME].branches["main"]

    def rival() -> None:
        branch.append(Commit({**branch[-1].files, "vocab.txt": b"rival", "llmrec.json": b"rival"}, [], "rival", 1))

    earlier.faults = [Fault(COMMIT, first=rival)]
    hub.upload(files, NAME, message="push")
    assert [commit.title for commit in branch] == ["initial commit", "rival", "push"]
    assert branch[-1].files == {place: file.read_bytes() for place, file in files.items()} | MINE


@pytest.mark.parametrize("there", [["config.json", "vocab.json"], ["adapter_model.safetensors"], ["a.gguf"]])
def test_a_model_of_somebody_else_is_left_alone(server, files, there):
    repository = server.repositories.setdefault(NAME, Repository())
    repository.files.update(dict.fromkeys(["README.md", *there], b"theirs"))
    before = dict(repository.files)
    with pytest.raises(UserError, match=f"holds {there[0]}.*no push of llmrec wrote"):
        hub.upload(files, NAME, message="push")
    assert repository.files == before


def test_a_new_repository_may_have_a_readme_and_notes(server, files):
    server.repositories[NAME] = Repository()
    server.repositories[NAME].files.update({"README.md": b"", ".gitattributes": b"", "merges.txt": b"", **MINE})
    hub.upload(files, NAME, message="push")
    assert set(server.repositories[NAME].files) == {".gitattributes", "merges.txt", *files, *MINE}


def test_retry_after_may_be_a_date(earlier, files, waits):
    def at(seconds: int) -> dict:
        return {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)}

    earlier.faults = [Fault(COMMIT, status=429, headers=at(30))]
    hub.upload(files, NAME, message="push")
    assert 20 < max(waits) <= 30
    earlier.faults = [Fault(INFO, status=429, headers=at(3600))]
    with pytest.raises(UserError, match=r"wait 3[56]\d\d seconds"):
        hub.upload(files, NAME, message="push")


LASTING = {
    "commit 401": (Fault(COMMIT, status=401, times=99), "set HF_TOKEN"),
    "branch 403": (Fault("POST .*/branch/", status=403, times=99), "may not write"),
    "commit 500": (Fault(COMMIT, status=500, times=99), "HTTP 500"),
    "commit 409": (Fault(COMMIT, status=409, times=99), "HTTP 409"),
    "commit 429": (Fault(COMMIT, status=429, headers={"Retry-After": "3600"}, times=99), "wait 3600 seconds"),
    "commit cut": (Fault(COMMIT, cut="before", times=99), "cannot be reached"),
    "upload cut": (Fault("PUT /lfs/", cut="before", times=99), "cannot be reached"),
    "upload 400": (Fault("PUT /lfs/", status=400, times=99), "HTTP 400"),
    "batch 500": (Fault("POST .*/objects/batch", status=500, times=99), "HTTP 500"),
    "info 503": (Fault(INFO, status=503, times=99), "HTTP 503"),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_fault_leaves_the_repository_as_it_was(earlier, files, waits, name):
    fault, says = LASTING[name]
    earlier.faults = [Fault(**vars(fault))]
    repository = earlier.repositories[NAME]
    before = dict(repository.files)
    with pytest.raises(UserError, match=says) as raised:
        hub.upload(files, NAME, revision="v2", message="push")
    assert "pushing again is safe" in str(raised.value) and TOKEN not in str(raised.value)
    assert repository.files == before and repository.branches.get("v2", repository.branches["main"])[-1].files == before
    assert sum(waits) < 180
    earlier.faults = []
    hub.upload(files, NAME, revision="v2", message="push")
    assert repository.branches["v2"][-1].files["README.md"] == b"new" and repository.files == before


@pytest.mark.parametrize(
    "fault",
    [
        Fault(INFO, status=500),
        Fault(INFO, status=429, headers={"Retry-After": "5"}),
        Fault("GET .*/tree/", cut="answer"),
        Fault(GETS, status=503),
        Fault(GETS, cut="before"),
        Fault(GETS, cut="answer"),
        Fault(GETS, delay=2.0),
    ],
    ids=str,
)
def test_a_download_outlives_a_passing_fault(earlier, files, monkeypatch, fault):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    hub.upload(files, NAME, revision="feat/x", message="push")
    earlier.requests.clear()
    earlier.faults = [fault]
    got = hub.find_adapter(NAME, "feat/x") / "adapter_model.safetensors"
    assert got.read_bytes() == files["adapter_model.safetensors"].read_bytes() and fault.times == 0
    assert len([request for request in earlier.requests if re.search(fault.pattern, request)]) > 1


@pytest.mark.parametrize(
    ("pattern", "status", "says"),
    [(GETS, 500, "HTTP 500"), (GETS, 401, "set HF_TOKEN"), (INFO, 403, "may not read"), (INFO, 503, "HTTP 503")],
)
def test_a_download_that_fails_for_good_says_so(earlier, files, pattern, status, says):
    hub.upload(files, NAME, message="push")
    earlier.faults = [Fault(pattern, status=status, times=99)]
    with pytest.raises(UserError, match=says):
        hub.find_adapter(NAME)


@pytest.mark.parametrize("status", [500, 401, 403])
def test_a_snapshot_of_the_cache_is_not_used_silently(earlier, files, caplog, status):
    hub.upload(files, NAME, message="push")
    kept = hub.find_adapter(NAME)
    assert not caplog.records
    earlier.faults = [Fault(INFO, status=status, times=99)]
    assert hub.find_adapter(NAME) == kept
    said = [record.message for record in caplog.records if record.name == "llmrec.hub.client"]
    assert len(said) == 1 and kept.name in said[0] and "could not be asked" in said[0]


def test_a_commit_is_no_branch():
    with pytest.raises(UserError, match="name a branch"):
        hub.check_branch("0" * 40)


# --- Xet


@pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="hf_xet is not installed")
def test_an_upload_by_xet_that_fails_is_a_fault_of_the_hub(earlier, files, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    earlier.faults = [Fault("GET .*/xet-write-token/", status=403, times=99)]
    before = dict(earlier.repositories[NAME].files)
    with pytest.raises(UserError, match="pushing again is safe"):
        hub.upload(files, NAME, message="push")
    assert len([request for request in earlier.requests if "/preupload/" in request]) == 4
    assert earlier.repositories[NAME].files == before


@pytest.mark.parametrize("kind", [ConnectionError, TimeoutError, RuntimeError])
def test_a_download_by_xet_that_fails_is_tried_again(earlier, files, monkeypatch, waits, kind):
    hub.upload(files, NAME, message="push")

    def fail(*_, **__):
        raise kind("no shard")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match="cannot be reached .*no shard"):
        hub.find_adapter(NAME)
    assert len(waits) == 3
