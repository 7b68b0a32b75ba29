"""Estimates the memory that the SFT and PPO stages need, from the shapes of the model and the sizes in a config.

No weights are read: the base model is built without storage. Peak memory is the constant part plus the larger of
update and rollout, which never run together.
"""

import importlib
import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from llmrec.config import Config, ModelConfig
from llmrec.config.batch import ppo_share, sft_share
from llmrec.distributed import mixed_precision, num_processes
from llmrec.errors import ModelError, RunError
from llmrec.language.base_model import BUNDLED, base_dtype, bundled_file, from_hub
from llmrec.run import Run
from reward_models.judge import MAX_EASE_ITEMS
from reward_models.linear import MAX_ITEMS

HEADER_TOKENS = 20  # tokens of the chat template and a short user profile
TITLE_TOKENS = 8  # tokens of an item that is spelled by its title
FLOAT32 = 4  # bytes; trained weights, gradients and logits are float32 under mixed precision too
HALF = 2  # bytes of a bfloat16 or float16 number

# Bytes of one weight of a linear map. nf4 takes half a byte, plus one byte for the scale of 64 weights, plus four bytes
# for 256 such scales. int8 has one scale for each row, see `base_bytes`.
LINEAR_WEIGHT_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
# Bytes of AdamW's two moments of one trainable number. In 8 bits, 256 numbers share a scale of four bytes.
OPTIMIZER_BYTES = {"adamw_torch_fused": 8.0, "adamw_bnb_8bit": 2 * (1 + 4 / 256)}
SMALLEST_8BIT_TENSOR = 4096  # bitsandbytes keeps the moments of smaller tensors in 32 bits

# Bytes for one item at one item decision.
# SFT loss: the distribution (4) and its mask (1); in the backward pass two gradients (8).
SFT_LOSS_BYTES = 4 + 1 + 8
# PPO loss: as SFT, and the old distribution and the advantages (8), two masks (2), the ratio and its logarithm, plain
# and clipped surrogate with their factors and their minimum (28), and the KL divergence (5).
PPO_LOSS_BYTES = SFT_LOSS_BYTES + 8 + 2 + 28 + 5
# Rollout: which items the user has seen (8), logits, masked logits and log-probabilities (12), the mask (1).
ROLLOUT_BYTES = 8 + 12 + 1
# Between rollout and update: the distribution and the advantages.
EXPERIENCE_BYTES = 4 + 4

# What training imports. The stages themselves add a few MB.
_LIBRARIES = ("trl.trainer.sft_trainer", "trl.experimental.ppo.ppo_trainer", "peft", "datasets", "matplotlib.pyplot")


