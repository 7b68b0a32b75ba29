"""Generated calls of `llmrec recommend`, and the checks of their answers."""

import io
import json
import math
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from hypothesis import strategies as st

from benchmarks.fuzzing.outcomes import Hang, Outcome, place_of, seldom, time_limit, without_values
from benchmarks.fuzzing.shops import HOSTILE, Shop
from llmrec.cli.app import main
from llmrec.language.groundedness import Groundedness, check
from llmrec.policy.saved import completion_length
from llmrec.recommend import RankedItem, Recommender

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey these
ENCODINGS = ("utf-8", "utf-8", "ascii", "cp1252")


@dataclass(frozen=True)
class Request:
    """One call of `llmrec recommend`.

    Attributes:
        source: options that name the model.
        titles: titles of the history.
        ids: values of `--history-ids`.
        user: value of `--user`.
        exclude: values of `--exclude`.
        top_k: value of `--top-k`.
        flags: options without a value, and options that are wrong.
        lines: what is typed if `--interactive` is one of the flags.
        encoding: encoding of stdin and stdout. Lines are typed in UTF-8, which it may not be able to read.
        columns: width of the terminal.
        known: whether all names, ids and options are right, so that an answer is due while items are left.
    """

    source: tuple[str, ...]
    titles: tuple[str, ...]
    ids: tuple[str, ...]
    user: str | None
    exclude: tuple[str, ...]
    top_k: str
    flags: tuple[str, ...]
    lines: tuple[str, ...]
    encoding: str
    columns: str
    known: bool

    @property
    def arguments(self) -> list[str]:
        """The command line after `llmrec`."""
        named = [part for item in self.ids for part in ("--history-ids", item)]
        left_out = [part for title in self.exclude for part in ("--exclude", title)]
        user = [] if self.user is None else ["--user", self.user]
        options = [*self.source, *named, *user, *left_out, "--top-k", self.top_k, *self.flags]
        return ["recommend", *options, *(("--", *self.titles) if self.titles else ())]

    @property
    def typed(self) -> bytes:
        """What stdin receives."""
        return "\n".join(self.lines).encode("utf-8", "surrogateescape")

    @property
    def as_json(self) -> bool:
        return "--json" in self.flags

    @property
    def interactive(self) -> bool:
        return "--interactive" in self.flags


@dataclass(frozen=True)
class Call:
    """One call of `Recommender.recommend`: its arguments, the answer, and what the texts of the answer state."""

    history: Sequence[int] | None
    user: str | None
    exclude: Sequence[int]
    answer: list[RankedItem]
    stated: list[Groundedness]


@dataclass(frozen=True)
class Answer:
    """What a request printed, its exit code and the calls that it made."""

    code: int
    out: str
    err: str
    calls: tuple[Call, ...]


# --- generated requests -------------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn, shop: Shop) -> Request:
    """A request to a shop; half of all requests hold only what the shop knows."""
    known = draw(st.booleans())
    name = st.sampled_from(shop.titles) if known else names(shop)
    item_id = st.sampled_from(shop.ids) if known else st.one_of(st.sampled_from(shop.ids), st.sampled_from(HOSTILE))
    of_user = draw(st.booleans())
    mixed = not known and draw(seldom())
    titles = draw(st.lists(name, max_size=6)) if mixed or not of_user else []
    ids = draw(st.lists(item_id, min_size=0 if titles else 1, max_size=3)) if mixed or not of_user else []
    user = draw(st.sampled_from(shop.users) if known else user_names(shop)) if mixed or of_user else None
    run_or_adapter = (
        ("--model", str(shop.adapter)) if user is None and draw(seldom()) else ("--run", str(shop.directory))
    )
    flags = draw(st.sampled_from(((), ("--json",), ("--json",), ("--interactive",), ("--adapter", "sft"))))
    if flags == ("--adapter", "sft") and run_or_adapter[0] == "--model":
        flags = ()
    if not known and draw(seldom()):
        run_or_adapter = draw(wrong_sources(shop))
    if not known and draw(seldom()):
        flags += draw(wrong_flags())
    if draw(seldom()):
        flags += ("--full-precision",)
    return Request(
        source=run_or_adapter,
        titles=tuple(titles),
        ids=tuple(ids),
        user=user,
        exclude=tuple(draw(st.lists(name, max_size=3))),
        top_k=draw(st.sampled_from(("1", "3", "5", "100"))) if known else draw(top_ks()),
        flags=flags,
        lines=tuple(draw(st.lists(typed_lines(shop), max_size=6))) if "--interactive" in flags else (),
        encoding=draw(st.sampled_from(ENCODINGS)),
        columns=draw(st.sampled_from(("20", "80", "200"))),
        known=known,
    )


