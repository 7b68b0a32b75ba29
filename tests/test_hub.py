"""What happens when hub and network fail: over real HTTP on the loopback interface. No model is needed here."""

from pathlib import Path

import huggingface_hub
import pytest

from llmrec import hub
from llmrec.errors import UserError
from llmrec.push import check_branch
from tests.hub import Fault, Hub, Repository, point_at

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


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """What a push brings; 100 kB by LFS."""
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(250)) * 400)
    (tmp_path / "README.md").write_text("new")
    return {name: tmp_path / name for name in ("adapter_model.safetensors", "README.md")}


@pytest.fixture
def earlier(server) -> Hub:
    """A hub that has an earlier push, with a file that the next one no longer brings and one of somebody else."""
    repository = server.repositories.setdefault(NAME, Repository())
    old = {"README.md": b"old", "reward/config.json": b"{}", "LICENSE": b"mine"}
    repository.branches["main"][-1].files.update(old)
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
    "commit slow": Fault(COMMIT, delay=1.0),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_push_outlives_a_passing_fault(earlier, files, waits, name):
    fault = PASSING[name]
    earlier.faults = [Fault(**vars(fault))]
    hub.upload(files, NAME, message="push")
    assert earlier.faults[0].times == 0
    repository = earlier.repositories[NAME]
    assert len(repository.commits) == 1  # even where the answer to the commit was lost
    expected = {place: file.read_bytes() for place, file in files.items()} | {"LICENSE": b"mine"}
    assert repository.files == expected  # what an earlier push left of the reward models is gone
    if "Retry-After" in fault.headers:
        assert max(waits) >= float(fault.headers["Retry-After"])


LASTING = {
    "commit 401": (Fault(COMMIT, status=401, times=99), "set HF_TOKEN"),
    "branch 403": (Fault("POST .*/branch/", status=403, times=99), "may not write"),
    "commit 500": (Fault(COMMIT, status=500, times=99), "HTTP 500"),
    "commit 409": (Fault(COMMIT, status=409, times=99), "HTTP 409"),
    "commit 429": (Fault(COMMIT, status=429, headers={"Retry-After": "3600"}, times=99), "wait 3600 seconds"),
    "commit cut": (Fault(COMMIT, cut="before", times=99), "cannot be reached"),
    "upload cut": (Fault("PUT /lfs/", cut="before", times=99), "cannot be reached"),
    "upload 400": (Fault("PUT /lfs/", status=400, times=99), "HTTP 400"),
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
        Fault("GET /api/models/alice/tiny/revision", status=500),
        Fault("GET /api/models/alice/tiny/revision", status=429, headers={"Retry-After": "5"}),
        Fault("GET .*/tree/", cut="answer"),
        Fault(GETS, status=503),
        Fault(GETS, cut="before"),
        Fault(GETS, cut="answer"),
        Fault(GETS, delay=1.0),
    ],
    ids=str,
)
def test_a_download_outlives_a_passing_fault(earlier, files, fault):
    hub.upload(files, NAME, message="push")
    earlier.faults = [fault]
    got = hub.find_adapter(NAME) / "adapter_model.safetensors"
    assert got.read_bytes() == files["adapter_model.safetensors"].read_bytes() and fault.times == 0


def test_a_download_that_fails_for_good_says_so(earlier, files):
    hub.upload(files, NAME, message="push")
    earlier.faults = [Fault(GETS, status=500, times=99)]
    with pytest.raises(UserError, match="HTTP 500"):
        hub.find_adapter(NAME)


def test_a_commit_is_no_branch():
    with pytest.raises(UserError, match="name a branch"):
        check_branch("0" * 40)
