"""A merged model, and a GGUF file of it, say what the adapter said."""

import importlib.util

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.data.dataset import save_data
from llmrec.data.decision import Decision
from llmrec.errors import ModelError, TrainingError, UserError
from llmrec.export import merged as merged_module
from llmrec.export.gguf import check_gguf
from llmrec.export.merged import export, sample_prompts
from llmrec.files import read_json
from llmrec.language.base_model import load_base
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.run import Run
from tests.conftest import disturb, make_base, make_config

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="pip install 'bitsandbytes>=0.50'"
)


def finished_run(base: str, data, folder, scheme="atomic", **model) -> Run:
    """A run with data and an SFT adapter that is not at its start."""
    model = {"base": base, "lora_r": 4, "lora_alpha": 8} | model
    ppo = {"advantage": "exact" if scheme == "atomic" else "gae"}
    run = Run.create(make_config(base, scheme, output_dir=str(folder), model=model, ppo=ppo))
    policy = RecPolicy.create(run.config, data)
    disturb(policy)
    for stage in ("data", "sft"):
        run.begin(stage)
        if stage == "data":
            save_data(data, run.path("data"))
        else:
            policy.save_pretrained(run.path("sft", "adapter"))
        run.finish(stage, {})
    return run


@pytest.fixture
def run(tiny_base, data, tmp_path) -> Run:
    return finished_run(tiny_base, data, tmp_path / "runs")


def logits(model, prompts):
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([prompt])).logits[0] for prompt in prompts]


def assert_same_logits(model, policy, data):
    prompts = sample_prompts(policy, data, ["age"], 6)
    for found, expected in zip(logits(model, prompts), logits(policy.model, prompts), strict=True):
        assert torch.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(("scheme", "tied"), [("atomic", True), ("atomic", False), ("title", True)])
def test_plain_transformers_loads_a_merged_model(data, tmp_path, scheme, tied):
    base = make_base(tmp_path / "base")
    if not tied:
        model, _ = load_base(make_config(base).model)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0).clone())
        model.save_pretrained(base)
    run, out = finished_run(base, data, tmp_path / "runs", scheme), tmp_path / "out"
    result = export(run, merged=out)
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter")).eval()
    assert_same_logits(AutoModelForCausalLM.from_pretrained(out), policy, data)
    assert result["adapter"] == "sft" and result["largest_difference"] <= 1e-3
    assert ItemVocabulary.load(out).vocabulary_hash == policy.vocabulary.vocabulary_hash
    assert read_json(out / "llmrec.json")["merged"] == "sft"
    assert {"facts.json", "generation_config.json"} <= {file.name for file in out.iterdir()}
    tokenizer = AutoTokenizer.from_pretrained(out)
    if scheme == "atomic":
        assert tokenizer("<|item_3|>", add_special_tokens=False)["input_ids"] == list(policy.vocabulary.sequences[3])
    with pytest.raises(ModelError, match="holds a merged model"):
        RecPolicy.from_pretrained(out)