@dataclass(frozen=True)
class StageMemory:
    """Bytes that one stage needs.

    Attributes:
        base: frozen weights of the base model.
        file: pages of the base model's file that stay in memory; see `file_bytes`.
        adapters: LoRA matrices. PPO holds those of SFT and of RL, and maybe their average.
        item_rows: embeddings of item tokens and their initial values. PPO also holds those of SFT, and maybe averages.
        gradients: gradients of everything that is trained.
        optimizer: optimizer state of everything that is trained.
        rewards: reward models.
        update: item decisions, and what a forward pass saves for the backward pass.
        rollout: item decisions, keys and values of all episodes, and the work of one layer.
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
        """Bytes at the peak. Update and rollout take turns."""
        return sum(asdict(self).values()) - min(self.update, self.rollout)

    @property
    def device(self) -> int:
        """Bytes at the peak on a GPU, which holds neither Python nor pages of a file."""
        return self.total - self.process - self.file

    def as_dict(self) -> dict[str, int]:
        """All parts, `total` and `device`."""
        return {**asdict(self), "total": self.total, "device": self.device}


@dataclass(frozen=True)
class ModelShapes:
    """The sizes of a language model that memory depends on.

    Attributes:
        config: the model's config, with the number of layers that llmrec keeps.
        linear_maps: (inputs, outputs) of every linear map except the output head.
        other_weights: number of all other weights, which include head and embeddings.
        items: size of the catalogue.
        item_tokens: number of added tokens: one for each item in the `atomic` scheme, else 0.
    """

    config: PretrainedConfig
    linear_maps: list[tuple[int, int]]
    other_weights: int
    items: int
    item_tokens: int

    @property
    def linear_weights(self) -> int:
        """Number of weights of the linear maps except the output head."""
        return sum(inputs * outputs for inputs, outputs in self.linear_maps)

    @property
    def item_row_weights(self) -> int:
        """Number of weights in the item rows of one adapter: of the embeddings, and of the head unless it is tied."""
        matrices = 1 if self.config.tie_word_embeddings else 2
        return self.item_tokens * self.config.hidden_size * matrices


# --- the estimate ---------------------------------------------------------------------------------


def estimate(config: Config, items: int | None = None) -> dict[str, Any]:
    """Estimates the memory of the sft and ppo stages.

    Args:
        config: the config of the run.
        items: size of the catalogue; None for that of the prepared data.

    Returns:
        `items`; `window_tokens`, the length of a prompt with its completion; `trainable`, the trained numbers of each
        stage; and for `sft` and `ppo` the bytes of `StageMemory.as_dict`.

    Raises:
        ModelError: the config of the base model cannot be read.
        RunError: `items` is None and the data has not been prepared.
    """
    items = catalogue_size(config) if items is None else items
    shapes = read_shapes(config, items)
    process = process_bytes(config)
    window = window_tokens(config)
    policy = trainable_tensors(shapes, config.model)
    critic = [shapes.config.hidden_size, 1]
    return {
        "items": items,
        "window_tokens": window,
        "trainable": {"sft": sum(policy), "ppo": sum(policy) + sum(critic)},
        "sft": sft_memory(config, shapes, window, policy, process).as_dict(),
        "ppo": ppo_memory(config, shapes, window, [*policy, *critic], process).as_dict(),
    }


def sft_memory(config: Config, shapes: ModelShapes, window: int, trained: list[int], process: int) -> StageMemory:
    """Memory of the sft stage.

    Args:
        config: the config of the run.
        shapes: the sizes of the model.
        window: tokens of a prompt with its completion.
        trained: numbers in each trained tensor.
        process: bytes of Python with its libraries.
    """
    section = config.sft
    batch = sft_share(section).forward
    decisions = batch * config.catalogue.max_history * shapes.items
    saved = activation_bytes(shapes, config.model, batch * window, section.gradient_checkpointing)
    return StageMemory(
        base=base_bytes(shapes, config.model),
        file=file_bytes(shapes, config.model),
        adapters=FLOAT32 * (sum(trained) - shapes.item_row_weights),
        item_rows=2 * FLOAT32 * shapes.item_row_weights,
        gradients=FLOAT32 * sum(trained),
        optimizer=optimizer_bytes(trained, section.optim),
        rewards=0,
        update=saved + SFT_LOSS_BYTES * decisions,
        rollout=0,
        process=process,
    )


def ppo_memory(config: Config, shapes: ModelShapes, window: int, trained: list[int], process: int) -> StageMemory:
    """Memory of the ppo stage; see `sft_memory` for the arguments."""
    section = config.ppo
    group = section.num_generations
    micro_batch = ppo_share(section).forward
    episodes = section.batch_size // num_processes()
    prompt = window - section.response_length
    # Episodes of one prompt share its item decisions, so each episode counts for a part of them.
    decisions = (config.catalogue.max_history + 1) * shapes.items // group if section.advantage == "exact" else 0
    tokens = micro_batch // group * (prompt + group * section.response_length)
    saved = activation_bytes(shapes, config.model, tokens, section.gradient_checkpointing)
    averages = 1 if section.ema_decay > 0 else 0  # one more copy of what is trained
    return StageMemory(
        base=base_bytes(shapes, config.model),
        file=file_bytes(shapes, config.model),
        adapters=(2 + averages) * FLOAT32 * (sum(trained) - shapes.item_row_weights),
        item_rows=(4 + averages) * FLOAT32 * shapes.item_row_weights,
        gradients=FLOAT32 * sum(trained),
        optimizer=optimizer_bytes(trained, section.optim),
        rewards=reward_bytes(config, shapes),
        update=saved + (PPO_LOSS_BYTES * micro_batch + EXPERIENCE_BYTES * episodes) * decisions,
        rollout=(
            episodes * window * key_value_bytes(shapes.config)
            + working_bytes(shapes, config.model, episodes // group * prompt)
            + ROLLOUT_BYTES * episodes * decisions
        ),
        process=process,
    )


# --- sizes ----------------------------------------------------------------------------------------


def catalogue_size(config: Config) -> int:
    """Number of items in the prepared data of the run that a config describes.

    Raises:
        RunError: the data has not been prepared.
    """
    run = Run(config, Path(config.output_dir) / config.name)
    if not run.finished("data"):
        raise RunError(
            f"The size of the catalogue is not known: {run.path('data')} has not been prepared. Run `llmrec prepare` "
            "first, or give --items N."
        )
    return run.metrics("data")["items"]


def window_tokens(config: Config) -> int:
    """Tokens of a prompt with a full history and its completion."""
    item = 1 if config.catalogue.scheme == "atomic" else TITLE_TOKENS
    return HEADER_TOKENS + config.catalogue.max_history * item + config.ppo.response_length


def read_shapes(config: Config, items: int) -> ModelShapes:
    """Reads the sizes of the base model from its config alone.

    Raises:
        ModelError: the config of the base cannot be read, or the base has fewer layers than `model.layers`.
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
    linear_maps = [module for module in network.modules() if isinstance(module, nn.Linear) and module is not head]
    weights = sum(parameter.numel() for parameter in network.parameters())
    return ModelShapes(
        config=base,
        linear_maps=[(module.in_features, module.out_features) for module in linear_maps],
        other_weights=weights - sum(module.weight.numel() for module in linear_maps),
        items=items,
        item_tokens=items if config.catalogue.scheme == "atomic" else 0,
    )


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


