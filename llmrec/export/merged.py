"""Merging an adapter into its base, in full precision, and checking that the result says what the adapter said."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmrec.catalogue.prompt import profiles
from llmrec.data.dataset import InteractionData, load_data
from llmrec.errors import TrainingError, UserError
from llmrec.export.gguf_file import GgufType, check_gguf, write_gguf
from llmrec.files import atomic_directory, read_json, write_json, write_with
from llmrec.policy.model import FILE_NAME, RecPolicy
from llmrec.run import Run

PROMPTS = 4  # on which merged and adapter model are compared
TOLERANCE = 1e-3  # of a logit


def export(
    run: Run,
    adapter: str | None = None,
    merged: Path | None = None,
    gguf: Path | None = None,
    gguf_type: GgufType = "q8_0",
    say: Callable[[str], Any] = lambda line: None,
) -> dict:
    """Writes the merged model of a run, a GGUF file of it, or both; all or nothing.

    Args:
        run: the run.
        adapter: `ppo` or `sft`; None: `ppo` if it has finished, else `sft`.
        merged: directory for the model as transformers reads it; an earlier export there is replaced.
        gguf: file for llama.cpp.
        gguf_type: type of its matrices.
        say: where a line for people goes.

    Returns:
        `adapter`, `merged`, `gguf`, and `largest_difference` between logits of merged and adapter model.

    Raises:
        RunError: the adapter has not been trained.
        UserError: `merged` is something else's place, or llama.cpp could not run the model.
        TrainingError: the merged model does not say what the adapter said.
    """
    adapter = adapter or ("ppo" if run.finished("ppo") else "sft")
    run.require("data", adapter)
    if merged is not None:
        _check_place(merged)
    policy = RecPolicy.from_pretrained(run.path(adapter, "adapter"), quantized=False).eval()
    if gguf is not None:
        check_gguf(policy.model.config, policy.tokenizer)
    prompts = sample_prompts(policy, load_data(run.path("data")), run.config.catalogue.user_attributes, PROMPTS)
    expected = _logits(policy.model, prompts)
    with _folder(merged) as folder:
        save_merged(policy, adapter, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        difference = _largest_difference(expected, _logits(model, prompts))
        say(f"merged {adapter}: logits of {len(prompts)} prompts differ from the adapter's by {difference:.1e} at most")
        if gguf is not None:
            write_with(gguf, lambda path: write_gguf(path, model, policy.tokenizer, run.config.name, gguf_type))
    for place in filter(None, (merged, gguf)):
        say(f"written: {place}")
    return {
        "adapter": adapter,
        "merged": str(merged) if merged else None,
        "gguf": str(gguf) if gguf else None,
        "largest_difference": difference,
    }


def sample_prompts(policy: RecPolicy, data: InteractionData, attributes: list[str], count: int) -> list[list[int]]:
    """Token ids of prompts of users spread over the user table, each with all that the user had."""
    names = profiles(data.users, attributes)
    users = range(0, data.num_users, max(1, data.num_users // count))[:count]
    return [policy.prompts.prompt(names[user], data.histories[user]) for user in users]


def save_merged(policy: RecPolicy, adapter: str, folder: Path) -> None:
    """Merges the adapter, in place, and writes what `AutoModelForCausalLM` and `AutoTokenizer` read.

    Beside it go the items, the facts, and an `llmrec.json` whose key `merged` names the adapter.
    """
    description = policy.description() | {"merged": adapter}
    policy.model.merge_and_unload().save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    policy.vocabulary.save(folder)
    policy.facts.save(folder)
    write_json(folder / FILE_NAME, description)


def _check_place(merged: Path) -> None:
    """Refuses to replace what is not an earlier export."""
    if not merged.exists() or (merged.is_dir() and not any(merged.iterdir())):
        return
    try:
        if "merged" in read_json(merged / FILE_NAME):
            return
    except (OSError, ValueError):
        pass
    raise UserError(
        f"{merged} exists and is not a model that `llmrec export` wrote, and would be replaced: give --merged another "
        "place."
    )


@contextmanager
def _folder(merged: Path | None) -> Iterator[Path]:
    """Where to write the merged model: in its place once all is done, or for a while."""
    if merged is not None:
        with atomic_directory(merged) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


@torch.inference_mode()
def _logits(model: PreTrainedModel, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Logits of each prompt, [T, V]."""
    return [model(input_ids=torch.tensor([prompt], device=model.device)).logits[0].cpu() for prompt in prompts]


def _largest_difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """Raises TrainingError if it is above the tolerance."""
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    if not difference <= TOLERANCE:  # NaN is not
        raise TrainingError(
            f"Logits of the merged model differ from the adapter's by {difference:.2g}, expected {TOLERANCE} at most. "
            "Nothing was written."
        )
    return difference
