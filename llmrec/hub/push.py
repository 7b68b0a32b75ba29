"""Uploads the adapter of a run to a hub in one commit, with what is needed to load and judge it."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import llmrec
from llmrec.config import INCLUDABLE, LOCAL_BASE, HubConfig, dump_yaml
from llmrec.errors import ModelError, UserError
from llmrec.files import read_json
from llmrec.hub.card import Pushed, model_card
from llmrec.hub.client import (
    ADAPTER_FILES,
    REWARD_FILES,
    REWARD_FOLDER,
    address,
    check_branch,
    check_name,
    explained,
    full_name,
    hub_api,
    retried,
    upload,
)
from llmrec.run import Run

# Only `ADAPTER_FILES` leave: a run also holds checkpoints and people's histories.
_NEEDED = ("adapter_config.json", "adapter_model.safetensors", "llmrec.json", "item_vocabulary.json", "facts.json")
_LICENCES = {"HuggingFaceTB/SmolLM2-135M-Instruct": {"license": "apache-2.0"}}  # of bundled bases
_STAGE_OF = dict(zip(INCLUDABLE, ("reward", "evaluate"), strict=True))  # what each part on request needs


def push(
    run: Run,
    repo: str,
    *,
    adapter: str | None = None,
    include: Collection[str] = (),
    titles: bool = True,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    say: Callable[[str], Any] = lambda line: None,
) -> str:
    """Uploads an adapter to the hub that `HF_ENDPOINT` names (huggingface_hub reads it when first imported).

    Args:
        run: the run.
        repo: `OWNER/NAME`, or `NAME` in the account of the token; made if there is none.
        adapter: `ppo` or `sft`; None: `ppo` if it has finished, else `sft`.
        include: `reward`: also the reward models, into `reward/`; `report`: also `report.html`.
        titles: whether the items' titles leave; without them, items go by their ids.
        private: make the repository private if it is new; refuse a public one.
        revision: a branch, made if there is none; None: the main one.
        dry_run: check everything and list the files, but do not touch the network.
        say: where a line for people goes.

    Returns:
        Where to look at it.

    Raises:
        UserError: the name is not one, titles cannot be withheld, the hub refuses, or it cannot be reached.
        RunError: the adapter, the reward model or the report is not there yet.
        ModelError: the adapter's folder lacks a file, or one is not readable.
    """
    check_name(repo)
    check_branch(revision)
    adapter = run.adapter_stage(adapter)
    run.require(adapter, *(stage for part, stage in _STAGE_OF.items() if part in include))
    if not dry_run:
        repo = full_name(repo)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = {"include": include, "titles": titles, "revision": revision, "ask_hub": not dry_run, "say": say}
        build_folder(run, repo, adapter, folder, **options)
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        for place, file in files.items():
            say(f"{file.stat().st_size:>12,}  {place}")
        if dry_run:
            say(f"dry run: nothing was uploaded to {repo}")
            return address(repo, revision)
        message = f"{adapter} adapter of run {run.config.name}"
        url = upload(files, repo, private=private, revision=revision, message=message)
    say(f"pushed to {url}")
    return url


def push_as_configured(run: Run, say: Callable[[str], Any]) -> None:
    """Pushes a run that has ended, as its config's `hub` says.

    Raises:
        UserError: it cannot be pushed; the message says how to push it alone.
    """
    section = run.config.hub
    there = [part for part in section.include if run.finished(_STAGE_OF[part])]
    for part in set(section.include) - set(there):
        say(f"pushed without the {part}: `llmrec {_STAGE_OF[part]} {run.directory}` has not run yet")
    try:
        push(run, say=say, **{**section.model_dump(), "include": there})
    except UserError as error:
        raise UserError(
            f"{error}\nThe run itself is complete in {run.directory}, and nothing of it is lost. Push it alone:\n"
            f"  {push_command(run, section)}"
        ) from None


def push_command(run: Run, section: HubConfig) -> str:
    """The command that pushes a run as a config says."""
    options = [
        *(["--include", ",".join(section.include)] if section.include else []),
        *(["--revision", section.revision] if section.revision else []),
        *([] if section.titles else ["--no-titles"]),
        *(["--private"] if section.private else []),
    ]
    return " ".join(["llmrec push --run", str(run.directory), "--repo", section.repo, *options])


def push_policy(policy: Any, repo: str, *, private: bool, revision: str | None, message: str | None) -> str:
    """Uploads a policy that belongs to no run; see `RecPolicy.push_to_hub`."""
    check_name(repo)
    check_branch(revision)
    repo = full_name(repo)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "policy"
        policy.save_pretrained(folder)
        base = make_portable(folder)
        pushed = Pushed(
            repo, policy.model_config, policy.catalogue, base=base, licence=licence_of(base), revision=revision
        )
        (folder / "README.md").write_text(model_card(pushed), "utf-8")
        files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}
        return upload(files, repo, private=private, revision=revision, message=message or "Upload policy")


def build_folder(
    run: Run,
    repo: str,
    adapter: str,
    folder: Path,
    *,
    include: Collection[str] = (),
    titles: bool = True,
    revision: str | None = None,
    ask_hub: bool = False,
    say: Callable[[str], Any] = lambda line: None,
) -> None:
    """Writes into `folder` what goes to the hub; `ask_hub`: for the licence of the base.

    Raises:
        UserError: titles cannot be withheld.
        ModelError: the adapter's folder lacks a file, or one is not readable.
    """
    _copy_files(run, adapter, folder)
    if not titles:
        _withhold_titles(folder)
    defaults = folder / "generation_config.json"
    known = read_json(defaults) if defaults.is_file() else {"do_sample": False}
    _write_json(defaults, {**known, "max_new_tokens": run.config.ppo.response_length})
    if "reward" in include:
        _copy_reward(run, folder / REWARD_FOLDER)
    base = make_portable(folder, {"adapter": adapter, "llmrec_version": llmrec.__version__})
    licence = licence_of(base, ask_hub)
    if ask_hub and base is not None and not licence:
        say(f"the licence of {base} could not be read: the card says that it is unknown")

    report = _shared_report(read_json(run.report_path)) if run.report_path.is_file() else {}
    if report:
        _write_json(folder / "report.json", report)
    config = shareable_config(run.config.model_dump(mode="json"))
    config["model"]["base"] = read_json(folder / "llmrec.json")["model"]["base"]
    (folder / "config.yaml").write_text(dump_yaml(config), "utf-8")
    if "report" in include:
        from llmrec.evaluation.report import Report
        from llmrec.report.page import page_of

        (folder / "report.html").write_text(page_of(run, Report.model_validate(report), config), "utf-8")
    pushed = Pushed(
        repo,
        run.config.model,
        run.config.catalogue,
        base=base,
        licence=licence,
        revision=revision,
        config=run.config,
        adapter=adapter,
        report=report,
        data=_data_card(run, report),
        include=tuple(include),
        titles=titles,
    )
    (folder / "README.md").write_text(model_card(pushed), "utf-8")


def make_portable(folder: Path, more: dict[str, str] | None = None) -> str | None:
    """Takes directories of this machine out of the files of an adapter.

    Args:
        folder: changed in place.
        more: what `llmrec.json` is to say beside what it says.

    Returns:
        The hub id of the base; None if it is a local directory.
    """
    about = read_json(folder / "llmrec.json")
    trained_on = about["model"]["base"]
    base = shared_base(about["base_model"])
    model = {**about["model"], "base": base if base.startswith(LOCAL_BASE) else trained_on}
    _write_json(folder / "llmrec.json", {**about, "base_model": base, "model": model, **(more or {})})
    # Locally this is a cache directory of this machine.
    for file in folder.rglob("adapter_config.json"):
        _write_json(file, {**read_json(file), "base_model_name_or_path": base})
    for file in folder.rglob("text_reward.json"):
        values = read_json(file)
        own = values["base"]["base"]
        shared = model["base"] if own == trained_on else shared_base(own)
        _write_json(file, {**values, "base": {**values["base"], "base": shared}})
    return None if base.startswith(LOCAL_BASE) else base


def shared_base(base: str) -> str:
    """How a base is named on a hub: of a directory of this machine, `local:` and its last part; others as they are.

    `llmrec.json` names directories by their absolute paths, so where a push is made from does not matter.
    """
    if base.startswith((LOCAL_BASE, "bundled:")):
        return base
    try:
        check_name(base)
    except UserError:
        return LOCAL_BASE + Path(base).name
    return LOCAL_BASE + Path(base).name if Path(base).is_dir() else base


def licence_of(base: str | None, ask_hub: bool = True) -> dict[str, str]:
    """The licence of a base on the hub as its card's metadata names it; empty where it cannot be told."""
    if base is None or base in _LICENCES or not ask_hub:
        return _LICENCES.get(base, {})
    try:
        with explained(base):
            card = retried(lambda: hub_api().model_info(base)).card_data
    except UserError:
        return {}
    named = {key: card.get(key) for key in ("license", "license_name", "license_link")} if card else {}
    return {key: value for key, value in named.items() if value} if named.get("license") else {}


