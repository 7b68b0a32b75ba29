"""Which facts of a catalogue a tokenizer can write so that a reader finds them again."""

import logging
import re

from llmrec.catalogue.facts import Fact, FactBook
from llmrec.data.dataset import InteractionData
from llmrec.language.prompt import PromptBuilder
from llmrec.language.templates import all_texts

_log = logging.getLogger(__name__)
SHOWN = 3  # facts that the warning names at most


def writable_facts(data: InteractionData, prompts: PromptBuilder) -> FactBook:
    """The facts of a catalogue that justifications may state. The others are left out, with a warning.

    A fact can be written if its tokens decode to its words, open no citation and end nothing. Its first token means
    this fact wherever it stands, so no template may hold that token. Its words must not occur in templates either, and
    must not begin like the words of a period or a shared entity.

    Args:
        data: the catalogue.
        prompts: encodes the facts.
    """
    known = FactBook.from_data(data).facts
    texts = all_texts()
    reserved = {token for text in texts for token in prompts.words(text)} | {prompts.opener, prompts.stop, prompts.end}
    fixed = [fact.words for fact in known if fact.kind != "category"]

    def is_writable(fact: Fact) -> bool:
        if fact.kind == "category":
            pattern = rf"(?<![\w-]){re.escape(fact.value)}(?![\w-])"
            is_in_template = any(fact.value in text and re.search(pattern, text) for text in texts)
            is_like_another = any(other.startswith(fact.words) or fact.words.startswith(other) for other in fixed)
            is_plain = fact.value == " ".join(fact.value.split()) != ""
            if is_like_another or not is_plain or is_in_template:
                return False
        tokens = prompts.words(fact.words)
        opens_or_ends = {prompts.opener, prompts.stop, prompts.end}.intersection(tokens)
        return not opens_or_ends and tokens[0] not in reserved and prompts.text.decode(tokens) == fact.words

    left_out = [fact for fact in known if not is_writable(fact)]
    if left_out:
        names = ", ".join(repr(fact.value) for fact in left_out[:SHOWN])
        _log.warning(
            f"{len(left_out)} of {len(known)} facts cannot be written with the tokenizer {prompts.text.name} and are "
            f"left out of justifications: {names}{', ...' if len(left_out) > SHOWN else ''}."
        )
    unwritable = set(left_out)
    return FactBook.from_data(data, lambda fact: fact not in unwritable)
