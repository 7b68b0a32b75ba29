"""The policy: a causal language model with a LoRA adapter and trainable item tokens.

The backbone computes hidden states once. Logits are computed only for tokens that the mask may allow (see
`policy.decoding`), never over the whole vocabulary for every token.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from peft.utils.other import TrainableTokensWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPast

from llmrec.catalogue.cooccurrence import cooccurrence_vectors
from llmrec.catalogue.facts import FactBook
from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.config import CatalogueConfig, Config, ModelConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.profiles import NEW_USER
from llmrec.errors import ModelError
from llmrec.files import atomic_directory, write_json
from llmrec.hub.client import check_branch, check_name, files_below, find_adapter, full_name, upload
from llmrec.language.adapter_files import ADAPTER_WEIGHTS, adapter_shapes
from llmrec.language.attention import layer_masks
from llmrec.language.base_check import check_base
from llmrec.language.base_model import base_fingerprint, hub_id, load_base
from llmrec.language.grammar import TokenClasses
from llmrec.language.headers import HeaderFrame
from llmrec.language.prompt import PromptBuilder
from llmrec.language.writable import writable_facts
from llmrec.policy.adapters import (
    RL_ADAPTER,
    SFT_ADAPTER,
    add_copied_adapter,
    add_item_tokens,
    embedding_weight,
    head_bias,
    keep_head_bias,
    lora_config,
    merge_adapter,
    train_in_float32,
)
from llmrec.policy.decoding import Decoder
from llmrec.policy.distribution import MaskedDistribution
from llmrec.policy.file_names import FILE_NAME, FORMAT, GENERATION_FILE
from llmrec.policy.final_norm import final_norm_name, scale_norm, spread_of_channels
from llmrec.policy.saved import (
    advising_a_copy,
    load_tokenizer,
    read_description,
    refuse_other_base,
    refuse_other_settings,
)
from llmrec.policy.sharing import SharedPolicy, license_of_base, make_portable, write_policy_card
from llmrec.requests.attributes import Attributes
from llmrec.sharding import Shards, assign, whole, whole_shape

NORM_PROMPTS = 64  # prompts on which the final norm of a cut base is fitted
SENTENCE_LENGTH = 30  # tokens of a justification, beside the items that it names


class RecPolicy(nn.Module):
    """A language model that recommends only items of its catalogue.

    `RecPolicy.create` makes a fresh policy and `RecPolicy.from_pretrained` loads a saved one.
    Attributes:
        model: the `peft` model.
        tokenizer: the base's tokenizer with the item tokens added.
        vocabulary: the token sequence of every item.
        catalogue: how items and users are rendered.
        model_config: which base, and the adapter's size.
        facts: what is true of the items.
        attributes: what requests may ask for; None if the policy was trained without requests.
        base_fingerprint: hash of the base's weights (`language.base_model.base_fingerprint`).
        repeats: whether it was trained to recommend seen items.
        prompts: renders prompts and parses completions.
        decoder: the mask: what a completion may continue with.
        distribution: turns logits into probabilities under the mask.
        shards: how the weights are spread over processes, set by trainers.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: ItemVocabulary,
        catalogue: CatalogueConfig,
        model_config: ModelConfig,
        facts: FactBook,
        base_fingerprint: str,
        header: HeaderFrame | None = None,
        attributes: Attributes | None = None,
        repeats: bool = False,
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.catalogue = catalogue
        self.model_config = model_config
        self.facts = facts
        self.attributes = attributes
        self.base_fingerprint = base_fingerprint
        self.repeats = repeats
        self.prompts = PromptBuilder(tokenizer, vocabulary, catalogue, header)
        classes = TokenClasses.from_prompts(self.prompts, facts)
        self.decoder = Decoder(vocabulary.trie, facts, classes).to(self.device)
        self.distribution = MaskedDistribution(self.decoder, self.logits)
        self.shards = Shards()
        self._no_split_modules = getattr(self._language_model, "_no_split_modules", None)  # units of FSDP2

    @classmethod
    def create(cls, config: Config, data: InteractionData) -> "RecPolicy":
        """A fresh policy on the configured base.

        Embeddings of new item tokens start from the words of titles and facts, plus vectors of item co-occurrence.

        Args:
            config: `model`, `catalogue`, `seed`, `sft.requests` and whether there is `privacy` are used.
            data: the catalogue and the training histories.

        Raises:
            ModelError: the base cannot be loaded or used.
        """
        base, tokenizer = load_base(config.model)
        check_base(base, config.model.base)
        fingerprint = base_fingerprint(base, len(tokenizer))
        vocabulary = ItemVocabulary.build(data, tokenizer, config.catalogue.scheme)
        facts = writable_facts(data, PromptBuilder(tokenizer, vocabulary, config.catalogue))
        if vocabulary.new_tokens:
            texts = [f"{title} {facts.description(item)}" for item, title in enumerate(vocabulary.titles)]
            vectors = cooccurrence_vectors(data.train_histories, data.num_items, base.config.hidden_size, config.seed)
            offsets = config.catalogue.cooccurrence_weight * vectors
            add_item_tokens(base, tokenizer, vocabulary.new_tokens, texts, offsets)
        norm = None if config.model.layers is None else final_norm_name(base)
        model = _with_adapter(base, vocabulary, config.model, norm)
        attributes = Attributes.from_data(data) if config.sft.requests else None
        policy = cls(
            model,
            tokenizer,
            vocabulary,
            config.catalogue,
            config.model,
            facts,
            fingerprint,
            attributes=attributes,
            repeats=data.repeats,
        )
        if norm is not None:
            policy._refit_final_norm(norm, policy._norm_prompts(config, data))
        return policy

    def _norm_prompts(self, config: Config, data: InteractionData) -> list[list[int]]:
        """Items of the prompts on which the final norm is fitted: of histories, or random ones under `privacy`."""
        width = self.catalogue.max_history
        if config.privacy is not None:
            generator = np.random.default_rng(config.seed)
            size = min(width, data.num_items)
            return [generator.choice(data.num_items, size, replace=False).tolist() for _ in range(NORM_PROMPTS)]
        rows = np.linspace(0, data.num_users - 1, NORM_PROMPTS).astype(int)
        return [data.train_histories[row][-width:].tolist() for row in rows]

    @torch.no_grad()
    def _refit_final_norm(self, name: str, shown: list[list[int]]) -> None:
        """Scales the final norm so that all channels have the same spread on prompts of the shown items."""
        hidden = []
        for items in shown:
            tokens = torch.tensor([self.prompts.prompt(NEW_USER, items)], device=self.device)
            output = self.backbone(self.embed(tokens), use_cache=False)
            hidden.append(cast(torch.Tensor, output.last_hidden_state)[0])
        norm = self._language_model.get_submodule(name).get_submodule(f"modules_to_save.{SFT_ADAPTER}")
        scale_norm(norm, 1 / spread_of_channels(hidden))

    # -- the network --

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return next(self.model.parameters()).device

    @property
    def base_dtype(self) -> torch.dtype:
        """Number format of the base's weights, except for quantized ones."""
        module = self._language_model.get_input_embeddings()
        return (_base_weight(module) if isinstance(module, TrainableTokensWrapper) else embedding_weight(module)).dtype

    @property
    def hidden_size(self) -> int:
        """Width d of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def completion_length(self) -> int:
        """Default length of a completion in tokens: room for two items and a sentence."""
        return 2 * self.vocabulary.longest + SENTENCE_LENGTH

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Input embeddings [..., d] of token ids [...].

        Equal to what peft's wrapper computes, without its copy of the whole embedding matrix in every call.
        """
        module = self._language_model.get_input_embeddings()
        if not isinstance(module, TrainableTokensWrapper):
            return module.forward(tokens)  # a call would run hooks of ZeRO-3, after which `logits` finds no weights
        first, rows = _item_rows(module)
        base = F.embedding(tokens, _base_weight(module))
        items = F.embedding((tokens - first).clamp(0, len(rows) - 1), rows)
        embeddings = torch.where((tokens >= first)[..., None], items, base)
        scale = getattr(module.token_adapter.get_base_layer(), "embed_scale", 1.0)  # Gemma's embedding layer scales
        return (embeddings * scale).to(base.dtype)

    def read_outside(self) -> list[nn.Parameter]:
        """Weights that `embed` and `logits` read without a forward pass of their modules."""
        layers = (self._language_model.get_input_embeddings(), self._language_model.get_output_embeddings())
        return [weight for layer in layers if layer is not None for weight in layer.parameters()]

    @property
    def _language_model(self) -> PreTrainedModel:
        """The base with the adapter inside, without peft's wrapper."""
        return cast(PreTrainedModel, self.model.get_base_model())

    def backbone(self, embeddings: torch.Tensor, **arguments: Any) -> BaseModelOutputWithPast:
        """Runs the base's decoder layers on input embeddings [B, T, d]; arguments as `transformers` takes them."""
        return self._language_model.base_model(inputs_embeds=embeddings, **arguments)

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, attention_mask: torch.Tensor, dropout: float = 0.0
    ) -> torch.Tensor:
        """Last hidden states of a batch.

        Args:
            tokens: token ids, int64 [B, L].
            positions: position of each token, int64 [B, L].
            attention_mask: 1 at real tokens, int64 [B, L], or what each token attends to, bool [B, 1, L, L]. The
                windows of sliding layers are added.
            dropout: dropout rate of the input embeddings and of the result, applied in training mode only.

        Returns:
            [B, L, d].
        """
        embeddings = F.dropout(self.embed(tokens), dropout, self.training)
        masks = layer_masks(self.config, attention_mask, positions)
        output = self.backbone(embeddings, attention_mask=masks, position_ids=positions, use_cache=False)
        return F.dropout(cast(torch.Tensor, output.last_hidden_state), dropout, self.training)

    @property
    def config(self) -> PretrainedConfig:
        """The language model's config, under the name that trainers expect."""
        return cast(PretrainedConfig, self.model.config)

    def add_model_tags(self, tags: list[str]) -> None:
        """Adds tags for the model card. Trainers call it."""
        self._language_model.add_model_tags(tags)

    def logits(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of token ids through the output embeddings.

        They are float32 under mixed precision too, so that sampling inside autocast and scoring outside of it use one
        distribution.

        Args:
            hidden: hidden states [..., d]; with tokens of each row [R, T, d].
            tokens: token ids [K], or those of each row [R, H].

        Returns:
            [..., K], or [R, T, H].
        """
        with torch.autocast(self.device.type, enabled=False):
            products = hidden.float() @ self._output_rows(tokens).float().mT
            bias = head_bias(self._language_model.get_output_embeddings())
            if bias is None:
                return products
            return products + (bias[tokens] if tokens.ndim == 1 else bias[tokens][:, None]).float()

    def _output_rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """Output embeddings [..., d] of token ids [...]."""
        module = self._language_model.get_output_embeddings()
        if not isinstance(module, TrainableTokensWrapper):
            return embedding_weight(module)[tokens]
        first, items = _item_rows(module)
        if tokens is self.vocabulary.trie.tokens:  # all items; copies of the rows would take memory and time
            return items
        of_base = _base_weight(module)[tokens.clamp(max=first - 1)]
        of_items = items[(tokens - first).clamp(min=0)]
        return torch.where((tokens >= first)[..., None], of_items, of_base)

    # -- adapters --

    def add_rl_adapter(self) -> None:
        """Adds the adapter that PPO trains as a copy of the SFT adapter, and makes it the active one.

        Raises:
            ModelError: see `adapters.add_copied_adapter`.
        """
        add_copied_adapter(self.model, SFT_ADAPTER, RL_ADAPTER)

    def merge(self) -> None:
        """Merges the active adapter into float32 base weights: same outputs, about a fifth faster.

        The policy can afterwards be evaluated, but neither trained nor saved.
        """
        merge_adapter(self.model)

    @contextmanager
    def reference(self) -> Generator[None]:
        """Inside this context the policy is the reference policy: the SFT adapter is active, the RL adapter is off."""
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.model.set_adapter(SFT_ADAPTER, inference_mode=True)
        for weight in trained:  # peft has frozen them, but sharded weights must stay as they were wrapped
            weight.requires_grad_(True)
        try:
            yield
        finally:
            self.model.set_adapter(RL_ADAPTER)

    def adapter_weights(self) -> dict[str, torch.Tensor]:
        """Whole weights of the active adapter, by their names in `model`. All processes must call this."""
        adapter = self._active_adapter
        return {name: whole(weight) for name, weight in self.model.named_parameters() if adapter in name.split(".")}

    def save_pretrained(self, directory: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Writes the active adapter, the tokenizer, the item vocabulary and `llmrec.json`, all or nothing.

        Args:
            directory: replaced if it exists.
            weights: what `adapter_weights` returned. None calls it. In training all processes must call it, but only
                the main process writes.

        Raises:
            UserError: the disk is full or the directory is not writable.
        """
        weights = self.adapter_weights() if weights is None else weights
        with atomic_directory(directory) as temporary:
            adapter = self._active_adapter
            # The adapter holds the item rows. Saving embedding layers would copy the whole embedding matrix.
            self.model.save_pretrained(
                str(temporary), selected_adapters=[adapter], save_embedding_layers=False, state_dict=weights
            )
            inner = temporary / adapter  # peft writes adapters of any name but `default` into a folder of their own
            for file in inner.iterdir():
                file.replace(temporary / file.name)
            inner.rmdir()
            self.tokenizer.save_pretrained(temporary)
            self.vocabulary.save(temporary)
            self.facts.save(temporary)
            if self.attributes is not None:
                self.attributes.save(temporary)
            write_json(temporary / FILE_NAME, self.description())
            write_json(temporary / GENERATION_FILE, self._generation_defaults())

    def push_to_hub(
        self, repo: str, private: bool = False, revision: str | None = None, commit_message: str | None = None
    ) -> str:
        """Uploads what `save_pretrained` writes, with a short model card, in one commit.

        A policy that belongs to a run is better pushed by `llmrec.hub.push.push`, which adds config and results.

        Args:
            repo: `OWNER/NAME` on the hub that `HF_ENDPOINT` names. The repository is created if it does not exist.
            private: make a new repository private, and refuse an existing public one.
            revision: a branch, which is created if it does not exist; None for the main branch.
            commit_message: message of the commit; None for "Upload policy".

        Returns:
            The web page of the repository or branch.

        Raises:
            UserError: the name is not valid, or the hub refuses or cannot be reached.
        """
        check_name(repo)
        check_branch(revision)
        repo = full_name(repo)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "policy"
            self.save_pretrained(folder)
            base = make_portable(folder)
            shared = SharedPolicy(
                repo=repo,
                model=self.model_config,
                catalogue=self.catalogue,
                base=base,
                license=license_of_base(base),
                revision=revision,
            )
            write_policy_card(folder, shared)
            message = commit_message or "Upload policy"
            return upload(files_below(folder), repo, private=private, revision=revision, message=message)

    def load_adapter_weights(self, directory: str | Path) -> None:
        """Loads the weights of a saved adapter into the active one. All processes must call this.

        Raises:
            ModelError: the file is missing, or does not hold exactly the adapter's weights.
        """
        path = Path(directory) / ADAPTER_WEIGHTS
        own: dict[str, torch.Tensor] = get_peft_model_state_dict(
            self.model,
            state_dict=dict(self.model.named_parameters()),
            adapter_name=self._active_adapter,
            save_embedding_layers=False,
        )
        try:
            weights = load_file(path)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}. Copy or train the adapter again.") from error
        wrong, differ = "missing or unknown", weights.keys() ^ own.keys()
        if not differ:
            wrong = "of another shape"
            differ = {name for name, weight in own.items() if weights[name].shape != whole_shape(weight)}
        if differ:
            raise ModelError(
                f"{path} does not hold the weights of this adapter: {len(differ)} are {wrong}, such as "
                f"{min(differ)}. Copy or train the adapter again."
            )
        for name, weight in own.items():
            assign(weight, weights[name])

    @property
    def _active_adapter(self) -> str:
        return cast(str, self.model.active_adapter)

    def description(self) -> dict[str, Any]:
        """The contents of `llmrec.json`, as JSON values."""
        return {
            "format": FORMAT,
            "base_model": hub_id(self.model_config.base),
            "model": self.model_config.model_dump(),
            "catalogue": self.catalogue.model_dump(),
            "item_vocabulary": self.vocabulary.vocabulary_hash,
            "base_fingerprint": self.base_fingerprint,
            "repeats": self.repeats,
            "header": self.prompts.header.frame.as_json(),
        }

    def _generation_defaults(self) -> dict[str, Any]:
        tokens = {f"{name}_token_id": getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        return {**tokens, "do_sample": False, "max_new_tokens": self.completion_length}

    @classmethod
    def from_pretrained(cls, model: str | Path, revision: str | None = None, quantized: bool = True) -> "RecPolicy":
        """Loads what `save_pretrained` or a push wrote, onto its base. Nothing is ever unpickled.

        Args:
            model: an adapter's directory or, if there is no such directory, `OWNER/NAME` on the hub.
            revision: branch, tag or commit on the hub.
            quantized: False loads the base in full precision, even if the adapter was trained on a quantized one.

        Raises:
            ModelError: files are missing, truncated, of a newer format, or do not belong together or to the base.
            UserError: the hub has no such repository or revision, refuses access, or cannot be reached.
        """
        directory = find_adapter(model, revision)
        about = read_description(directory, quantized)
        vocabulary = ItemVocabulary.load(directory)
        if (vocabulary.vocabulary_hash, vocabulary.scheme) != (about.item_vocabulary, about.catalogue.scheme):
            raise ModelError(f"{directory}: the item vocabulary is not the one that the adapter was trained with.")
        facts = FactBook.load(directory)
        if facts.num_items != len(vocabulary.item_ids):
            raise ModelError(f"{directory}: facts.json and item_vocabulary.json are of different catalogues.")
        shapes = adapter_shapes(directory)
        with advising_a_copy(directory):
            base, words = load_base(about.model)
        fingerprint = base_fingerprint(base, len(words))
        tokenizer = load_tokenizer(directory)
        own_words = vocabulary.new_tokens[0] if vocabulary.new_tokens else len(tokenizer)
        with advising_a_copy(directory):
            refuse_other_base(directory, about, shapes, own_words, base, len(words), fingerprint)
        if vocabulary.new_tokens:
            base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        norm = final_norm_name(base)
        trains_norm = any(norm is not None and name.endswith(f"{norm}.weight") for name in shapes)
        adapted = _with_adapter(base, vocabulary, about.model, norm if trains_norm else None)
        refuse_other_settings(directory, cast(LoraConfig, adapted.peft_config[SFT_ADAPTER]))
        policy = cls(
            adapted,
            tokenizer,
            vocabulary,
            about.catalogue,
            about.model,
            facts,
            fingerprint,
            about.header,
            Attributes.load(directory, vocabulary.titles),
            about.repeats,
        )
        policy.load_adapter_weights(directory)
        return policy


def _with_adapter(
    base: PreTrainedModel, vocabulary: ItemVocabulary, config: ModelConfig, final_norm: str | None
) -> PeftModel:
    """The base with a fresh SFT adapter; arguments as in `adapters.lora_config`."""
    adapter = lora_config(base, vocabulary, config, final_norm)
    model = cast(PeftModel, get_peft_model(base, adapter, adapter_name=SFT_ADAPTER))
    keep_head_bias(model, vocabulary.new_tokens)
    train_in_float32(model)
    return model


def _base_weight(module: TrainableTokensWrapper) -> torch.Tensor:
    """The frozen embedding matrix below the trainable rows, [vocabulary, d]."""
    return cast(torch.Tensor, module.token_adapter.get_base_layer().weight)


def _item_rows(module: TrainableTokensWrapper) -> tuple[int, torch.Tensor]:
    """First item token and the item embeddings [N, d] of the active adapter; item tokens are contiguous."""
    layer = module.token_adapter
    adapter = layer.active_adapters[0]
    return layer.token_indices[adapter][0], layer.trainable_tokens_delta[adapter]
