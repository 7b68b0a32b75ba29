"""Section `sft`."""

from pydantic import Field

from llmrec.config.section import Optimizer, Section


class SFTConfig(Section):
    """Supervised fine-tuning on packed histories that end in a completion."""

    num_train_epochs: float = Field(3.0, gt=0)
    learning_rate: float = Field(5e-4, gt=0)
    per_device_train_batch_size: int = Field(16, ge=1, description="history windows a step")
    gradient_accumulation_steps: int = Field(1, ge=1)
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    optim: Optimizer = Field("adamw_torch_fused", description="`adamw_bnb_8bit`: AdamW with its state in 8 bits")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the input embeddings and the last hidden states")
    text_weight: float = Field(0.3, ge=0, description="weight of the justification's loss")
    eval_steps: float = Field(
        0.2, gt=0, description="steps between two looks at validation, below 1 a share of all; the best adapter is kept"
    )
    eval_users: int = Field(1000, ge=1, description="validation users looked at")
    gradient_checkpointing: bool = Field(False, description="less memory, a second forward pass")
    save_steps: int = Field(50, ge=1)
