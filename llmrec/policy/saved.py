"""What a saved policy's directory must hold, checked before anything is built from it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llmrec.config import CatalogueConfig, ModelConfig
from llmrec.errors import ModelError
from llmrec.files import read_json

FILE_NAME = "llmrec.json"
GENERATION_FILE = "generation_config.json"  # as transformers reads it
ADAPTER_CONFIG = "adapter_config.json"  # as peft reads it
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Description:
    """What `llmrec.json` says of an adapter; early ones say nothing of `base_fingerprint`."""

    model: ModelConfig
    catalogue: CatalogueConfig
    item_vocabulary: str
    base_fingerprint: str | None


def read_description(directory: Path, quantized: bool = True) -> Description:
    """Reads `llmrec.json`.

    Args:
        directory: of the adapter.
        quantized: False: the base in full precision, even if the adapter was trained on a quantised one.

    Raises:
        ModelError: missing, unreadable, of a newer format, or of a merged model.
    """
    path = directory / FILE_NAME
    try:
        values = read_json(path)
        if values["format"] > FORMAT:
            raise ModelError(f"{path} has format {values['format']}; this llmrec reads up to {FORMAT}: update it.")
        if "merged" in values:
            raise ModelError(f"{directory} holds a merged model, not an adapter: load it with transformers.")
        return Description(
            ModelConfig.model_validate(values["model"] | ({} if quantized else {"quantization": None})),
            CatalogueConfig.model_validate(values["catalogue"]),
            values["item_vocabulary"],
            values.get("base_fingerprint"),
        )
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: {directory} is not a policy written by llmrec.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not readable ({error}); copy or train it again.") from None


@contextmanager
def advising_a_copy(directory: Path) -> Iterator[None]:
    """Adds to errors that ask to correct a file of an adapter what to do if the file lies in the hub's cache."""
    from huggingface_hub import constants

    try:
        yield
    except ModelError as error:
        if not directory.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):
            raise
        raise ModelError(
            f"{error}\nThe adapter came from a hub, and its {FILE_NAME} lies in a cache that is not to be edited: to "
            "correct it, take a copy (`hf download OWNER/NAME --local-dir DIR`) and load DIR."
        ) from None


def completion_length(directory: Path) -> int | None:
    """`max_new_tokens` of the generation defaults; None if there are none.

    Raises:
        ModelError: the file is unreadable.
    """
    path = directory / GENERATION_FILE
    try:
        return int(read_json(path)["max_new_tokens"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not readable ({error}); copy or train it again.") from None


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer with the item tokens.

    Raises:
        ModelError: missing or unreadable.
    """
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # a truncated file is a bare Exception of the tokenizers library
        raise ModelError(f"{directory}: the tokenizer cannot be read: {error}") from None


def adapter_shapes(directory: Path) -> dict[str, list[int]]:
    """Shape of every weight of an adapter, by name.

    Raises:
        ModelError: there are no weights in safetensors (peft would go on to a pickle), or they cannot be read.
    """
    path = directory / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ModelError(f"{path} is missing: weights are read from safetensors only, never from a pickle (.bin, .pt).")
    try:
        with safe_open(path, framework="pt") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Copy or train it again.") from None


def refuse_other_settings(directory: Path, expected: LoraConfig) -> None:
    """Whether peft's config of an adapter is what `llmrec.json` and the vocabulary make of it.

    Raises:
        ModelError: it is missing, unreadable or of another adapter.
    """
    path = directory / ADAPTER_CONFIG
    keys = ("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "trainable_token_indices")
    try:
        found = read_json(path)
        pairs = {key: (found.get(key), getattr(expected, key)) for key in keys}
        # Whether names are written in full depends on how many there are.
        modules = [sorted({name.split(".")[-1] for name in names}) for names in
                   (found["target_modules"], expected.target_modules)]  # fmt: skip
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: copy or train the adapter again.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not readable ({error}); copy or train the adapter again.") from None
    wrong = [name for name, (of_file, wanted) in (pairs | {"target_modules": modules}).items() if of_file != wanted]
    if wrong:
        raise ModelError(
            f"{path} is of another adapter than {FILE_NAME} and the item vocabulary beside it describe: "
            f"{', '.join(wrong)} differ. Copy or train the adapter again."
        )


def refuse_other_base(
    directory: Path,
    about: Description,
    shapes: dict[str, list[int]],
    own_words: int,
    base: PreTrainedModel,
    words: int,
    fingerprint: str,
) -> None:
    """Whether an adapter and a base belong together.

    Args:
        directory, about, shapes: of the adapter.
        own_words: tokens of its tokenizer, without those of items.
        base: the model that `about` names.
        words: tokens of the base's own tokenizer.
        fingerprint: of the base.

    Raises:
        ModelError: they differ in depth, width or vocabulary, or the base has other weights.
    """
    layers = [int(number) for name in shapes for number in re.findall(r"\.layers\.(\d+)\.", name)]
    hidden = [shape[-1] for name, shape in shapes.items() if name.endswith("q_proj.lora_A.weight")]
    pairs = {
        "layers": (max(layers, default=-1) + 1, base.config.num_hidden_layers),
        "hidden size": (next(iter(hidden), base.config.hidden_size), base.config.hidden_size),
        "words": (own_words, words),
        "base fingerprint": (about.base_fingerprint or fingerprint, fingerprint),
    }
    wrong = [f"{name} {of_adapter}, but the base {of_base}" for name, (of_adapter, of_base) in pairs.items()
             if of_adapter != of_base]  # fmt: skip
    if wrong:
        raise ModelError(
            f"{directory} was trained on another base than `{about.model.base}` ({about.model.layers or 'all'} layers "
            f"kept): the adapter has {'; '.join(wrong)}. Correct `model` in {directory / FILE_NAME}, or take the "
            "adapter of this base."
        )
