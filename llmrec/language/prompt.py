"""Prompts and completions: renders a history to tokens, and parses completion tokens to a recommendation.

The history stands in the assistant's own turn, right before the next item:

    system: Recommend.   user: 24 M technician   assistant: <item><item>...<item> | <next item> Like "<item>, it is ...

So a prompt and a packed history predict the next item from the same hidden state. One forward pass over a history
holds the policy's decision after every item.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from transformers import PreTrainedTokenizerBase

from llmrec.catalogue.facts import Fact
from llmrec.catalogue.plain_text import PlainText
from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.config import CatalogueConfig
from llmrec.errors import ModelError
from llmrec.language.headers import ChatHeaders, HeaderFrame
from llmrec.language.templates import Segment

OPENERS = (' "', '"', " «", "<")  # texts that may open a citation; the first that is one token is used


@dataclass(frozen=True)
class Recommendation:
    """A parsed completion.

    Attributes:
        item: index of the recommended item; -1 if the completion was truncated before the item was complete.
        segments: the justification: strings, and item indices for citations.
        finished: the completion ended with the end token.
    """

    item: int
    segments: tuple[Segment, ...]
    finished: bool

    @property
    def citations(self) -> tuple[int, ...]:
        """Indices of the cited items, in order."""
        return tuple(segment for segment in self.segments if isinstance(segment, int))

    def text(self, titles: tuple[str, ...]) -> str:
        """The justification with titles, as shown to people."""
        parts = [f' "{titles[s]}"' if isinstance(s, int) else s for s in self.segments]
        return "".join(parts).strip()


class PromptBuilder:
    """Renders prompts and completions to tokens, and parses completions.

    Args:
        tokenizer: the tokenizer with the item tokens.
        vocabulary: the token sequence of every item.
        config: `max_history` and `system_prompt` are used.
        frame: the header of an adapter that was trained with it; None renders the chat template.

    Attributes:
        text: encodes and decodes stretches of text.
        header: maps a profile to the token ids before the history.
        opener: token id that opens a citation, and has no other meaning in a justification.
        end: token id that ends a completion.
        stop: token id of the full stop that ends a sentence.

    Raises:
        ModelError: no single token can open a citation or end a sentence, or the chat template cannot be used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: ItemVocabulary,
        config: CatalogueConfig,
        frame: HeaderFrame | None = None,
    ):
        self.tokenizer = tokenizer
        self.text = PlainText(tokenizer)
        self.vocabulary = vocabulary
        self.config = config
        self.opener = self._single_token(OPENERS, "open a citation")
        self.end = cast(int, tokenizer.eos_token_id)
        self.stop = self._single_token((".",), "end a sentence")
        self.header = ChatHeaders(self.text, config.system_prompt, frame)

    def _single_token(self, texts: tuple[str, ...], purpose: str) -> int:
        """The first of some texts that is one token."""
        for text in texts:
            tokens = self.text.encode(text)
            if len(tokens) == 1:
                return tokens[0]
        raise ModelError(
            f"The tokenizer {self.text.name} has no single token for any of {', '.join(texts)}, but one token must "
            f"{purpose}. Choose another `model.base`."
        )

    def prompt(self, profile: str, history: Iterable[int]) -> list[int]:
        """Token ids of a user's prompt.

        Args:
            profile: what the prompt says of the user; see `data.profiles`.
            history: item indices, oldest first; only the newest `max_history` are shown.
        """
        return self.header(profile) + self.vocabulary.tokens_of(list(history)[-self.config.max_history :])

    def justification(self, segments: list[Segment | Fact]) -> list[int]:
        """Token ids of a justification, without the item before it and the end token after it."""
        tokens: list[int] = []
        for segment in segments:
            if isinstance(segment, Fact):
                tokens += self.words(segment.words)
            elif isinstance(segment, str):
                tokens += self.words(segment)
            else:
                tokens += [self.opener, *self.vocabulary.sequences[segment]]
        return tokens

    def words(self, text: str) -> list[int]:
        """Token ids of a stretch of text. Each stretch is encoded alone, so that spans begin at token boundaries.

        Full stops are tokens of their own, and no token opens a citation if the text can be encoded without it.
        """
        pieces = re.split(r"(\.)", text)
        encoded = [[self.stop] if piece == "." else self.text.encode(piece, (self.opener,)) for piece in pieces]
        return [token for tokens in encoded for token in tokens]

    def parse(self, tokens: list[int]) -> Recommendation:
        """Parses a completion: the inverse of item tokens + `justification` + end token."""
        item, position = self._read_item(tokens, 0)
        segments: list[Segment] = []
        text: list[int] = []
        while position < len(tokens) and tokens[position] != self.end:
            if tokens[position] == self.opener:
                cited, after = self._read_item(tokens, position + 1)
                if cited < 0:
                    return self._recommendation(item, segments, text, finished=False)
                self._flush(segments, text)
                segments.append(cited)
                position = after
            else:
                text.append(tokens[position])
                position += 1
        return self._recommendation(item, segments, text, finished=item >= 0 and position < len(tokens))

    def _recommendation(self, item: int, segments: list[Segment], text: list[int], finished: bool) -> Recommendation:
        self._flush(segments, text)
        return Recommendation(item, tuple(segments), finished)

    def _flush(self, segments: list[Segment], text: list[int]) -> None:
        if text:
            segments.append(self.text.decode(text))
            text.clear()

    def _read_item(self, tokens: list[int], position: int) -> tuple[int, int]:
        """The item that starts at a position, and the position after it. Item -1 if it is truncated or unknown."""
        for length in range(1, self._longest + 1):
            item = self._items.get(tuple(tokens[position : position + length]), -1)
            if item >= 0:
                return item, position + length
        return -1, len(tokens)

    @cached_property
    def _items(self) -> dict[tuple[int, ...], int]:
        """Item index of each token sequence."""
        return {sequence: item for item, sequence in enumerate(self.vocabulary.sequences)}

    @property
    def _longest(self) -> int:
        """Length of the longest token sequence."""
        return self.vocabulary.longest
