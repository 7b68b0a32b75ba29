"""Config section `sft`: supervised fine-tuning."""

from pydantic import Field

from llmrec.config.section import Optimizer, Section


class SFTConfig(Section):
    """Supervised fine-tuning on packed histories, each followed by a recommendation with its justification."""

    num_train_epochs: float = Field(default=3.0, gt=0, description="Number of passes over the training histories.")
    learning_rate: float = Field(
        default=1e-3,
        gt=0,
        description="Peak learning rate. It rises during the warm-up and then falls to 0 along a cosine.",
    )
    per_device_train_batch_size: int = Field(
        default=8, ge=1, description="Largest number of history windows in one forward pass of a device."
    )
    batch_size: int = Field(
        default_factory=lambda values: values["per_device_train_batch_size"],
        ge=1,
        description="History windows in one optimizer step, over all processes. Default: "
        "`per_device_train_batch_size`.",
    )
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    optim: Optimizer = Field(
        default="adamw_torch_fused",
        description="Optimizer. `adamw_bnb_8bit` keeps the state of AdamW in 8 bits and needs bitsandbytes.",
    )
    dropout: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Dropout probability on the input embeddings and on the last hidden states.",
    )
    profile_dropout: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of training prompts of SFT and PPO that show `new user` instead of the user's attributes, "
        "as prompts of people outside of the log do.",
    )
    requests: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of training prompts of SFT and PPO, and of their validation prompts, that hold a request in "
        "words, such as `something funny from the eighties`. 0: the policy learns no requests.",
    )
    text_weight: float = Field(
        default=0.3, ge=0, description="Weight of the justification's loss relative to the loss of the items."
    )
    eval_steps: float = Field(
        default=0.2,
        gt=0,
        description="Optimizer steps between two evaluations on validation; a value below 1 is a share of all steps. "
        "The adapter with the best NDCG@10 is kept.",
    )
    eval_users: int = Field(default=1000, ge=1, description="Largest number of validation users in an evaluation.")
    gradient_checkpointing: bool = Field(
        default=False,
        description="Whether activations are computed again in the backward pass: less memory, more time.",
    )
    save_steps: int = Field(default=50, ge=1, description="Optimizer steps between two checkpoints.")