@needs_bitsandbytes
def test_an_adapter_of_a_quantised_base_is_merged_into_full_precision(data, tmp_path):
    base = make_base(tmp_path / "base", hidden_size=64)
    run = finished_run(base, data, tmp_path / "runs", quantization="nf4")
    export(run, merged=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_same_logits(model, RecPolicy.from_pretrained(run.path("sft", "adapter"), quantized=False).eval(), data)


def test_nothing_is_written_if_the_logits_differ(run, tmp_path, monkeypatch):
    merge = merged_module.save_merged

    def wrong(policy, *arguments):
        policy.model.get_base_model().model.norm.weight.data += 0.1
        merge(policy, *arguments)

    monkeypatch.setattr(merged_module, "save_merged", wrong)
    with pytest.raises(TrainingError, match="Nothing was written"):
        export(run, merged=tmp_path / "out", gguf=tmp_path / "out.gguf")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_an_onnx_graph_ranks_as_the_policy(run, data, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'llmrec[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'llmrec[onnx]'")
    result = export(run, onnx=tmp_path / "out")
    assert result["largest_difference"] <= 1e-3
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
    export(run, onnx=tmp_path / "out")


def test_onnx_needs_one_token_an_item_and_its_packages(data, tiny_base, tmp_path, monkeypatch):
    run = finished_run(tiny_base, data, tmp_path / "runs", "title")
    monkeypatch.setattr("llmrec.export.onnx.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"onnx, onnxscript, onnxruntime: run `pip install 'llmrec\[onnx\]'"):
        export(run, onnx=tmp_path / "out")
    monkeypatch.setattr("llmrec.export.onnx.PACKAGES", ())
    with pytest.raises(ModelError, match="one token an item"):
        export(run, onnx=tmp_path / "out")


def test_only_an_earlier_export_is_replaced(run, tmp_path):
    export(run, merged=tmp_path / "out")
    export(run, merged=tmp_path / "out")
    for place in (run.path("sft", "adapter"), run.directory):
        with pytest.raises(UserError, match="give --merged another place"):
            export(run, merged=place)


@pytest.mark.parametrize(
    ("merged", "gguf", "onnx"),
    [("out", "out/model.gguf", None), ("out", None, "out"), ("out/merged", None, "out"), (None, "out", "runs/../out")],
)
def test_no_place_may_hold_another(run, tmp_path, merged, gguf, onnx):
    places = [name and tmp_path / name for name in (merged, gguf, onnx)]
    with pytest.raises(UserError, match="is or lies in"):
        export(run, None, places[0], places[1], onnx=places[2])
    assert not (tmp_path / "out").exists()


def test_only_a_gguf_file_is_replaced_by_one(run, tmp_path):
    weights = run.path("sft", "adapter") / "adapter_model.safetensors"
    for place in (weights, tmp_path):
        with pytest.raises(UserError, match="is not a GGUF file.*give --gguf another place"):
            export(run, gguf=place)
    (tmp_path / "model.gguf").write_bytes(b"GGUF, of old")
    export(run, gguf=tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").stat().st_size > 100


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 1e-3), ("q8_0", None)])
def test_a_gguf_file_read_back_is_the_same_model(run, data, tmp_path, kind, tolerance):
    """transformers' reader of GGUF files undoes the order of queries and keys by itself."""
    export(run, merged=tmp_path / "merged", gguf=tmp_path / "model.gguf", gguf_type=kind)
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter")).eval()
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    text = '<|im_start|>user\n24<|im_end|> like "<|item_3|><|item_4|>, a Drama'
    assert tokenizer(text)["input_ids"] == policy.tokenizer(text)["input_ids"]
    prompts = sample_prompts(policy, data, ["age"], 6)
    for found, expected in zip(logits(model, prompts), logits(policy.model, prompts), strict=True):
        assert tolerance is None or torch.allclose(found, expected, atol=tolerance)
    if tolerance is None:
        assert_rounded_to_eight_bits(model, AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))


def assert_rounded_to_eight_bits(model, exact):
    """Q8_0: 32 neighbours share a scale, their largest over 127 as float16; each is off by half of it at most."""
    rounded = 0
    for (name, found), expected in zip(model.named_parameters(), exact.parameters(), strict=True):
        if expected.ndim == 1:
            assert torch.equal(found, expected), name
            continue
        scale = expected.reshape(-1, 32).abs().amax(1, keepdim=True) / 127
        off = (found - expected).reshape(-1, 32).abs()
        assert (off <= scale * (0.5 + 127 * 2**-11) + 1e-7).all(), name
        rounded += int((off > 0).sum())
    assert rounded


def test_what_llama_cpp_would_misread_is_refused(tiny_base):
    model, tokenizer = load_base(make_config(tiny_base).model)
    check_gguf(model.config, tokenizer)
    model.config.model_type = "qwen2"
    with pytest.raises(ModelError, match="expected model_type llama, found qwen2"):
        check_gguf(model.config, tokenizer)


def test_an_unknown_tokenizer_is_refused(tmp_path):
    model, tokenizer = load_base(make_config(make_base(tmp_path / "base")).model)
    tokenizer.backend_tokenizer.pre_tokenizer = None
    with pytest.raises(ModelError, match="gpt-2 or smollm"):
        check_gguf(model.config, tokenizer)
