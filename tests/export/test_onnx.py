"""An ONNX graph ranks the items as the policy does."""

from pathlib import Path

import pytest
import torch

from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.data.decision import Decision
from llmrec.errors import ModelError
from llmrec.export.merged import ExportPaths, export
from llmrec.export.onnx import ItemRanker
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.run import Run
from tests.export.runs import finished_run


def test_a_graph_ranks_as_the_policy(run: Run, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'llmrec[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'llmrec[onnx]'")
    result = export(run, ExportPaths(onnx=tmp_path / "out"))
    assert result.largest_difference <= 1e-3
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter")).eval()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    history = [0, 3, 5]
    prompt = torch.tensor([policy.prompts.prompt("42", history)])
    inputs = {"input_ids": prompt.numpy(), "attention_mask": torch.ones_like(prompt).numpy()}
    found = torch.from_numpy(session.run(None, inputs)[0])
    expected = next(item_scores(policy, [Decision("42", [], history)]))
    found[:, history] = -torch.inf
    assert torch.allclose(found.log_softmax(1), expected, atol=1e-4)
    assert ItemVocabulary.load(tmp_path / "out").vocabulary_hash == policy.vocabulary.vocabulary_hash
    export(run, ExportPaths(onnx=tmp_path / "out"))  # replaces the earlier export


def test_padding_does_not_change_the_logits(run: Run) -> None:
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter")).eval()
    model = policy.model.merge_and_unload()
    ranker = ItemRanker(model, policy.vocabulary).eval()
    prompts = [policy.prompts.prompt("42", history) for history in ([0, 3, 5], [1])]
    length = max(map(len, prompts))
    padded = torch.tensor([prompt + [0] * (length - len(prompt)) for prompt in prompts])
    mask = torch.tensor([[1] * len(prompt) + [0] * (length - len(prompt)) for prompt in prompts])
    with torch.inference_mode():
        together = ranker(padded, mask)
        for row, prompt in zip(together, prompts, strict=True):
            alone = model(input_ids=torch.tensor([prompt])).logits[0, -1, policy.vocabulary.new_tokens]
            assert torch.allclose(row, alone, atol=1e-4)


def test_packages_and_one_token_per_item_are_needed(data, tiny_base: str, tmp_path: Path, monkeypatch) -> None:
    run = finished_run(tiny_base, data, tmp_path / "runs", "title")
    monkeypatch.setattr("llmrec.export.onnx.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"onnx, onnxscript, onnxruntime. Run `pip install 'llmrec\[onnx\]'"):
        export(run, ExportPaths(onnx=tmp_path / "out"))
    monkeypatch.setattr("llmrec.export.onnx.PACKAGES", ())
    with pytest.raises(ModelError, match="one token per item"):
        export(run, ExportPaths(onnx=tmp_path / "out"))