def names(shop: Shop) -> st.SearchStrategy[str]:
    """Titles as shown, in another case or form, ids, and texts that are no item's."""
    shown = st.sampled_from(shop.titles)
    changed = shown.flatmap(
        lambda title: st.sampled_from(
            (
                title.upper(),
                title.lower(),
                f"  {title} ",
                title.partition(" [")[0],
                title[:-1],
                title.replace(" ", "\n"),
            )
        )
    )
    return st.one_of(shown, shown, changed, st.sampled_from(shop.ids), st.sampled_from(HOSTILE), st.text(max_size=4))


def user_names(shop: Shop) -> st.SearchStrategy[str]:
    """Known user ids, and texts that are none."""
    return st.one_of(st.sampled_from(shop.users), st.sampled_from(HOSTILE), st.text(max_size=4))


def top_ks() -> st.SearchStrategy[str]:
    """Numbers of recommendations, and texts that are none."""
    return st.sampled_from(("1", "2", "5", "100", "1000000000000000000000", "0", "-1", "x", "1.5", "", " 3 "))


def wrong_flags() -> st.SearchStrategy[tuple[str, ...]]:
    """Options that contradict others or do not exist."""
    return st.sampled_from(
        (
            ("--adapter", "rl"),
            ("--adapter", "ppo"),
            ("--history", "x"),
            ("--revision", "main"),
            ("--interactive", "--json"),
            ("--user",),
            ("--no-such-option",),
            ("--top-k", "2"),
        )
    )


def wrong_sources(shop: Shop) -> st.SearchStrategy[tuple[str, ...]]:
    """Models that are not there, given twice or no model. None of them names a repository of a hub."""
    file = str(shop.adapter / "llmrec.json")
    paths = (".", "", file, str(shop.directory.parent), "no/such/run", "a b!", "\udc80", "x" * 300)
    sources = [(option, path) for option in ("--run", "--model") for path in paths]
    both = ("--run", str(shop.directory), "--model", str(shop.adapter))
    return st.sampled_from([*sources, (), both, ("--model", str(shop.directory))])


def typed_lines(shop: Shop) -> st.SearchStrategy[str]:
    """Lines for the interactive loop."""
    titles = st.lists(names(shop), min_size=1, max_size=3).map("; ".join)
    commands = st.sampled_from((":exclude", ":quit", ":", ":what x", "", " ", ";", ":exclude ;", "\x00"))
    return st.one_of(titles, titles.map(lambda text: f":exclude {text}"), commands).map(
        lambda text: text.replace("\n", " ").replace("\r", " ")
    )


# --- answers ------------------------------------------------------------------------------------------


def outcome_of(shop: Shop, request: Request, seconds: float = 60) -> Outcome:
    """Runs the command in this process and checks its answer."""
    try:
        with time_limit(seconds):
            answer = answer_in_process(shop, request)
    except Hang as hang:
        return Outcome("hang", place_of(hang))
    if answer.code not in (0, 2) or "Traceback" in answer.err:
        return Outcome(
            "traceback", f"exit code {answer.code}: {without_values(_last_line(answer.err), shop.directory)}"
        )
    if fault := next(iter(faults_of(shop, request, answer)), None):
        return fault
    if answer.code == 2:
        return Outcome("refused", without_values(_last_line(answer.err), shop.directory))
    return Outcome("recommended")


