"""Merging an adapter into its base, in full precision, and checking that the result says what the adapter said."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.profiles import profile_texts
from llmrec.errors import TrainingError, UserError
from llmrec.export.gguf import GgufType, check_gguf, write_gguf
from llmrec.export.onnx import check_onnx, write_onnx
from llmrec.files import atomic_directory, atomic_path, read_json, write_json
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
    onnx: Path | None = None,
    say: Callable[[str], Any] = lambda line: None,
) -> dict:
    """Writes the merged model of a run, a GGUF file of it, an ONNX graph, or several of them; all or nothing.

    Args:
        run: the run.
        adapter: `ppo` or `sft`; None: `ppo` if it has finished, else `sft`.
        merged: directory for the model as transformers reads it; an earlier export there is replaced.
        gguf: file for llama.cpp; an earlier GGUF file there is replaced.
        gguf_type: type of its matrices.
        onnx: directory for a graph that ranks the items; an earlier export there is replaced.
        say: where a line for people goes.

    Returns:
        `adapter`, `merged`, `gguf`, `onnx`, and `largest_difference`, between logits of the adapter and of what was
        written.

    Raises:
        RunError: the adapter has not been trained.
        UserError: a place is something else's, or two of them are one or lie in one another.
        ModelError: a package is missing, or the model is of a kind that `gguf` or `onnx` cannot be.
        TrainingError: what was written does not say what the adapter said.
    """
    adapter = run.adapter_stage(adapter)
    run.require("data", adapter)
    _check_places(merged, gguf, onnx)
    policy = RecPolicy.from_pretrained(run.path(adapter, "adapter"), quantized=False).eval()
    if gguf is not None:
        check_gguf(policy.model.config, policy.tokenizer)
    if onnx is not None:
        check_onnx(policy.vocabulary)
    prompts = sample_prompts(policy, load_data(run.path("data")), run.config.catalogue.user_attributes, PROMPTS)
    expected = _logits(policy.model, prompts)
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(merged))
        save_merged(policy, adapter, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        difference = _largest_difference(expected, _logits(model, prompts))
        say(f"merged {adapter}: logits of {len(prompts)} prompts differ from the adapter's by {difference:.1e} at most")
        if onnx is not None:
            place = stack.enter_context(atomic_directory(onnx))
            ranked = write_onnx(place, model, policy.vocabulary, prompts)
            _save_rest(policy, adapter, place)
            of_items = [logits[-1, policy.vocabulary.new_tokens] for logits in expected]
            difference = max(difference, _largest_difference(of_items, ranked))
        if gguf is not None:
            file = stack.enter_context(atomic_path(gguf))
            write_gguf(file, model, policy.tokenizer, run.config.name, gguf_type)
    for written in filter(None, (merged, gguf, onnx)):
        say(f"written: {written}")
    return {
        "adapter": adapter,
        "merged": str(merged) if merged else None,
        "gguf": str(gguf) if gguf else None,
        "onnx": str(onnx) if onnx else None,
        "largest_difference": difference,
    }


def sample_prompts(policy: RecPolicy, data: InteractionData, attributes: list[str], count: int) -> list[list[int]]:
    """Token ids of prompts of users spread over the user table, each with all that the user had."""
    names = profile_texts(data.users, attributes)
    users = range(0, data.num_users, max(1, data.num_users // count))[:count]
    return [policy.prompts.prompt(names[user], data.histories[user]) for user in users]


def save_merged(policy: RecPolicy, adapter: str, folder: Path) -> None:
    """Merges the adapter, in place, and writes what `AutoModelForCausalLM` and `AutoTokenizer` read."""
    policy.model.merge_and_unload().save_pretrained(folder)
    _save_rest(policy, adapter, folder)


def _save_rest(policy: RecPolicy, adapter: str, folder: Path) -> None:
    """Tokenizer, items and facts, and an `llmrec.json` whose key `merged` names the adapter."""
    policy.tokenizer.save_pretrained(folder)
    policy.vocabulary.save(folder)
    policy.facts.save(folder)
    write_json(folder / FILE_NAME, policy.description() | {"merged": adapter})


def _check_places(merged: Path | None, gguf: Path | None, onnx: Path | None) -> None:
    """Refuses to replace what is not an earlier export, and places of which one would replace another."""
    named = {"--merged": merged, "--gguf": gguf, "--onnx": onnx}
    places = {flag: place for flag, place in named.items() if place is not None}
    for flag, place in places.items():
        if place.exists() and not (_is_gguf(place) if flag == "--gguf" else _is_export(place)):
            kind = "GGUF file" if flag == "--gguf" else "model that `llmrec export` wrote"
            raise UserError(f"{place} exists and is not a {kind}, and would be replaced: give {flag} another place.")
    for (outer, folder), (inner, place) in permutations(places.items(), 2):
        if place.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{inner} {place} is or lies in {outer} {folder}, which is replaced as a whole: give {inner} a place "
                "of its own."
            )


def _is_gguf(place: Path) -> bool:
    if not place.is_file():
        return False
    with place.open("rb") as file:
        return file.read(4) == b"GGUF"


def _is_export(place: Path) -> bool:
    """Whether a place is an empty directory, or holds a merged model or a graph."""
    if place.is_dir() and not any(place.iterdir()):
        return True
    try:
        return "merged" in read_json(place / FILE_NAME)
    except (OSError, ValueError):
        return False


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
            f"Logits of the exported model differ from the adapter's by {difference:.2g}, expected {TOLERANCE} at "
            "most. Nothing was written."
        )
    return difference
