"""How much memory SFT and PPO need, counted from the shapes of the model and the sizes in a config.

No weights are read: the base is built without storage. What a stage holds all the time is added up, and to it the
larger of what the update and the rollouts need for a while.
"""

import importlib
import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from llmrec.config import Config, ModelConfig
from llmrec.distributed import mixed_precision
from llmrec.errors import ModelError, RunError
from llmrec.language.base_model import BUNDLED, bundled_file, from_hub
from llmrec.run import Run
from reward_models.judge import MAX_EASE_ITEMS
from reward_models.linear import MAX_ITEMS

HEADER = 20  # tokens of the chat template around a short profile
TITLE = 8  # tokens of an item that is spelt by its title
FLOAT = 4  # bytes; weights, gradients and logits are float32 under mixed precision too

# Bytes a weight. nf4: half a byte, one byte a block of 64 for its scale, four a 256 of these. int8: rows have a scale.
LINEAR_BYTES = {None: 4.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
# Bytes a trainable number: two moments, in 8 bits with a scale of four bytes a block of 256.
OPTIMIZER_BYTES = {"adamw_torch_fused": 8.0, "adamw_bnb_8bit": 2 * (1 + 4 / 256)}
SMALL = 4096  # bitsandbytes keeps smaller tensors in 32 bits

# Bytes a decision and item. Of the loss: the distribution (4) with its mask (1), and in its backward pass two
# gradients (8); of PPO's also old distribution and advantages (8), twice the blocked (2), the ratio and its
# exponent, the plain and clipped surrogates with their factors and the larger one (28), and the KL (5).
SFT_DECISION, PPO_DECISION = 4 + 1 + 8, 4 + 1 + 8 + 8 + 2 + 28 + 5
# In a rollout: which items are had (8), logits, their masking and normalisation (12), the mask (1).
ROLLOUT_DECISION = 8 + 12 + 1
# From rollout to update: the distribution and the advantages.
EXPERIENCE_DECISION = 8


@dataclass(frozen=True)
class Memory:
    """Bytes of one stage.

    Attributes:
        base: frozen weights.
        file: pages of the base's file that stay in memory although their weights were copied, see `file_bytes`.
        adapters: LoRA factors; PPO has those of SFT and of RL, and maybe their average.
        item_rows: embeddings of item tokens with their starting values; PPO has SFT's as well, and maybe an average.
        gradients: of all that is trained.
        optimizer: state of all that is trained.
        rewards: reward models.
        update: what a forward pass saves for the backward pass, with item decisions.
        rollout: keys and values of all episodes, one layer at work, and item decisions.
        process: Python with its libraries.
    """

    base: int
    file: int
    adapters: int
    item_rows: int
    gradients: int
    optimizer: int
    rewards: int
    update: int
    rollout: int
    process: int

    @property
    def total(self) -> int:
        """At the peak: update and rollout take turns."""
        parts = asdict(self)
        return sum(parts.values()) - min(self.update, self.rollout)

    @property
    def device(self) -> int:
        """At the peak on a GPU, which holds neither Python nor pages of a file."""
        return self.total - self.process - self.file


@dataclass(frozen=True)
class Shapes:
    """What the numbers of a language model depend on.

    Attributes:
        config: of the model, with the layers that are kept.
        linears: (in, out) of every linear map but the head.
        other: numbers in all other weights, head and embeddings included.
        items: of the catalogue.
        tokens: new ones, one an item under `atomic`.
    """

    config: PretrainedConfig
    linears: list[tuple[int, int]]
    other: int
    items: int
    tokens: int

    @property
    def item_numbers(self) -> int:
        """Numbers in the item rows of one adapter: of the embeddings, and of the head where it is another matrix."""
        return self.tokens * self.config.hidden_size * (1 if self.config.tie_word_embeddings else 2)


def estimate(config: Config, items: int | None = None) -> dict:
    """Memory of the sft and ppo stages.

    Args:
        config: of the run.
        items: size of the catalogue; None: that of the prepared data.

    Returns:
        `items`, `window_tokens`, `trainable` (numbers that a stage trains), and for `sft` and `ppo` bytes by part, with
        `total` and, of it on a GPU, `device`.

    Raises:
        ModelError: the base's config cannot be read.
        RunError: the data has not been prepared, and `items` is None.
    """
    items = catalogue_size(config) if items is None else items
    shapes = read_shapes(config, items)
    process = process_bytes(config)
    window = HEADER + config.ppo.response_length
    window += config.catalogue.max_history * (1 if config.catalogue.scheme == "atomic" else TITLE)
    trained = trainable_tensors(shapes, config.model)
    critic = [shapes.config.hidden_size, 1]
    stages = {
        "sft": _sft(config, shapes, window, trained, process),
        "ppo": _ppo(config, shapes, window, [*trained, *critic], process),
    }
    return {
        "items": items,
        "window_tokens": window,
        "trainable": {"sft": sum(trained), "ppo": sum(trained) + sum(critic)},
        **{name: {**asdict(memory), "total": memory.total, "device": memory.device} for name, memory in stages.items()},
    }


def catalogue_size(config: Config) -> int:
    """Items in the prepared data of a config's run.

    Raises:
        RunError: it has not been prepared.
    """
    run = Run(config, Path(config.output_dir) / config.name)
    if not run.finished("data"):
        raise RunError(
            f"The size of the catalogue is not known: {run.path('data')} has not been prepared. Run `llmrec prepare` "
            "first, or give --items N."
        )
    return run.metrics("data")["items"]


def read_shapes(config: Config, items: int) -> Shapes:
    """The base's shapes, from its config alone.

    Raises:
        ModelError: there is no such config, or it has fewer layers than asked for.
    """
    model = config.model
    base = _base_config(model)
    if model.layers is not None:
        if model.layers > base.num_hidden_layers:
            raise ModelError(
                f"model.layers is {model.layers}, but {model.base} has {base.num_hidden_layers} layers: expected at "
                "most as many."
            )
        base.num_hidden_layers = model.layers
        if getattr(base, "layer_types", None):
            base.layer_types = base.layer_types[: model.layers]
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(base)
    head = network.get_output_embeddings()
    linears = [m for m in network.modules() if isinstance(m, nn.Linear) and m is not head]
    inner = sum(m.weight.numel() for m in linears)
    tokens = items if config.catalogue.scheme == "atomic" else 0
    other = sum(p.numel() for p in network.parameters()) - inner
    return Shapes(base, [(m.in_features, m.out_features) for m in linears], other, items, tokens)


def _base_config(model: ModelConfig) -> PretrainedConfig:
    try:
        if model.base in BUNDLED:
            folder, file = bundled_file(model.base)
            return AutoConfig.from_pretrained(folder, gguf_file=file)
        return from_hub(model.base, lambda: AutoConfig.from_pretrained(model.base, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The config of the base model `{model.base}` cannot be read: {str(error).strip().splitlines()[0]}\n"
            "Expected a model id on the hub or a directory with config.json. Correct `model.base`."
        ) from None


def trainable_tensors(shapes: Shapes, model: ModelConfig) -> list[int]:
    """Numbers in each tensor that SFT trains: two LoRA factors a linear map, and the item rows."""
    factors = [size * model.lora_r for pair in shapes.linears for size in pair]
    return factors + ([shapes.item_numbers] if shapes.tokens else [])


def process_bytes(config: Config) -> int:
    """Memory of this process once it has imported what both stages import."""
    import llmrec.ppo.stage
    import llmrec.sft.stage  # noqa: F401

    fewer_bits = config.model.quantization or "adamw_bnb_8bit" in (config.sft.optim, config.ppo.optim)
    if fewer_bits and importlib.util.find_spec("bitsandbytes"):
        importlib.import_module("bitsandbytes")

    return psutil.Process().memory_info().rss


def _sft(config: Config, shapes: Shapes, window: int, trained: list[int], process: int) -> Memory:
    section = config.sft
    batch = section.per_device_train_batch_size
    decisions = batch * config.catalogue.max_history * shapes.items
    update = activations(shapes, config.model, batch * window, section.gradient_checkpointing)
    factors = sum(trained) - shapes.item_numbers
    return Memory(
        base=base_bytes(shapes, config.model.quantization),
        file=file_bytes(shapes, config.model.quantization),
        adapters=FLOAT * factors,
        item_rows=2 * FLOAT * shapes.item_numbers,
        gradients=FLOAT * sum(trained),
        optimizer=optimizer_bytes(trained, section.optim),
        rewards=0,
        update=update + SFT_DECISION * decisions,
        rollout=0,
        process=process,
    )


def _ppo(config: Config, shapes: Shapes, window: int, trained: list[int], process: int) -> Memory:
    section, width = config.ppo, config.catalogue.max_history
    group = section.num_generations
    micro, episodes = section.per_device_train_batch_size, section.per_device_train_batch_size
    episodes *= section.gradient_accumulation_steps
    prompt = window - section.response_length
    exact = section.advantage == "exact"
    tokens = micro // group * (prompt + group * section.response_length)
    decisions = (width + 1) * shapes.items // group if exact else 0  # an episode's share of its prompt's
    update = activations(shapes, config.model, tokens, section.gradient_checkpointing)
    factors = sum(trained) - shapes.item_numbers
    average = section.ema_decay > 0  # of what trains, once more
    return Memory(
        base=base_bytes(shapes, config.model.quantization),
        file=file_bytes(shapes, config.model.quantization),
        adapters=(2 + average) * FLOAT * factors,
        item_rows=(4 + average) * FLOAT * shapes.item_numbers,
        gradients=FLOAT * sum(trained),
        optimizer=optimizer_bytes(trained, section.optim),
        rewards=reward_bytes(config, shapes),
        update=update + (PPO_DECISION * micro + EXPERIENCE_DECISION * episodes) * decisions,
        rollout=episodes * window * key_value_bytes(shapes.config)
        + working_bytes(shapes, config.model, episodes // group * prompt)
        + ROLLOUT_DECISION * episodes * decisions,
        process=process,
    )


def base_bytes(shapes: Shapes, quantization: str | None) -> int:
    """Frozen weights: linear maps as they are quantised, all else and the rows for new tokens in float32."""
    inner = sum(a * b for a, b in shapes.linears) * LINEAR_BYTES[quantization]
    scales = FLOAT * sum(out for _, out in shapes.linears) if quantization == "int8" else 0
    return int(inner) + scales + FLOAT * (shapes.other + shapes.item_numbers)


def file_bytes(shapes: Shapes, quantization: str | None) -> int:
    """Pages of a float32 file on the CPU: its norms are used where they lie, which keeps all of it mapped.

    Embeddings are copied where item rows are added, linear maps where they are quantised. The system can drop these
    pages when memory is short; until then they count as the process's. Of a file in fewer bits nothing stays.
    """
    if torch.cuda.is_available() or shapes.config.dtype not in (None, torch.float32):
        return 0
    inner = sum(a * b for a, b in shapes.linears) if quantization else 0
    return FLOAT * (inner + (shapes.other if shapes.tokens else 0))


def optimizer_bytes(tensors: list[int], optim: str) -> int:
    """State of AdamW for tensors of given sizes."""
    small = OPTIMIZER_BYTES["adamw_torch_fused"]
    return int(sum(size * (small if size < SMALL else OPTIMIZER_BYTES[optim]) for size in tensors))


def activations(shapes: Shapes, model: ModelConfig, tokens: int, checkpointing: bool) -> int:
    """What a forward pass over so many tokens saves for the backward pass, and the gradients that flow in one layer.

    With checkpointing every layer saves its input alone, and one layer at a time the rest.
    """
    layers = shapes.config.num_hidden_layers
    layer = layer_bytes(shapes.config, model.lora_r, mixed_precision() != "no")
    saved = FLOAT * shapes.config.hidden_size * layers + layer if checkpointing else layer * layers
    return tokens * saved + working_bytes(shapes, model, tokens)


def layer_bytes(config: PretrainedConfig, rank: int, mixed: bool) -> int:
    """What one decoder layer saves for the backward pass, a token; its weights are frozen, LoRA is on all linear maps.

    Saved are: what enters each of the two norms (the residual stream, float32); what leaves them, which LoRA's first
    factors read (under autocast a copy for each of the five); queries, keys and values, turned and repeated for all
    heads, what attention gives, and its normaliser; gate, its activation, up, and their product; LoRA's inner values.
    """
    size, feed, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    queries, width = heads * _head_size(config), 2 if mixed else FLOAT
    read = 5 if mixed else 2
    return 2 * FLOAT * size + FLOAT * heads + width * (read * size + 4 * queries + 4 * feed + 7 * rank)


def working_bytes(shapes: Shapes, model: ModelConfig, tokens: int) -> int:
    """What one layer needs for a while: three values the width of the feed-forward part, and a weight unpacked."""
    width = 2 if mixed_precision() != "no" else FLOAT
    unpacked = max(a * b for a, b in shapes.linears) * width if model.quantization else 0
    return 3 * width * shapes.config.intermediate_size * tokens + unpacked


def key_value_bytes(config: PretrainedConfig) -> int:
    """Keys and values of all layers, a token."""
    width = 2 if mixed_precision() != "no" else FLOAT
    return 2 * width * config.num_key_value_heads * _head_size(config) * config.num_hidden_layers


def reward_bytes(config: Config, shapes: Shapes) -> int:
    """Square matrices of the judge and of the linear model, items of the click/purchase models, the float32 base of the
    text reward.
    """
    section, items = config.reward, shapes.items
    square = min(items, MAX_EASE_ITEMS) ** 2 + (2 * min(items, MAX_ITEMS) ** 2 if section.linear else 0)
    text = sum(a * b for a, b in shapes.linears) + shapes.other if section.text else 0
    return FLOAT * (square + 2 * items * section.hidden_size * section.ensemble + text)


def _head_size(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
