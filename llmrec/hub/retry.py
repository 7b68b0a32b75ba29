"""Failures of the hub and the network: retries temporary ones and explains the others to the user."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import takewhile
from typing import TYPE_CHECKING, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from llmrec.errors import UserError

if TYPE_CHECKING:  # huggingface_hub reads HF_ENDPOINT when it is imported
    from huggingface_hub.errors import HfHubHTTPError

Answer = TypeVar("Answer")

ATTEMPTS = 4
LONGEST_WAIT = 60.0  # seconds; if the hub asks for a longer wait, the user decides when to try again
SILENCE_TIMEOUT = 120.0  # seconds without a byte after which a connection is closed
TEMPORARY_STATUS = (408, 409, 412, 429, 500, 502, 503, 504)  # 412: another commit came first
NO_TOKEN = "There is no valid token. Set HF_TOKEN, or log in with `hf auth login`."

_exponential_wait = wait_exponential(multiplier=1)  # 1, 2 and 4 seconds


# --- retries --------------------------------------------------------------------------------------


def retried(call: Callable[[], Answer]) -> Answer:
    """Calls the hub, and calls it again after temporary failures.

    huggingface_hub retries uploads and downloads of files by itself, but not the requests that create a repository,
    branch or commit, or that list them.

    Args:
        call: a request that is safe to repeat.

    Returns:
        What `call` returns.

    Raises:
        Exception: what `call` raised last. It was not temporary, or `ATTEMPTS` calls have failed.
    """
    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=_seconds_to_wait,
        retry=retry_if_exception(_is_temporary),
        before=_limit_silence,
        reraise=True,
    )
    return retrying(call)


def _limit_silence(_: RetryCallState) -> None:
    """Sets the timeout of the HTTP session, which has none by default."""
    from huggingface_hub import get_session

    get_session().timeout = SILENCE_TIMEOUT


def _is_temporary(error: BaseException) -> bool:
    """Whether another attempt may succeed within `LONGEST_WAIT`."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if not isinstance(error, Exception):  # Ctrl-C while a failure is handled
        return False
    fault = hub_fault(error)
    if fault is None or isinstance(fault, OfflineModeIsEnabled) or _is_xet_denial(fault) or _is_unknown_host(fault):
        return False
    if not isinstance(fault, HfHubHTTPError):
        return True
    return fault.response.status_code in TEMPORARY_STATUS and (retry_after(fault) or 0.0) <= LONGEST_WAIT


def _seconds_to_wait(state: RetryCallState) -> float:
    """The exponential wait, or the wait that the hub asked for if that is longer."""
    from huggingface_hub.errors import HfHubHTTPError

    fault = hub_fault(state.outcome.exception()) if state.outcome else None
    asked = retry_after(fault) if isinstance(fault, HfHubHTTPError) else None
    return max(_exponential_wait(state), asked or 0.0)


def retry_after(error: "HfHubHTTPError") -> float | None:
    """Seconds until the time in the header `Retry-After`, a number or a date; None if the header is not readable."""
    value = error.response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


# --- causes ---------------------------------------------------------------------------------------


def hub_fault(error: BaseException | None) -> BaseException | None:
    """The failure of hub or network behind an error.

    Libraries wrap such failures in errors of their own: transformers, for one, raises OSError. A missing file is no
    failure, because libraries ask for files that may be absent.

    Args:
        error: what a call raised.

    Returns:
        The answer of the hub, else the notice that HF_HUB_OFFLINE is set, else the failure of the transfer. None if
        `error` has another cause.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # base class of the HTTP library in use
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
    )

    # Behind the answer that a file is missing stands the plain HTTP error that it was made from.
    chain = list(takewhile(lambda one: not isinstance(one, RemoteEntryNotFoundError), _causes(error)))
    for kind in (HTTPError, OfflineModeIsEnabled):
        for one in chain:
            if isinstance(one, kind) and not isinstance(one, EntryNotFoundError):
                return one
    raised_from = [one for one in _causes(error, explicit=True) if one in chain]
    return next(filter(_is_transfer_fault, raised_from), None)


def _causes(error: BaseException | None, explicit: bool = False) -> Iterator[BaseException]:
    """An error and the errors behind it.

    Args:
        error: the outermost error.
        explicit: follow `raise ... from ...` alone, not errors that were being handled when the next one was raised.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error can be its own cause
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if explicit else error.__context__)


