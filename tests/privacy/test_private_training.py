"""The membership inference attack on an adapter that SFT has overfit, without and with differential privacy."""

from pathlib import Path
from typing import Any

import pytest

from llmrec.data.dataset import save_data
from llmrec.privacy.attack import attack_run
from llmrec.run import Run, run_stage
from tests.conftest import make_config
from tests.privacy.test_attack import CATALOGUE, MEMBERS, random_data

SFT = {
    "num_train_epochs": 60.0,
    "batch_size": MEMBERS,
    "per_device_train_batch_size": MEMBERS,
    "learning_rate": 1e-2,
    "text_weight": 0.0,
    "eval_steps": 0.999,
}


def auc_after_sft(base: str, folder: Path, **sections: Any) -> float:
    """AUC of the attack on the SFT adapter of thirty users whose items are drawn at random."""
    catalogue = CATALOGUE | {"cooccurrence_weight": 0.0}
    run = Run.create(make_config(base, output_dir=str(folder), catalogue=catalogue, sft=SFT, report_to=[], **sections))
    data = random_data()
    run.begin("data")
    save_data(data, run.path("data"))
    run.finish("data", {})
    run_stage(run, "sft")
    return attack_run(run, data, "sft")["auc"]["likelihood_ratio"]["value"]


@pytest.mark.slow
def test_privacy_hides_who_was_in_the_training_data(tiny_base: str, tmp_path: Path) -> None:
    """Epsilon 1 allows a perfect attack an AUC of e / (1 + e) = 0.73. Thirty pairs have a standard error of 0.07."""
    plain = auc_after_sft(tiny_base, tmp_path / "plain")
    private = auc_after_sft(tiny_base, tmp_path / "private", privacy={"epsilon": 1.0, "delta": 1e-4})
    assert plain > 0.9
    assert private < 0.73 + 2 * 0.07 and private < plain - 0.1
