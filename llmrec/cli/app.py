"""The command line: one verb a stage, `run` for all of them, `recommend` for what comes out.

People read stderr and tables; programs pass `--json` and read stdout, where nothing else is then written.
Heavy imports (torch, transformers) happen inside the verbs, so `--help` and errors in a config are instant.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

import llmrec
from llmrec.cli.export import estimate_verb, export_verb
from llmrec.cli.hub import hub_app
from llmrec.cli.printing import (
    print_examples,
    print_json,
    print_next_steps,
    print_off_policy,
    print_ranked,
    print_report,
    print_reward,
    say_on,
)
from llmrec.cli.process import (
    AdapterOption,
    JsonOption,
    ManyValuesCommand,
    exit_with,
    let_cpus_talk,
    stdout_kept_clean,
)
from llmrec.config import load_config
from llmrec.distributed import is_main_process
from llmrec.errors import CatalogueError, UserError
from llmrec.files import read_json, write_json
from llmrec.progress.console import console_for
from llmrec.run import VERBS, Run, run_all

app = typer.Typer(
    help="Fine-tune a language model to recommend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # main() formats errors
)
ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML config, or a run directory")]
TitlesOption = Annotated[list[str] | None, typer.Option(metavar="TITLE ...", help="one or more titles")]


# --- verbs ----------------------------------------------------------------------------------------


def _stage_verb(stage: str, summary: str) -> None:
    """Registers the verb of one stage."""

    def verb(config: ConfigArgument, as_json: JsonOption = False) -> None:
        run_stage_of(config, stage, as_json)

    verb.__doc__ = summary
    app.command(VERBS[stage])(verb)


_stage_verb("data", "Read the event log, split it and write the dataset card.")
_stage_verb("sft", "Teach the base model the catalogue and the completion format.")


@app.command("reward")
def reward_verb(
    config: ConfigArgument,
    report: Annotated[bool, typer.Option("--report", help="then print how far the model can be trusted")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fit the click/purchase model that scores recommendations."""
    run_stage_of(config, "reward", as_json)
    if report and not as_json:
        run = open_or_create(config)
        print_reward(console_for(), run.metrics("reward"), run.path("reward"))


_stage_verb("ppo", "Improve the adapter against the reward model, guarded by validation.")


@app.command("evaluate")
def evaluate_verb(config: ConfigArgument, as_json: JsonOption = False) -> None:
    """Measure every model on every split and write report.json and report.html."""
    run_stage_of(config, "evaluate", as_json)
    run = open_or_create(config)
    page = _write_page(run)
    if not as_json:
        print_report(console_for(), read_json(run.report_path))
        console_for().print(Text(f"to look at: {page}"), soft_wrap=True)


@app.command("report")
def report_verb(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run directory")], as_json: JsonOption = False
) -> None:
    """Write report.html, one page to send on, from what the run has measured."""
    page = _write_page(Run.open(run))
    if as_json:
        print_json({"report": str(page)})
    else:
        console_for().print(Text(str(page)), soft_wrap=True)