def trainable_tensors(shapes: ModelShapes, model: ModelConfig) -> list[int]:
    """Numbers in each tensor that SFT trains: two LoRA matrices for each linear map, and the item rows."""
    lora = [size * model.lora_r for linear_map in shapes.linear_maps for size in linear_map]
    return [*lora, shapes.item_row_weights] if shapes.item_tokens else lora


# --- bytes ----------------------------------------------------------------------------------------


def process_bytes(config: Config) -> int:
    """Memory of this process after it has imported the libraries that training uses.

    Anything else that the process holds counts as well, so call it early.
    """
    libraries: list[str] = list(_LIBRARIES)
    uses_bitsandbytes = config.model.quantization or "adamw_bnb_8bit" in (config.sft.optim, config.ppo.optim)
    if uses_bitsandbytes and importlib.util.find_spec("bitsandbytes"):
        libraries.append("bitsandbytes")
    for library in libraries:
        importlib.import_module(library)
    return psutil.Process().memory_info().rss


def base_bytes(shapes: ModelShapes, model: ModelConfig) -> int:
    """Frozen weights: linear maps as they are quantized; all others, and the rows of item tokens, in `model.dtype`."""
    width = base_dtype(model.dtype).itemsize
    linear = int(shapes.linear_weights * (LINEAR_WEIGHT_BYTES[model.quantization] if model.quantization else width))
    scales = FLOAT32 * sum(outputs for _, outputs in shapes.linear_maps) if model.quantization == "int8" else 0
    return linear + scales + width * (shapes.other_weights + shapes.item_row_weights)


