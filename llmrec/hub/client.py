"""Client of a model hub: uploads folders in one commit, downloads adapters and files, and lists revisions.

The environment variable `HF_ENDPOINT` names the hub. huggingface_hub reads it when it is first imported.
Retries and explanations of failures are in `hub.retry`.
"""

import logging
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypedDict

import llmrec
from llmrec.errors import ModelError, UserError
from llmrec.hub.retry import explained, first_line, retried

if TYPE_CHECKING:  # huggingface_hub reads HF_ENDPOINT when it is imported
    from huggingface_hub import GitCommitInfo, HfApi

# Files that a policy is loaded from. Weights are read from safetensors only: nothing from a hub is ever unpickled.
ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "llmrec.json",
    "item_vocabulary.json",
    "facts.json",
    "attributes.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
# Files that reward models are loaded from, and their measured quality.
REWARD_FILES = (
    "config.json",
    "model.safetensors",
    "linear.safetensors",
    "member*/config.json",
    "member*/model.safetensors",
    "judge.json",
    "judge.safetensors",
    "metrics.json",
    "roc.png",
    "reliability.png",
    "text/text_reward.json",
    "text/adapter_config.json",
    "text/adapter_model.safetensors",
)
REWARD_FOLDER = "reward/"
# All files that a push writes. A push deletes those of an earlier push that it does not replace.
PUSHED_FILES = (
    *ADAPTER_FILES,
    "README.md",
    "config.yaml",
    "report.json",
    "report.html",
    *(REWARD_FOLDER + name for name in REWARD_FILES),
)

_WEIGHTS = (".safetensors", ".bin", ".gguf")

_log = logging.getLogger(__name__)


# --- names ----------------------------------------------------------------------------------------


def check_name(repo: str) -> None:
    """Raises UserError if `repo` is not a valid repository name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"`{repo}` is not a repository name; expected OWNER/NAME. {error}") from None


def check_branch(revision: str | None) -> None:
    """Raises UserError if `revision` is a commit, which cannot be pushed to."""
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError(f"{revision} is a commit; expected a branch, because a push makes a new commit. Name a branch.")


def full_name(repo: str) -> str:
    """`OWNER/NAME` of a repository; the owner of a bare `NAME` is the account of the token.

    Raises:
        UserError: the hub rejects the token or cannot be reached.
    """
    if "/" in repo:
        return repo
    with explained(repo, writes=True):
        return f"{retried(hub_api().whoami)['name']}/{repo}"


def address(repo: str, revision: str | None = None) -> str:
    """The web page of a repository, or of one of its branches."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}" + (f"/tree/{revision}" if revision else "")


def hub_api() -> "HfApi":
    """A `huggingface_hub.HfApi` whose requests name llmrec as their origin."""
    from huggingface_hub import HfApi

    return HfApi(**_origin())


class _Origin(TypedDict):
    library_name: str
    library_version: str


def _origin() -> _Origin:
    """Arguments by which huggingface_hub tells the hub who asks."""
    return {"library_name": "llmrec", "library_version": llmrec.__version__}


# --- downloads ------------------------------------------------------------------------------------


def find_adapter(model: str | Path, revision: str | None = None) -> Path:
    """The directory of an adapter, which is downloaded unless `model` is a local directory.

    If the hub cannot be asked, an earlier download is used and a warning logged.

    Args:
        model: a directory, or `OWNER/NAME` on the hub.
        revision: branch, tag or commit on the hub; None for the main branch.

    Raises:
        ModelError: `model` is neither a directory nor a repository name, or is a directory and has a revision.
        UserError: the repository or revision does not exist or holds no adapter, or the hub refuses or cannot be
            reached.
    """
    if Path(model).is_dir():
        if revision is not None:
            raise ModelError(f"{model} is a local directory, which has no revisions. Leave the revision out.")
        return Path(model)
    repo = str(model)
    try:
        check_name(repo)
    except UserError:
        raise ModelError(f"{model} is neither a local directory nor a repository name (OWNER/NAME).") from None
    with explained(repo, revision):
        directory = _download_adapter(repo, revision)
    if not (directory / "llmrec.json").is_file():
        raise UserError(
            f"`{repo}` holds no adapter of llmrec at `{revision or 'main'}`: llmrec.json is missing. List its branches "
            f"with `llmrec list --repo {repo}`, and give one that was pushed to as the revision."
        )
    return directory


def _download_adapter(repo: str, revision: str | None) -> Path:
    """The directory of a snapshot in the cache, up to date if the hub answers."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

    def snapshot(from_cache: bool) -> Path:
        found = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(ADAPTER_FILES),
            local_files_only=from_cache,
            **_origin(),
        )
        return Path(found)

    try:  # snapshot_download alone would not tell that the hub did not answer
        retried(lambda: hub_api().model_info(repo, revision=revision or constants.DEFAULT_REVISION))
    except RevisionNotFoundError:
        raise
    except Exception as error:
        try:
            cached = snapshot(from_cache=True)
        except LocalEntryNotFoundError:
            raise error from None
        _log.warning(f"{repo}: the hub could not be asked ({first_line(error)}). Using {cached.name} from the cache.")
        return cached
    return retried(lambda: snapshot(from_cache=False))


def fetch(repo: str, file: str, revision: str | None = None) -> Path | None:
    """Downloads one file.

    Args:
        repo: `OWNER/NAME`.
        file: path of the file in the repository.
        revision: branch, tag or commit; None for the main branch.

    Returns:
        Path of the file in the cache; None if the revision lacks the file.

    Raises:
        UserError: the repository or revision does not exist, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with explained(repo, revision):
        try:
            return Path(retried(lambda: hf_hub_download(repo, file, revision=revision, **_origin())))
        except RemoteEntryNotFoundError:
            return None


