"""Uploads to and downloads from a hub on the loopback interface. No model is needed here."""

from pathlib import Path

import pytest

from llmrec.errors import ModelError, UserError
from llmrec.hub import client
from tests.fakes.hub import Commit, Fault, Hub, Repository
from tests.hub.pushing import NAME

COMMIT = "POST /api/models/alice/tiny/commit"
INFO = "GET /api/models/alice/tiny/revision"


@pytest.fixture(autouse=True)
def _no_waiting(waits: list[float]) -> None:
    """No test waits before a retry."""


# --- names


@pytest.mark.parametrize("name", ["a/b/c", "alice/", "al ice/x", "alice/x--y", "alice/x.git"])
def test_a_name_that_no_repository_can_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="expected OWNER/NAME"):
        client.check_name(name)


def test_a_commit_is_no_branch() -> None:
    client.check_branch(None)
    client.check_branch("v2")
    with pytest.raises(UserError, match="Name a branch"):
        client.check_branch("0" * 40)


def test_the_owner_of_a_bare_name_is_the_account(server: Hub) -> None:
    assert client.full_name("tiny") == "alice/tiny" and client.full_name("bob/tiny") == "bob/tiny"


def test_the_web_page_names_the_branch(server: Hub) -> None:
    assert client.address(NAME) == f"{server.url}/{NAME}"
    assert client.address(NAME, "v2") == f"{server.url}/{NAME}/tree/v2"


# --- downloads


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("alice/none", None, "There is no local directory `alice/none`, and the hub"),
        (NAME, "v9", "has no revision `v9`"),
        ("no/such/directory", None, "neither a local directory nor a repository name"),
        (".", "v2", "has no revisions"),
    ],
)
def test_adapters_that_do_not_exist(server: Hub, folder: Path, model: str, revision: str | None, message: str) -> None:
    server.store(NAME, folder)
    with pytest.raises(UserError, match=message):
        client.find_adapter(model, revision)


def test_a_directory_is_found_as_it_is(server: Hub, folder: Path) -> None:
    assert client.find_adapter(folder) == folder and server.requests == []
    with pytest.raises(ModelError, match="local directory, which has no revisions"):
        client.find_adapter(folder, "v2")


def test_a_repository_without_an_adapter_is_refused(server: Hub, folder: Path) -> None:
    (folder / "llmrec.json").rename(folder / "config.json")
    server.store(NAME, folder)
    with pytest.raises(UserError, match=f"no adapter of llmrec at `main`.*llmrec list --repo {NAME}"):
        client.find_adapter(NAME)


@pytest.mark.parametrize("status", [500, 401, 403])
def test_a_snapshot_in_the_cache_is_used_with_a_warning(
    earlier: Hub, files: dict[str, Path], caplog, status: int
) -> None:
    client.upload(files, NAME, message="push")
    kept = client.find_adapter(NAME)
    assert not caplog.records
    earlier.faults = [Fault(INFO, status=status, times=99)]
    assert client.find_adapter(NAME) == kept
    warnings = [record.message for record in caplog.records if record.name == "llmrec.hub.client"]
    assert len(warnings) == 1 and kept.name in warnings[0] and "could not be asked" in warnings[0]


def test_one_file_is_fetched_if_it_exists(earlier: Hub) -> None:
    found = client.fetch(NAME, "llmrec.json")
    assert found is not None and found.read_bytes() == b"old"
    assert client.fetch(NAME, "report.json") is None
    with pytest.raises(UserError, match="no revision `v9`"):
        client.fetch(NAME, "llmrec.json", "v9")


def test_the_license_is_read_from_the_card(server: Hub, folder: Path) -> None:
    assert client.license_of("alice/none") == {}
    server.store("alice/bare", folder)
    assert client.license_of("alice/bare") == {}
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n")
    server.store("alice/mit", folder)
    assert client.license_of("alice/mit") == {"license": "mit"}


def test_the_history_lists_branches_and_tags(earlier: Hub, files: dict[str, Path]) -> None:
    client.upload(files, NAME, revision="v2", message="second")
    repository = earlier.repositories[NAME]
    repository.tags["paper"] = repository.branches["v2"][-1].sha
    branches, tags = client.history(NAME)
    assert {name: [commit.title for commit in commits] for name, commits in branches.items()} == {
        "main": ["initial commit"],
        "v2": ["second", "initial commit"],
    }
    assert tags == {"paper": branches["v2"][0].commit_id}


# --- uploads


def test_a_push_replaces_an_earlier_one_and_keeps_other_files(
    earlier: Hub, files: dict[str, Path], others: dict[str, bytes]
) -> None:
    url = client.upload(files, NAME, message="push")
    assert url == f"{earlier.url}/{NAME}"
    expected = {path: file.read_bytes() for path, file in files.items()} | others
    assert earlier.repositories[NAME].files == expected


def test_concurrent_pushes_do_not_mix(earlier: Hub, files: dict[str, Path], others: dict[str, bytes]) -> None:
    branch = earlier.repositories[NAME].branches["main"]

    def push_first() -> None:
        branch.append(Commit({**branch[-1].files, "vocab.txt": b"rival", "llmrec.json": b"rival"}, [], "rival", 1))

    earlier.faults = [Fault(COMMIT, first=push_first)]
    client.upload(files, NAME, message="push")
    assert [commit.title for commit in branch] == ["initial commit", "rival", "push"]
    assert branch[-1].files == {path: file.read_bytes() for path, file in files.items()} | others


@pytest.mark.parametrize("present", [["config.json", "vocab.json"], ["adapter_model.safetensors"], ["a.gguf"]])
def test_a_model_of_another_tool_is_left_alone(server: Hub, files: dict[str, Path], present: list[str]) -> None:
    repository = server.repositories.setdefault(NAME, Repository())
    repository.files.update(dict.fromkeys(["README.md", *present], b"theirs"))
    before = dict(repository.files)
    with pytest.raises(UserError, match=f"holds {present[0]}.*llmrec did not push"):
        client.upload(files, NAME, message="push")
    assert repository.files == before


def test_a_new_repository_can_have_a_readme_and_notes(
    server: Hub, files: dict[str, Path], others: dict[str, bytes]
) -> None:
    server.repositories[NAME] = Repository()
    server.repositories[NAME].files.update({"README.md": b"", ".gitattributes": b"", "merges.txt": b"", **others})
    client.upload(files, NAME, message="push")
    assert set(server.repositories[NAME].files) == {".gitattributes", "merges.txt", *files, *others}


def test_files_are_named_by_their_path_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "reward").mkdir()
    for name in ("b.json", "reward/a.json"):
        (tmp_path / name).write_text("")
    assert client.files_below(tmp_path) == {"b.json": tmp_path / "b.json", "reward/a.json": tmp_path / "reward/a.json"}
