"""What may become of a generated input, the time limit, and texts that break programs."""

import re
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

FAULTS = ("traceback", "hang", "loss", "wrong")
IDLE_SHARE = 0.001  # a program that works gets more of a core than this, even on a very busy machine

NASTY_TEXT = (
    *(
        "",
        " ",
        "nan",
        "NULL",
        "None",
        "\\N",
        "-",
        "0",
        "007",
        "1.0",
        "1e5",
        "true",
        "=1+1",
        "a\nb",
        "a\r\nb",
        "\ufeffa",
    ),
    *('quote "x"', '"', "'", ",", ";", "\t", "|", "a|b", "::", "<|im_end|>", "{{x}}", "[b]x[/b]", "C:\\x", "x" * 300),
    *("Amélie", "Андрей Рублёв", "שלום", "😀", "e\u0301", "\u202eabc", "\u00a0", "\u2028", "Ⅷ", "\x00", "\x1b[31m"),
)
TEXT = st.one_of(
    st.sampled_from(NASTY_TEXT),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)


def seldom() -> st.SearchStrategy[bool]:
    """True in one of six cases. Rare faults leave most logs usable, which reaches the code behind the first check."""
    return st.sampled_from((False,) * 5 + (True,))


class Hang(BaseException):
    """An input took too long. It is no Exception, so that no handler in between catches it."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        kind: `prepared`, `recommended`, `refused`, or one of `FAULTS`.
        about: the message or the place of a fault, without values, so that equal faults have equal texts.
    """

    kind: str
    about: str = ""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Hang in the `with` block after some seconds of work, or of waiting.

    Work is counted in CPU time, so that an input is no hang because other programs are busy.
    """
    started = time.process_time()
    before = 0.0

    def stop(number: int, frame: Any) -> None:
        nonlocal before
        worked = time.process_time() - started
        if worked >= seconds or worked - before < IDLE_SHARE * seconds:
            raise Hang
        before = worked

    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def place_of(error: BaseException) -> str:
    """File and function of llmrec that an exception comes from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "llmrec" in Path(frame.filename).parts]
    return f"{Path(frames[-1].filename).name}, {frames[-1].name}" if frames else "no file of llmrec"


def without_values(message: str, folder: Path) -> str:
    """The beginning of a message without paths, quoted values and numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "*", message.replace(str(folder), ""))[:70]
