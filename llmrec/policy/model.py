"""The policy: a causal language model with a LoRA adapter and trainable item tokens.

The backbone's hidden states are computed once; logits are computed only for the tokens that may come (see
`constraint`), never over the whole vocabulary for every token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import set_peft_model_state_dict
from peft.utils.other import TrainableTokensWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.catalogue.facts import FactBook
from llmrec.catalogue.justification import APART, all_texts
from llmrec.catalogue.prompt import PromptBuilder
from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.config import CatalogueConfig, Config, ModelConfig
from llmrec.data.dataset import InteractionData
from llmrec.errors import ModelError
from llmrec.files import atomic_directory, read_json, write_json
from llmrec.policy.base import hub_id, load_base
from llmrec.policy.constraint import MaskedDistribution

FILE_NAME = "llmrec.json"
FORMAT = 1
SFT_ADAPTER = "sft"
RL_ADAPTER = "rl"


class RecPolicy(nn.Module):
    """A language model that can only say items that exist.

    Attributes:
        model: the `peft` model.
        tokenizer: with the item tokens added.
        vocabulary: items as tokens.
        prompts: renders prompts, parses completions.
        facts: what is true of the items.
        distribution: the one place where its logits become probabilities.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: ItemVocabulary,
        catalogue: CatalogueConfig,
        model_config: ModelConfig,
        facts: FactBook,
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.catalogue = catalogue
        self.model_config = model_config
        self.facts = facts
        self.prompts = PromptBuilder(tokenizer, vocabulary, catalogue)
        self.distribution = MaskedDistribution(
            vocabulary.trie.to(self.device),
            facts,
            [tuple(self.prompts.words(fact.words)) for fact in facts.facts],
            sorted({token for text in all_texts() for token in self.prompts.words(text)}),
            (self.prompts.words(APART[0]), self.prompts.words(APART[1])),
            self.prompts.opener,
            self.prompts.end,
            self.prompts.stop,
            self.logits,
        )

    @classmethod
    def create(cls, config: Config, data: InteractionData) -> "RecPolicy":
        """A fresh policy on the configured base: new item tokens start from the words of title and facts."""
        base, tokenizer = load_base(config.model)
        reserved = {token for text in all_texts() for token in _words(tokenizer, text)}
        facts = FactBook.from_data(data, lambda fact: _words(tokenizer, fact.words)[0] not in reserved)
        vocabulary = ItemVocabulary.build(data, tokenizer, config.catalogue.scheme)
        _add_item_tokens(base, tokenizer, vocabulary, [facts.description(item) for item in range(data.num_items)])
        model = get_peft_model(base, _lora_config(base, vocabulary, config.model), adapter_name=SFT_ADAPTER)
        return cls(model, tokenizer, vocabulary, config.catalogue, config.model, facts)

    # -- the network --

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def hidden_size(self) -> int:
        return self.model.config.hidden_size

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Input embeddings [..., d] of token ids [...].

        Equal to what peft's wrapper computes, without its copy of the whole embedding matrix for every call.
        """
        module = self.model.get_base_model().get_input_embeddings()
        if not isinstance(module, TrainableTokensWrapper):
            return module(tokens)
        first, rows = self._item_rows(module)
        base = F.embedding(tokens, module.token_adapter.get_base_layer().weight)
        items = F.embedding((tokens - first).clamp(0, len(rows) - 1), rows)
        return torch.where((tokens >= first)[..., None], items, base)

    def backbone(self, embeddings: torch.Tensor, **arguments):
        """Runs the decoder on input embeddings [B, T, d]; arguments as `transformers` takes them."""
        decoder = self.model.get_base_model().base_model
        return decoder(inputs_embeds=embeddings, **arguments)

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, attention_mask: torch.Tensor, dropout: float = 0.0
    ) -> torch.Tensor:
        """Last hidden states of a batch.

        Args:
            tokens: token ids, int64 [B, L].
            positions: of each token, int64 [B, L].
            attention_mask: 1 where a token is real, int64 [B, L]; or what each token attends to, bool [B, 1, L, L].
            dropout: on the input embeddings and on the result, while training.

        Returns:
            [B, L, d].
        """
        embeddings = F.dropout(self.embed(tokens), dropout, self.training)
        output = self.backbone(embeddings, attention_mask=attention_mask, position_ids=positions, use_cache=False)
        return F.dropout(output.last_hidden_state, dropout, self.training)

    @property
    def config(self):
        """The language model's config; trainers look for it."""
        return self.model.config

    def add_model_tags(self, tags: list[str]) -> None:
        """Tags for the model card; trainers set them."""
        self.model.add_model_tags(tags)

    def logits(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [r, K] of hidden states [r, d] for some token ids [K] (ascending), through the output embeddings.

        In float32 under mixed precision too: what is sampled inside autocast and scored outside is one distribution.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._logits(hidden.float(), tokens)

    def _logits(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        module = self.model.get_base_model().get_output_embeddings()
        if not isinstance(module, TrainableTokensWrapper):
            return hidden @ module.weight[tokens].float().T
        first, items = self._item_rows(module)
        weight = module.token_adapter.get_base_layer().weight
        split = int((tokens < first).sum())
        if split == 0 and len(tokens) == len(items):
            return hidden @ items.float().T
        rows = torch.cat([weight[tokens[:split]], items[tokens[split:] - first]])
        return hidden @ rows.float().T

    @staticmethod
    def _item_rows(module: TrainableTokensWrapper) -> tuple[int, torch.Tensor]:
        """First item token and the item embeddings [N, d] of the active adapter; item tokens are contiguous."""
        layer = module.token_adapter
        adapter = layer.active_adapters[0]
        return layer.token_indices[adapter][0], layer.trainable_tokens_delta[adapter]

    # -- adapters --

    def add_rl_adapter(self) -> None:
        """Adds the adapter that RL trains as a copy of the SFT adapter, and makes it the active one."""
        self.model.add_adapter(RL_ADAPTER, self.model.peft_config[SFT_ADAPTER])
        state = self.model.state_dict()
        copies = {
            name.replace(f".{SFT_ADAPTER}.", f".{RL_ADAPTER}.")
            if f".{SFT_ADAPTER}." in name
            else name.removesuffix(SFT_ADAPTER) + RL_ADAPTER: value.clone()
            for name, value in state.items()
            if f".{SFT_ADAPTER}." in name or name.endswith(f".{SFT_ADAPTER}")
        }
        unknown = set(copies) - set(state)
        if unknown:
            raise ModelError(f"The RL adapter lacks {sorted(unknown)[:3]}: this peft names its weights otherwise.")
        self.model.load_state_dict(copies, strict=False)
        self.model.set_adapter(RL_ADAPTER)

    def merge(self) -> None:
        """Adds the adapter's LoRA products into the base's weights: the same policy, about a fifth faster to ask.

        For a policy that is only asked: it cannot be trained or saved afterwards. Weights that are not float32 would
        lose what the adapter adds to rounding, and stay apart.
        """
        for module in self.model.modules():
            if isinstance(module, LoraLayer) and module.get_base_layer().weight.dtype == torch.float32:
                module.merge()

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it, the policy is the reference: the RL adapter is off and the SFT adapter on."""
        self.model.set_adapter(SFT_ADAPTER)
        try:
            yield
        finally:
            self.model.set_adapter(RL_ADAPTER)

    def save_pretrained(self, directory: str | Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Writes the active adapter, the tokenizer, the item vocabulary and `llmrec.json`, all or nothing.

        Args:
            directory: replaced if it exists.
            state_dict: of this policy, gathered from all processes where they hold shards of it; None: its own.
        """
        if state_dict is not None:
            state_dict = {name.removeprefix("model."): value for name, value in state_dict.items()}
        with atomic_directory(directory) as temporary:
            adapter = self.model.active_adapter
            # The adapter holds the item rows; base rows would be a copy of the whole embedding matrix.
            self.model.save_pretrained(
                temporary, selected_adapters=[adapter], save_embedding_layers=False, state_dict=state_dict
            )
            inner = temporary / adapter  # peft puts an adapter that is not called `default` into its own folder
            for file in inner.iterdir():
                file.replace(temporary / file.name)
            inner.rmdir()
            self.tokenizer.save_pretrained(temporary)
            self.vocabulary.save(temporary)
            self.facts.save(temporary)
            write_json(temporary / FILE_NAME, self.description())

    def load_adapter_weights(self, directory: str | Path) -> None:
        """Puts the weights of a saved adapter into the active one.

        Raises:
            ModelError: the file is missing or does not fit.
        """
        path = Path(directory) / "adapter_model.safetensors"
        try:
            outcome = set_peft_model_state_dict(self.model, load_file(path), adapter_name=self.model.active_adapter)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
        if outcome.unexpected_keys:
            raise ModelError(f"{path} has weights that this policy lacks: {outcome.unexpected_keys[:3]}.")

    def description(self) -> dict:
        """What `llmrec.json` says of an adapter."""
        return {
            "format": FORMAT,
            "base_model": hub_id(self.model_config.base),
            "model": self.model_config.model_dump(),
            "catalogue": self.catalogue.model_dump(),
            "item_vocabulary": self.vocabulary.fingerprint,
        }

    @classmethod
    def from_pretrained(cls, directory: str | Path, quantized: bool = True) -> "RecPolicy":
        """Loads an adapter directory that `save_pretrained` wrote, onto its base.

        Args:
            directory: of the adapter.
            quantized: False: the base in full precision, even if the adapter was trained on a quantised one.

        Raises:
            ModelError: files are missing, truncated, of a newer format, or do not belong together.
        """
        directory = Path(directory)
        description = _read_description(directory)
        if "merged" in description:
            raise ModelError(f"{directory} holds a merged model, not an adapter: load it with transformers.")
        model_config = ModelConfig(**description["model"] | ({} if quantized else {"quantization": None}))
        vocabulary = ItemVocabulary.load(directory)
        if vocabulary.fingerprint != description["item_vocabulary"]:
            raise ModelError(f"{directory}: the item vocabulary is not the one that the adapter was trained with.")
        base, _ = load_base(model_config)
        tokenizer = _load_tokenizer(directory)
        if vocabulary.new_tokens:
            base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        try:
            model = PeftModel.from_pretrained(base, directory, adapter_name=SFT_ADAPTER, is_trainable=True)
        except Exception as error:  # safetensors and peft raise many kinds
            raise ModelError(f"{directory}: the adapter cannot be read: {error}. Copy or train it again.") from error
        catalogue = CatalogueConfig(**description["catalogue"])
        return cls(model, tokenizer, vocabulary, catalogue, model_config, FactBook.load(directory))


def _words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _read_description(directory: Path) -> dict:
    path = directory / FILE_NAME
    try:
        description = read_json(path)
        newer = description["format"] > FORMAT
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: {directory} is not a policy written by llmrec.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not readable ({error}); copy or train it again.") from None
    if newer:
        raise ModelError(f"{path} has format {description['format']}; this llmrec reads up to {FORMAT}: update it.")
    return description


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise ModelError(f"{directory}: the tokenizer cannot be read: {error}") from None


def _lora_config(base: PreTrainedModel, vocabulary: ItemVocabulary, config: ModelConfig) -> LoraConfig:
    tokens = None
    if vocabulary.new_tokens:
        tokens = {"embed_tokens": vocabulary.new_tokens}
        if not base.config.tie_word_embeddings:
            tokens["lm_head"] = vocabulary.new_tokens
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        trainable_token_indices=tokens,
    )


def _add_item_tokens(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: ItemVocabulary,
    descriptions: list[str],
) -> None:
    """Makes room for item tokens; each starts from the mean of the embeddings of its title and description."""
    if not vocabulary.new_tokens:
        return
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    texts = [f"{title} {text}" for title, text in zip(vocabulary.titles, descriptions, strict=True)]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    words = torch.tensor([token for tokens in encoded for token in tokens])
    starts = torch.tensor([0, *(len(tokens) for tokens in encoded[:-1])]).cumsum(0)
    weights = [base.get_input_embeddings().weight.data]
    if not base.config.tie_word_embeddings:
        weights.append(base.get_output_embeddings().weight.data)
    for weight in weights:
        weight[vocabulary.new_tokens] = F.embedding_bag(words, weight, starts, mode="mean")
