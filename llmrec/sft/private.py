"""SFT with user-level differential privacy (DP-SGD): Poisson samples of users, clipped gradients, Gaussian noise.

One step draws every user independently with the same probability. Each drawn user gives one window, so a user's
gradient is one backward pass, of any weights. All draws come from the entropy of the operating system: a seed that
others know would tell them the noise.
"""

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from trl.trainer.sft_config import SFTConfig as TRLSFTConfig

from llmrec.config import Config, PrivacyConfig, SFTConfig
from llmrec.config.batch import BatchShare, few_updates
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decisions
from llmrec.distributed import num_processes
from llmrec.errors import ConfigError, RunError
from llmrec.files import newest_checkpoint
from llmrec.policy.model import RecPolicy
from llmrec.progress import watch
from llmrec.run import Run
from llmrec.sft import accountant
from llmrec.sft.arguments import training_arguments
from llmrec.sft.check import check_completions
from llmrec.sft.ledger import Ledger, Plan
from llmrec.sft.private_ranking import ranked, ranking_report
from llmrec.sft.trainer import ROW, RecSFTTrainer
from llmrec.sft.user_gradients import NoisySum
from llmrec.sft.windows import TrainingWindows, UserWindows
from llmrec.timing import timed

LEDGER_FILE = "privacy_ledger.jsonl"
USERS = "users"  # key of a collated batch: the packed window of each drawn user
COLUMNS = {"item_loss": "item loss", "text_loss": "text loss"}
OUTSIDE = (
    "the catalogue: items, titles, facts and their order are taken as public",
    "the number of users, the times of a `temporal` split, and the settings and their choice",
    "all measurements, such as losses, NDCG@10, the share of clipped users, curves and counts of the data",
    "people's histories in the prompt when the adapter is used",
    "other trainings on the same people: each costs a budget of its own",
    "noise from a pseudo-random generator in floating point, seeded by the operating system",
)


def train_private(run: Run, policy: RecPolicy, data: InteractionData, decisions: Decisions) -> dict[str, Any]:
    """Trains the SFT adapter of a run under its privacy budget, and resumes an interrupted training.

    The adapter after the last step is the result: a choice on validation users would use their data again.

    Args:
        run: the run.
        policy: a fresh policy; holds the result afterwards.
        data: the prepared log.
        decisions: validation decisions, on which the result is compared.

    Returns:
        the metrics of the stage.

    Raises:
        ConfigError: the budget, the batch or the number of processes does not fit the log.
        RunError: the budget was spent by a training that left no checkpoint.
    """
    privacy = run.config.privacy
    assert privacy is not None
    decisions = replace(decisions, requests=())  # popularity follows no requests
    users = int(np.count_nonzero(data.train_histories.lengths))
    ledger = Ledger(run.path("sft", LEDGER_FILE), plan_of(run.config, privacy, users))
    trainer = private_trainer(run, policy, data, ledger)
    start = ranked(policy, decisions)
    _train(run, trainer)
    record = _spent(ledger) | ranking_report(start, ranked(policy, decisions), decisions, data)
    return {
        "steps": trainer.state.global_step,
        "privacy": record,
        "log": [entry for entry in trainer.state.log_history if "item_loss" in entry],
        "summary": [f"epsilon {record['epsilon']:.3g} at delta {record['delta']:g} for each user", record["verdict"]],
    }


def plan_of(config: Config, privacy: PrivacyConfig, users: int) -> Plan:
    """The sampling rate, the steps and the noise of a training.

    Args:
        config: the config.
        privacy: its section `privacy`.
        users: users with training data.

    Raises:
        ConfigError: as `train_private`.
    """
    batch_size = config.sft.batch_size
    if num_processes() > 1:
        raise ConfigError(
            f"`privacy`: found {num_processes()} processes, expected 1: they do not share the sampling of users. "
            "Launch one process."
        )
    if privacy.delta >= 1 / users:
        raise ConfigError(
            f"`privacy.delta`: found {privacy.delta:g}, expected less than 1 / {users:,} users = {1 / users:.2g}: a "
            "larger delta allows a training to publish whole users. Set it to a tenth of that or less."
        )
    if batch_size > users:
        raise ConfigError(
            f"`sft.batch_size`: found {batch_size}, expected at most the {users:,} users of the training data: under "
            "`privacy` it is the expected number of users of a step."
        )
    steps = math.ceil(config.sft.num_train_epochs * users / batch_size)
    return Plan(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip=privacy.clip,
        noise_multiplier=accountant.noise_multiplier(privacy.epsilon, privacy.delta, batch_size / users, steps),
        users=users,
        batch_size=batch_size,
        steps=steps,
    )