def _withhold_titles(folder: Path) -> None:
    """Takes the titles out of the vocabulary, and out of the facts what is an item's whole title."""
    path = folder / "item_vocabulary.json"
    vocabulary = read_json(path)
    if vocabulary["scheme"] == "title":
        raise UserError(
            "Titles cannot be withheld: under `catalogue.scheme: title` the model spells items by them. Push with "
            "titles, or train with `catalogue.scheme: atomic`."
        )
    titles = {form.casefold() for item in vocabulary["items"] for form in _forms(item.pop("title"))}
    _write_json(path, vocabulary)
    path = folder / "facts.json"
    book = read_json(path)
    kept = [number for number, (_, value) in enumerate(book["facts"]) if value.casefold() not in titles]
    new = {old: number for number, old in enumerate(kept)}
    book["facts"] = [book["facts"][number] for number in kept]
    book["of_item"] = [[new[number] for number in one if number in new] for one in book["of_item"]]
    _write_json(path, book)


def _forms(title: str) -> tuple[str, str, str]:
    """A title as it is, without the number that tells it from another, and without its year too."""
    alone = re.sub(r" \[\d+\]$", "", title)
    return title, alone, re.sub(r" \(\d{4}\)$", "", alone)


def _data_card(run: Run, report: dict) -> dict:
    """Counts of the data, from the report or from what the first stage left."""
    file = run.path("data", "card.json")
    return report.get("data") or (read_json(file) if file.is_file() else {})


