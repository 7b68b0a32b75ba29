"""One YAML file describes one experiment. Unknown keys and wrong types are errors that name the key."""

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmrec.config.errors import describe
from llmrec.errors import ConfigError


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversion of a string to a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ColumnsConfig(Section):
    """Names of the columns in a CSV, Parquet or JSONL event log (right) for llmrec's own names (left)."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    event_type: str | None = None
    rating: str | None = None
    session_id: str | None = None
    ranking_id: str | None = None
    position: str | None = None
    propensity: str | None = None
    split: str | None = None


class DataConfig(Section):
    """Where the event log is, which events count as clicks and purchases, and how it is split."""

    format: Literal["movielens", "recbole", "table", "amazon2023", "complete_journey", "open_bandit", "minionerec"]
    path: str = Field(description="directory or file; `package:NAME/DIR` reads from an installed package")
    items: str | None = Field(None, description="item table (table) or metadata file (amazon2023)")
    users: str | None = Field(None, description="user table (table)")
    facts: str | None = Field(None, description="table of head, relation, tail (table)")
    columns: ColumnsConfig = ColumnsConfig()
    rating_range: tuple[float, float] | None = Field(None, description="ratings outside are errors; null: the format's")
    click: list[str] = Field(["rating>=0"], description="rules such as `view` or `rating>=1`; one must hold")
    purchase: list[str] = Field(["rating>=4"], description="rules; a purchase is also a click; []: the log has none")
    min_user_events: int | None = Field(
        None,
        ge=0,
        description="drop users with fewer clicks; null: such users are errors; below 3 only without leave_one_out",
    )
    seed: int = Field(0, ge=0, description="orders equal timestamps, draws targets; the same for all training seeds")
    splits: list[Literal["temporal", "leave_one_out", "given"]] = Field(["temporal", "leave_one_out"], min_length=1)
    temporal_valid: float = Field(0.05, gt=0, lt=0.5, description="share of events, in time, for validation")
    temporal_test: float = Field(0.05, gt=0, lt=0.5, description="share of events, in time, for the test")
    targets_per_user: int = Field(10, ge=1, description="temporal split: at most so many seeded random targets a user")
    given_valid: float = Field(
        1.0, gt=0, le=1, description="given split: share of its validation users; what the others took is training data"
    )


class CatalogueConfig(Section):
    """How items become words."""

    scheme: Literal["atomic", "title"] = "atomic"
    max_history: int = Field(50, ge=2, description="newest items of a history that the prompt shows")
    system_prompt: str = "Recommend."
    user_attributes: list[str] = Field([], description="columns of the user table that the prompt names")
    cooccurrence_weight: float = Field(
        1.0, ge=0, description="of what is had together, beside words, in the start of item embeddings; 0: words alone"
    )


LOCAL_BASE = "local:"  # what a push writes before the name of a base that is a directory of the machine it came from


class ModelConfig(Section):
    """The base language model and its adapter."""

    base: str = Field("bundled:smollm2-135m-instruct", description="hub id, local directory or `bundled:NAME`")
    layers: int | None = Field(None, ge=1, description="keep the first N layers; null: all")
    quantization: Literal["nf4", "int8"] | None = Field(
        None, description="of the frozen base's linear layers, by bitsandbytes; null: full precision"
    )
    lora_r: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)


# The name that transformers has for it; the first is what it takes by itself.
Optimizer = Literal["adamw_torch_fused", "adamw_bnb_8bit"]


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


class TextRewardConfig(Section):
    """A second reward model, which reads prompt and completion as words: `model.base` with a LoRA adapter."""

    loss: Literal["pairwise", "pointwise"] = Field("pairwise", description="Bradley-Terry, or binary cross-entropy")
    pairs: int = Field(2000, ge=2, description="seeded sample of training pairs")
    max_history: int = Field(10, ge=1, description="newest titles of a history that it reads")
    num_train_epochs: float = Field(1.0, gt=0)
    learning_rate: float = Field(2e-4, gt=0)
    per_device_train_batch_size: int = Field(8, ge=1, description="pairs a step")
    weight: float = Field(0.5, ge=0, description="of its calibrated log-odds in the reward")


class PenaltyConfig(Section):
    """What faults of a recommendation cost, in nats of log-odds; each fault lies in [0, 1]."""

    had: float = Field(5.0, ge=0, description="recommending what the user has had")
    too_short: float = Field(1.0, ge=0, description="share of `min_words` that is missing")
    too_long: float = Field(1.0, ge=0, description="words above `max_words`, as a share of it")
    repeated: float = Field(1.0, ge=0, description="share of word pairs that stood before in the same justification")
    min_words: int = Field(3, ge=1, description="of a justification; a citation is one word")
    max_words: int = Field(24, ge=1)


class TermConfig(Section):
    """A number known of every item, such as its margin or year, as a part of the reward."""

    column: str = Field(description="column of the item table; standardised over the catalogue, no effect where empty")
    weight: float = Field(description="nats of log-odds a standard deviation; below 0: less is better")


class PartConfig(Section):
    """Any Python function as a part of the reward."""

    callable: str = Field(description="`module:function`, called with (recommendations, rows): one number each")
    weight: float


class RewardConfig(Section):
    """The click/purchase model, its judge, and the weights of the parts of the reward."""

    num_train_epochs: int = Field(28, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    per_device_train_batch_size: int = Field(64, ge=1, description="history windows a step")
    weight_decay: float = Field(0.0, ge=0)
    hidden_size: int = Field(64, ge=4, multiple_of=2)
    num_layers: int = Field(2, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    purchase_weight: float = Field(1.0, ge=0, description="of the purchase loss; 1: joint likelihood")
    negatives: int = Field(1024, ge=1, description="sampled a step, in catalogues above 20,000 items")
    ensemble: int = Field(1, ge=1, description="models that differ in their seed and are averaged")
    uncertainty_penalty: float = Field(
        1.0, ge=0, description="standard deviations between the ensemble's members that the reward is lowered by"
    )
    linear: bool = Field(False, description="pool the ensemble with a linear next-item model, fitted in closed form")
    judge_users: float = Field(0.1, gt=0, lt=1, description="share of users kept for the judge alone")
    item_weight: float = Field(1.0, ge=0, description="weight of the log-odds of click and purchase")
    conversion_weight: float = Field(
        1.0, ge=0, description="in them, of log P(purchase | click) beside log P(click); 1: joint; 0: clicks alone"
    )
    popularity_weight: float = Field(
        1.0, ge=0, le=1, description="share of an item's own log-odds that is taken off: 1 leaves what is personal"
    )
    groundedness_weight: float = Field(1.0, ge=0, description="weight of the groundedness of the justification")
    text: TextRewardConfig | None = Field(None, description="null: no text reward model")
    penalties: PenaltyConfig = PenaltyConfig()
    terms: list[TermConfig] = []
    parts: list[PartConfig] = []


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


class SASRecConfig(Section):
    """Settings of the SASRec baseline; all combinations are tried and the best on validation is kept."""

    hidden_size: list[Annotated[int, Field(ge=4, multiple_of=4)]] = Field([64], min_length=1)
    num_layers: list[Annotated[int, Field(ge=1)]] = Field([2], min_length=1)
    dropout: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.2, 0.5], min_length=1)
    learning_rate: list[Annotated[float, Field(gt=0)]] = Field([3e-3], min_length=1)
    epochs: int = Field(30, ge=1, description="the one that is best on validation is kept")


class EvaluationConfig(Section):
    """What is measured, and with how many bootstrap samples."""

    ks: list[Annotated[int, Field(ge=1)]] = Field([1, 5, 10, 20], min_length=1)
    bootstrap: int = Field(1000, ge=100, description="resamples behind an interval; ten times as many behind a p")
    sasrec: SASRecConfig | None = Field(SASRecConfig(), description="null: no SASRec among the baselines")


INCLUDABLE = ("reward", "report")  # what a push brings on request


class HubConfig(Section):
    """Where the run is pushed when it has ended; no stage depends on it."""

    repo: str = Field(description="OWNER/NAME; made if there is none")
    private: bool = Field(False, description="make a new repository private, refuse a public one")
    revision: str | None = Field(None, description="branch, made if there is none; null: the main one")
    include: list[Literal["reward", "report"]] = Field([], description="the reward models, the report as a page")
    titles: bool = Field(True, description="false: items go by their ids; not with `catalogue.scheme: title`")


class Config(Section):
    """A whole experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="its folder in `output_dir`")
    output_dir: str = "runs"
    seed: int = Field(0, ge=0, description="of all training and of the bootstraps")
    report_to: list[Literal["tensorboard", "trackio"]] = Field(
        ["tensorboard"], description="where SFT and PPO report their metrics, samples and events; [] for nowhere"
    )
    data: DataConfig
    catalogue: CatalogueConfig = CatalogueConfig()
    model: ModelConfig = ModelConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    hub: HubConfig | None = Field(None, description="null: nothing is pushed")