def _is_transfer_fault(error: BaseException) -> bool:
    """Whether a transfer of a file failed. hf_xet raises its own errors as well as plain built-in ones."""
    is_plain = isinstance(error, ConnectionError | TimeoutError) or type(error) is RuntimeError
    return is_plain or _is_xet_denial(error)


def _is_xet_denial(error: BaseException) -> bool:
    """Whether the Xet storage refused a token or a file, which is never temporary."""
    return type(error).__module__.startswith("hf_xet")


def _is_unknown_host(error: BaseException) -> bool:
    """Whether there is no such host, as without a network. huggingface_hub has then tried for 20 seconds already."""
    return any(isinstance(one, socket.gaierror) and one.errno == socket.EAI_NONAME for one in _causes(error))


# --- explanations ---------------------------------------------------------------------------------


@contextmanager
def explained(repo: str, revision: str | None = None, writes: bool = False) -> Iterator[None]:
    """Turns failures of hub and network into errors that tell the user what to do.

    Other errors pass unchanged.

    Args:
        repo: name of the repository.
        revision: branch, tag or commit that was asked for.
        writes: whether the block uploads; otherwise it downloads.

    Raises:
        UserError: the hub refused or cannot be reached. The message never contains the token.
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


def first_line(error: BaseException) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def _explanation(error: Exception, repo: str, revision: str | None, writes: bool) -> str | None:
    """What failed and how to fix it; None for errors that hub and network did not cause."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalTokenNotFoundError):
        return NO_TOKEN
    fault = hub_fault(error)
    if isinstance(fault, HfHubHTTPError):
        return _refusal(fault, repo, revision, writes)
    start = "" if writes else f"There is no local directory `{repo}`. "
    if fault is None:
        return None
    if isinstance(fault, OfflineModeIsEnabled):
        return f"{start}HF_HUB_OFFLINE is set{'' if writes else ', and the cache lacks the file'}. Unset it."
    if _is_xet_denial(fault):
        what = f"The hub at {constants.ENDPOINT} refused a transfer of `{repo}` ({first_line(fault)})"
        return f"{start}{what}. Check that HF_TOKEN may {'write' if writes else 'read'} there."
    what = f"The hub at {constants.ENDPOINT} cannot be reached ({first_line(fault)})"
    return f"{start}{what}. Check the network and HF_ENDPOINT."


def _refusal(error: "HfHubHTTPError", repo: str, revision: str | None, writes: bool) -> str:
    """What the hub refused, with which HTTP status, and how to fix it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import RevisionNotFoundError

    code = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return f"`{repo}` has no revision `{revision}`. List its revisions with `llmrec list --repo {repo}`."
    if code in (401, 404) and not writes:
        return (
            f"There is no local directory `{repo}`, and the hub at {constants.ENDPOINT} shows no such repository (HTTP "
            f"{code}). Check the spelling. For a private repository set HF_TOKEN, or log in with `hf auth login`."
        )
    wait = retry_after(error)
    pause = "later" if wait is None else f"after {wait:.0f} seconds"
    advice = {
        401: NO_TOKEN,
        403: f"The token may not {'write to' if writes else 'read'} `{repo}`. Use another token or repository.",
        404: f"The owner or repository in `{repo}` does not exist for this token. Check the spelling.",
        429: f"Too many requests were made. Try again {pause}.",
    }.get(code, error.server_message or first_line(error))
    refused = f"refused {'the push to' if writes else 'to send'} `{repo}` (HTTP {code})"
    return f"The hub at {constants.ENDPOINT} {refused}. {advice}"
