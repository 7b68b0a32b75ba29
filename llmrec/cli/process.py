"""What every command has in common: exit codes and messages, a clean stdout for programs, options of many values."""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from llmrec.errors import LlmrecError, UserError
from llmrec.progress.console import console_for

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on stdout and everything else on stderr")]
AdapterOption = Annotated[
    Literal["sft", "ppo"] | None,
    typer.Option(help="which adapter; default: ppo, or sft where there is no ppo"),
]


def exit_with(action: Callable[[], Any]) -> None:
    """Runs `action`; turns exceptions into a message and an exit code."""
    silence_libraries()
    use_huge_pages()
    try:
        action()
    except SystemExit as stop:
        if stop.code == 130:  # typer's form of Ctrl-C
            _fail("Interrupted: run the same command again to go on.", 130)
        raise
    except KeyboardInterrupt:
        _fail("Interrupted: run the same command again to go on.", 130)
    except LlmrecError as error:
        if os.environ.get("LLMREC_TRACEBACK") == "1":
            traceback.print_exc()
        _fail(str(error), error.exit_code)
    except Exception as error:
        if _disk_is_full(error):
            _fail(
                "No space left on the disk. What finished earlier is untouched: free some space, or choose "
                f"another `output_dir`, and run the same command again. ({error})",
                2,
            )
        traceback.print_exc()
        _fail(f"This is a fault of llmrec, not yours: {type(error).__name__}: {error}", 1)


def _fail(message: str, code: int) -> None:
    text = Text.assemble(("error: ", "bold red"), message)
    console_for(stderr=True).print(text, soft_wrap=True)
    sys.exit(code)


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error or its cause is a full disk; Rust and C++ libraries only say it in words."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error) or "PytorchStreamWriter failed writing" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def silence_libraries() -> None:
    """Hides what libraries say to their own developers. Whoever sets one of these variables gets it back."""
    quiet = {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",  # else a warning at every fork
    }
    if not sys.stderr.isatty():
        quiet["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)


def use_huge_pages() -> None:
    """Lets torch ask Linux for huge pages, before it makes its first tensor: far less memory is lost in holes between
    tensors, and a step is no slower. `THP_MEM_ALLOC_ENABLE=0` keeps it from doing so.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def let_cpus_talk() -> None:
    """Makes accelerate join launched CPU processes over gloo; its launcher does not tell them to."""
    if "LOCAL_RANK" in os.environ:
        import torch

        if not torch.accelerator.is_available():
            os.environ.setdefault("ACCELERATE_USE_CPU", "true")


@contextmanager
def stdout_kept_clean(enabled: bool) -> Iterator[None]:
    """Sends to stderr whatever is printed inside, by Python code, C libraries or child processes."""
    if not enabled:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)  # descriptors, because a child process or a C library does not know sys.stdout
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class ManyValuesCommand(typer.core.TyperCommand):
    """A command whose list options take several values after one flag: `--history A B --top-k 3`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread_values(args, ("--history", "--exclude")))


def spread_values(args: list[str], flags: tuple[str, ...]) -> list[str]:
    """Gives every value after one of `flags` its own flag, up to the next `--option`.

    `--history A B --top-k 3` becomes `--history=A --history=B --top-k 3`: typer has no options that take many
    values. Repeating the flag works as well.

    Raises:
        UserError: a flag has no value.
    """
    spread: list[str] = []
    position = 0
    while position < len(args):
        flag = args[position]
        position += 1
        if flag not in flags:
            spread.append(flag)
            continue
        first = position
        while position < len(args) and not args[position].startswith("--"):
            spread.append(f"{flag}={args[position]}")
            position += 1
        if position == first:
            raise UserError(f'{flag} needs at least one title, for instance {flag} "Toy Story (1995)".')
    return spread
