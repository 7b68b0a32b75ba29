"""Writes an ONNX graph that ranks the items: it maps prompts to the logits of all items in one forward pass."""

import importlib.util
import logging
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel

from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.errors import ModelError

GRAPH_FILE = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ItemRanker(torch.nn.Module):
    """A merged model whose head is reduced to the items, in the order of the item vocabulary.

    Args:
        model: merged model.
        vocabulary: vocabulary of an `atomic` catalogue of N items.
    """

    rows: torch.Tensor  # output embeddings of the item tokens, [N, d]

    def __init__(self, model: PreTrainedModel, vocabulary: ItemVocabulary):
        super().__init__()
        self.decoder = model.base_model
        head = cast(torch.nn.Module, model.get_output_embeddings())
        weight = cast(torch.Tensor, head.weight)
        self.register_buffer("rows", weight.detach()[vocabulary.new_tokens])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits of the items after each prompt.

        Args:
            input_ids: token ids of prompts, padded on the right, int64 [B, L].
            attention_mask: 1 at tokens and 0 at padding, int64 [B, L].

        Returns:
            [B, N].
        """
        output = self.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        batch = torch.arange(input_ids.shape[0], device=input_ids.device)
        return output.last_hidden_state[batch, attention_mask.sum(1) - 1] @ self.rows.T


def check_onnx(vocabulary: ItemVocabulary) -> None:
    """Checks that a graph can be written.

    Raises:
        ModelError: a package is missing, or an item has more than one token.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"--onnx needs {', '.join(missing)}. Run `pip install 'llmrec[onnx]'`.")
    if vocabulary.scheme != "atomic":
        raise ModelError(
            "--onnx ranks in one forward pass, which needs one token per item. Expected catalogue.scheme `atomic`, "
            f"found `{vocabulary.scheme}`. Use --merged."
        )


def write_onnx(
    folder: Path, model: PreTrainedModel, vocabulary: ItemVocabulary, prompts: list[list[int]]
) -> list[torch.Tensor]:
    """Writes the graph with free batch size and length, and runs it with onnxruntime.

    Args:
        folder: directory for `model.onnx`. Large weights go into a file beside it.
        model: merged model in float32 on the CPU.
        vocabulary: vocabulary of an `atomic` catalogue of N items.
        prompts: token ids of at least two prompts of different lengths.

    Returns:
        Logits [N] of the items after each prompt, as onnxruntime computes them in one batch.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]  # an optional dependency

    # The exporter warns about operators of packages that are not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    inputs = _padded(prompts)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    program = torch.onnx.export(
        ItemRanker(model, vocabulary).eval(),
        tuple(inputs.values()),
        dynamo=True,
        dynamic_shapes=dict.fromkeys(inputs, free),
        input_names=list(inputs),
        output_names=["item_logits"],
        verbose=False,
    )
    assert program is not None  # it is None only if an output file was given
    program.save(folder / GRAPH_FILE)
    session = onnxruntime.InferenceSession(folder / GRAPH_FILE, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return list(torch.from_numpy(logits))


def _padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    """The inputs of `ItemRanker.forward` for prompts of different lengths."""
    sequences = [torch.tensor(prompt) for prompt in prompts]
    masks = [torch.ones_like(sequence) for sequence in sequences]
    pad = torch.nn.utils.rnn.pad_sequence
    return {"input_ids": pad(sequences, batch_first=True), "attention_mask": pad(masks, batch_first=True)}
