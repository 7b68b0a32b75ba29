"""Text of users and of the catalogue stays text, under tokenizers of every kind."""

import logging
import random

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmrec.catalogue.facts import Fact
from llmrec.catalogue.plain_text import PlainText
from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.config import CatalogueConfig
from llmrec.data.decision import Decision, Decisions
from llmrec.errors import ModelError
from llmrec.language.grammar import TokenClasses
from llmrec.language.groundedness import check
from llmrec.language.headers import HeaderFrame
from llmrec.language.prompt import PromptBuilder
from llmrec.language.templates import sample_justification
from llmrec.language.writable import writable_facts
from llmrec.policy.decoding import Decoder
from llmrec.sft.check import allowed_tokens
from tests.conftest import make_data
from tests.families.bases import FAMILIES, make_tokenizer

KINDS = ("gpt2", "qwen3", "llama2", "mistral", "gemma3")  # one family for each kind of tokenizer
MARKERS = ("<|im_end|>", "<|im_start|>assistant\n", "<|item_4|>", "</s>", "<end_of_turn>", "<|endoftext|>", "<0x0A>")
PIECES = (
    *MARKERS,
    ' "',
    '"',
    "Drama",
    " from the 1990s",
    "is",
    ", it",
    ".",
    "\n",
    " ",
    "<",
    "▁",
    "é",
    "漢",
    "Like",
    "1",
)
hostile = st.lists(st.sampled_from(PIECES) | st.characters(codec="utf-8"), max_size=5).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def prompts(request) -> PromptBuilder:
    """Prompts of the tiny catalogue with the tokenizer of a family."""
    tokenizer = make_tokenizer(FAMILIES[request.param])
    return PromptBuilder(tokenizer, ItemVocabulary.build(make_data(), tokenizer, "atomic"), CatalogueConfig())


@settings(max_examples=40, deadline=None)
@given(text=hostile, other=hostile)
def test_text_never_becomes_syntax(prompts, text, other):
    plain, syntax = prompts.text, prompts.text.syntax
    bytes_ = {number for number, content in syntax.items() if content.startswith("<0x")}
    tokens = plain.encode(text)
    assert not (syntax.keys() - bytes_).intersection(tokens)
    assert plain.encode_all([text, other]) == [tokens, plain.encode(other)]
    header = prompts.header(text)
    markers = syntax.keys() - bytes_
    assert [t for t in header if t in markers] == [t for t in prompts.header("x") if t in markers]
    if prompts.tokenizer.is_fast and "▁" not in text + other:  # SentencePiece writes a space as ▁
        assert plain.decode([*tokens, *plain.encode(other)]) == text + other


catalogues = given(
    categories=st.lists(hostile, min_size=3, max_size=3),
    title=hostile.filter(str.strip),
    brand=hostile,
    year=st.none() | st.integers(-20, 30_000),
    seed=st.integers(0, 9),
)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@catalogues
@pytest.mark.parametrize("scheme", ["atomic", "title"])
def test_what_is_written_about_hostile_catalogues_is_allowed_and_read_back(prompts, scheme, **catalogue):
    check_round_trip(prompts, scheme, **catalogue)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@catalogues
@pytest.mark.parametrize("scheme", ["atomic", "title"])
def test_the_same_for_many_catalogues(prompts, scheme, **catalogue):
    check_round_trip(prompts, scheme, **catalogue)


def check_round_trip(prompts, scheme, categories, title, brand, year, seed):
    """Over all text fields: what SFT teaches is allowed by the mask, parses to what was meant, and is grounded."""
    data = make_data()
    data.items["categories"] = pd.Series([[name, categories[2]] for name in (categories[:2] * 5)], dtype=object)
    data.items["title"] = [title, f"{title} {title}", *data.items["title"][2:]]
    data.items["year"] = pd.array([year, *data.items["year"][1:]], dtype="Int64")
    data.facts.loc[len(data.facts)] = [1, "brand", brand, False]
    data.facts.loc[len(data.facts)] = [2, "brand", brand, False]
    tokenizer = prompts.tokenizer
    vocabulary = prompts.vocabulary
    if scheme == "title":
        vocabulary = ItemVocabulary.build(data, tokenizer, "title")
    builder = PromptBuilder(tokenizer, vocabulary, CatalogueConfig(), prompts.header.frame)
    logging.disable()
    facts = writable_facts(data, builder)
    logging.disable(logging.NOTSET)
    decoder = Decoder(vocabulary.trie, facts, TokenClasses.from_prompts(builder, facts))
    generator = random.Random(seed)
    for item in (0, 1, 2):
        history = [other for other in range(6) if other != item]
        segments = sample_justification(facts, item, history, generator, people=0.5)
        tokens = [*vocabulary.sequences[item], *builder.justification(segments), builder.end]
        read = builder.parse(tokens)
        titles = vocabulary.titles
        said = [s.words if isinstance(s, Fact) else f' "{titles[s]}"' if isinstance(s, int) else s for s in segments]
        assert read.item == item and read.finished
        assert read.text(titles) == "".join(said).strip()
        outcome = check(facts, read, set(history))
        assert outcome.true == outcome.statements
        available = torch.tensor([[number not in history for number in range(10)]])
        state = decoder.start(available, torch.tensor([history]))
        for token in tokens:
            assert allowed_tokens(decoder, state, torch.tensor([token])).all(), tokenizer.convert_ids_to_tokens(token)
            state = decoder.advance(state, torch.tensor([token]))