def compared_with_process(shop: Shop, request: Request) -> Outcome:
    """Runs the command as a process, which must print what it prints in this process."""
    if any("\0" in argument for argument in request.arguments):
        return Outcome("refused", "the operating system")
    here = answer_in_process(shop, request)
    try:
        there = answer_of_process(request)
    except subprocess.TimeoutExpired:
        return Outcome("hang", "the process")
    if there.code not in (0, 2):
        return Outcome("traceback", f"exit code {there.code}: {without_values(_last_line(there.err), shop.directory)}")
    if (here.code, here.out) != (there.code, there.out):
        return Outcome("wrong", "the process answers otherwise")
    return Outcome("recommended" if there.code == 0 else "refused", "as a process")


def answer_in_process(shop: Shop, request: Request) -> Answer:
    """Runs the command with streams of its own. The loaded model of the shop is used instead of loading it again."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=request.encoding, newline="\n")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="\n")
    code = 0
    with recorded_calls(shop) as calls, patch.dict(os.environ, {"COLUMNS": request.columns}):
        stdin = io.TextIOWrapper(io.BytesIO(request.typed), encoding=request.encoding)
        arguments = ["llmrec", *request.arguments]
        with patch.multiple(sys, argv=arguments, stdin=stdin, stdout=out, stderr=err):
            try:
                main()
            except SystemExit as stop:
                code = cast(int, stop.code or 0)
            out.flush()
            err.flush()
    printed = cast(io.BytesIO, out.buffer).getvalue().decode(request.encoding)
    messages = cast(io.BytesIO, err.buffer).getvalue().decode("utf-8")
    return Answer(code, printed, messages, tuple(calls))


def answer_of_process(request: Request) -> Answer:
    """Runs the command as a process."""
    command = [sys.executable, "-m", "llmrec", *request.arguments]
    variables = {
        "COLUMNS": request.columns,
        "PYTHONIOENCODING": request.encoding,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        command, env=os.environ | variables, input=request.typed, capture_output=True, timeout=600, check=False
    )
    return Answer(done.returncode, done.stdout.decode(request.encoding), done.stderr.decode("utf-8", "replace"), ())


@contextmanager
def recorded_calls(shop: Shop) -> Iterator[list[Call]]:
    """Replaces the loading of the shop's model inside the `with` block, and records the calls of `recommend`."""
    calls: list[Call] = []
    recommend = Recommender.recommend
    policy = shop.recommender.policy
    alone = Recommender(policy, completion_length(shop.adapter) or policy.completion_length)
    from_pretrained = Recommender.from_pretrained

    def recorded(self: Recommender, history: Any = None, user: Any = None, exclude: Any = None, **others: Any) -> Any:
        call = Call(history, user, exclude or (), [], [])
        calls.append(call)
        call.answer.extend(recommend(self, history=history, user=user, exclude=exclude or (), **others))
        return call.answer

    def checked(*arguments: Any) -> Groundedness:
        calls[-1].stated.append(check(*arguments))
        return calls[-1].stated[-1]

    def load(model: str, revision: str | None = None, quantized: bool = True) -> Recommender:
        return alone if (model, revision) == (str(shop.adapter), None) else from_pretrained(model, revision, quantized)

    loaded = {"recommend": recorded, "from_run": lambda run, adapter, quantized: shop.recommender}
    with patch.multiple(Recommender, from_pretrained=load, **loaded), patch("llmrec.recommend.check", checked):
        yield calls


def faults_of(shop: Shop, request: Request, answer: Answer) -> Iterator[Outcome]:
    """Everything that is wrong with an answer."""
    if CONTROL.search(answer.out + answer.err):
        yield Outcome("wrong", "a control character reaches the terminal")
    if answer.code == 2:
        yield from _faults_of_a_refusal(request, answer)
        return
    for call in answer.calls:
        yield from _faults_of_a_call(shop, call)
    if request.interactive:
        yield from _faults_of_a_loop(request, answer)
        return
    if len(answer.calls) != 1:
        yield Outcome("loss", f"{len(answer.calls)} recommendations for one request")
        return
    call = answer.calls[0]
    wanted = [*request.titles, *request.ids]
    if not _are_meant(shop, wanted, call.history or []) or not _are_meant(shop, request.exclude, call.exclude):
        yield Outcome("loss", "a title of the request was not used")
    if len(call.answer) > int(request.top_k):
        yield Outcome("wrong", "more recommendations than were asked for")
    if request.as_json:
        yield from _faults_of_json(request, answer)
    elif [line for line in answer.out.splitlines() if re.match(r" ?\d+\. ", line)] == []:
        yield Outcome("loss", "no recommendation was printed")


