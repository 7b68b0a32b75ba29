"""From a history to a prompt, and from completion tokens back to a recommendation.

The history stands in the assistant's own turn, right before the item to come:

    system: Recommend.   user: 24 M technician   assistant: <item><item>...<item> | <next item> Like "<item>, it is ...

so the state that predicts the next item in a prompt is the state that predicts it inside a packed history: one
forward pass over a history holds the policy's decision at every one of its prefixes.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from llmrec.catalogue.facts import Fact
from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.config import CatalogueConfig
from llmrec.errors import ModelError
from llmrec.language.templates import Segment

NEW_USER = "new user"  # the profile of someone of whom nothing is known
OPENERS = (' "', '"', " «", "<")


@dataclass(frozen=True)
class Recommendation:
    """A completion, parsed.

    Attributes:
        item: index of the recommended item; -1 if the completion broke off before it was complete.
        segments: the justification: strings, and item indices for citations.
        finished: the policy ended it by itself.
    """

    item: int
    segments: tuple[Segment, ...]
    finished: bool

    @property
    def citations(self) -> tuple[int, ...]:
        return tuple(segment for segment in self.segments if isinstance(segment, int))

    def text(self, titles: tuple[str, ...]) -> str:
        """The justification as people read it."""
        parts = [f' "{titles[s]}"' if isinstance(s, int) else s for s in self.segments]
        return "".join(parts).strip()


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


class ChatHeaders:
    """The chat template up to where the assistant begins to speak; each profile is rendered once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str):
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self._of: dict[str, list[int]] = {}

    def __call__(self, profile: str) -> list[int]:
        """Tokens before what the assistant says to a user."""
        if profile not in self._of:
            messages = [{"role": "system", "content": self.system_prompt}, {"role": "user", "content": profile}]
            encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
            self._of[profile] = list(encoded["input_ids"])
        return self._of[profile]


class PromptBuilder:
    """Renders prompts and completions to tokens and parses completions back.

    Attributes:
        header: tokens before the history, of a profile.
        opener: token id that opens a citation; in free text it means nothing else.
        end: token id that ends a completion.
        stop: token id of the full stop that ends a sentence.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: ItemVocabulary, config: CatalogueConfig):
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.config = config
        singles = [self.words(text) for text in OPENERS]
        self.opener = next((tokens[0] for tokens in singles if len(tokens) == 1), None)
        if self.opener is None:
            raise ModelError(f"The tokenizer of the base has no single token for any of {OPENERS}; citations need one.")
        self.end = tokenizer.eos_token_id
        self.stop = self.words(".")[-1]
        self.header = ChatHeaders(tokenizer, config.system_prompt)

    def prompt(self, profile: str, history) -> list[int]:
        """Prompt tokens of a user.

        Args:
            profile: see `profile_of`.
            history: item indices, newest last; only the newest `max_history` are shown.
        """
        return self.header(profile) + self.vocabulary.tokens_of(list(history)[-self.config.max_history :])

    def justification(self, segments: list[Segment | Fact]) -> list[int]:
        """Tokens of a justification, without the item before it and the end token after it."""
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
        """Token ids of a stretch of text. Each stretch is encoded alone, so that spans begin at token boundaries."""
        return encode(self.tokenizer, text)

    def parse(self, tokens: list[int]) -> Recommendation:
        """Reads a completion back; the inverse of item tokens + `justification` + end."""
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

    def _recommendation(self, item: int, segments: list, text: list, finished: bool) -> Recommendation:
        self._flush(segments, text)
        return Recommendation(item, tuple(segments), finished)

    def _flush(self, segments: list, text: list) -> None:
        if text:
            segments.append(self.tokenizer.decode(text, clean_up_tokenization_spaces=False))
            text.clear()

    def _read_item(self, tokens: list[int], position: int) -> tuple[int, int]:
        """The item that starts at a position and the position after it; item -1 if it is broken off or unknown."""
        for length in range(1, self._longest + 1):
            item = self._items.get(tuple(tokens[position : position + length]), -1)
            if item >= 0:
                return item, position + length
        return -1, len(tokens)

    @property
    def _items(self) -> dict[tuple[int, ...], int]:
        if not hasattr(self, "_item_of"):
            self._item_of = {sequence: item for item, sequence in enumerate(self.vocabulary.sequences)}
        return self._item_of

    @property
    def _longest(self) -> int:
        return int(self.vocabulary.lengths.max())
