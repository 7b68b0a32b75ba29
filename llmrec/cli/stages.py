"""Commands that run the stages of an experiment: prepare, sft, reward, ppo, evaluate, report and run."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from llmrec.cli.check import check_log_of, print_log_check
from llmrec.cli.doctor import data_report, page_path, print_data_report
from llmrec.cli.hub import push_if_configured
from llmrec.cli.options import ConfigArgument, JsonOption
from llmrec.cli.output import line_printer, print_json, print_line
from llmrec.cli.privacy import print_private_training
from llmrec.cli.process import reserve_stdout
from llmrec.cli.recommend import print_ranked
from llmrec.cli.results import print_report, print_reward
from llmrec.config import load_config
from llmrec.distributed import is_main_process
from llmrec.errors import UserError
from llmrec.evaluation.report import Report, RewardModelReport
from llmrec.progress.console import console_for
from llmrec.run import Run, refuse_unprotected, run_all

if TYPE_CHECKING:
    from llmrec.recommend import RankedItem


# --- one stage ------------------------------------------------------------------------------------


def prepare_command(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="YAML config or run directory; with --check also an event log or its directory."
        ),
    ],
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Read the first 10,000 lines only, and print what each column is and a config that fits."
        ),
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="Print what misleads about the data and what counts reach on it; write a page with plots."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read the event log, split it and write the dataset card."""
    if check:
        with reserve_stdout(as_json):
            found = check_log_of(config)
        if as_json:
            print_json(asdict(found))
        else:
            print_log_check(console_for(), found)
        return
    if not report:
        run_one_stage(config, "data", as_json)
        return
    with reserve_stdout(as_json):
        run = open_or_create(config)
        run_all(run, "data", say=line_printer(console_for(stderr=as_json)))
        card = data_report(run)
    if as_json:
        print_json(card.as_json())
    else:
        print_data_report(console_for(), card)
        print_line(console_for(), f"data page: {page_path(run)}")


def sft_command(config: ConfigArgument, as_json: JsonOption = False) -> None:
    """Fine-tune the base model on the catalogue and the completion format."""
    run_one_stage(config, "sft", as_json)


