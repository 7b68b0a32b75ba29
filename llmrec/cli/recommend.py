"""The command `recommend`: ranked items for one person, by user id, by liked titles or in a loop."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from llmrec.cli.options import AdapterOption, FullPrecisionOption, JsonOption, ModelOption, RevisionOption
from llmrec.cli.output import print_json, print_line
from llmrec.cli.process import reserve_stdout
from llmrec.cli.recommend_batch import recommend_batch
from llmrec.errors import CatalogueError, UserError
from llmrec.progress.console import console_for
from llmrec.run import Run

if TYPE_CHECKING:
    from llmrec.agents.recommend import AgentRecommender
    from llmrec.recommend import RankedItem, Recommender


def _explain_positional_titles(values: list[str] | None) -> None:
    if values:
        raise UserError(
            "--history is no longer an option: titles are positional arguments. For instance:\n"
            '  llmrec recommend --run DIR "Toy Story (1995)" "Aladdin (1992)" --exclude "Babe (1995)"'
        )


def recommend_command(
    history: Annotated[
        list[str] | None,
        typer.Argument(metavar="TITLE", help="Titles that the person liked, oldest first.", show_default=False),
    ] = None,
    history_ids: Annotated[
        list[str] | None,
        typer.Option(
            "--history-ids",
            metavar="ID",
            help="Id of an item that the person liked, after the titles. Repeat the option for several.",
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Run directory.")] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="User of the event log, instead of titles.")] = None,
    top_k: Annotated[int, typer.Option(min=1, metavar="N", help="Number of recommendations.")] = 5,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="TITLE|ID", help="Title or id to leave out. Repeat the option for several."),
    ] = None,
    full_precision: FullPrecisionOption = False,
    request: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help='What the person asks for, such as "something funny from the eighties".'),
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--batch",
            metavar="FILE",
            help="JSON Lines with `user` or `history` (titles) and `request`; prints a JSON line for each.",
        ),
    ] = None,
    interactive: Annotated[bool, typer.Option("--interactive", help="Ask for titles and requests in a loop.")] = False,
    adapter: AdapterOption = None,
    agent: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Agent of `llmrec agents` in --run, instead of an adapter. `best`: the best."
        ),
    ] = None,
    as_json: JsonOption = False,
    removed: Annotated[
        list[str] | None, typer.Option("--history", hidden=True, callback=_explain_positional_titles)
    ] = None,
) -> None:
    """Recommend items to a user of the log, or to someone who liked the given titles.

    Example: llmrec recommend --run runs/quickstart "Toy Story (1995)" "Aladdin (1992)" --exclude "Babe (1995)"
    """
    source = ModelSource(run, model, revision, adapter, quantized=not full_precision)
    source.check(user)
    if agent is not None and (run is None or adapter is not None or batch is not None):
        raise UserError("--agent needs --run, and neither --adapter nor --batch. Leave the others out.")
    if batch is not None:
        _check_alone(user, history, history_ids, request, interactive)
        recommend_batch(source.load, batch, top_k, exclude or [], has_users=model is None)
        return
    _check_person(user, history, history_ids, interactive, as_json)
    ranked: list[RankedItem] = []
    with reserve_stdout(as_json):
        console = console_for(stderr=as_json)
        recommender = source.load() if run is None or agent is None else _load_agent(Run.open(run), agent)
        excluded = recommender.resolve_titles(exclude or [])
        if user is not None or history or history_ids:
            items = None if user is not None else recommender.resolve_titles(history or [])
            if items is not None and history_ids:
                items += recommender.resolve_ids(history_ids)
            _print_understood(console, recommender, request)
            ranked = recommender.recommend(history=items, user=user, top_k=top_k, exclude=excluded, request=request)
            print_ranked(console, ranked)
        if interactive:
            Loop(console, recommender, top_k, excluded, user=user, request=request or "").run()
    if as_json:
        liked = {"history": history or [], "history_ids": history_ids or []}
        asked = {"user": user, **liked, "exclude": exclude or [], "adapter": adapter, "agent": agent, "model": model}
        asked |= {} if request is None else {"request": request}
        print_json({**asked, "recommendations": [asdict(item) for item in ranked]})


@dataclass(frozen=True)
class ModelSource:
    """The model that recommends, as the options name it.

    Attributes:
        run: Run directory. Exactly one of `run` and `model` is set.
        model: Directory of a saved adapter, or `OWNER/NAME` on a hub.
        revision: Branch, tag or commit of `model` on the hub.
        adapter: Adapter of `run`, `sft` or `ppo`; None selects ppo if that stage has finished, else sft.
        quantized: Whether a base that was quantized in training is quantized again.
    """

    run: Path | None
    model: str | None
    revision: str | None
    adapter: str | None
    quantized: bool

    def check(self, user: str | None) -> None:
        """Checks that the options fit together.

        Args:
            user: Value of `--user`.

        Raises:
            UserError: The options contradict each other.
        """
        if (self.run is None) == (self.model is None):
            raise UserError(
                "The model is not given, or given twice. Give --run DIR or --model DIR|OWNER/NAME, exactly one of them."
            )
        if self.model is None and self.revision is not None:
            raise UserError("--revision selects a revision of --model on a hub. A run directory has no revisions.")
        if self.model is not None and user is not None:
            raise UserError("--user needs --run: a saved adapter comes without the event log. Give titles instead.")
        if self.model is not None and self.adapter is not None:
            raise UserError("--adapter needs --run: --model is a single adapter. Leave out --adapter.")

    def load(self) -> "Recommender":
        """Loads the model."""
        run = None if self.run is None else Run.open(self.run)  # tells of a wrong path before the slow imports
        # bitsandbytes compiles functions when it is imported, which loads PyTorch's whole compiler for nothing.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        from llmrec.recommend import Recommender

        if self.model is not None:
            return Recommender.from_pretrained(self.model, self.revision, self.quantized)
        assert run is not None  # see check
        return Recommender.from_run(run, self.adapter, self.quantized)


def _load_agent(run: Run, name: str) -> "AgentRecommender":
    from llmrec.agents.recommend import AgentRecommender

    return AgentRecommender.from_run(run, name)


def _check_person(
    user: str | None, history: list[str] | None, history_ids: list[str] | None, interactive: bool, as_json: bool
) -> None:
    """Raises UserError unless the options name one person, or ask for the loop."""
    if user is not None and (history or history_ids):
        raise UserError("--user and titles were both given. Give one of them, not both.")
    if interactive and as_json:
        raise UserError("--interactive and --json were both given. Give one of them, not both.")
    if not (user is not None or history or history_ids or interactive):
        raise UserError(
            'No person was named. Give liked titles ("TITLE" "TITLE" ...), --history-ids ID, --user ID or '
            "--interactive."
        )


def _check_alone(
    user: str | None,
    history: list[str] | None,
    history_ids: list[str] | None,
    request: str | None,
    interactive: bool,
) -> None:
    """Raises UserError if options name a person beside `--batch`, whose lines name people."""
    given = {"--user": user, "titles": history, "--history-ids": history_ids, "--request": request}
    named = [name for name, value in given.items() if value] + (["--interactive"] if interactive else [])
    if named:
        raise UserError(f"--batch and {named[0]} were both given. Each line of the file names a person: give one.")


def print_ranked(console: Console, ranked: list["RankedItem"]) -> None:
    """Prints recommendations with their probability and justification, best first."""
    for rank, item in enumerate(ranked, start=1):
        line = Text.assemble(f"{rank:>2}. ", (item.title, "bold"))
        if item.score is not None:
            line.append(f"  p={item.score:.4f}")
        if item.justification:
            line.append(f"\n    {item.justification}", style="dim" if item.grounded else "yellow")
            line.append("" if item.grounded else "  (not grounded in the data)")
        if item.satisfies is False:
            line.append("\n    outside of the request", style="yellow")
        console.print(line, soft_wrap=True)


def _print_understood(console: Console, recommender: "Recommender | AgentRecommender", request: str | None) -> None:
    """Prints what was recognized in a request, if there is one."""
    if request is None:
        return
    found = recommender.understand(request).conditions
    text = ", ".join(map(str, found)) if found else "no attribute of the catalogue; the model reads the words alone"
    print_line(console, f"recognized: {text}", style="dim")


class Loop:
    """Reads titles and requests, and prints recommendations until `:quit` or the end of input.

    Args:
        console: Console to read from and print on.
        recommender: Loaded model.
        top_k: Number of recommendations.
        excluded: Item indices that are excluded at the start.
        user: User of the event log, until titles are typed; None for nobody.
        request: The request at the start; "" for none.
    """

    def __init__(
        self,
        console: Console,
        recommender: "Recommender | AgentRecommender",
        top_k: int,
        excluded: list[int],
        user: str | None = None,
        request: str = "",
    ):
        self.console = console
        self.recommender = recommender
        self.top_k = top_k
        self.excluded = excluded
        self.user = user
        self.request = request
        self.history: list[int] = []

    def run(self) -> None:
        """Runs the loop."""
        self.console.print("Enter liked titles, separated by `;`. `:ask TEXT` asks for something in words, a second")
        self.console.print(
            "`:ask TEXT` refines the first, `:ask` alone clears it. `:exclude TITLE; ...` excludes titles,"
        )
        self.console.print("`:exclude` alone clears the list of excluded titles, `:quit` ends.")
        while True:
            try:
                line = self.console.input("[bold]liked> [/bold]").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if line.partition(" ")[0] == ":quit":
                return
            try:
                self._answer(line)
            except UserError as error:
                print_line(self.console, str(error), style="red")

    def _answer(self, line: str) -> None:
        """Follows one line, and prints recommendations if there is a person."""
        command, _, rest = line.partition(" ")
        request = self.request
        if command == ":exclude":
            self.excluded = self.excluded + _resolve_line(self.recommender, rest) if rest.strip() else []
            print_line(self.console, f"excluded titles: {len(set(self.excluded))}", style="dim")
        elif command == ":ask":
            request = f"{request.rstrip(' .')}. {rest.strip()}" if request and rest.strip() else rest.strip()
            _print_understood(self.console, self.recommender, request or None)
        elif command.startswith(":"):
            raise CatalogueError(f"There is no command {command}. Commands: :ask, :exclude and :quit.")
        elif line:
            self.history = _resolve_line(self.recommender, line)
            self.user = None
        if self.history or self.user is not None:
            history = None if self.user is not None else self.history
            ranked = self.recommender.recommend(
                history=history, user=self.user, top_k=self.top_k, exclude=self.excluded, request=request or None
            )
            print_ranked(self.console, ranked)
        self.request = request  # a request that was refused refines nothing


def _resolve_line(recommender: "Recommender | AgentRecommender", line: str) -> list[int]:
    """Item indices of the titles on a typed line. A title may itself hold `;`, so the whole line is tried first."""
    titles = [title.strip() for title in line.split(";") if title.strip()]
    try:
        return recommender.resolve_titles([line])
    except CatalogueError:
        return recommender.resolve_titles(titles)