def default_of(key: str) -> Any:
    """The default of a dotted key such as `sft.optim`; None for one that must be given."""
    section: Any = Config
    for name in key.split("."):
        field = section.model_fields[name]
        kinds = (field.annotation, *get_args(field.annotation))
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
    return None if field.is_required() else field.get_default(call_default_factory=True)


def parse_config(values: Any, source: str = "config") -> Config:
    """Validates a mapping.

    Args:
        values: the parsed YAML.
        source: what error messages call it, usually the file.

    Raises:
        ConfigError: names every wrong key and, for an unknown one, the nearest known.
    """
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{source}: expected keys and values (`name: ...`), found {found}.")
    try:
        return Config.model_validate_json(yaml_to_json(values))
    except ValidationError as error:
        raise ConfigError("\n".join(describe(e, source, Config) for e in error.errors())) from None


def yaml_to_json(values: dict) -> str:
    """JSON text of parsed YAML; validating JSON lets pydantic be strict and still read lists as tuples."""
    return json.dumps(values, default=str)


class _YamlLoader(yaml.SafeLoader):
    """YAML with two traps removed: `5e-4` is a number here, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                twice = f"`{key.value}` is given twice"
                raise yaml.constructor.ConstructorError(None, None, twice, key.start_mark)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where a float needs a dot.
_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: str | Path) -> Config:
    """Reads and validates a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or a key that is wrong.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"There is no config file {path}.{hint}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {error}") from None
    return parse_config(values, str(path))
