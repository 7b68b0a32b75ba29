"""Pushes the adapter of a run to a hub in one commit, with its config, results and a model card."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrec.config import INCLUDABLE, HubConfig
from llmrec.errors import UserError
from llmrec.hub.bundle import build_folder
from llmrec.hub.client import address, check_branch, check_name, files_below, full_name, upload
from llmrec.run import Run

# The stage that writes each further part of a push.
STAGE_OF_PART: dict[str, str] = dict(zip(INCLUDABLE, ("reward", "evaluate"), strict=True))


def push(
    run: Run,
    hub: HubConfig,
    adapter: str | None = None,
    dry_run: bool = False,
    say: Callable[[str], Any] = lambda line: None,
) -> str:
    """Uploads an adapter to the hub that `HF_ENDPOINT` names.

    Args:
        run: the run.
        hub: what is pushed and where. A `repo` without an owner belongs to the account of the token.
        adapter: `ppo` or `sft`; None for `ppo` if that stage has finished, else `sft`.
        dry_run: check everything and list the files, without any request to the hub.
        say: takes a line for people.

    Returns:
        The web page of the repository or branch.

    Raises:
        UserError: the name is not valid, the titles cannot be withheld, or the hub refuses or cannot be reached.
        RunError: the adapter, the reward models or the report do not exist yet.
        ModelError: a file of the adapter is missing or not readable.
    """
    check_name(hub.repo)
    check_branch(hub.revision)
    stage = run.adapter_stage(adapter)
    run.require(stage, *(STAGE_OF_PART[part] for part in hub.include))
    if not dry_run:
        hub = hub.model_copy(update={"repo": full_name(hub.repo)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_folder(run, hub, stage, folder, ask_hub=not dry_run, say=say)
        files = files_below(folder)
        for path, file in files.items():
            say(f"{file.stat().st_size:>12,}  {path}")
        if dry_run:
            say(f"dry run: nothing was uploaded to {hub.repo}")
            return address(hub.repo, hub.revision)
        message = f"{stage} adapter of run {run.config.name}"
        url = upload(files, hub.repo, private=hub.private, revision=hub.revision, message=message)
    say(f"pushed to {url}")
    return url


def push_as_configured(run: Run, say: Callable[[str], Any]) -> None:
    """Pushes a finished run as the section `hub` of its config says; does nothing without that section.

    Parts whose stage has not run are left out.

    Raises:
        UserError: the push failed. The message contains the command that repeats it.
    """
    hub = run.config.hub
    if hub is None:
        return
    missing = [part for part in hub.include if not run.finished(STAGE_OF_PART[part])]
    for part in missing:
        say(f"pushed without the {part}: `llmrec {STAGE_OF_PART[part]} {run.directory}` has not run yet")
    include = [part for part in hub.include if part not in missing]
    try:
        push(run, hub.model_copy(update={"include": include}), say=say)
    except UserError as error:
        raise UserError(
            f"{error}\nThe run in {run.directory} is complete, and nothing of it is lost. Push it with\n"
            f"  {push_command(run, hub)}"
        ) from None


def push_command(run: Run, hub: HubConfig) -> str:
    """The command that pushes a run as a section `hub` says."""
    options = [
        *(["--include", ",".join(hub.include)] if hub.include else []),
        *(["--revision", hub.revision] if hub.revision else []),
        *([] if hub.titles else ["--no-titles"]),
        *(["--private"] if hub.private else []),
    ]
    return " ".join(["llmrec push --run", str(run.directory), "--repo", hub.repo, *options])
