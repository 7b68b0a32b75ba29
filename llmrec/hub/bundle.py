"""Builds the folder that a push uploads: the adapter and its results, without histories and paths of this machine."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llmrec
from llmrec.config import HubConfig, dump_yaml
from llmrec.errors import ModelError, UserError
from llmrec.evaluation.report import DatasetCard, Report
from llmrec.files import plain, read_json, write_json, write_text
from llmrec.hub.card import SharedRun, run_card
from llmrec.hub.client import ADAPTER_FILES, REWARD_FILES, REWARD_FOLDER
from llmrec.policy.file_names import FILE_NAME, GENERATION_FILE
from llmrec.policy.sharing import (
    CARD_FILE,
    SharedPolicy,
    license_of_base,
    make_portable,
    portable_base,
    set_adapter_base,
)
from llmrec.run import Run

REQUIRED_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "llmrec.json",
    "item_vocabulary.json",
    "facts.json",
)
PRIVATE_REPORT_KEYS = ("examples", "commands")  # histories of users, and paths of this machine
DATA_PATHS = ("path", "items", "users", "facts")  # keys of the config section `data` that are paths


def build_folder(
    run: Run,
    hub: HubConfig,
    adapter: str,
    folder: Path,
    ask_hub: bool = False,
    say: Callable[[str], Any] = lambda line: None,
) -> None:
    """Writes everything that a push uploads into a folder.

    Args:
        run: the run.
        hub: what is pushed and where. Its `repo` and `revision` appear in the card.
        adapter: stage of the adapter, `sft` or `ppo`.
        folder: an empty directory.
        ask_hub: whether to ask the hub for the license of the base model.
        say: takes a line for people.

    Raises:
        UserError: the titles cannot be withheld.
        ModelError: a file of the adapter is missing or not readable.
        RunError: the report is not readable.
    """
    _copy_adapter(run, adapter, folder)
    if not hub.titles:
        withhold_titles(folder)
    _set_completion_length(folder, run.config.ppo.response_length)
    trained_on = read_json(folder / FILE_NAME)["model"]["base"]
    base = make_portable(folder, {"adapter": adapter, "llmrec_version": llmrec.__version__})
    if "reward" in hub.include:
        _copy_reward(run, folder, trained_on)
    report = _write_results(run, hub, folder)
    license_values = license_of_base(base, ask_hub)
    if ask_hub and base is not None and not license_values:
        say(f"The license of {base} could not be read. The model card says that it is unknown.")
    policy = SharedPolicy(
        repo=hub.repo,
        model=run.config.model,
        catalogue=run.config.catalogue,
        base=base,
        license=license_values,
        revision=hub.revision,
        titles=hub.titles,
    )
    data = report.data or _data_card(run)
    shared = SharedRun(
        policy=policy,
        config=run.config,
        adapter=adapter,
        report=report,
        data=data,
        include=hub.include,
        privacy=run.metrics("sft").get("privacy") if adapter == "sft" else None,
    )
    write_text(folder / CARD_FILE, run_card(shared))


def _write_results(run: Run, hub: HubConfig, folder: Path) -> Report:
    """Writes the config, the report and, on request, its page. Returns the report; empty if there is none."""
    config = shareable_config(run.config.model_dump(mode="json"))
    config["model"]["base"] = read_json(folder / FILE_NAME)["model"]["base"]
    write_text(folder / "config.yaml", dump_yaml(config))
    report = Report()
    if run.report_path.is_file():
        report = shareable_report(Report.load(run.report_path))
        report.write(folder / "report.json")
    if "report" in hub.include:
        from llmrec.report.page import page_of

        write_text(folder / "report.html", page_of(run, report, config))
    return report


# --- adapter and reward models --------------------------------------------------------------------


def _copy_adapter(run: Run, adapter: str, folder: Path) -> None:
    """Copies the files of an adapter that may leave this machine. The adapter's directory also holds others.

    Raises:
        ModelError: a required file is missing or not readable.
    """
    source = run.path(adapter, "adapter")
    missing = [name for name in REQUIRED_FILES if not (source / name).is_file()]
    if missing:
        raise ModelError(f"{source} lacks {', '.join(missing)}. Delete that folder and run its stage again.")
    _refuse_unreadable(source)
    for name in ADAPTER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _refuse_unreadable(adapter: Path) -> None:
    """Raises ModelError if a file of an adapter is not readable, or its vocabulary belongs to another adapter."""
    from llmrec.catalogue.facts import FactBook
    from llmrec.catalogue.vocabulary import ItemVocabulary
    from llmrec.language.adapter_files import adapter_shapes
    from llmrec.policy.saved import load_tokenizer, read_description

    if ItemVocabulary.load(adapter).vocabulary_hash != read_description(adapter).item_vocabulary:
        raise ModelError(
            f"{adapter}: item_vocabulary.json is not the vocabulary that the adapter was trained with. Copy or train "
            "the adapter again."
        )
    FactBook.load(adapter)
    adapter_shapes(adapter)
    load_tokenizer(adapter)


def _set_completion_length(folder: Path, tokens: int) -> None:
    """Writes the completion length of PPO into the defaults for generation."""
    path = folder / GENERATION_FILE
    defaults = read_json(path) if path.is_file() else {"do_sample": False}
    write_json(path, {**defaults, "max_new_tokens": tokens})


def _copy_reward(run: Run, folder: Path, trained_on: str) -> None:
    """Copies the reward models into `reward/`, without directories of this machine.

    Args:
        run: the run.
        folder: the folder that is pushed, with the portable adapter.
        trained_on: base model of the policy, as the config of the run names it.
    """
    source = run.path("reward")
    reward = folder / REWARD_FOLDER
    for file in (file for pattern in REWARD_FILES for file in sorted(source.glob(pattern)) if file.is_file()):
        target = reward / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    record = read_json(reward / "metrics.json")
    record.pop("fingerprint", None)  # it holds the path of the log
    write_json(reward / "metrics.json", plain(record))
    if (reward / "text" / "text_reward.json").is_file():
        _make_text_reward_portable(reward / "text", read_json(folder / FILE_NAME), trained_on)


def _make_text_reward_portable(text: Path, policy: dict[str, Any], trained_on: str) -> None:
    """Names the base of the text reward model as that of the policy, or by its own name if it is another.

    Args:
        text: directory of the text reward model; its files are changed.
        policy: content of the `llmrec.json` that is pushed.
        trained_on: base model of the policy, as the config of the run names it.
    """
    from llmrec.language.base_model import hub_id  # here: it imports transformers, which takes seconds

    values = read_json(text / "text_reward.json")
    base = values["base"]["base"]
    is_policys = base == trained_on
    shared = policy["model"]["base"] if is_policys else portable_base(base)
    write_json(text / "text_reward.json", {**values, "base": {**values["base"], "base": shared}})
    set_adapter_base(text, policy["base_model"] if is_policys else portable_base(hub_id(base)))


# --- titles ---------------------------------------------------------------------------------------


def withhold_titles(folder: Path) -> None:
    """Removes the titles from the item vocabulary of an adapter, and facts that equal a whole title.

    Args:
        folder: directory of the adapter; its files are changed.

    Raises:
        UserError: the item tokens are the words of the titles.
    """
    path = folder / "item_vocabulary.json"
    vocabulary = read_json(path)
    if vocabulary["scheme"] == "title":
        raise UserError(
            "Titles cannot be withheld: with `catalogue.scheme: title` they are the tokens of the items. Push with "
            "titles, or train with `catalogue.scheme: atomic`."
        )
    titles = {form.casefold() for item in vocabulary["items"] for form in _title_forms(item.pop("title"))}
    write_json(path, vocabulary)
    path = folder / "facts.json"
    book = read_json(path)
    kept = [index for index, (_, value) in enumerate(book["facts"]) if value.casefold() not in titles]
    new_index = {old: new for new, old in enumerate(kept)}
    book["facts"] = [book["facts"][index] for index in kept]
    book["of_item"] = [[new_index[index] for index in facts if index in new_index] for facts in book["of_item"]]
    write_json(path, book)
    path = folder / "attributes.json"
    if path.is_file():  # the policy was trained with requests
        table = read_json(path)
        table["members"] = [member for member in table["members"] if member[1].casefold() not in titles]
        write_json(path, table)


def _title_forms(title: str) -> tuple[str, str, str]:
    """A title; the title without the brackets that tell it from an equal one; and that title without its year."""
    unnumbered = re.sub(r" \[[^\[\]]*\]$", "", title)
    return title, unnumbered, re.sub(r" \(\d{4}\)$", "", unnumbered)


# --- report and config ----------------------------------------------------------------------------


def shareable_report(report: Report) -> Report:
    """A report without histories of users and directories of this machine."""
    shared = report.without(*PRIVATE_REPORT_KEYS)
    source = shared.data.source if shared.data else None
    if shared.data is None or source is None or source.path is None:
        return shared
    source = source.model_copy(update={"path": Path(source.path).name})
    data = shared.data.model_copy(update={"source": source})
    return shared.model_copy(update={"data": data})


def shareable_config(values: dict[str, Any]) -> dict[str, Any]:
    """A config without directories of this machine. Of each path, only the last part stays.

    Args:
        values: the config as JSON values. It may be of another version, with other keys.
    """
    data = values.get("data") or {}
    model = values.get("model") or {}
    paths = {key: data[key] for key in DATA_PATHS if data.get(key)}
    names = {key: path if path.startswith("package:") else Path(path).name for key, path in paths.items()}
    base = {"base": portable_base(model["base"])} if "base" in model else {}
    return {**values, "output_dir": "runs", "hub": None, "data": {**data, **names}, "model": {**model, **base}}


def _data_card(run: Run) -> DatasetCard:
    """The card that the data stage wrote; an empty one if it is missing."""
    file = run.path("data", "card.json")
    return DatasetCard.model_validate(read_json(file)) if file.is_file() else DatasetCard()
