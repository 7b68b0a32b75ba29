"""Ranking as an ONNX graph: from a prompt to the logits of all items, in one forward pass."""

import importlib.util
import logging
from pathlib import Path

import torch
from transformers import PreTrainedModel

from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.errors import ModelError

FILE_NAME = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ItemRanker(torch.nn.Module):
    """A merged model whose head has the rows of the items alone, in the order of the item vocabulary."""

    def __init__(self, model: PreTrainedModel, vocabulary: ItemVocabulary):
        super().__init__()
        self.decoder = model.base_model
        self.register_buffer("rows", model.get_output_embeddings().weight.detach()[vocabulary.new_tokens])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, N] of the items after prompts [B, L] that are padded on the right."""
        output = self.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        batch = torch.arange(input_ids.shape[0], device=input_ids.device)
        return output.last_hidden_state[batch, attention_mask.sum(1) - 1] @ self.rows.T


def check_onnx(vocabulary: ItemVocabulary) -> None:
    """Whether a graph can be written.

    Raises:
        ModelError: a package is missing, or an item is more than one token.
    """
    if lacking := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ModelError(f"--onnx needs {', '.join(lacking)}: run `pip install 'llmrec[onnx]'`.")
    if vocabulary.scheme != "atomic":
        raise ModelError(
            f"--onnx ranks with one forward pass, which needs one token an item (catalogue.scheme: atomic), found "
            f"`{vocabulary.scheme}`. Use --merged."
        )


def write_onnx(
    folder: Path, model: PreTrainedModel, vocabulary: ItemVocabulary, prompts: list[list[int]]
) -> list[torch.Tensor]:
    """Writes the graph, with batch and length free, and runs it with onnxruntime.

    Args:
        folder: for `model.onnx`; weights of large models go into a file beside it.
        model: merged, float32, on the CPU.
        vocabulary: of an `atomic` catalogue.
        prompts: token ids, at least two of different lengths.

    Returns:
        what onnxruntime makes of the prompts in one batch: logits of the items of each, [N].
    """
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of operators of packages that are not there
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
    program.save(folder / FILE_NAME)
    session = onnxruntime.InferenceSession(folder / FILE_NAME, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return list(torch.from_numpy(logits))


def _padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    sequences = [torch.tensor(prompt) for prompt in prompts]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(sequences, batch_first=True),
        "attention_mask": pad([torch.ones_like(sequence) for sequence in sequences], batch_first=True),
    }
