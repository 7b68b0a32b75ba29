"""Config section `ppo`: reinforcement learning with PPO."""

import math
from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from llmrec.config.section import Optimizer, Section


def _by_advantage(exact: float, sampled: float) -> Callable[[dict[str, Any]], float]:
    """A default that depends on `ppo.advantage`: exact item decisions allow larger steps than sampled ones."""
    return lambda values: exact if values["advantage"] == "exact" else sampled


def _mini_batches(values: dict[str, Any]) -> int:
    """4, or the largest of its divisors that leaves whole prompts, and at least a forward pass, for each step."""
    prompts = values["batch_size"] // values["num_generations"]
    return math.gcd(4, prompts, max(1, values["batch_size"] // values["per_device_train_batch_size"]))


class PPOConfig(Section):
    """Reinforcement learning with PPO. Keys that TRL also has carry TRL's names."""

    total_episodes: int = Field(
        default=1024, ge=1, description="Number of episodes (prompt and completion) in the training."
    )
    advantage: Literal["exact", "gae", "rloo", "group"] = Field(
        default="exact",
        description="How advantages are estimated. `exact`: the expectation over the whole catalogue for items, and "
        "GAE for text. `gae`: GAE for items and text. `rloo`: the return minus the mean return of the prompt's other "
        "generations. `group`: the return standardized over the prompt's generations. `exact` needs "
        "`catalogue.scheme: atomic`. Default: `exact`, but `gae` under `catalogue.scheme: title`.",
    )
    item_loss: Literal["clipped", "reverse_kl", "forward_kl"] = Field(
        default="clipped",
        description="Loss of item decisions under `advantage: exact`. `clipped`: PPO's surrogate. `reverse_kl` and "
        "`forward_kl`: distillation of the policy that maximizes the objective, by KL(policy, optimum) or "
        "KL(optimum, policy), without a clip. All three have the same optimum.",
    )
    text: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether justifications are trained. `on`: with rollouts and a critic. `off`: without; an update "
        "learns item decisions and keeps the text near SFT by `kl_coef`, which needs `advantage: exact`. `auto`: "
        "`off` if the reward of the text has a standard deviation below 0.05 nats over the first rollout, else `on`; "
        "always `on` under the other estimators.",
    )
    learning_rate: float = Field(
        default_factory=_by_advantage(exact=1e-3, sampled=1e-4),
        gt=0,
        description="Peak learning rate of the RL adapter, which falls linearly to 0. Default: 0.001 under "
        "`advantage: exact`, 0.0001 under the others.",
    )
    optim: Optimizer = Field(
        default="adamw_torch_fused",
        description="Optimizer. `adamw_bnb_8bit` keeps the state of AdamW in 8 bits and needs bitsandbytes.",
    )
    per_device_train_batch_size: int = Field(
        default=8, ge=1, description="Largest number of episodes in one forward pass of a device during the update."
    )
    batch_size: int = Field(
        default_factory=lambda values: 4 * values["per_device_train_batch_size"],
        ge=1,
        description="Episodes in one update, over all processes. Default: 4 times `per_device_train_batch_size`.",
    )
    num_generations: int = Field(
        default=1, ge=1, description="Completions sampled for one prompt; it divides `per_device_train_batch_size`."
    )
    num_mini_batches: int = Field(
        default_factory=_mini_batches,
        ge=1,
        description="Optimizer steps in one epoch of an update; it divides the prompts of a batch. Default: 4, or its "
        "largest divisor that leaves `per_device_train_batch_size` episodes for each step.",
    )
    num_ppo_epochs: int = Field(default=4, ge=1, description="Passes over the episodes of an update.")
    response_length: int = Field(default=32, ge=2, description="Most tokens of a completion: item and justification.")
    missing_eos_penalty: float = Field(
        default=1.0, ge=0, description="Penalty, in the unit of the reward, for a completion without an end token."
    )
    kl_coef: float = Field(
        default_factory=_by_advantage(exact=1.0, sampled=0.1),
        ge=0,
        description="KL coefficient of the text (also of items under `gae`, `rloo`, `group`). Default: 1 under "
        "`advantage: exact`, 0.1 under the others.",
    )
    item_kl_coef: float = Field(default=0.3, ge=0, description="KL coefficient of items under `advantage: exact`.")
    item_entropy_coef: float = Field(
        default_factory=_by_advantage(exact=1.0, sampled=0.0),
        ge=0,
        description="Weight of the entropy bonus of item decisions. Only for `advantage: exact`. Default: 1 under "
        "`exact`, 0 under the others.",
    )
    item_loss_weight: float = Field(
        default=10.0,
        ge=0,
        description="Weight of the item loss relative to the text loss. Only for `advantage: exact`.",
    )
    ptx_coef: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the supervised log-likelihood of the next item, relative to the item loss. Only for "
        "`advantage: exact`.",
    )
    kl_estimator: Literal["k1", "k3"] = Field(
        default="k1",
        description="Estimator of the sampled KL. `k1`: the log-ratio. `k3`: never negative, lower variance.",
    )
    adaptive_kl_target: float | None = Field(
        default=None,
        gt=0,
        description="Target KL to the SFT policy, in nats. Both KL coefficients are scaled to reach it. null: fixed "
        "coefficients.",
    )
    adaptive_kl_horizon: int = Field(
        default=10_000, ge=1, description="Episodes over which the adaptation makes a full correction."
    )
    target_kl: float | None = Field(
        default=None,
        gt=0,
        description="Early stop: an update ends when the KL to the rollout policy exceeds this, in nats. null: no "
        "early stop.",
    )
    cliprange: float = Field(default=0.3, gt=0, description="Clip range of the probability ratio.")
    cliprange_value: float = Field(default=0.2, gt=0, description="Clip range of the critic's values.")
    vf_coef: float = Field(default=0.1, ge=0, description="Weight of the critic's loss.")
    gamma: float = Field(default=1.0, ge=0, le=1, description="Discount of later rewards in GAE, for each token.")
    lam: float = Field(default=0.95, ge=0, le=1, description="Lambda of GAE.")
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="Sampling temperature. Probabilities, KL and entropy are computed at this temperature.",
    )
    ema_decay: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="Decay of the moving average of the RL adapter's weights over updates. The average is validated "
        "and kept. After n updates the decay is min(this value, (1 + n) / (10 + n)). 0: no average.",
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradient norm above which gradients are scaled down.")
    eval_steps: int = Field(default=8, ge=1, description="Updates between two evaluations on validation.")
    eval_users: int = Field(
        default=1000,
        ge=1,
        description="Largest number of validation users of the guard. A third of them choose the best adapter at every "
        "evaluation. The others decide once, after training, whether it replaces the SFT adapter. With fewer than 45 "
        "the SFT adapter always stays.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Whether activations are computed again in the backward pass: less memory, more time.",
    )
    sample_steps: int = Field(
        default=10, ge=0, description="Updates between two records of sampled completions. 0: never."
    )
    save_steps: int = Field(default=16, ge=1, description="Updates between two checkpoints.")
    save_total_limit: int = Field(default=2, ge=1, description="Number of newest checkpoints that are kept.")

    @property
    def compares_generations(self) -> bool:
        """Whether advantages are differences between the returns of one prompt's generations, KL penalty included."""
        return self.advantage in ("rloo", "group")

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.item_entropy_coef and self.advantage != "exact":
            raise ValueError(
                f"ppo.item_entropy_coef is {self.item_entropy_coef:g}, but only ppo.advantage `exact` has an entropy "
                f"bonus, found `{self.advantage}`: set item_entropy_coef to 0."
            )
        for key, other in (("item_loss", "clipped"), ("text", "on")):
            value = getattr(self, key)
            if self.advantage != "exact" and value not in (other, "auto"):
                raise ValueError(
                    f"ppo.{key} is `{value}`, which needs ppo.advantage `exact`, found `{self.advantage}`: set {key} "
                    f"to `{other}`."
                )
        if self.item_loss != "clipped" and not self.item_kl_coef + self.item_entropy_coef > 0:
            raise ValueError(
                f"ppo.item_loss is `{self.item_loss}`, but without item_kl_coef and item_entropy_coef the objective "
                "has no optimum to distill: set one of them above 0, or item_loss to `clipped`."
            )
        if self.per_device_train_batch_size % self.num_generations:
            raise ValueError(
                f"ppo.num_generations is {self.num_generations}, which does not divide "
                f"ppo.per_device_train_batch_size ({self.per_device_train_batch_size}). All generations of a prompt "
                "share one forward pass: change one of the two."
            )
        if self.compares_generations and self.num_generations < 2:
            raise ValueError(
                f"ppo.advantage `{self.advantage}` compares the generations of one prompt, but ppo.num_generations is "
                f"{self.num_generations}: set it to 2 or more."
            )
        if self.batch_size % (self.num_generations * self.num_mini_batches):
            raise ValueError(
                f"ppo.batch_size is {self.batch_size}, expected a multiple of ppo.num_generations "
                f"({self.num_generations}) times ppo.num_mini_batches ({self.num_mini_batches}): change one of the "
                "three."
            )
        return self