def _faults_of_a_refusal(request: Request, answer: Answer) -> Iterator[Outcome]:
    message = " ".join(answer.err.split())
    if "rror" not in message:
        yield Outcome("loss", "exit code 2 without a message")
    if request.known and "is left to recommend" not in message:
        yield Outcome("wrong", f"a right request is refused: {without_values(_last_line(answer.err), Path('/'))}")
    if request.as_json and answer.out:
        yield Outcome("wrong", "a refused request prints on stdout")


def _faults_of_a_call(shop: Shop, call: Call) -> Iterator[Outcome]:
    """Checks what was recommended: nothing seen, nothing twice, names that lead back, true texts, probabilities."""
    seen = set(call.history or ()) if call.user is None else shop.seen[shop.users.index(call.user)]
    index = {item_id: item for item, item_id in enumerate(shop.ids)}
    items = [index[one.item_id] for one in call.answer]
    if (seen | set(call.exclude)) & set(items):
        yield Outcome("wrong", "a seen or excluded item is recommended")
    if len(set(items)) < len(items):
        yield Outcome("wrong", "an item is recommended twice")
    if any(shop.recommender.resolve_titles([one.title]) != [index[one.item_id]] for one in call.answer):
        yield Outcome("wrong", "a recommended title does not lead back to its item")
    # The last statement of a text that was broken off may be half of one.
    if any(one.statements - one.true > (not one.finished) for one in call.stated):
        yield Outcome("wrong", "a justification is untrue")
    scores = [one.score for one in call.answer if one.score is not None]
    proper = all(math.isfinite(score) and score > 0 for score in scores) and sum(scores) < 1 + 1e-4
    if len(scores) < len(call.answer) or not proper or scores != sorted(scores, reverse=True):
        yield Outcome("wrong", "scores are not probabilities in order")


def _faults_of_a_loop(request: Request, answer: Answer) -> Iterator[Outcome]:
    """Every line that names titles is answered or refused in words."""
    lines: list[str] = []
    for line in map(str.strip, request.lines):
        if line.partition(" ")[0] == ":quit":
            break
        lines += [line] if line.strip("; ") and not line.startswith(":exclude") else []
    spoken = len(answer.calls) + answer.out.count("There is no ") + answer.out.count(" may mean ")
    if spoken < len(lines):
        yield Outcome("loss", "a typed line is neither answered nor refused")


def _faults_of_json(request: Request, answer: Answer) -> Iterator[Outcome]:
    try:
        value = json.loads(answer.out)
    except ValueError:
        yield Outcome("wrong", "JSON that cannot be read")
        return
    given = {"user": request.user, "history": list(request.titles), "history_ids": list(request.ids)}
    if {name: value[name] for name in given} != given or value["exclude"] != list(request.exclude):
        yield Outcome("loss", "the answer repeats another request")
    if [one["item_id"] for one in value["recommendations"]] != [one.item_id for one in answer.calls[0].answer]:
        yield Outcome("loss", "a recommendation is missing in the JSON")


def _are_meant(shop: Shop, wanted: Sequence[str], items: Sequence[int]) -> bool:
    """Whether items are, one by one, those that texts name: by title or id, without regard to case and space."""
    if len(wanted) != len(items):
        return False
    names_of = [(shop.titles[item], shop.titles[item].rpartition(" [")[0], shop.ids[item]) for item in items]
    return all(_plain(text) in map(_plain, known) for text, known in zip(wanted, names_of, strict=True))


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _last_line(text: str) -> str:
    lines = [line.strip(" │╰╯─╭╮") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")
