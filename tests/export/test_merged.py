"""A merged model has the logits of the adapter, and an export replaces nothing but an earlier export."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.errors import ModelError, RunError, TrainingError, UserError
from llmrec.export import merged as merged_module
from llmrec.export.merged import ExportPaths, export, sample_prompts
from llmrec.files import read_json
from llmrec.language.base_model import load_base
from llmrec.policy.model import RecPolicy
from llmrec.run import Run
from tests.conftest import make_base, make_config
from tests.export.runs import assert_same_logits, finished_run

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="pip install 'bitsandbytes>=0.50'"
)


@pytest.mark.parametrize(("scheme", "tied"), [("atomic", True), ("atomic", False), ("title", True)])
def test_plain_transformers_loads_a_merged_model(data, tmp_path: Path, scheme: str, tied: bool) -> None:
    base = make_base(tmp_path / "base")
    if not tied:
        model, _ = load_base(make_config(base).model)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0).clone())
        model.save_pretrained(base)
    run = finished_run(base, data, tmp_path / "runs", scheme)
    out = tmp_path / "out"
    result = export(run, ExportPaths(merged=out))
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter")).eval()
    prompts = sample_prompts(policy, data, ["age"], 6)
    assert_same_logits(AutoModelForCausalLM.from_pretrained(out), policy.model, prompts)
    assert result.adapter == "sft" and result.largest_difference <= 1e-3
    assert ItemVocabulary.load(out).vocabulary_hash == policy.vocabulary.vocabulary_hash
    assert read_json(out / "llmrec.json")["merged"] == "sft"
    assert {"facts.json", "generation_config.json"} <= {file.name for file in out.iterdir()}
    tokenizer = AutoTokenizer.from_pretrained(out)
    if scheme == "atomic":
        assert tokenizer("<|item_3|>", add_special_tokens=False)["input_ids"] == list(policy.vocabulary.sequences[3])
    with pytest.raises(ModelError, match="holds a merged model"):
        RecPolicy.from_pretrained(out)


@needs_bitsandbytes
def test_an_adapter_of_a_quantized_base_is_merged_into_full_precision(data, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", hidden_size=64)
    run = finished_run(base, data, tmp_path / "runs", quantization="nf4")
    export(run, ExportPaths(merged=tmp_path / "out"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter"), quantized=False).eval()
    assert_same_logits(model, policy.model, sample_prompts(policy, data, ["age"], 6))


def test_nothing_is_written_if_the_logits_differ(run: Run, tmp_path: Path, monkeypatch) -> None:
    merge = merged_module.save_merged

    def wrong(policy: RecPolicy, *arguments) -> None:
        policy.model.get_base_model().model.norm.weight.data += 0.1
        merge(policy, *arguments)

    monkeypatch.setattr(merged_module, "save_merged", wrong)
    with pytest.raises(TrainingError, match="Nothing was written"):
        export(run, ExportPaths(merged=tmp_path / "out", gguf=tmp_path / "out.gguf"))
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_an_adapter_that_was_not_trained_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="llmrec ppo"):
        export(run, ExportPaths(merged=tmp_path / "out"), adapter="ppo")


def test_the_result_as_json_names_every_format(tmp_path: Path) -> None:
    paths = ExportPaths(merged=tmp_path / "out")
    assert merged_module.Exported("sft", paths, 0.5).as_json() == {
        "adapter": "sft",
        "merged": str(tmp_path / "out"),
        "gguf": None,
        "onnx": None,
        "largest_difference": 0.5,
    }


# --- paths


def test_only_an_earlier_export_is_replaced(run: Run, tmp_path: Path) -> None:
    export(run, ExportPaths(merged=tmp_path / "out"))
    export(run, ExportPaths(merged=tmp_path / "out"))
    for path in (run.path("sft", "adapter"), run.directory):
        with pytest.raises(UserError, match="Give --merged another place"):
            export(run, ExportPaths(merged=path))


def test_an_empty_directory_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    ExportPaths(merged=tmp_path / "out").check()


@pytest.mark.parametrize(
    ("merged", "gguf", "onnx"),
    [("out", "out/model.gguf", None), ("out", None, "out"), ("out/merged", None, "out"), (None, "out", "runs/../out")],
)
def test_no_path_contains_another(
    run: Run, tmp_path: Path, merged: str | None, gguf: str | None, onnx: str | None
) -> None:
    given = {"merged": merged, "gguf": gguf, "onnx": onnx}
    paths = ExportPaths(**{name: tmp_path / path for name, path in given.items() if path is not None})
    with pytest.raises(UserError, match="is or lies in"):
        export(run, paths)
    assert not (tmp_path / "out").exists()
