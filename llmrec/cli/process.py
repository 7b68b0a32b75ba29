"""The process around a command: exit codes, messages, signals, standard streams and the environment of libraries."""

import errno
import io
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from types import FrameType
from typing import Any, NoReturn

from rich.text import Text

from llmrec.distributed import is_main_process
from llmrec.errors import LlmrecError, explain_os_error
from llmrec.progress.console import console_for, pass_on_broken_pipes

CLOSED_PIPE_CODE = 141  # 128 + SIGPIPE, as shells report a program whose reader has ended
# 128 + the signal, as shells report it. typer turns Ctrl-C into the first.
STOPPED = {
    130: "Interrupted.",
    143: "Terminated.",
    129: "The terminal was closed.",
}
# Libraries in Rust and C++ report a full disk in the message only. The last three come from `torch.save`.
_FULL_DISK = re.compile(
    "No space left on device|PytorchStreamWriter failed writing|inline_container.*unexpected pos|iostream error"
)
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|CUDA(BLAS)?[ _\w:]*(out of memory|ALLOC_FAILED)|bad_alloc")

_OTHER_PROCESS_ENDED = re.compile(r"Connection (closed|reset) by peer|remote (worker|process)", re.IGNORECASE)


# --- exit codes and messages ----------------------------------------------------------------------


def exit_with(action: Callable[[], Any]) -> NoReturn:
    """Runs `action` and ends the process. Exceptions become an error message and an exit code.

    The exit codes are 2 for a user's mistake and for the limits of the machine (disk, memory, network), 1 for a bug in
    llmrec, 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal, and 141 if the reader of the output has ended.
    Set `LLMREC_TRACEBACK=1` to see the traceback of a user's mistake as well.
    """
    prepare_streams()
    pass_on_broken_pipes()
    silence_libraries()
    use_huge_pages()
    try:
        with stop_on_signals():
            code = _code_of(action)
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        fail(error)
    if code in STOPPED and is_main_process():
        _print_error(f"{STOPPED[code]} Run the same command again to continue.")
    _end(code)


def _code_of(action: Callable[[], Any]) -> Any:
    try:
        action()
    except SystemExit as stop:
        return stop.code
    return 0


def fail(error: Exception) -> NoReturn:
    """Ends the process with the message and the exit code of an error."""
    if isinstance(error, BrokenPipeError):
        _discard_output()
        sys.exit(CLOSED_PIPE_CODE)
    if isinstance(error, LlmrecError):
        message, code = str(error), error.exit_code
    else:
        message, code = explain(error), 2
    if message is None:
        traceback.print_exc()
        message, code = f"This is a bug in llmrec, please report it: {type(error).__name__}: {error}", 1
    elif os.environ.get("LLMREC_TRACEBACK") == "1":
        traceback.print_exc()
    _print_error(message)
    _end(code)


def _end(code: Any) -> NoReturn:
    """Ends the process. Python would change the code to 120 if the reader of stderr has ended."""
    try:
        sys.stderr.flush()
    except OSError:
        _discard_output()
    sys.exit(code)


def explain(error: Exception) -> str | None:
    """Says what the user can do about an error that is none of llmrec's own.

    Returns:
        The message; None for errors that only a change of llmrec can fix.
    """
    if full := _full_disk(error):
        return (
            "No space is left on the disk. Finished stages are intact. Free some space or choose another "
            f"`output_dir`, then run the same command again. ({full})"
        )
    if _out_of_memory(error):
        return (
            f"Not enough memory ({str(error) or type(error).__name__}). "
            "`llmrec estimate CONFIG` shows what training needs. To need less, lower "
            "`sft.per_device_train_batch_size` or `ppo.per_device_train_batch_size`; set `sft.batch_size` or "
            "`ppo.batch_size` to keep the batch. "
            "`model.quantization: nf4` makes the base smaller. Earlier results are untouched."
        )
    if lost := _lost_connection(error):
        return lost
    if isinstance(error, UnicodeEncodeError):
        return _explain_encoding(error)
    if isinstance(error, OSError):
        return explain_os_error(error)
    return None


def _lost_connection(error: Exception) -> str | None:
    """Says which connection an error is about: to another process of the same training, or to a server."""
    if isinstance(error, RuntimeError) and "RANK" in os.environ and _OTHER_PROCESS_ENDED.search(str(error)):
        return (
            "Another process of this training has ended: see its message and its exit code. "
            f"({str(error).splitlines()[0]}) Finished stages and checkpoints are intact. Run the same command again to "
            "continue."
        )
    if isinstance(error, ConnectionError | TimeoutError):
        return f"The connection failed: {error}. Check the network and run the same command again."
    return None


def _explain_encoding(error: UnicodeEncodeError) -> str | None:
    character = ascii(error.object[error.start : error.end])
    if error.reason == "surrogates not allowed":
        return f"The input holds {character}, which is half of a character. Remove it from the data."
    if error.encoding == sys.getfilesystemencoding():
        return f"The locale's encoding, {error.encoding}, has no {character}. Set LC_ALL=C.UTF-8 or PYTHONUTF8=1."
    return None


def _full_disk(error: BaseException | None) -> str | None:
    """The message of a full disk, if an error or one of its causes is one."""
    followed: set[int] = set()
    while error is not None and id(error) not in followed:
        followed.add(id(error))
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or _FULL_DISK.search(str(error)):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _out_of_memory(error: Exception) -> bool:
    # torch is not imported to ask for its class: commands that do not need it start faster.
    of_torch = type(error).__name__ == "OutOfMemoryError"
    in_message = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or of_torch or in_message


def _print_error(message: str) -> None:
    text = Text.assemble(("error: ", "bold red"), message)
    with suppress(OSError):  # whoever reads stderr may have ended
        console_for(stderr=True).print(text, soft_wrap=True)


# --- signals and streams --------------------------------------------------------------------------


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the `with` block like Ctrl-C: temporary files are removed and locks released.

    A signal that the parent process ignores stays ignored, as `nohup` wants it.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def prepare_streams() -> None:
    """Makes standard streams that never fail on a character, and replaces closed ones by the null device.

    A character that the encoding of stdout lacks is printed as its escape, such as `\\u0416`. A byte that the encoding
    of stdin lacks is read as its escape, such as `\\xd0`.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Leads stdout and stderr to the null device, because Python flushes both at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(null, number)
    os.close(null)


# --- the environment of libraries ------------------------------------------------------------------


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
