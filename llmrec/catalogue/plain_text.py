"""Text of users and of the catalogue as tokens, under any tokenizer.

Two things go wrong if such text is given to a tokenizer as it is. A title that holds `<|im_end|>` or `<|item_4|>` ends
a turn or names an item, because tokenizers find special and added tokens inside of any text. And most SentencePiece
tokenizers write a space before every text, so that stretches that are encoded one by one do not join to the text.
"""

import re
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import product
from os.path import commonprefix
from typing import cast

from transformers import PreTrainedTokenizerBase

from llmrec.errors import ModelError

GUARDS = ("\n", ":", "~", "x")  # texts before a stretch, so that it is encoded as a continuation
PROBES = (".", " Like", ", it is", "y", "7", ' "')  # stretches that must join to the text that they were cut from
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # how SentencePiece names the token of a single byte


class PlainText:
    """Encodes stretches of text that stay text: no token is special, and none was added to the tokenizer.

    The tokens of stretches, one after the other, decode to the stretches, one after the other. White space and single
    characters that a tokenizer holds as added tokens count as text.

    Args:
        tokenizer: any tokenizer that holds all of its tokens already.

    Attributes:
        syntax: ids of special tokens and of tokens that were added to the tokenizer, with their texts.

    Raises:
        ModelError: stretches that the tokenizer encodes one by one do not join to their text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.syntax = _syntax(tokenizer)
        self._guards = self._find_guards()

    def encode(self, text: str, apart: Collection[int] = ()) -> list[int]:
        """Token ids of a stretch of text.

        A special token that the text spells is encoded as two stretches, cut after its first character.

        Args:
            text: any text.
            apart: further token ids that the result must not hold, if the text can be cut inside of them.
        """
        tokens: list[int] = []
        pieces = [text] if text else []
        while pieces:
            piece = pieces.pop()
            encoded = self._encode_stretch(piece)
            spelled = self._spelled_marker(piece, encoded, apart)
            if spelled is None:
                tokens += [token for token in encoded if self._is_text(token)]
            else:
                cut = piece.index(spelled) + 1
                pieces += [piece[cut:], piece[:cut]]
        return tokens

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, as `encode` gives them, in one call of the tokenizer."""
        if not texts or self._guards:
            return [self.encode(text) for text in texts]
        encoded = cast(list[list[int]], self.tokenizer(list(texts), add_special_tokens=False)["input_ids"])
        pairs = zip(texts, encoded, strict=True)
        return [list(tokens) if self.syntax.keys().isdisjoint(tokens) else self.encode(text) for text, tokens in pairs]

    def encode_markup(self, text: str, continues: bool) -> list[int]:
        """Token ids of a part of a chat template, in which special tokens are meant as such.

        Args:
            text: rendered template.
            continues: whether text comes before it.
        """
        if not text:
            return []
        return self._encode_stretch(text) if continues else self._encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a stretch of tokens, with the space that it may begin with."""
        if not self._guards:
            return self._decode(tokens)
        guard, lead = self._guards[0]
        return self._decode([*lead, *tokens])[len(guard) :]

    def _is_text(self, token: int) -> bool:
        """Whether a token may stand in plain text, if the text does not spell it."""
        return token not in self.syntax or _BYTE.fullmatch(self.syntax[token]) is not None

    def _spelled_marker(self, text: str, tokens: Sequence[int], apart: Collection[int]) -> str | None:
        """The first special, added or unwanted token that a text spells in at least two characters, if any."""
        for token in tokens:
            if token in self.syntax or token in apart:
                marker = self.syntax.get(token) or self.decode([token])
                if len(marker) > 1 and marker in text:
                    return marker
        return None

    # -- stretches --

    def _encode_stretch(self, text: str) -> list[int]:
        """Token ids of a stretch, as a continuation where a text on its own would be encoded otherwise."""
        for guard, lead in self._guards:
            tokens = self._encode(guard + text)
            if tuple(tokens[: len(lead)]) == lead:  # else the text has merged with the guard
                return tokens[len(lead) :]
        return self._encode(text)

    def _find_guards(self) -> list[tuple[str, tuple[int, ...]]]:
        """Guards and their tokens; none where stretches that are encoded alone join to their text."""
        alone = {probe: self._encode(probe) for probe in PROBES}
        if self._joins("", (), alone):
            return []
        guards: list[tuple[str, tuple[int, ...]]] = []
        for guard in GUARDS:
            whole = {probe: self._encode(guard + probe) for probe in PROBES}
            lead = tuple(commonprefix(list(whole.values())))
            if lead and self._joins(guard, lead, {probe: tokens[len(lead) :] for probe, tokens in whole.items()}):
                guards.append((guard, lead))
        if not guards:
            raise ModelError(
                f"The tokenizer {self.name} does not give back the text that it encodes: `x` and `.` do not join to "
                "`x.`. A justification is written in stretches, so choose a `model.base` whose tokenizer keeps case "
                "and white space (byte-level BPE or SentencePiece)."
            )
        return guards

    def _joins(self, guard: str, lead: tuple[int, ...], encoded: dict[str, list[int]]) -> bool:
        """Whether every two probes, one after the other behind a guard, decode to their joined text."""
        return all(
            self._decode([*lead, *encoded[one], *encoded[other]]) == guard + one + other
            for one, other in product(PROBES, repeat=2)
        )

    def _encode(self, text: str) -> list[int]:
        return list(cast(list[int], self.tokenizer(text, add_special_tokens=False)["input_ids"]))

    def _decode(self, tokens: Sequence[int]) -> str:
        return cast(str, self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    @cached_property
    def name(self) -> str:
        """How messages call the tokenizer."""
        return f"`{self.tokenizer.name_or_path}`" if self.tokenizer.name_or_path else type(self.tokenizer).__name__


def _syntax(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Ids and texts of the tokens that plain text must not hold."""
    special = set(tokenizer.all_special_ids)
    syntax = {number: cast(str, tokenizer.convert_ids_to_tokens(number)) for number in special}
    for number, token in tokenizer.added_tokens_decoder.items():
        if token.special or len(token.content.replace("▁", " ").strip()) > 1:
            syntax[number] = token.content
    return syntax