@app.command("run")
def run_verb(
    config: ConfigArgument,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="run under so many training seeds, and report means and spread")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run all stages that have not finished yet, then show the results."""
    if seeds is not None:
        return _run_seeds(config, seeds, as_json)
    with stdout_kept_clean(as_json):
        console = console_for(stderr=as_json)
        run = open_or_create(config)
        run_all(run, say=say_on(console))
        _write_page(run)
        report = read_json(run.report_path)
        print_report(console, report)
        print_examples(console, run)
        print_next_steps(console, run)
        _push_as_configured(run, console)
    if as_json:
        print_json(report)


def _run_seeds(path: Path, count: int, as_json: bool) -> None:
    if path.is_dir():
        raise UserError(f"{path} is the run of one seed: give --seeds a YAML config.")
    config = load_config(path)
    with stdout_kept_clean(as_json):
        from llmrec.evaluation.seeds import seeded, seeds_report

        console = console_for(stderr=as_json)
        runs = [Run.create(one) for one in seeded(config, count)]
        for run in runs:
            console.print(Text(f"seed {run.config.seed}: {run.directory}"), soft_wrap=True)
            run_all(run, say=say_on(console))
            _write_page(run)
        report = seeds_report(runs)
        target = Path(config.output_dir) / f"{config.name}-seeds.json"
        write_json(target, report)
        print_report(console, report)
        console.print(Text(f"all numbers: {target}"), soft_wrap=True)
        if config.hub is not None:
            console.print(
                Text(f"not pushed to {config.hub.repo}: with --seeds there are {count} runs; push one of them")
            )
    if as_json:
        print_json(report)


@app.command("recommend", cls=ManyValuesCommand)
def recommend_verb(
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="a run directory")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="DIR|OWNER/NAME", help="instead of a run: an adapter, here or on a hub")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="of --model on the hub: branch, tag or commit")
    ] = None,
    user: Annotated[str | None, typer.Option(help="a user of the event log")] = None,
    history: TitlesOption = None,
    top_k: Annotated[int, typer.Option(min=1)] = 5,
    exclude: TitlesOption = None,
    full_precision: Annotated[
        bool, typer.Option("--full-precision", help="the base as it is, even if training quantised it")
    ] = False,
    interactive: Annotated[bool, typer.Option("--interactive", help="ask for titles in a loop")] = False,
    adapter: AdapterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend items to a user, or to somebody who liked the given titles."""
    if user is not None and history:
        raise UserError("Give --user or --history, not both.")
    if interactive and as_json:
        raise UserError("Give --interactive or --json, not both.")
    if not (user is not None or history or interactive):
        raise UserError('Say for whom: --user ID, --history "TITLE" "TITLE" ..., or --interactive.')
    _check_source(run, model, revision, user, adapter)
    with stdout_kept_clean(as_json):
        console = console_for(stderr=as_json)
        recommender = _load_recommender(run, adapter, model, revision, quantized=not full_precision)
        excluded = recommender.resolve_titles(exclude or [])
        ranked = None
        if user is not None or history:
            known = None if user is not None else recommender.resolve_titles(history or [])
            ranked = recommender.recommend(history=known, user=user, top_k=top_k, exclude=excluded)
            print_ranked(console, ranked)
        if interactive:
            _interact(console, recommender, top_k, excluded)
    if as_json:
        asked = {"user": user, "history": history or [], "exclude": exclude or [], "adapter": adapter, "model": model}
        print_json({**asked, "recommendations": [asdict(item) for item in ranked or []]})


@app.command("off-policy")
def off_policy_verb(
    log: Annotated[
        Path,
        typer.Argument(metavar="LOG", help="exposures with propensities: a config, a run, an Open Bandit directory"),
    ],
    target_log: Annotated[
        Path | None, typer.Option(metavar="LOG", help="evaluate the policy that wrote this other log")
    ] = None,
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="evaluate a model of this run")] = None,
    model: Annotated[
        Literal["ppo", "sft", "reward"] | None,
        typer.Option(help="which model of --run; default: the first that has finished"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="show estimates that cannot be trusted")] = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate from the log of one policy what another would have earned, or say that the log cannot tell."""
    if (target_log is None) == (run is None):
        raise UserError("Say which policy to evaluate: --target-log LOG or --run DIR, one of them.")
    if model is not None and run is None:
        raise UserError("--model names a model of --run DIR: give that as well.")
    with stdout_kept_clean(as_json):
        from llmrec.off_policy.logged import off_policy_report, read_exposure_log, target_of_log, target_of_run

        exposures = read_exposure_log(log)
        if target_log is not None:
            target = target_of_log(exposures, read_exposure_log(target_log))
        else:
            target = target_of_run(exposures, Run.open(run), model)
        report = off_policy_report(exposures, target, force)
    if as_json:
        print_json(report)
    else:
        print_off_policy(console_for(), report)
    if report["diagnostics"]["refusal"] and not force:
        raise UserError(report["diagnostics"]["refusal"])


app.add_typer(hub_app)  # push, list, diff


app.command("estimate")(estimate_verb)
app.command("export")(export_verb)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda value: _print_version(value))
    ] = False,
) -> None:
    pass


# --- what the verbs share with scripts/ -----------------------------------------------------------


def run_stage_of(config: Path, stage: str, as_json: bool = False) -> None:
    """Runs one stage of the run that `config` describes, unless it has finished.

    Args:
        config: a YAML config, or a run directory.
        stage: a name out of `llmrec.run.STAGES`.
        as_json: print the stage's metrics on stdout, and everything else on stderr.
    """
    with stdout_kept_clean(as_json):
        run = open_or_create(config)
        run_all(run, stage, say=say_on(console_for(stderr=as_json)))
    if as_json and is_main_process():
        print_json(run.metrics(stage))


def open_or_create(path: Path) -> Run:
    """The run of a YAML config, or the run in a run directory."""
    return Run.open(path) if Path(path).is_dir() else Run.create(load_config(path))


def stage_main(stage: str) -> None:
    """What `scripts/train_*.py` do: `--config`, one stage, the CLI's error messages and exit codes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True, help="a YAML config, or a run directory")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON on stdout")
    arguments = parser.parse_args()
    let_cpus_talk()
    exit_with(lambda: _train_and_push(arguments.config, stage, arguments.json))