@timed("training windows")
def private_trainer(run: Run, policy: RecPolicy, data: InteractionData, ledger: Ledger) -> "PrivateSFTTrainer":
    """The trainer of a run. Its seeds are secret."""
    section = run.config.sft
    seed = secrets.randbits(32)  # also of dropout, so that what a user draws does not depend on others
    plan = ledger.plan
    attributes = run.config.catalogue.user_attributes
    check_completions(policy, TrainingWindows(policy, data, attributes, section, run.config.seed))
    windows = UserWindows(policy, data, attributes, section, plan.sampling_rate, plan.steps, seed)
    args = training_arguments(section, run, BatchShare(forward=1, passes=1), seed)
    args.max_grad_norm = 0.0  # users are clipped, and their noisy sum is not
    return PrivateSFTTrainer(policy, windows, args, section, ledger)


@timed("training")
def _train(run: Run, trainer: "PrivateSFTTrainer") -> None:
    """Trains from the newest checkpoint, or from the start, as far as the budget reaches."""
    ledger = trainer.ledger
    checkpoint = newest_checkpoint(run.path("sft", "checkpoints"), TRAINER_STATE_NAME)
    if ledger.exhausted:
        if checkpoint is None:
            raise RunError(
                f"{ledger.path}: an interrupted training has spent the whole privacy budget and left no checkpoint. "
                f"Delete {ledger.path.parent} to train from the start, which costs another budget, under a config "
                "with a lower `sft.save_steps`."
            )
        trainer.policy.load_adapter_weights(checkpoint / "adapter")
        trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        return
    with watch(trainer, run, "sft", COLUMNS) as record:
        for notice in few_updates(ledger.plan.steps, "sft.batch_size", "sft.num_train_epochs"):
            record.event(0, notice)
        trainer.add_callback(BudgetCallback(ledger))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _spent(ledger: Ledger) -> dict[str, Any]:
    """What a finished training has cost, as JSON values."""
    plan = ledger.plan
    return asdict(plan) | {
        "unit": "user",
        "epsilon": accountant.spent(plan.noise_multiplier, plan.delta, plan.sampling_rate, ledger.begun),
        "budget": plan.epsilon,
        "sampling_rate": plan.sampling_rate,
        "steps": ledger.begun,
        "clipped_share": ledger.clipped / max(1, ledger.users),
        "accountant": accountant.description(),
        "outside": list(OUTSIDE),
    }


class PrivateSFTTrainer(RecSFTTrainer):
    """An SFT trainer whose step is one noisy sum over a Poisson sample of users.

    Args:
        policy: trained in place.
        windows: the windows of users, one row a step.
        args: TRL's arguments for one row a step.
        section: dropout and text weight.
        ledger: counts the steps.
    """

    def __init__(self, policy: RecPolicy, windows: UserWindows, args: TRLSFTConfig, section: SFTConfig, ledger: Ledger):
        super().__init__(policy, windows, args, section)
        launch = self.accelerator.distributed_type
        if launch != DistributedType.NO or self.args.n_gpu > 1:
            raise ConfigError(
                f"`privacy`: found a launch of the type {launch.value} on {self.args.n_gpu} GPUs, expected one process "
                "on one device. Launch without DeepSpeed and FSDP, and set CUDA_VISIBLE_DEVICES to one GPU."
            )
        self.ledger = ledger
        self.weights = [weight for weight in policy.parameters() if weight.requires_grad]
        self.noise = torch.Generator(device=self.weights[0].device)
        self.noise.manual_seed(secrets.randbits(63))

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Writes the noisy mean gradient of the drawn users, and returns their mean loss."""
        model.train()
        plan = self.ledger.plan
        step = self.state.global_step + 1
        self.ledger.begin(step)
        gradients = NoisySum(self.weights, plan.clip)
        total = torch.zeros((), device=self.args.device)
        for user in inputs[USERS]:
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, self._prepare_inputs(user))
            gradients.add(loss)
            total += loss.detach()
        gradients.set_gradients(plan.noise_multiplier, plan.batch_size, self.noise)
        self.ledger.end(step, gradients.users, gradients.clipped)
        self._logged_means += gradients.users
        return total / max(1, gradients.users)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """The row of an optimizer step. The loss of each user is a mean over the user's own tokens."""
        return [next(epoch_iterator)], None

    def _collate(self, numbers: Sequence[dict[str, int]]) -> dict[str, Any]:
        (number,) = numbers
        return {USERS: [self.pack_windows([window]) for window in self.windows.of_row(number[ROW])]}


class BudgetCallback(TrainerCallback):
    """Ends training when the budget is spent, which is before the last step if a crash had steps run again.

    Args:
        ledger: counts the steps.
    """

    def __init__(self, ledger: Ledger):
        self.ledger = ledger

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves and stops after the last step of the budget."""
        if self.ledger.exhausted:
            control.should_save = True
            control.should_training_stop = True
