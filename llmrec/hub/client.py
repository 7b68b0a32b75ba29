"""Talking to a model hub: what all pushes and downloads share.

`HF_ENDPOINT` names the hub; huggingface_hub reads it when it is first imported.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any

import llmrec
from llmrec.errors import ModelError, UserError

# What a policy is loaded from. Weights in safetensors only: nothing that comes from a hub is ever unpickled.
ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "llmrec.json",
    "item_vocabulary.json",
    "facts.json",
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
# What the reward models' `from_pretrained` read, and how far they can be trusted.
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
# All that a push writes; of an earlier push, the next one takes away what it does not bring anew.
PUSHED_FILES = (
    *ADAPTER_FILES,
    "README.md",
    "config.yaml",
    "report.json",
    "report.html",
    *(REWARD_FOLDER + name for name in REWARD_FILES),
)

_WAITS = (1.0, 2.0, 4.0)  # seconds before each retry; more if the hub asks for it
_LONGEST_WAIT = 60.0
_SILENCE = 120.0  # seconds without a byte after which a connection is given up
_NO_TOKEN = "There is no token, or it is not valid: set HF_TOKEN, or log in with `hf auth login`."
_TRANSIENT = (408, 409, 412, 429, 500, 502, 503, 504)  # 412: somebody else's commit came first

_log = logging.getLogger(__name__)


def find_adapter(model: str | Path, revision: str | None = None) -> Path:
    """The directory of an adapter, downloaded if `model` is not a directory here.

    Args:
        model: a directory, or `OWNER/NAME` on the hub.
        revision: branch, tag or commit on the hub; None: its main branch.

    Raises:
        ModelError: neither a directory nor a name that a hub could know, or a directory with a revision.
        UserError: the hub has no such repository or revision, no adapter in it, refuses, or cannot be reached.
    """
    if Path(model).is_dir():
        if revision is not None:
            raise ModelError(f"{model} is a directory here, which has no revisions: leave the revision out.")
        return Path(model)
    repo = str(model)
    try:
        check_name(repo)
    except UserError:
        raise ModelError(f"There is no directory {model}, and it cannot be a hub id (OWNER/NAME) either.") from None
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

    options = {"revision": revision, "allow_patterns": list(ADAPTER_FILES), **_origin()}
    with explained(repo, revision):
        try:  # by itself snapshot_download hides that the hub did not answer
            retried(lambda: hub_api().model_info(repo, revision=revision or constants.DEFAULT_REVISION))
        except RevisionNotFoundError:
            raise
        except Exception as error:
            try:
                cached = Path(snapshot_download(repo, local_files_only=True, **options))
            except LocalEntryNotFoundError:
                raise error from None
            _log.warning(f"{repo}: the hub could not be asked ({_first_line(error)}); using {cached.name} of the cache")
            return cached
        directory = Path(retried(lambda: snapshot_download(repo, **options)))
    if not (directory / "llmrec.json").is_file():
        raise UserError(
            f"`{repo}` holds no adapter of llmrec at `{revision or constants.DEFAULT_REVISION}` (no llmrec.json): "
            f"`llmrec list --repo {repo}` shows its branches; give the one that was pushed to as the revision."
        )
    return directory


def fetch(repo: str, file: str, revision: str | None = None) -> Path | None:
    """Downloads one file; None if the repository does not have it at that revision.

    Raises:
        UserError: see `find_adapter`.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with explained(repo, revision):
        try:
            return Path(retried(lambda: hf_hub_download(repo, file, revision=revision, **_origin())))
        except RemoteEntryNotFoundError:
            return None


def history(repo: str) -> tuple[dict[str, list], dict[str, str]]:
    """What a repository went through.

    Returns:
        commits of every branch, newest first, as `huggingface_hub.GitCommitInfo`; the commit that each tag names.

    Raises:
        UserError: see `find_adapter`.
    """
    check_name(repo)
    api = hub_api()
    with explained(repo):
        refs = retried(lambda: api.list_repo_refs(repo))
        branches = [branch.name for branch in refs.branches]
        commits = {name: retried(lambda name=name: api.list_repo_commits(repo, revision=name)) for name in branches}
        return commits, {tag.name: tag.target_commit for tag in refs.tags}


