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
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.other import TrainableTokensWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.catalogue.cooccurrence import cooccurrence_vectors
from llmrec.catalogue.facts import FactBook
from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.config import CatalogueConfig, Config, ModelConfig
from llmrec.data.dataset import InteractionData
from llmrec.errors import ModelError
from llmrec.files import atomic_directory, write_json
from llmrec.hub.client import find_adapter
from llmrec.language.base_model import base_fingerprint, hub_id, load_base
from llmrec.language.grammar import TokenClasses
from llmrec.language.prompt import PromptBuilder
from llmrec.language.templates import all_texts
from llmrec.policy.decoding import Decoder
from llmrec.policy.distribution import MaskedDistribution
from llmrec.policy.saved import (
    ADAPTER_WEIGHTS,
    FILE_NAME,
    FORMAT,
    GENERATION_FILE,
    adapter_shapes,
    advising_a_copy,
    load_tokenizer,
    read_description,
    refuse_other_base,
    refuse_other_settings,
)

SFT_ADAPTER = "sft"
RL_ADAPTER = "rl"
SENTENCE_LENGTH = 30  # tokens


class RecPolicy(nn.Module):
    """A language model that can only say items that exist.

    Attributes:
        model: the `peft` model.
        tokenizer: with the item tokens added.
        vocabulary: items as tokens.
        prompts: renders prompts, parses completions.
        facts: what is true of the items.
        base_fingerprint: see `llmrec.language.base_model`.
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
        base_fingerprint: str,
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.catalogue = catalogue
        self.model_config = model_config
        self.facts = facts
        self.base_fingerprint = base_fingerprint
        self.prompts = PromptBuilder(tokenizer, vocabulary, catalogue)
        classes = TokenClasses.from_prompts(self.prompts, facts)
        self.decoder = Decoder(vocabulary.trie.to(self.device), facts, classes)
        self.distribution = MaskedDistribution(self.decoder, self.logits)

    @classmethod
    def create(cls, config: Config, data: InteractionData) -> "RecPolicy":
        """A fresh policy on the configured base.

        New item tokens start from the words of title and facts, and from which items are had together.
        """
        base, tokenizer = load_base(config.model)
        fingerprint = base_fingerprint(base, len(tokenizer))
        reserved = {token for text in all_texts() for token in _words(tokenizer, text)}
        facts = FactBook.from_data(data, lambda fact: _words(tokenizer, fact.words)[0] not in reserved)
        vocabulary = ItemVocabulary.build(data, tokenizer, config.catalogue.scheme)
        if vocabulary.new_tokens:
            texts = [f"{title} {facts.description(item)}" for item, title in enumerate(vocabulary.titles)]
            company = cooccurrence_vectors(data.train_histories, data.num_items, base.config.hidden_size, config.seed)
            company *= config.catalogue.cooccurrence_weight
            _add_item_tokens(base, tokenizer, vocabulary.new_tokens, texts, company)
        model = get_peft_model(base, _lora_config(base, vocabulary, config.model), adapter_name=SFT_ADAPTER)
        return cls(model, tokenizer, vocabulary, config.catalogue, config.model, facts, fingerprint)

    # -- the network --

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def hidden_size(self) -> int:
        return self.model.config.hidden_size

    @property
    def completion_length(self) -> int:
        """Tokens that a completion has room in: two items and a sentence."""
        return 2 * int(self.vocabulary.lengths.max()) + SENTENCE_LENGTH

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
            write_json(temporary / GENERATION_FILE, self._generation_defaults())

    def push_to_hub(
        self, repo: str, private: bool = False, revision: str | None = None, commit_message: str | None = None
    ) -> str:
        """Uploads what `save_pretrained` writes, with a short card, in one commit; see also `llmrec.hub.push.push`.

        Args:
            repo: `OWNER/NAME` on the hub that `HF_ENDPOINT` names; made if there is none.
            private: make the repository private if it is new; refuse a public one.
            revision: a branch, made if there is none; None: the main one.
            commit_message: None: a plain one.

        Returns:
            Where to look at it.

        Raises:
            UserError: the name is not one, the hub refuses, or it cannot be reached.
        """
        from llmrec.hub.push import push_policy

        return push_policy(self, repo, private=private, revision=revision, message=commit_message)

    def load_adapter_weights(self, directory: str | Path) -> None:
        """Puts the weights of a saved adapter into the active one.

        Raises:
            ModelError: the file is missing, or does not hold exactly the adapter's weights.
        """
        path = Path(directory) / ADAPTER_WEIGHTS
        adapter = self.model.active_adapter
        try:
            weights = load_file(path)
            differ = weights.keys() ^ get_peft_model_state_dict(
                self.model, adapter_name=adapter, save_embedding_layers=False
            )
            if not differ:
                set_peft_model_state_dict(self.model, weights, adapter_name=adapter)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}. Copy or train the adapter again.") from error
        if differ:
            raise ModelError(
                f"{path} does not hold the weights of this adapter: {len(differ)} are missing or unknown, such as "
                f"{min(differ)}. Copy or train the adapter again."
            )

    def description(self) -> dict:
        """What `llmrec.json` says of an adapter."""
        return {
            "format": FORMAT,
            "base_model": hub_id(self.model_config.base),
            "model": self.model_config.model_dump(),
            "catalogue": self.catalogue.model_dump(),
            "item_vocabulary": self.vocabulary.vocabulary_hash,
            "base_fingerprint": self.base_fingerprint,
        }

    def _generation_defaults(self) -> dict:
        tokens = {f"{name}_token_id": getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        return {**tokens, "do_sample": False, "max_new_tokens": self.completion_length}

    @classmethod
    def from_pretrained(cls, model: str | Path, revision: str | None = None, quantized: bool = True) -> "RecPolicy":
        """Loads what `save_pretrained` or a push wrote, onto its base. Nothing is ever unpickled.

        Args:
            model: an adapter's directory or, if there is no such directory, `OWNER/NAME` on the hub.
            revision: branch, tag or commit on the hub.
            quantized: False: the base in full precision, even if the adapter was trained on a quantised one.

        Raises:
            ModelError: files are missing, truncated, of a newer format, or do not belong together or to the base.
            UserError: the hub has no such repository or revision, refuses, or cannot be reached.
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
        model = get_peft_model(base, _lora_config(base, vocabulary, about.model), adapter_name=SFT_ADAPTER)
        refuse_other_settings(directory, model.peft_config[SFT_ADAPTER])
        policy = cls(model, tokenizer, vocabulary, about.catalogue, about.model, facts, fingerprint)
        policy.load_adapter_weights(directory)
        return policy


def _words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


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
    tokens: list[int],
    texts: list[str],
    company: torch.Tensor,
) -> None:
    """Makes room for item tokens; each starts from the mean of the embeddings of its words, plus `company`.

    Args:
        base: changed in place.
        tokenizer: with the item tokens.
        tokens: ids of the N item tokens.
        texts: of the items, [N].
        company: vectors to add, [N, d], in multiples of the mean length of what the words give.
    """
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    words = torch.tensor([token for tokens in encoded for token in tokens])
    starts = torch.tensor([0, *(len(tokens) for tokens in encoded[:-1])]).cumsum(0)
    weights = [base.get_input_embeddings().weight.data]
    if not base.config.tie_word_embeddings:
        weights.append(base.get_output_embeddings().weight.data)
    for weight in weights:
        start = F.embedding_bag(words, weight, starts, mode="mean")
        weight[tokens] = start + company.to(start) * start.norm(dim=1).mean()
