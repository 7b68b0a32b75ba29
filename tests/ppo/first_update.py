"""Takes two updates of a tiny trainer on one global batch, in any number of processes."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from llmrec.files import write_json
from tests.conftest import make_data
from tests.ppo.test_trainer import make_trainer

RUNS = {
    "exact": {"ptx_coef": 0.5},
    "gae": {"advantage": "gae"},
    "rloo": {"advantage": "rloo", "num_generations": 2},
    "group": {"advantage": "group", "num_generations": 2},
    "micro": {"ptx_coef": 0.5, "num_generations": 2, "per_device_train_batch_size": 2, "total_episodes": 8},
    "mini": {"advantage": "gae", "num_mini_batches": 2, "num_ppo_epochs": 2},
    "items": {"text": "off", "num_mini_batches": 2, "num_ppo_epochs": 2},
}
EPISODES = 8


def main(base: str, output: Path, runs: Sequence[str]) -> None:
    """Writes the metrics of two updates and the weights after the first, in two files for each run and process."""
    for run in runs:
        trainer = make_trainer(base, make_data(), output / "checkpoints", **RUNS[run])
        trainer._begin()
        assert trainer.args.batch_size == EPISODES
        name = f"{run}-{trainer.accelerator.process_index}"
        model = trainer.accelerator.unwrap_model(trainer.model)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        metrics = {}
        for update in (1, 2):
            experience, collected = trainer.collect(update)
            metrics[update] = collected | trainer.update(experience, update)
            if update == 1:
                save_file({name: p.detach() for name, p in trained.items()}, output / f"{name}.safetensors")
        write_json(output / f"{name}.json", metrics)
        trainer.accelerator.wait_for_everyone()