def _train_and_push(config: Path, stage: str, as_json: bool) -> None:
    run_stage_of(config, stage, as_json)
    if stage == "ppo" and is_main_process():
        _push_as_configured(open_or_create(config), console_for(stderr=as_json))


def _push_as_configured(run: Run, console: Console) -> None:
    if run.config.hub is not None:
        from llmrec.hub.push import push_as_configured

        push_as_configured(run, say_on(console))


def main() -> None:
    """The `llmrec` command."""
    exit_with(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"llmrec {llmrec.__version__}")
        raise typer.Exit


def _write_page(run: Run) -> Path:
    from llmrec.report.page import write_page

    return write_page(run)


def _check_source(
    run: Path | None, model: str | None, revision: str | None, user: str | None, adapter: str | None
) -> None:
    if (run is None) == (model is None):
        raise UserError("Say what recommends: --run DIR or --model DIR|OWNER/NAME, one of them.")
    if model is None and revision is not None:
        raise UserError("--revision is of --model on a hub; a run directory has none.")
    if model is not None and (user is not None or adapter is not None):
        found = "--user" if user is not None else "--adapter"
        raise UserError(f"{found} needs --run: a model alone is one adapter and knows no users. Give --history.")


def _load_recommender(
    run: Path | None, adapter: str | None, model: str | None, revision: str | None, quantized: bool
) -> Any:
    from llmrec.recommend import Recommender

    if model is not None:
        return Recommender.from_pretrained(model, revision, quantized)
    return Recommender.from_run(Run.open(run), adapter, quantized)


def _interact(console: Console, recommender: Any, top_k: int, excluded: list[int]) -> None:
    """Reads titles, prints recommendations, until `:quit` or the end of input."""
    console.print("Titles, separated by `;`. `:exclude TITLE; ...` leaves items out, `:exclude` alone lets all")
    console.print("back in, `:quit` ends.")
    history: list[int] = []
    while True:
        try:
            line = console.input("[bold]liked> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            return
        command, _, rest = line.partition(" ")
        if command == ":quit":
            return
        try:
            if command == ":exclude":
                excluded = excluded + recommender.resolve_titles(_titles(rest)) if rest.strip() else []
            elif command.startswith(":"):
                raise CatalogueError(f"There is no command {command}; there are :quit and :exclude.")
            elif line:
                history = recommender.resolve_titles(_titles(line))
            if history:
                print_ranked(console, recommender.recommend(history=history, top_k=top_k, exclude=excluded))
        except UserError as error:
            console.print(Text(str(error), style="red"), soft_wrap=True)


def _titles(text: str) -> list[str]:
    return [title.strip() for title in text.split(";") if title.strip()]