def license_of(repo: str) -> dict[str, str]:
    """The license that the card of a model on the hub declares.

    Returns:
        `license`, and for one of the kind `other` also `license_name` and `license_link`. Empty if the card declares
        none or cannot be read.
    """
    try:
        with explained(repo):
            card = retried(lambda: hub_api().model_info(repo)).card_data
    except UserError:
        return {}
    if card is None or not card.get("license"):
        return {}
    values = {key: card.get(key) for key in ("license", "license_name", "license_link")}
    return {key: value for key, value in values.items() if value}


def history(repo: str) -> tuple[dict[str, list["GitCommitInfo"]], dict[str, str]]:
    """Commits and tags of a repository.

    Returns:
        Branch to its commits, newest first; and tag to the id of its commit.

    Raises:
        UserError: the repository does not exist, or the hub refuses or cannot be reached.
    """
    check_name(repo)
    api = hub_api()
    with explained(repo):
        refs = retried(lambda: api.list_repo_refs(repo))
        branches = [branch.name for branch in refs.branches]
        commits = {name: retried(lambda name=name: api.list_repo_commits(repo, revision=name)) for name in branches}
        return commits, {tag.name: tag.target_commit for tag in refs.tags}


# --- uploads --------------------------------------------------------------------------------------


def upload(
    files: dict[str, Path], repo: str, *, private: bool = False, revision: str | None = None, message: str
) -> str:
    """Uploads files in one commit, so that the repository gets all of them or none.

    Files of an earlier push that are not among `files` are deleted. Other files of the repository stay.

    Args:
        files: path in the repository to local file.
        repo: `OWNER/NAME`; the repository is created if it does not exist.
        private: make a new repository private, and refuse an existing public one.
        revision: a branch, which is created from main if it does not exist; None for main.
        message: commit message.

    Returns:
        The web page of the branch.

    Raises:
        UserError: the hub refuses or cannot be reached, the repository is public although `private` was asked for, or
            it holds a model that llmrec did not push.
    """
    api = hub_api()
    with explained(repo, revision, writes=True):
        created = retried(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
        name = created.repo_id
        # `exist_ok` leaves the visibility of an existing repository as it is.
        if private and not retried(lambda: api.model_info(name)).private:
            raise UserError(f"{created} exists and is public, but a private one was asked for. Use another name.")
        if revision is not None:
            retried(lambda: api.create_branch(name, branch=revision, exist_ok=True))
        retried(lambda: _commit(api, files, name, revision, message))
    return str(created) if revision is None else f"{created}/tree/{revision}"


def files_below(folder: Path) -> dict[str, Path]:
    """All files below a folder, by their path relative to it."""
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}


def _commit(api: "HfApi", files: dict[str, Path], repo: str, revision: str | None, message: str) -> None:
    """Makes the commit of `upload`.

    The call is safe to repeat if its answer was lost or another commit came first: the hub drops files from the commit
    that the branch already holds, and refuses the commit unless the branch is as it was listed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    head = api.model_info(repo, revision=revision).sha
    present = api.list_repo_files(repo, revision=head)
    pushed_before = "llmrec.json" in present and "config.json" not in present  # a merged model has both
    if not pushed_before:
        _refuse_other_model(repo, present, files)
    outdated = [path for path in present if pushed_before and _is_pushed(path) and path not in files]
    # `HfApi.upload_folder` may spread the files over several commits.
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=file) for path, file in files.items()),
        *(CommitOperationDelete(path_in_repo=path) for path in outdated),
    ]
    api.create_commit(repo, operations, revision=revision, commit_message=message, parent_commit=head)


def _is_pushed(path: str) -> bool:
    """Whether a push writes a file of this name. The leading slashes keep a pattern from matching in deeper folders."""
    return any(PurePosixPath("/" + path).match("/" + pattern) for pattern in PUSHED_FILES)


def _refuse_other_model(repo: str, present: list[str], files: dict[str, Path]) -> None:
    """Checks a branch without an earlier push.

    Raises:
        UserError: the branch holds a model, or a file that the push would replace.
    """
    models = [path for path in present if path in files or path == "config.json" or path.endswith(_WEIGHTS)]
    others = [path for path in models if path != "README.md"]  # a new repository may have one
    if others:
        shown = ", ".join(others[:3]) + (", ..." if others[3:] else "")
        raise UserError(
            f"`{repo}` holds {shown}, which llmrec did not push. This push would overwrite files of another model. "
            "Use another repository, or the name of a new one."
        )