def _copy_files(run: Run, adapter: str, folder: Path) -> None:
    """Copies the files that may leave, if they can be read: a broken adapter does not leave."""
    source = run.path(adapter, "adapter")
    missing = [name for name in _NEEDED if not (source / name).is_file()]
    if missing:
        raise ModelError(f"{source} lacks {', '.join(missing)}. Delete that folder and run its stage again.")
    _refuse_unreadable(source)
    for name in ADAPTER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _refuse_unreadable(adapter: Path) -> None:
    """Raises ModelError if a part of an adapter cannot be read, or if its vocabulary is not its own."""
    from llmrec.catalogue.facts import FactBook
    from llmrec.catalogue.vocabulary import ItemVocabulary
    from llmrec.policy.saved import adapter_shapes, load_tokenizer, read_description

    if ItemVocabulary.load(adapter).vocabulary_hash != read_description(adapter).item_vocabulary:
        raise ModelError(f"{adapter}: the item vocabulary is not the one that the adapter was trained with.")
    FactBook.load(adapter)
    adapter_shapes(adapter)
    load_tokenizer(adapter)


def _copy_reward(run: Run, folder: Path) -> None:
    source = run.path("reward")
    for file in (file for pattern in REWARD_FILES for file in sorted(source.glob(pattern)) if file.is_file()):
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    record = folder / "metrics.json"  # the fingerprint names the log's directory
    _write_json(record, {key: value for key, value in read_json(record).items() if key != "fingerprint"})


def _shared_report(report: dict) -> dict:
    """The report without people's histories and without directories of this machine."""
    shared = {key: value for key, value in report.items() if key not in ("examples", "commands")}
    source = shared.get("data", {}).get("source", {})
    if "path" in source:
        shared["data"] = {**shared["data"], "source": {**source, "path": Path(source["path"]).name}}
    return shared


def shareable_config(values: dict) -> dict:
    """The config without directories of this machine: of a path only the last part stays, of any version's config."""
    values = {**values, "output_dir": "runs", "hub": None}
    data, model = values.get("data") or {}, values.get("model") or {}
    paths = {key: data[key] for key in ("path", "items", "users", "facts") if data.get(key)}
    shared = {key: path if path.startswith("package:") else Path(path).name for key, path in paths.items()}
    base = {"base": shared_base(model["base"])} if "base" in model else {}
    return {**values, "data": {**data, **shared}, "model": {**model, **base}}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