def file_bytes(shapes: ModelShapes, model: ModelConfig) -> int:
    """Pages of the base model's float32 file that stay mapped on the CPU although their weights were copied.

    The norms are used in place, which keeps the whole file mapped. Embeddings are copied when item rows are added, and
    linear maps when they are quantized. The system can drop these pages when memory is short. On a GPU, with a file
    in fewer bits, or with weights that are all converted, no pages stay.
    """
    formats = (shapes.config.dtype or torch.float32, base_dtype(model.dtype))
    if torch.cuda.is_available() or formats != (torch.float32, torch.float32):
        return 0
    copied_linear = shapes.linear_weights if model.quantization else 0
    copied_other = shapes.other_weights if shapes.item_tokens else 0
    return FLOAT32 * (copied_linear + copied_other)


def optimizer_bytes(tensors: list[int], optim: str) -> int:
    """State of AdamW.

    Args:
        tensors: numbers in each trained tensor.
        optim: the config's `optim`.
    """
    in_32_bits = OPTIMIZER_BYTES["adamw_torch_fused"]
    return int(sum(n * (in_32_bits if n < SMALLEST_8BIT_TENSOR else OPTIMIZER_BYTES[optim]) for n in tensors))


def activation_bytes(shapes: ModelShapes, model: ModelConfig, tokens: int, checkpointing: bool) -> int:
    """What a forward pass saves for the backward pass, and the gradients that flow in one layer.

    With gradient checkpointing every layer saves only its input, and one layer at a time saves the rest.
    """
    layers = shapes.config.num_hidden_layers
    half = mixed_precision() != "no" or base_dtype(model.dtype) == torch.bfloat16
    one_layer = layer_bytes(shapes.config, model.lora_r, half)
    saved = FLOAT32 * shapes.config.hidden_size * layers + one_layer if checkpointing else one_layer * layers
    return tokens * saved + working_bytes(shapes, model, tokens)


def layer_bytes(config: PretrainedConfig, rank: int, mixed: bool) -> int:
    """What one decoder layer saves for the backward pass, for each token.

    The weights are frozen and LoRA is on all linear maps, so the layer saves:

    - the inputs of its two norms, in float32;
    - the outputs of the norms, which LoRA's first matrices read (under autocast, a copy for each of five);
    - queries, keys and values with rotary embedding, repeated for all heads; the output and normalizer of attention;
    - the gate, its activation, the up-projection and their product;
    - the inner values of LoRA.

    Args:
        config: the model's config.
        rank: LoRA's rank.
        mixed: whether mixed precision is on.
    """
    hidden = config.hidden_size
    feed_forward = config.intermediate_size
    heads = config.num_attention_heads
    number = HALF if mixed else FLOAT32
    norm_outputs = 5 if mixed else 2
    float32_part = FLOAT32 * (2 * hidden + heads)
    attention = 4 * heads * _head_size(config)
    return float32_part + number * (norm_outputs * hidden + attention + 4 * feed_forward + 7 * rank)


def working_bytes(shapes: ModelShapes, model: ModelConfig, tokens: int) -> int:
    """Temporary values of one layer: three of the feed-forward width, and the largest weight if it is dequantized."""
    number = HALF if mixed_precision() != "no" else FLOAT32
    largest = max(inputs * outputs for inputs, outputs in shapes.linear_maps)
    dequantized = largest * number if model.quantization else 0
    return 3 * number * shapes.config.intermediate_size * tokens + dequantized


def key_value_bytes(config: PretrainedConfig) -> int:
    """Keys and values of all layers, for each token."""
    number = HALF if mixed_precision() != "no" else FLOAT32
    return 2 * number * config.num_key_value_heads * _head_size(config) * config.num_hidden_layers


def reward_bytes(config: Config, shapes: ModelShapes) -> int:
    """Reward models: item-to-item matrices, item embeddings, and the float32 base of the text reward model."""
    section = config.reward
    judge = min(shapes.items, MAX_EASE_ITEMS) ** 2
    linear = 2 * min(shapes.items, MAX_ITEMS) ** 2 if section.linear else 0
    embeddings = 2 * shapes.items * section.hidden_size * section.ensemble
    text = shapes.linear_weights + shapes.other_weights if section.text else 0
    return FLOAT32 * (judge + linear + embeddings + text)


def _head_size(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
