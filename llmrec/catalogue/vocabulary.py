"""Items as words: every item of the catalogue is a sequence of tokens."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from transformers import AddedToken, PreTrainedTokenizerBase

from llmrec.catalogue.trie import ItemTrie
from llmrec.data.dataset import InteractionData
from llmrec.errors import ModelError
from llmrec.files import read_json, write_json

FILE_NAME = "item_vocabulary.json"
FORMAT = 1


@dataclass(frozen=True)
class ItemVocabulary:
    """The token sequence of every item.

    Schemes: `atomic`, one new token an item; `title`, the tokens of the item's own title and a line end.

    Attributes:
        scheme: how sequences were made.
        item_ids: [N].
        titles: what people read, [N]; the item ids where titles are withheld.
        sequences: token ids of each item, prefix-free, [N].
    """

    scheme: Literal["atomic", "title"]
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    sequences: tuple[tuple[int, ...], ...]

    @classmethod
    def build(cls, data: InteractionData, tokenizer: PreTrainedTokenizerBase, scheme: str) -> "ItemVocabulary":
        """Makes the vocabulary of a catalogue; `atomic` adds one token an item to `tokenizer`, in place."""
        titles = _distinct([str(title) for title in data.items["title"]])
        if scheme == "atomic":
            first = len(tokenizer)
            names = [AddedToken(f"<|item_{i}|>", normalized=False, special=False) for i in range(len(titles))]
            tokenizer.add_tokens(names)
            sequences = [(first + index,) for index in range(len(titles))]
        else:
            encoded = tokenizer([title + "\n" for title in titles], add_special_tokens=False)["input_ids"]
            sequences = [tuple(tokens) for tokens in encoded]
        return cls(scheme, tuple(data.items["item_id"]), tuple(titles), tuple(sequences))

    @cached_property
    def trie(self) -> ItemTrie:
        return ItemTrie(list(self.sequences))

    @property
    def new_tokens(self) -> list[int]:
        """Token ids that the scheme added to the tokenizer; they are trained with the adapter."""
        return [sequence[0] for sequence in self.sequences] if self.scheme == "atomic" else []

    @cached_property
    def lengths(self) -> torch.Tensor:
        """Tokens of each item, int64 [N]."""
        return torch.tensor([len(sequence) for sequence in self.sequences])

    @cached_property
    def paths(self) -> list[tuple[int, ...]]:
        """Trie nodes at which each token of each item is chosen, [N]; the first is always the root."""
        nodes = [[0] for _ in self.sequences]
        if not self.trie.flat:
            device = self.trie.tokens.device
            for item, sequence in enumerate(self.sequences):
                for token in sequence[:-1]:
                    column = self.trie.columns_of(torch.tensor([token], device=device))
                    nodes[item].append(int(self.trie.step(torch.tensor([nodes[item][-1]], device=device), column)))
        return [tuple(path) for path in nodes]

    @cached_property
    def fingerprint(self) -> str:
        """Changes when any item, its order or its tokens change."""
        text = repr((self.scheme, self.item_ids, self.sequences))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def tokens_of(self, items) -> list[int]:
        """Token ids of a list of item indices, one after the other."""
        return [token for item in items for token in self.sequences[item]]

    def save(self, directory: str | Path) -> None:
        """Writes `item_vocabulary.json`."""
        items = [
            {"item_id": item, "title": title, "tokens": list(tokens)}
            for item, title, tokens in zip(self.item_ids, self.titles, self.sequences, strict=True)
        ]
        value = {"format": FORMAT, "scheme": self.scheme, "fingerprint": self.fingerprint, "items": items}
        write_json(Path(directory) / FILE_NAME, value)

    @classmethod
    def load(cls, directory: str | Path) -> "ItemVocabulary":
        """Reads `item_vocabulary.json`.

        Raises:
            ModelError: missing, unreadable, of a newer format, or changed since it was written.
        """
        path = Path(directory) / FILE_NAME
        try:
            value = read_json(path)
            if value["format"] > FORMAT:
                raise ModelError(f"{path} has format {value['format']}; this llmrec reads up to {FORMAT}: update it.")
            items, fingerprint = value["items"], value["fingerprint"]
            vocabulary = cls(
                value["scheme"],
                tuple(item["item_id"] for item in items),
                tuple(item.get("title", item["item_id"]) for item in items),
                tuple(tuple(item["tokens"]) for item in items),
            )
        except FileNotFoundError:
            raise ModelError(f"{path} is missing: {directory} is not an adapter written by llmrec.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not readable ({error}); copy or write the adapter again.") from None
        if vocabulary.fingerprint != fingerprint:
            raise ModelError(f"{path} was changed after it was written: its items no longer match its fingerprint.")
        return vocabulary


def _distinct(titles: list[str]) -> list[str]:
    """Gives the second and later holders of one title a number, so that people and tries can tell them apart."""
    seen: dict[str, int] = {}
    result = []
    for title in titles:
        title = " ".join(title.split())
        seen[title] = seen.get(title, 0) + 1
        result.append(title if seen[title] == 1 else f"{title} [{seen[title]}]")
    return result
