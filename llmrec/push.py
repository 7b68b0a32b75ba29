"""Uploads the adapter of a run to a hub in one commit, with what is needed to load and judge it."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

import llmrec
from llmrec.errors import ModelError, UserError
from llmrec.files import read_json
from llmrec.model_card import model_card
from llmrec.run import Run

# Only these leave: a run also holds checkpoints and people's histories. An adapter is one stage's own;
# what is the same in all stages may lie in the folder of the first.
_OF_STAGE = ("adapter_config.json", "adapter_model.safetensors")
_SHARED = ("llmrec.json", "item_vocabulary.json", "facts.json")
_OPTIONAL = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
# What the reward models' `from_pretrained` read, and how far they can be trusted.
_REWARD = (
    "config.json",
    "model.safetensors",
    "member*/config.json",
    "member*/model.safetensors",
    "judge.json",
    "judge.safetensors",
    "metrics.json",
    "*.png",
    "text/text_reward.json",
    "text/adapter_config.json",
    "text/adapter_model.safetensors",
)


def push(
    run: Run,
    repo: str,
    *,
    adapter: str | None = None,
    reward: bool = False,
    private: bool = False,
    dry_run: bool = False,
    say: Callable[[str], Any] = lambda line: None,
) -> str:
    """Uploads an adapter to the hub that `HF_ENDPOINT` names (huggingface_hub reads it when first imported).

    Args:
        run: the run.
        repo: `OWNER/NAME`, or `NAME` in the account of the token; made if there is none.
        adapter: `ppo` or `sft`; None: `ppo` if it has finished, else `sft`.
        reward: also upload the reward models, into `reward/`.
        private: make the repository private if it is new; refuse a public one.
        dry_run: check everything and list the files, but do not touch the network.
        say: where a line for people goes.

    Returns:
        The address of the repository.

    Raises:
        UserError: the name is not one, the hub refuses, or it cannot be reached.
        RunError: the adapter, or the reward model, has not been trained.
        ModelError: the adapter's folder lacks a file.
    """
    _check_name(repo)
    adapter = adapter or ("ppo" if run.finished("ppo") else "sft")
    run.require(adapter, *(["reward"] if reward else []))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_folder(run, repo, adapter, folder, reward)
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        for place, file in files.items():
            say(f"{file.stat().st_size:>12,}  {place}")
        if dry_run:
            say(f"dry run: nothing was uploaded to {repo}")
            return _address(repo)
        url = _upload(files, repo, private, f"{adapter} adapter of run {run.config.name}")
    say(f"pushed to {url}")
    return url


def build_folder(run: Run, repo: str, adapter: str, folder: Path, reward: bool = False) -> None:
    """Writes into `folder` what goes to the hub.

    Raises:
        ModelError: the adapter's folder lacks a file.
    """
    _copy_files(run, adapter, folder)
    if reward:
        _copy_reward(run, folder / "reward")
    about = read_json(folder / "llmrec.json")
    base = about["base_model"]
    local = Path(base).is_absolute() or Path(base).exists()
    name = Path(base).name if local else base
    _write_json(
        folder / "llmrec.json",
        {
            **about,
            "base_model": name,
            "model": {**about["model"], "base": name if local else about["model"]["base"]},
            "adapter": adapter,
            "llmrec_version": llmrec.__version__,
        },
    )
    # Locally this is a cache directory of this machine.
    for file in folder.rglob("adapter_config.json"):
        _write_json(file, {**read_json(file), "base_model_name_or_path": name})

    report = read_json(run.report_path) if run.report_path.is_file() else {}
    if report:
        _write_json(folder / "report.json", _shared_report(report))
    shared = _without_local_paths(run.config.model_dump(mode="json"))
    (folder / "config.yaml").write_text(yaml.safe_dump(shared, sort_keys=False, allow_unicode=True), "utf-8")
    about_base = None if local else base
    card = model_card(run.config, repo=repo, adapter=adapter, base=about_base, report=report, reward=reward)
    (folder / "README.md").write_text(card, "utf-8")


def _copy_files(run: Run, adapter: str, folder: Path) -> None:
    """Copies the files that may leave; of two with one name, the one in the earlier source."""
    own, first = ([run.path(stage, "adapter"), run.path(stage)] for stage in (adapter, "sft"))
    for sources, patterns in ((own, _OF_STAGE), (own + first, _SHARED + _OPTIONAL)):
        for pattern in patterns:
            for file in (file for source in sources for file in sorted(source.glob(pattern))):
                if file.is_file() and not (folder / file.name).exists():
                    shutil.copyfile(file, folder / file.name)
    missing = [name for name in _OF_STAGE + _SHARED if not (folder / name).exists()]
    if missing:
        raise ModelError(f"{run.path(adapter)} lacks {', '.join(missing)}. Delete that folder and run its stage again.")


def _copy_reward(run: Run, folder: Path) -> None:
    source = run.path("reward")
    for file in (file for pattern in _REWARD for file in sorted(source.glob(pattern)) if file.is_file()):
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    record = folder / "metrics.json"  # the fingerprint names the log's directory
    _write_json(record, {key: value for key, value in read_json(record).items() if key != "fingerprint"})
    about = folder / "text" / "text_reward.json"
    if about.is_file():
        values = read_json(about)
        base = values["base"]["base"]
        shared = Path(base).name if Path(base).is_absolute() else base
        _write_json(about, {**values, "base": {**values["base"], "base": shared}})


def _shared_report(report: dict) -> dict:
    """The report without people's histories and without directories of this machine."""
    shared = {key: value for key, value in report.items() if key not in ("examples", "commands")}
    source = shared.get("data", {}).get("source", {})
    if "path" in source:
        shared["data"] = {**shared["data"], "source": {**source, "path": Path(source["path"]).name}}
    return shared