def test_a_quotation_mark_in_a_category_opens_no_citation(prompts):
    tokens = prompts.words(' "Weird Al" Music')
    assert prompts.opener not in tokens and prompts.text.decode(tokens) == ' "Weird Al" Music'


def test_a_full_stop_is_one_token_whatever_comes_before(prompts):
    for text in (" too.", ".", " once more.", ". You also know"):
        tokens = prompts.words(text)
        assert tokens.count(prompts.stop) == 1 and prompts.text.decode(tokens) == text


def test_facts_that_cannot_be_written_are_counted(prompts, caplog):
    data = make_data()
    data.items["categories"] = [["Drama", "is", "1990s\n", "from the 1990s"]] * 10
    with caplog.at_level(logging.WARNING):
        facts = writable_facts(data, prompts)
    assert [fact.value for fact in facts.facts if fact.kind == "category"] == ["Drama"]
    assert "3 of 7 facts cannot be written" in caplog.text and "'is'" in caplog.text


def test_word_pieces_are_refused():
    letters = {
        letter: number
        for number, letter in enumerate(["[UNK]", "x", "y", ".", ",", "a", "b", "l", "i", "k", "e", "t", "s"])
    }
    tokenizer = Tokenizer(models.WordPiece(letters, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with pytest.raises(ModelError, match="does not give back the text"):
        PlainText(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))


# -- headers --


def test_a_template_without_a_system_turn_gets_the_prompt_in_the_users():
    tokenizer = make_tokenizer(FAMILIES["gemma3"])
    text = PlainText(tokenizer)
    frame = HeaderFrame.render(text, "Recommend.")
    header = tokenizer.decode([*frame.before, *text.encode("new user"), *frame.after])
    assert header == "<bos><start_of_turn>user\nRecommend.\n\nnew user<end_of_turn>\n<start_of_turn>model\n"


def test_a_space_before_the_profile_is_encoded_with_it():
    tokenizer = make_tokenizer(FAMILIES["mistral"])
    builder = PromptBuilder(tokenizer, ItemVocabulary.build(make_data(), tokenizer, "atomic"), CatalogueConfig())
    whole = "<s>[INST] Recommend.\n\nnew user [/INST]"
    assert tokenizer.decode(builder.header("new user")) == whole
    assert "▁user" in tokenizer.convert_ids_to_tokens(builder.header("new user"))


def test_a_template_with_the_date_always_gets_the_same():
    frame = HeaderFrame.render(PlainText(make_tokenizer(FAMILIES["llama3"])), "Recommend.")
    assert "Today Date: 26 Jul 2024" in make_tokenizer(FAMILIES["llama3"]).decode(frame.before)


def test_a_base_without_a_template_gets_lines():
    tokenizer = make_tokenizer(FAMILIES["gpt2"])
    frame = HeaderFrame.render(PlainText(tokenizer), "Recommend.")
    assert (tokenizer.decode(frame.before), tokenizer.decode(frame.after)) == ("Recommend.\n", "\n")


def test_a_template_that_shows_no_message_is_refused():
    tokenizer = make_tokenizer(FAMILIES["qwen3"])
    tokenizer.chat_template = "{{ messages[0]['role'] }}"
    with pytest.raises(ModelError, match="0 times"):
        HeaderFrame.render(PlainText(tokenizer), "Recommend.")
    tokenizer.chat_template = "{{ raise_exception('assistant first') }}"
    with pytest.raises(ModelError, match="assistant first"):
        HeaderFrame.render(PlainText(tokenizer), "Recommend.")


def test_an_exported_tokenizer_is_refused_as_a_base(prompts):
    with pytest.raises(ModelError, match="llmrec export"):
        ItemVocabulary.build(make_data(), prompts.tokenizer, "atomic")


def test_a_decision_without_profiles_is_that_of_a_new_user(data):
    decisions = Decisions.from_decisions([Decision("42", [], [1, 2])], 4).without_profiles()
    assert (decisions[0].profile, list(decisions[0].items)) == ("new user", [1, 2])
