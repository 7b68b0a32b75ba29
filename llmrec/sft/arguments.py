"""TRL's arguments of SFT."""

import torch
from trl.trainer.sft_config import SFTConfig as TRLSFTConfig

from llmrec.config import SFTConfig
from llmrec.config.batch import BatchShare, sft_share
from llmrec.distributed import settle_mixed_precision
from llmrec.run import Run


def training_arguments(
    section: SFTConfig, run: Run, share: BatchShare | None = None, seed: int | None = None
) -> TRLSFTConfig:
    """TRL's arguments for a config section. TRL sees one epoch, because the windows hold all epochs.

    Args:
        section: the section `sft`.
        run: the run.
        share: rows of a forward pass and passes of a step; None for this process's share of `sft.batch_size`.
        seed: seed of training; None for that of the config.

    Raises:
        ConfigError: the processes cannot share a batch evenly.
    """
    share = share or sft_share(section)
    return TRLSFTConfig(
        output_dir=str(run.path("sft", "checkpoints")),
        num_train_epochs=1,
        learning_rate=section.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=section.warmup_ratio,  # a value below 1 is a share of all steps
        weight_decay=section.weight_decay,
        optim=section.optim,
        per_device_train_batch_size=share.forward,
        gradient_accumulation_steps=share.passes,
        gradient_checkpointing=False,
        bf16=settle_mixed_precision() == "bf16",
        use_cpu=not torch.cuda.is_available(),
        max_grad_norm=1.0,
        logging_steps=10,
        save_steps=section.save_steps,
        save_total_limit=2,
        seed=run.config.seed if seed is None else seed,
        report_to="none",  # `watch` reports
        remove_unused_columns=False,
        loss_type="nll",  # `RecSFTTrainer` computes the loss; TRL's default would patch the model's head
        dataset_kwargs={"skip_prepare_dataset": True},
    )