def upload(
    files: dict[str, Path], repo: str, *, private: bool = False, revision: str | None = None, message: str
) -> str:
    """Makes a repository, if there is none, hold `files`: in one commit, so all of them or none.

    Args:
        files: by their place in the repository.
        repo: `OWNER/NAME`.
        private: make the repository private if it is new; refuse a public one.
        revision: a branch, made from the main one if there is none; None: the main one.
        message: of the commit.

    Returns:
        Where to look at it.

    Raises:
        UserError: the hub refuses or cannot be reached, the repository is public and `private` was asked for, or it
            holds a model that is no push of llmrec.
    """
    api = hub_api()
    with explained(repo, revision, writes=True):
        created = retried(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
        name = created.repo_id
        # `exist_ok` does not change who can see a repository that exists.
        if private and not retried(lambda: api.model_info(name)).private:
            raise UserError(f"{created} exists and is public, but a private one was asked for. Choose another name.")
        if revision is not None:
            retried(lambda: api.create_branch(name, branch=revision, exist_ok=True))
        retried(lambda: _commit(api, files, name, revision, message))
    return str(created) if revision is None else f"{created}/tree/{revision}"


def _commit(api: Any, files: dict[str, Path], repo: str, revision: str | None, message: str) -> None:
    """Safe to repeat when the answer to it was lost, or when another commit came first: what the branch holds already
    is left out of the commit, and the hub refuses it unless the branch is still as it was listed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    head = api.model_info(repo, revision=revision).sha
    there = api.list_repo_files(repo, revision=head)
    pushed_before = "llmrec.json" in there and "config.json" not in there  # a merged model has both
    if not pushed_before:
        _refuse_other_model(repo, there, files)
    stale = [place for place in there if pushed_before and _is_pushed(place)]
    # Not `upload_folder`: with Xet it may spread the files over several commits.
    operations = [CommitOperationAdd(path_in_repo=place, path_or_fileobj=file) for place, file in files.items()]
    operations += [CommitOperationDelete(path_in_repo=place) for place in stale if place not in files]
    api.create_commit(repo, operations, revision=revision, commit_message=message, parent_commit=head)


def _is_pushed(place: str) -> bool:
    """Whether a push writes a file of that name; the slashes keep the pattern from matching in a deeper folder."""
    return any(PurePosixPath("/" + place).match("/" + pattern) for pattern in PUSHED_FILES)


def _refuse_other_model(repo: str, there: list[str], files: dict[str, Path]) -> None:
    """Raises UserError if a branch without an earlier push holds a model, or a file that this one would replace."""
    weights = (".safetensors", ".bin", ".gguf")
    others = [place for place in there if place in files or place == "config.json" or place.endswith(weights)]
    others = [place for place in others if place != "README.md"]  # which a new repository may have
    if others:
        shown = ", ".join(others[:3]) + (", ..." if others[3:] else "")
        raise UserError(
            f"`{repo}` holds {shown}, which no push of llmrec wrote and this one would break: choose the name of "
            "another repository, or of a new one."
        )


def hub_api() -> Any:
    """A `huggingface_hub.HfApi` that says who asks."""
    from huggingface_hub import HfApi

    return HfApi(**_origin())


def _origin() -> dict[str, str]:
    return {"library_name": "llmrec", "library_version": llmrec.__version__}


def check_name(repo: str) -> None:
    """Raises UserError if `repo` cannot be the name of a repository."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"`{repo}` cannot be a repository name; expected OWNER/NAME. {error}") from None


def full_name(repo: str) -> str:
    """`OWNER/NAME`; a bare `NAME` is in the account of the token.

    Raises:
        UserError: the hub does not know the token, or cannot be reached.
    """
    if "/" in repo:
        return repo
    with explained(repo, writes=True):
        return f"{retried(hub_api().whoami)['name']}/{repo}"


def check_branch(revision: str | None) -> None:
    """Raises UserError if a push cannot go to `revision`."""
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UserError(f"{revision} is a commit, and a push makes a new one: name a branch as the revision.")


def address(repo: str, revision: str | None = None) -> str:
    """Where the hub shows a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}" + (f"/tree/{revision}" if revision else "")


# --- faults ---------------------------------------------------------------------------------------


def retried(call: Callable[[], Any]) -> Any:
    """Calls the hub again, a few times, where trying again may help: huggingface_hub itself repeats uploads and
    downloads, but not what makes repositories, branches and commits, nor what asks for them.
    """
    from huggingface_hub import get_session

    for wait in (*_WAITS, None):
        get_session().timeout = _SILENCE  # by default it waits for ever
        try:
            return call()
        except Exception as error:
            asked = _asked_to_wait(error)
            if wait is None or asked is None or asked > _LONGEST_WAIT:
                raise
            time.sleep(max(wait, asked))


def _asked_to_wait(error: Exception) -> float | None:
    """Seconds before a retry that the hub asks for, 0 if it does not say; None where a retry would not help."""
    from huggingface_hub.errors import HfHubHTTPError

    fault = _hub_fault(error)
    if not isinstance(fault, HfHubHTTPError):
        return None if fault is None or _is_denial(fault) else 0.0
    return (_retry_after(fault) or 0.0) if fault.response.status_code in _TRANSIENT else None


def _retry_after(error: Any) -> float | None:
    """Seconds from now of an answer's `Retry-After`, which may be a number or a date; None if it does not say."""
    value = error.response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _hub_fault(error: BaseException | None) -> BaseException | None:
    """What the hub answered, or how the network failed; it may come wrapped in errors of other kinds."""
    from huggingface_hub.errors import HTTPError

    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__
    answers = [one for one in chain if isinstance(one, HTTPError)]
    return next(iter([*answers, *filter(_is_xet_fault, chain)]), None)


def _is_xet_fault(error: BaseException) -> bool:
    """Whether a transfer by Xet failed: hf_xet raises errors of its own and plain built-in ones."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    plain = isinstance(error, ConnectionError | TimeoutError) or type(error) is RuntimeError
    return (plain and not isinstance(error, OfflineModeIsEnabled)) or _is_denial(error)


def _is_denial(error: BaseException) -> bool:
    """Whether Xet was refused a token or an object, which no retry would change."""
    return type(error).__module__.startswith("hf_xet")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


@contextmanager
def explained(repo: str, revision: str | None = None, writes: bool = False) -> Iterator[None]:
    """Turns what the hub or the network answers into a message that says what to do.

    Raises:
        UserError: for every fault of hub and network; the token is in no message.
    """
    from huggingface_hub import get_token

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = _explanation(error, repo, revision, writes)
        if text is None:
            raise
        if writes:
            text += " The repository holds all of this push or nothing of it, and pushing again is safe."
        token = get_token()
        raise UserError(text.replace(token, "<token>") if token else text) from None


def _explanation(error: Exception, repo: str, revision: str | None, writes: bool) -> str | None:
    """What went wrong and what to do; None for what is no fault of hub or network."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    fault = _hub_fault(error)
    if isinstance(fault, HfHubHTTPError):
        return _refusal(fault, repo, revision, writes)
    start = "" if writes else f"There is no directory `{repo}` here. "
    if fault is not None:
        if _is_denial(fault):
            what = f"The hub at {constants.ENDPOINT} refused a transfer of `{repo}` ({_first_line(fault)})"
            return f"{start}{what}. Check that HF_TOKEN may {'write' if writes else 'read'} there."
        what = f"The hub at {constants.ENDPOINT} cannot be reached ({_first_line(fault)})"
        return f"{start}{what}. Check the network and HF_ENDPOINT."
    if isinstance(error, LocalTokenNotFoundError):
        return _NO_TOKEN
    if isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled):
        return f"{start}HF_HUB_OFFLINE is set{'' if writes else ', and the cache does not have it'}: unset it."
    return None


def _refusal(error: Any, repo: str, revision: str | None, writes: bool) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import RevisionNotFoundError

    code = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return f"`{repo}` has no revision `{revision}`: `llmrec list --repo {repo}` shows what there is."
    if code in (401, 404) and not writes:
        return (
            f"There is no directory `{repo}` here, and the hub at {constants.ENDPOINT} shows no such repository (HTTP "
            f"{code}). Check the spelling; for a private one set HF_TOKEN, or log in with `hf auth login`."
        )
    wait = _retry_after(error)
    advice = {
        401: _NO_TOKEN,
        403: f"The token may not {'write to' if writes else 'read'} `{repo}`: use one that may, or another repository.",
        404: f"The owner or repository in `{repo}` does not exist for this token. Check the spelling.",
        429: f"It asks to wait {'a while' if wait is None else f'{wait:.0f} seconds'}: try again then.",
    }.get(code, error.server_message or str(error).strip().splitlines()[0])
    refused = f"refused {'the push to' if writes else 'to give'} `{repo}` (HTTP {code})"
    return f"The hub at {constants.ENDPOINT} {refused}. {advice}"