def _without_local_paths(values: dict) -> dict:
    """The config without directories of this machine: of an absolute path only the last part stays."""
    values = {**values, "output_dir": "runs"}
    for section, keys in {"data": ("path", "items", "users", "facts"), "model": ("base",)}.items():
        local = {key: Path(values[section][key]).name for key in keys if Path(values[section][key] or "").is_absolute()}
        values[section] = {**values[section], **local}
    return values


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_name(repo: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"`{repo}` cannot be a repository name; expected OWNER/NAME. {error}") from None


def _address(repo: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


def _upload(files: dict[str, Path], repo: str, private: bool, message: str) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="llmrec", library_version=llmrec.__version__)
    with _explained(repo):
        created = api.create_repo(repo, private=private or None, exist_ok=True)
        # `exist_ok` does not change who can see a repository that exists.
        if private and not api.model_info(created.repo_id).private:
            raise UserError(f"{created} exists and is public, but --private was asked for. Choose another name.")
        # Not `upload_folder`: with Xet it may spread the files over several commits.
        operations = [CommitOperationAdd(path_in_repo=place, path_or_fileobj=file) for place, file in files.items()]
        api.create_commit(created.repo_id, operations, commit_message=message)
    return str(created)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turns what the hub or the network answers into a message that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except UserError:
        raise
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set: unset it to push.") from None
    except Exception as error:
        # A failed upload of a large file comes wrapped in a RuntimeError.
        causes = [cause for cause in (error, error.__cause__) if isinstance(cause, HTTPError)]
        if not causes:
            raise
        if isinstance(causes[0], HfHubHTTPError):
            raise UserError(_refusal(causes[0], repo, constants.ENDPOINT)) from error
        raise UserError(
            f"The hub at {constants.ENDPOINT} cannot be reached ({type(causes[0]).__name__}: {causes[0]}). "
            "Check the network and HF_ENDPOINT; nothing was published, and pushing again is safe."
        ) from error


def _refusal(error: Any, repo: str, endpoint: str) -> str:
    code = error.response.status_code
    advice = {
        401: "There is no token, or it is not valid: set HF_TOKEN, or log in with `hf auth login`.",
        403: f"The token may not write to `{repo}`: use one with write access, or another owner.",
        404: f"The owner or repository in `{repo}` does not exist for this token. Check the spelling.",
    }.get(code, error.server_message or str(error).strip().splitlines()[0])
    return f"The hub at {endpoint} refused the push to `{repo}` (HTTP {code}). {advice}"
