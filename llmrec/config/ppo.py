"""Section `ppo`."""

from typing import Literal

from pydantic import Field

from llmrec.config.section import Optimizer, Section


class PPOConfig(Section):
    """PPO, with TRL's names where TRL has one."""

    total_episodes: int = Field(1024, ge=1)
    advantage: Literal["exact", "gae", "rloo", "group"] = Field(
        "exact",
        description="`exact`: at item positions an expectation over the catalogue (atomic items), GAE in the text; "
        "`gae`, `rloo`, `group`: from samples everywhere, the last two against the prompt's other generations",
    )
    learning_rate: float = Field(1e-4, gt=0)
    optim: Optimizer = Field("adamw_torch_fused", description="`adamw_bnb_8bit`: AdamW with its state in 8 bits")
    per_device_train_batch_size: int = Field(8, ge=1, description="episodes a forward pass of the update")
    gradient_accumulation_steps: int = Field(4, ge=1, description="batch = this x per_device_train_batch_size")
    num_generations: int = Field(1, ge=1, description="rollouts of one prompt")
    num_mini_batches: int = Field(1, ge=1)
    num_ppo_epochs: int = Field(2, ge=1)
    response_length: int = Field(32, ge=2, description="tokens of item and justification")
    missing_eos_penalty: float = Field(1.0, ge=0)
    kl_coef: float = Field(0.1, ge=0, description="of the text, and of sampled items")
    item_kl_coef: float = Field(0.6, ge=0, description="of item decisions under `advantage: exact`")
    item_entropy_coef: float = Field(
        0.0,
        ge=0,
        description="entropy bonus of item decisions, `advantage: exact` alone; where the reward is log P(click), 1 "
        "keeps the policy about as spread as its SFT start, so that all of what it learns is whom to prefer",
    )
    item_loss_weight: float = Field(10.0, ge=0, description="of item decisions against the sampled text")
    ptx_coef: float = Field(0.5, ge=0, description="of the log-likelihood of what users took, at item decisions")
    kl_estimator: Literal["k1", "k3"] = "k1"
    adaptive_kl_target: float | None = Field(None, gt=0, description="KL to steer both coefficients to; null: fixed")
    adaptive_kl_horizon: int = Field(10_000, ge=1, description="episodes over which a full correction is made")
    target_kl: float | None = Field(None, gt=0, description="an update stops when its KL to the old policy is larger")
    cliprange: float = Field(0.2, gt=0)
    cliprange_value: float = Field(0.2, gt=0)
    vf_coef: float = Field(0.1, ge=0)
    gamma: float = Field(1.0, ge=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    temperature: float = Field(1.0, gt=0)
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="of the average of the RL adapter over updates, which the guard looks at and keeps; after n "
        "updates at most (1 + n) / (10 + n), .9 from 80 on; 0: none",
    )
    max_grad_norm: float = Field(1.0, gt=0)
    eval_steps: int = Field(10, ge=1, description="updates between two looks at validation")
    eval_users: int = Field(300, ge=1, description="validation users looked at")
    gradient_checkpointing: bool = Field(False, description="less memory, a second forward pass")
    sample_steps: int = Field(10, ge=0, description="updates between two looks at what the policy writes; 0: never")
    save_steps: int = Field(10, ge=1)
    save_total_limit: int = Field(2, ge=1, description="newest checkpoints that are kept")
