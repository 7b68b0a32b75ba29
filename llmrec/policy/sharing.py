"""Prepares the directory of an adapter for a hub: removes paths of this machine and writes a model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from llmrec.config import LOCAL_BASE, CatalogueConfig, ModelConfig
from llmrec.errors import UserError
from llmrec.files import read_json, write_json
from llmrec.hub.client import check_name, license_of
from llmrec.policy.file_names import ADAPTER_CONFIG, FILE_NAME

CARD_FILE = "README.md"  # as a hub shows it
BUNDLED = "bundled:"  # prefix of base models whose weights come with a Python package
# Licenses of bundled base models, which are known without asking the hub.
KNOWN_LICENSES = {"HuggingFaceTB/SmolLM2-135M-Instruct": {"license": "apache-2.0"}}


@dataclass(frozen=True)
class SharedPolicy:
    """What a model card says about a policy.

    Attributes:
        repo: `OWNER/NAME` on the hub.
        model: config of the base model and of the adapter.
        catalogue: config of the catalogue.
        base: hub id of the base model; None if it is a local directory.
        license: license of the base model, see `llmrec.hub.client.license_of`; empty if it is unknown.
        revision: branch of the repository; None for the main branch.
        titles: whether the item titles are uploaded.
    """

    repo: str
    model: ModelConfig
    catalogue: CatalogueConfig
    base: str | None
    license: Mapping[str, str]
    revision: str | None = None
    titles: bool = True

    @property
    def name(self) -> str:
        """Name of the repository, without its owner."""
        return self.repo.split("/")[-1]


# --- base models ----------------------------------------------------------------------------------


def make_portable(folder: Path, notes: Mapping[str, Any] | None = None) -> str | None:
    """Removes directories of this machine from the JSON files of an adapter.

    Args:
        folder: directory of the adapter; its files are changed.
        notes: further keys for `llmrec.json`.

    Returns:
        Hub id of the base model; None if it is a local directory.
    """
    about = read_json(folder / FILE_NAME)
    base = portable_base(about["base_model"])
    is_local = base.startswith(LOCAL_BASE)
    model = {**about["model"], "base": base if is_local else about["model"]["base"]}
    write_json(folder / FILE_NAME, {**about, "base_model": base, "model": model, **(notes or {})})
    set_adapter_base(folder, base)
    return None if is_local else base


def set_adapter_base(folder: Path, base: str) -> None:
    """Names another base model in peft's config of an adapter, which holds a cache directory of this machine."""
    path = folder / ADAPTER_CONFIG
    write_json(path, {**read_json(path), "base_model_name_or_path": base})


def portable_base(base: str) -> str:
    """The name of a base model on other machines.

    Args:
        base: hub id, bundled name or directory. A relative path is only known as a directory from its own place, so
            `llmrec.json` holds absolute paths.

    Returns:
        `local:` and the last part of the path for a directory; other names as they are.
    """
    if base.startswith((LOCAL_BASE, BUNDLED)):
        return base
    try:
        check_name(base)
    except UserError:
        return LOCAL_BASE + Path(base).name
    return LOCAL_BASE + Path(base).name if Path(base).is_dir() else base


def license_of_base(base: str | None, ask_hub: bool = True) -> Mapping[str, str]:
    """The license of a base model, see `llmrec.hub.client.license_of`; empty if it is unknown.

    Args:
        base: hub id of the base model; None if it is a local directory.
        ask_hub: whether to ask the hub about base models that are not bundled.
    """
    if base is None:
        return {}
    if base in KNOWN_LICENSES:
        return KNOWN_LICENSES[base]
    return license_of(base) if ask_hub else {}


# --- model card -----------------------------------------------------------------------------------


def write_policy_card(folder: Path, policy: SharedPolicy) -> None:
    """Writes the card of a policy that belongs to no run."""
    text = render_card("policy_card.md.jinja", card_data(policy), policy=policy)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def card_data(policy: SharedPolicy, tags: Sequence[str] = (), **more: Any) -> ModelCardData:
    """The metadata of a card.

    Args:
        policy: the policy.
        tags: tags beside those of every llmrec adapter.
        more: further metadata as `huggingface_hub.ModelCardData` takes it.
    """
    return ModelCardData(
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["recommendation", "sequential-recommendation", "llmrec", "lora", *tags],
        base_model=policy.base,
        license=policy.license.get("license"),
        license_name=policy.license.get("license_name"),
        license_link=policy.license.get("license_link"),
        **more,
    )


def render_card(template: str, data: ModelCardData, packages: Sequence[str] = (), **values: Any) -> str:
    """Renders a model card and checks that the hub can read its metadata.

    Args:
        template: name of a template. It may extend `policy_card.md.jinja`.
        data: metadata of the card.
        packages: packages whose folder `templates/` is searched before that of this package.
        values: values for the template.

    Returns:
        Markdown with a YAML block.

    Raises:
        ValueError: the metadata of the rendered card is malformed.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "llmrec.policy")]),
        autoescape=False,  # the card is Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(template).render(metadata=data.to_yaml(), **values)
    return ModelCard(text).content
