"""The evaluation stage: what it measures once."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from llmrec.evaluation import evaluate


@pytest.mark.parametrize(("ppo_weights", "measured"), [(b"sft", ["sft"]), (b"ppo", ["sft", "ppo"])])
def test_equal_adapters_are_measured_once(tmp_path, monkeypatch, ppo_weights, measured):
    for name, weights in (("sft", b"sft"), ("ppo", ppo_weights)):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    inputs = SimpleNamespace(run=SimpleNamespace(path=lambda *names: Path(tmp_path, *names)))
    asked: list[str] = []

    def measure(name, *_):
        asked.append(name)
        return f"results of {name}"

    monkeypatch.setattr(evaluate, "measure_policy", measure)
    found = evaluate.measure_policies(inputs, progress=None)
    assert asked == measured
    assert found == {"sft": "results of sft", "ppo": f"results of {measured[-1]}"}