def reward_command(
    config: ConfigArgument,
    report: Annotated[
        bool, typer.Option("--report", help="Print the quality of the reward models on held-out data.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fit the click and purchase models that score recommendations."""
    run = run_one_stage(config, "reward", as_json)
    if report and not as_json:
        quality = RewardModelReport.model_validate(run.metrics("reward"))
        print_reward(console_for(), quality, run.path("reward"))


def ppo_command(config: ConfigArgument, as_json: JsonOption = False) -> None:
    """Train the SFT adapter with PPO against the reward models and keep the best adapter on validation."""
    run_one_stage(config, "ppo", as_json)


def evaluate_command(config: ConfigArgument, as_json: JsonOption = False) -> None:
    """Evaluate every model on every split and write report.json and report.html."""
    run = run_one_stage(config, "evaluate", as_json)
    with reserve_stdout(as_json):
        page = _write_page(run)
    if not as_json:
        print_report(console_for(), Report.load(run.report_path))
        print_line(console_for(), f"report page: {page}")


def run_one_stage(config: Path, stage: str, as_json: bool) -> Run:
    """Runs one stage of the run that `config` describes, unless it has finished.

    Args:
        config: YAML config or run directory.
        stage: One of `llmrec.run.STAGES`.
        as_json: Print the stage's metrics on stdout, and everything else on stderr.

    Returns:
        The run.
    """
    with reserve_stdout(as_json):
        run = open_or_create(config)
        run_all(run, stage, say=line_printer(console_for(stderr=as_json)))
    if as_json and is_main_process():
        written = run.changed_inputs(stage)
        print_json(run.metrics(stage) | ({"written_to_since": written} if written else {}))
    return run


def open_or_create(path: Path) -> Run:
    """Opens the run in a run directory, or creates the run of a YAML config."""
    return Run.open(path) if path.is_dir() else Run.create(load_config(path))


# --- the report page ------------------------------------------------------------------------------


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")], as_json: JsonOption = False
) -> None:
    """Write report.html, one self-contained page, from the results of a run."""
    with reserve_stdout(as_json):
        page = _write_page(Run.open(run))
    if as_json:
        print_json({"report": str(page)})
    else:
        print_line(console_for(), str(page))


def _write_page(run: Run) -> Path:
    from llmrec.report.page import write_page

    return write_page(run)


# --- all stages -----------------------------------------------------------------------------------


def run_command(
    config: ConfigArgument,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Run under N seeds, at least 2, and report mean and spread."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run all stages that have not finished, then print the results."""
    with reserve_stdout(as_json):
        console = console_for(stderr=as_json)
        result = _run_stages(config, console) if seeds is None else _run_seeds(config, seeds, console)
    if as_json:
        print_json(result)


def _run_stages(config: Path, console: Console) -> dict[str, Any]:
    """Runs the stages of one run, prints the results and returns the report, or what a private run has instead."""
    run = open_or_create(config)
    run_all(run, say=line_printer(console))
    if run.config.privacy is not None:
        record = run.metrics("sft")["privacy"]
        print_private_training(console, record)
        print_examples(console, example_recommendations(run))
        print_next_steps(console, run, {"attack it": f"llmrec privacy {run.directory}"})
        push_if_configured(run, console)
        return record
    _write_page(run)
    report = Report.load(run.report_path)
    print_report(console, report)
    print_examples(console, example_recommendations(run))
    results = {"all numbers": str(run.report_path), "report page": str(run.directory / "report.html")}
    print_next_steps(console, run, results)
    push_if_configured(run, console)
    return report.as_json()


def _run_seeds(path: Path, count: int, console: Console) -> dict[str, Any]:
    """Runs the stages under several seeds of data and training, prints the results and returns the joint report."""
    if path.is_dir():
        raise UserError(f"{path} is the run of a single seed. Give --seeds a YAML config.")
    config = load_config(path)
    refuse_unprotected(config, "run --seeds")
    from llmrec.evaluation.seeds import seeded, seeds_report

    runs = [Run.create(one) for one in seeded(config, count)]
    for run in runs:
        print_line(console, f"seed {run.config.seed}: {run.directory}")
        run_all(run, say=line_printer(console))
        _write_page(run)
    report = seeds_report(runs)
    target = Path(config.output_dir) / f"{config.name}-seeds.json"
    report.write(target)
    print_report(console, report)
    print_line(console, f"all numbers: {target}")
    if config.hub is not None:
        print_line(console, f"nothing was pushed to {config.hub.repo}: choose one of the {count} runs and push it")
    return report.as_json()


@dataclass(frozen=True)
class Example:
    """Recommendations for one user of the log.

    Attributes:
        user_id: Id of the user in the event log.
        history: Newest titles of the user, oldest first.
        ranked: Recommendations, best first.
    """

    user_id: str
    history: list[str]
    ranked: list["RankedItem"]


def example_recommendations(run: Run, count: int = 3, shown_history: int = 3) -> list[Example]:
    """Loads the trained model of a run and recommends one item to a few users, spread over the user table.

    Args:
        run: Run with finished stages.
        count: Largest number of users.
        shown_history: Number of history titles in an example.
    """
    from llmrec.data.dataset import load_data
    from llmrec.recommend import Recommender

    data = load_data(run.path("data"))
    recommender = Recommender.from_run(run)
    users = [user for user in range(data.num_users) if len(data.histories[user]) < data.num_items]
    step = max(1, -(-len(users) // count))
    examples = []
    for user in users[::step]:
        user_id = str(data.users["user_id"].iloc[user])
        history = [data.items["title"].iloc[item] for item in data.histories[user][-shown_history:]]
        examples.append(Example(user_id, history, recommender.recommend(user=user_id, top_k=1, exclude=[])))
    return examples


def print_examples(console: Console, examples: list[Example]) -> None:
    """Prints recommendations for example users."""
    for example in examples:
        print_line(console, f"\nuser {example.user_id}, after ... {', '.join(example.history)}:")
        print_ranked(console, example.ranked)


def print_next_steps(console: Console, run: Run, results: dict[str, str]) -> None:
    """Prints where the results are, and commands to try next.

    Args:
        console: Prints.
        run: The finished run.
        results: Where results are, by what they are.
    """
    steps = {
        **results,
        "try it": f"llmrec recommend --run {run.directory} --interactive",
        "share it": f"llmrec push --run {run.directory} --repo OWNER/NAME --dry-run",
    }
    for label, step in steps.items():
        print_line(console, f"{label + ':':<13}{step}")
