"""Exports the policy of a run: merges the adapter into the base model, and checks the logits of what was written."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.profiles import profile_texts
from llmrec.errors import TrainingError, UserError
from llmrec.export.gguf import GgufType, check_gguf, write_gguf
from llmrec.export.onnx import check_onnx, write_onnx
from llmrec.files import atomic_directory, atomic_path, read_json, write_json
from llmrec.policy.file_names import FILE_NAME
from llmrec.policy.model import RecPolicy
from llmrec.run import Run

CHECKED_PROMPTS = 4  # prompts on which the exported model is compared with the adapter
LOGIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportPaths:
    """Where each format is written; None leaves the format out. An earlier export there is replaced.

    Attributes:
        merged: directory of a model that transformers loads.
        gguf: file for llama.cpp.
        onnx: directory of a graph that ranks the items.
    """

    merged: Path | None = None
    gguf: Path | None = None
    onnx: Path | None = None

    @property
    def by_option(self) -> dict[str, Path]:
        """The paths that are given, by their option of `llmrec export`."""
        options = {"--merged": self.merged, "--gguf": self.gguf, "--onnx": self.onnx}
        return {option: path for option, path in options.items() if path is not None}

    def check(self) -> None:
        """Checks that writing replaces nothing but earlier exports.

        Raises:
            UserError: a path holds something else, or one path is or lies inside another.
        """
        for option, path in self.by_option.items():
            is_earlier = _is_gguf(path) if option == "--gguf" else _is_export(path)
            if path.exists() and not is_earlier:
                kind = "GGUF file" if option == "--gguf" else "model that `llmrec export` wrote"
                raise UserError(f"{path} exists and is not a {kind}. Give {option} another place.")
        for (outer, folder), (inner, path) in permutations(self.by_option.items(), 2):
            if path.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"{inner} {path} is or lies in {outer} {folder}, which is replaced as a whole. "
                    f"Give {inner} a place of its own."
                )


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        adapter: stage of the exported adapter, `sft` or `ppo`.
        paths: what was written.
        largest_difference: largest absolute difference between logits of the adapter and of the written models.
    """

    adapter: str
    paths: ExportPaths
    largest_difference: float

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values; null for a format that was left out."""
        paths = {"merged": self.paths.merged, "gguf": self.paths.gguf, "onnx": self.paths.onnx}
        texts = {name: None if path is None else str(path) for name, path in paths.items()}
        return {"adapter": self.adapter, **texts, "largest_difference": self.largest_difference}


def export(
    run: Run,
    paths: ExportPaths,
    adapter: str | None = None,
    gguf_type: GgufType = "q8_0",
    say: Callable[[str], Any] = lambda line: None,
) -> Exported:
    """Writes the policy of a run in one or more formats, all or none of them.

    The base model is used in full precision, even if training quantized it.

    Args:
        run: the run.
        paths: where each format is written.
        adapter: `ppo` or `sft`; None for `ppo` if that stage has finished, else `sft`.
        gguf_type: number format of the matrices in the GGUF file.
        say: takes a line for people.

    Raises:
        RunError: the adapter has not been trained.
        UserError: a path holds something else than an earlier export, or is or lies inside another path.
        ModelError: a package is missing, or the format cannot hold this kind of model.
        TrainingError: the logits of a written model differ from those of the adapter.
    """
    stage = run.adapter_stage(adapter)
    directory = run.adapter(stage)
    paths.check()
    policy = RecPolicy.from_pretrained(directory, quantized=False).eval()
    if paths.gguf is not None:
        check_gguf(policy.config, policy.tokenizer)
    if paths.onnx is not None:
        check_onnx(policy.vocabulary)
    data = load_data(run.path("data"))
    prompts = sample_prompts(policy, data, run.config.catalogue.user_attributes, CHECKED_PROMPTS)
    expected = _logits(policy.model, prompts)
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(paths.merged))
        save_merged(policy, stage, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        difference = _checked_difference(expected, _logits(model, prompts))
        say(f"merged {stage}: logits of {len(prompts)} prompts differ from the adapter's by {difference:.1e} at most")
        if paths.onnx is not None:
            graph = stack.enter_context(atomic_directory(paths.onnx))
            of_graph = write_onnx(graph, model, policy.vocabulary, prompts)
            of_items = [logits[-1, policy.vocabulary.new_tokens] for logits in expected]
            difference = max(difference, _checked_difference(of_items, of_graph))
            _save_tables(policy, stage, graph)
        if paths.gguf is not None:
            file = stack.enter_context(atomic_path(paths.gguf))
            write_gguf(file, model, policy.tokenizer, run.config.name, gguf_type)
    for path in paths.by_option.values():
        say(f"written: {path}")
    return Exported(adapter=stage, paths=paths, largest_difference=difference)


# --- writing --------------------------------------------------------------------------------------


def save_merged(policy: RecPolicy, stage: str, folder: Path) -> None:
    """Merges the adapter into the base model and writes what transformers loads.

    Args:
        policy: its weights are merged in place, so it can no longer be trained or saved.
        stage: stage of the adapter, `sft` or `ppo`.
        folder: an existing directory.
    """
    merged = cast(PreTrainedModel, policy.model.merge_and_unload())
    merged.save_pretrained(folder)
    _save_tables(policy, stage, folder)


def _save_tables(policy: RecPolicy, stage: str, folder: Path) -> None:
    """Writes tokenizer, items and facts, and an `llmrec.json` whose key `merged` names the stage of the adapter."""
    policy.tokenizer.save_pretrained(folder)
    policy.vocabulary.save(folder)
    policy.facts.save(folder)
    write_json(folder / FILE_NAME, policy.description() | {"merged": stage})


@contextmanager
def _folder(merged: Path | None) -> Iterator[Path]:
    """Where the merged model is written: a directory that replaces `merged` at the end, or a temporary one."""
    if merged is not None:
        with atomic_directory(merged) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _is_export(path: Path) -> bool:
    """Whether a path is an empty directory, or holds a merged model or a graph."""
    if path.is_dir() and not any(path.iterdir()):
        return True
    try:
        return "merged" in read_json(path / FILE_NAME)
    except (OSError, ValueError):
        return False


# --- checking -------------------------------------------------------------------------------------


def sample_prompts(policy: RecPolicy, data: InteractionData, attributes: list[str], count: int) -> list[list[int]]:
    """Prompts of users spread over the user table, with their whole histories.

    Args:
        policy: renders the prompts.
        data: users and histories.
        attributes: columns of the user table that the prompt contains.
        count: largest number of prompts.

    Returns:
        Token ids of each prompt.
    """
    profiles = profile_texts(data.users, attributes)
    users = range(0, data.num_users, max(1, data.num_users // count))[:count]
    return [policy.prompts.prompt(profiles[user], data.histories[user]) for user in users]


@torch.inference_mode()
def _logits(model: torch.nn.Module, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Logits [T, V] of each prompt."""
    device = next(model.parameters()).device
    return [model(input_ids=torch.tensor([prompt], device=device)).logits[0].cpu() for prompt in prompts]


def _checked_difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """The largest absolute difference of two lists of logits.

    Raises:
        TrainingError: it is above `LOGIT_TOLERANCE`.
    """
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    if not difference <= LOGIT_TOLERANCE:  # also true of NaN
        raise TrainingError(
            f"Logits of the exported model differ from the adapter's by {difference:.2g}; expected at most "
            f"{LOGIT_TOLERANCE}. Nothing was written."
        )
    return difference
