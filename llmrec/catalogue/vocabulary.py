"""The item vocabulary: the token sequence by which the language model names each item."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from transformers import AddedToken, PreTrainedTokenizerBase

from llmrec.catalogue.names import distinct_names
from llmrec.catalogue.plain_text import PlainText
from llmrec.catalogue.trie import ItemTrie
from llmrec.data.dataset import InteractionData
from llmrec.errors import ModelError
from llmrec.files import read_versioned, write_json

FILE_NAME = "item_vocabulary.json"
FORMAT = 1

Scheme = Literal["atomic", "title"]


@dataclass(frozen=True)
class ItemVocabulary:
    """The token sequences of all items.

    Attributes:
        scheme: `atomic` gives each item one new token; `title` uses the tokens of the item's title and a line end.
        item_ids: item ids of the log, [N].
        titles: distinct titles that people read, [N]; the item ids in an adapter that was pushed without titles.
        sequences: token ids of each item, [N]; none is the beginning of another.
    """

    scheme: Scheme
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    sequences: tuple[tuple[int, ...], ...]

    @classmethod
    def build(cls, data: InteractionData, tokenizer: PreTrainedTokenizerBase, scheme: Scheme) -> "ItemVocabulary":
        """Makes the vocabulary of a catalogue.

        Args:
            data: the catalogue.
            tokenizer: the tokenizer of the base; `atomic` adds one token per item to it.
            scheme: see `ItemVocabulary`.

        Raises:
            ModelError: the tokenizer has item tokens already, or numbers new tokens with gaps.
        """
        titles = distinct_names(data.items)
        if scheme == "atomic":
            sequences = [(token,) for token in _add_item_tokens(tokenizer, len(titles))]
        else:
            sequences = [
                tuple(tokens) for tokens in PlainText(tokenizer).encode_all([f"{title}\n" for title in titles])
            ]
        return cls(scheme, tuple(data.items["item_id"]), tuple(titles), tuple(sequences))

    @cached_property
    def trie(self) -> ItemTrie:
        """The prefix tree of all sequences."""
        return ItemTrie(list(self.sequences))

    @property
    def new_tokens(self) -> list[int]:
        """Token ids that the scheme added to the tokenizer, in item order; they are trained with the adapter."""
        return [sequence[0] for sequence in self.sequences] if self.scheme == "atomic" else []

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest item."""
        return self.trie.longest

    @cached_property
    def paths(self) -> list[tuple[int, ...]]:
        """For each item, the trie node at which each of its tokens is chosen, [N]; the first node is the root."""
        rows: list[list[int]] = self.trie.item_nodes.tolist()
        return [tuple(row[: len(sequence)]) for row, sequence in zip(rows, self.sequences, strict=True)]

    @cached_property
    def vocabulary_hash(self) -> str:
        """A hash that changes when an item, the order of items or a token sequence changes."""
        text = repr((self.scheme, self.item_ids, self.sequences))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def tokens_of(self, items: Iterable[int]) -> list[int]:
        """Token ids of several items, one item after the other."""
        return [token for item in items for token in self.sequences[item]]

    def save(self, directory: str | Path) -> None:
        """Writes `item_vocabulary.json`."""
        items = [
            {"item_id": item, "title": title, "tokens": list(tokens)}
            for item, title, tokens in zip(self.item_ids, self.titles, self.sequences, strict=True)
        ]
        value = {"format": FORMAT, "scheme": self.scheme, "fingerprint": self.vocabulary_hash, "items": items}
        write_json(Path(directory) / FILE_NAME, value)

    @classmethod
    def load(cls, directory: str | Path) -> "ItemVocabulary":
        """Reads `item_vocabulary.json`.

        Raises:
            ModelError: the file is missing, unreadable, of a newer format, or was changed after it was written.
        """
        path = Path(directory) / FILE_NAME

        def build(value: dict[str, Any]) -> tuple[ItemVocabulary, str]:
            items = value["items"]
            vocabulary = cls(
                value["scheme"],
                tuple(item["item_id"] for item in items),
                tuple(item.get("title", item["item_id"]) for item in items),
                tuple(tuple(item["tokens"]) for item in items),
            )
            return vocabulary, value["fingerprint"]

        vocabulary, recorded_hash = read_versioned(path, FORMAT, build)
        if vocabulary.vocabulary_hash != recorded_hash:
            raise ModelError(
                f"{path} was changed after it was written: its items do not match the recorded hash. Copy it again."
            )
        return vocabulary


def _add_item_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> range:
    """Adds one token an item, and returns the ids of the new tokens."""
    first = len(tokenizer)
    names = [f"<|item_{index}|>" for index in range(count)]
    added = tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    if added != count:
        raise ModelError(
            f"The tokenizer {tokenizer.name_or_path} holds {count - added} item tokens such as <|item_0|> already, as "
            "a model does that `llmrec export` wrote. They name items of the catalogue that it was trained on. Set "
            "`model.base` to the base of that model, or `catalogue.scheme: title`."
        )
    if tokenizer.convert_tokens_to_ids([names[0], names[-1]]) != [first, first + count - 1]:
        raise ModelError(
            f"The tokenizer {tokenizer.name_or_path} numbers its tokens with gaps: it has {first}, but gives a new one "
            f"the id {tokenizer.convert_tokens_to_ids(names[0])}. Choose another `model.base`, or set "
            "`catalogue.scheme: title`."
        )
    return range(first, first + count)
