"""Reading and checking the directory of a saved policy, before anything is built from it."""

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llmrec.config import CatalogueConfig, ModelConfig
from llmrec.errors import DataError, ModelError
from llmrec.files import read_json, read_versioned
from llmrec.language.headers import HeaderFrame
from llmrec.policy.file_names import ADAPTER_CONFIG, FILE_NAME, FORMAT, GENERATION_FILE


@dataclass(frozen=True)
class Description:
    """The contents of `llmrec.json`.

    Attributes:
        model: which base, and the adapter's size.
        catalogue: how items and users are rendered.
        item_vocabulary: hash of the item vocabulary.
        base_fingerprint: hash of the base's weights; None in adapters of early versions.
        header: tokens around the profile in a prompt; None in adapters of early versions.
        repeats: whether the policy was trained to recommend seen items.
    """

    model: ModelConfig
    catalogue: CatalogueConfig
    item_vocabulary: str
    base_fingerprint: str | None
    header: HeaderFrame | None
    repeats: bool


def read_description(directory: Path, quantized: bool = True) -> Description:
    """Reads `llmrec.json`.

    Args:
        directory: the adapter's directory.
        quantized: False asks for the base in full precision, even if the adapter was trained on a quantized one.

    Raises:
        ModelError: the file is missing, unreadable, of a newer format, or describes a merged model.
    """

    def build(values: dict[str, Any]) -> Description:
        if "merged" in values:
            raise ModelError(f"{directory} holds a merged model, not an adapter: load it with transformers.")
        return Description(
            model=ModelConfig.model_validate(
                values["model"] | ({} if quantized else {"quantization": None, "dtype": "float32"})
            ),
            catalogue=CatalogueConfig.model_validate(values["catalogue"]),
            item_vocabulary=values["item_vocabulary"],
            base_fingerprint=values.get("base_fingerprint"),
            header=HeaderFrame.from_json(values["header"]) if "header" in values else None,
            repeats=bool(values.get("repeats", False)),
        )

    return read_versioned(directory / FILE_NAME, FORMAT, build, kind="a policy")


@contextmanager
def advising_a_copy(directory: Path) -> Generator[None]:
    """Adds advice to errors that ask to correct a file: a file in the hub's cache must be copied first."""
    from huggingface_hub import constants

    try:
        yield
    except ModelError as error:
        if not directory.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):
            raise
        raise ModelError(
            f"{error}\nThe adapter came from a hub, and its {FILE_NAME} lies in a cache that should not be edited. "
            "Download a copy (`hf download OWNER/NAME --local-dir DIR`), correct it there, and load DIR."
        ) from None


def completion_length(directory: Path) -> int | None:
    """`max_new_tokens` of the saved generation defaults; None without such a file.

    Raises:
        ModelError: the file is unreadable.
    """
    path = directory / GENERATION_FILE
    try:
        return int(read_json(path)["max_new_tokens"])
    except FileNotFoundError:
        return None
    except DataError as error:
        raise ModelError(str(error)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not readable ({error}). Copy or train it again.") from None


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The saved tokenizer, which holds the item tokens.

    Raises:
        ModelError: it is missing or unreadable.
    """
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises a bare Exception for a truncated file
        raise ModelError(f"{directory}: the tokenizer cannot be read: {error}") from None


def refuse_other_settings(directory: Path, expected: LoraConfig) -> None:
    """Checks that peft's config of an adapter agrees with `llmrec.json` and the item vocabulary.

    Args:
        directory: the adapter's directory.
        expected: the config that follows from `llmrec.json` and the vocabulary.

    Raises:
        ModelError: the config is missing, unreadable or belongs to another adapter.
    """
    path = directory / ADAPTER_CONFIG
    keys = ("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "trainable_token_indices")
    try:
        found = read_json(path)
        pairs = {key: (found.get(key), getattr(expected, key)) for key in keys}
        # peft writes the names of modules in full or cut, depending on how many there are.
        modules = tuple(_last_parts(names) for names in (found["target_modules"], expected.target_modules))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: copy or train the adapter again.") from None
    except DataError as error:
        raise ModelError(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not readable ({error}). Copy or train the adapter again.") from None
    wrong = [name for name, (of_file, wanted) in (pairs | {"target_modules": modules}).items() if of_file != wanted]
    if wrong:
        raise ModelError(
            f"{path} belongs to another adapter than {FILE_NAME} and the item vocabulary beside it: "
            f"{', '.join(wrong)} differ. Copy or train the adapter again."
        )


def _last_parts(names: Iterable[str] | str | None) -> list[str]:
    """The last part of each dotted module name, sorted, each once."""
    return sorted({name.split(".")[-1] for name in names or ()})


def refuse_other_base(
    directory: Path,
    about: Description,
    shapes: dict[str, list[int]],
    own_words: int,
    base: PreTrainedModel,
    words: int,
    fingerprint: str,
) -> None:
    """Checks that an adapter was trained on this base.

    Args:
        directory: the adapter's directory.
        about: its `llmrec.json`.
        shapes: the shapes of its weights.
        own_words: number of tokens of its tokenizer, without item tokens.
        base: the model that `about` names.
        words: number of tokens of the base's own tokenizer.
        fingerprint: hash of the base's weights.

    Raises:
        ModelError: depth, width, vocabulary or weights differ.
    """
    layers = [int(number) for name in shapes for number in re.findall(r"\.(?:layers|h)\.(\d+)\.", name)]
    hidden = [shape[-1] for name, shape in shapes.items() if name.endswith("q_proj.lora_A.weight")]
    pairs = {
        "layers": (max(layers, default=-1) + 1, base.config.num_hidden_layers),
        "hidden size": (next(iter(hidden), base.config.hidden_size), base.config.hidden_size),
        "words": (own_words, words),
        "base fingerprint": (about.base_fingerprint or fingerprint, fingerprint),
    }
    wrong = [f"{name} {ours}, but the base {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
    if wrong:
        raise ModelError(
            f"{directory} was trained on another base than `{about.model.base}` ({about.model.layers or 'all'} layers "
            f"kept): the adapter has {'; '.join(wrong)}. Correct `model` in {directory / FILE_NAME}, or use an "
            "adapter of this base."
        )
