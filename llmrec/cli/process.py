"""The process around a command: exit codes, error messages, a clean stdout and the environment of libraries."""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

from rich.text import Text

from llmrec.errors import LlmrecError
from llmrec.progress.console import console_for

INTERRUPTED_CODE = 130  # 128 + SIGINT, as shells report Ctrl-C


def exit_with(action: Callable[[], Any]) -> None:
    """Runs `action` and turns its exceptions into an error message and an exit code.

    The exit codes are 2 for a user's mistake, 1 for a bug in llmrec and 130 for Ctrl-C. Set `LLMREC_TRACEBACK=1` to see
    the traceback of a user's mistake as well.
    """
    silence_libraries()
    use_huge_pages()
    try:
        action()
    except SystemExit as stop:
        if stop.code == INTERRUPTED_CODE:  # typer turns Ctrl-C into this code
            _fail_interrupted()
        raise
    except KeyboardInterrupt:
        _fail_interrupted()
    except LlmrecError as error:
        if os.environ.get("LLMREC_TRACEBACK") == "1":
            traceback.print_exc()
        _fail(str(error), error.exit_code)
    except Exception as error:
        if _disk_is_full(error):
            _fail(
                "No space is left on the disk. Finished stages are intact. Free some space or choose another "
                f"`output_dir`, then run the same command again. ({error})",
                2,
            )
        traceback.print_exc()
        _fail(f"This is a bug in llmrec, please report it: {type(error).__name__}: {error}", 1)


def _fail_interrupted() -> NoReturn:
    _fail("Interrupted. Run the same command again to continue.", INTERRUPTED_CODE)


def _fail(message: str, code: int) -> NoReturn:
    text = Text.assemble(("error: ", "bold red"), message)
    console_for(stderr=True).print(text, soft_wrap=True)
    sys.exit(code)


def _disk_is_full(error: BaseException | None) -> bool:
    """Returns whether an error or one of its causes is a full disk.

    Libraries in Rust and C++ report a full disk in the message only, without an error number.
    """
    followed: set[int] = set()
    while error is not None and id(error) not in followed:
        followed.add(id(error))
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error) or "PytorchStreamWriter failed writing" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def silence_libraries() -> None:
    """Silences third-party warnings. Set any of these variables, or Python's `-W`, to see them again."""
    quiet = {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",  # tokenizers warns at every fork otherwise
    }
    if not sys.stderr.isatty():
        quiet["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)


def use_huge_pages() -> None:
    """Lets torch use huge memory pages, which reduces fragmentation. Set `THP_MEM_ALLOC_ENABLE=0` to disable it.

    torch reads the variable when it allocates its first tensor, so call this before.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextmanager
def reserve_stdout(enabled: bool) -> Iterator[None]:
    """Redirects stdout to stderr inside the `with` block, so that only JSON reaches stdout.

    The redirection covers Python code, C libraries and child processes.

    Args:
        enabled: False leaves stdout as it is.
    """
    if not enabled:
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)  # child processes and C libraries write to the descriptor, not to sys.stdout
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
