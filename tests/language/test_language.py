"""Prompts, justifications, the parser and the groundedness check: one small language, seen from all sides."""

import random

import pytest
import torch

from llmrec.catalogue.facts import Fact, FactBook
from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.data.decision import Decision
from llmrec.data.profiles import NEW_USER, profile_texts
from llmrec.errors import ConfigError, ModelError
from llmrec.language.groundedness import check
from llmrec.language.prompt import Recommendation
from llmrec.language.templates import sample_justification
from llmrec.policy.packing import pack

RED_SKY, RED_SEA, MOONS, LIGHT = 0, 1, 4, 5


def as_text(segments) -> tuple:
    """Segments with facts said in words, neighbouring texts joined: what the parser gives back."""
    joined = []
    for segment in segments:
        part = segment.words if isinstance(segment, Fact) else segment
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


def common(facts, one, two):
    mask = facts.on_host.common(torch.tensor([one]), torch.tensor([[two]]))[0, :, 0]
    return [fact for fact, holds in zip(facts.facts, mask.tolist(), strict=True) if holds]


def test_facts_by_hand(data):
    facts = FactBook.from_data(data)
    assert facts.facts_of(RED_SKY) == [Fact("category", "Drama"), Fact("category", "War"), Fact("period", "1990s")]
    assert common(facts, RED_SKY, RED_SEA) == [Fact("period", "1990s"), Fact("shared", "directed_by")]
    assert common(facts, RED_SKY, LIGHT) == [Fact("category", "Drama"), Fact("period", "1990s")]
    assert facts.facts_of(MOONS) == [Fact("category", "Sci-Fi")]


@pytest.mark.parametrize("item", range(10))
def test_everything_written_is_true_and_survives_tokens(policy, data, item):
    facts, generator, decisions, completions = FactBook.from_data(data), random.Random(item), [], []
    for _ in range(60):
        history = generator.sample([other for other in range(10) if other != item], generator.randint(0, 5))
        segments = sample_justification(facts, item, history, generator, people=0.5)
        prompts = policy.prompts
        text = prompts.justification(segments)
        completion = [*policy.vocabulary.sequences[item], *text, prompts.end]
        decisions.append(Decision("20", [], history))
        completions.append([completion])
        recommendation = prompts.parse(completion)
        assert recommendation == Recommendation(item, as_text(segments), True)
        assert set(recommendation.citations) <= set(history)
        outcome = check(facts, recommendation, set(history))
        assert outcome.true == outcome.statements
        if outcome.statements and outcome.cites:
            assert outcome.grounded
    batch = pack(policy, decisions, completions)
    assert batch.score(policy, policy(*batch.inputs())).log_probs.isfinite().all()  # the mask forbids none of it


@pytest.mark.parametrize(
    ("segments", "true", "statements"),
    [
        ((" Like", LIGHT, ", it is Drama."), 2, 2),  # a true citation and a true category
        ((" Like", LIGHT, ", it is War."), 1, 2),  # War is true of Red Sky alone
        ((" It is War. You know", LIGHT, "."), 2, 2),  # a sentence of its own may say so
        ((" Like", RED_SEA, ", it is Drama."), 0, 2),  # not in the history, and not its category
        ((" Like", LIGHT, ", it is with the same director."), 1, 2),  # other directors
        ((" Something from the 1980s, like", LIGHT, "."), 1, 2),
        ((" Like", LIGHT, ", with Napoleon in 3D."), 1, 3),  # names and numbers that nobody can check
        ((" A Drama pick for you.",), 1, 1),
    ],
)
def test_statements_by_hand(data, segments, true, statements):
    outcome = check(FactBook.from_data(data), Recommendation(RED_SKY, segments, True), {LIGHT})
    assert (outcome.true, outcome.statements) == (true, statements)


def test_scores_need_a_citation_and_an_end(data):
    facts = FactBook.from_data(data)
    cited = (" Like", LIGHT, ", it is Drama.")
    assert check(facts, Recommendation(RED_SKY, cited, True), {LIGHT}).score == 1.0
    assert check(facts, Recommendation(RED_SKY, cited, False), {LIGHT}).score == 0.0
    assert check(facts, Recommendation(RED_SKY, (" A Drama pick.",), True), {LIGHT}).score == 0.0
    assert check(facts, Recommendation(RED_SKY, (" A Drama pick.",), True), set()).score == 1.0
    assert check(facts, Recommendation(RED_SKY, (), True), {LIGHT}).score == 0.0


def test_a_full_stop_in_a_title_ends_no_sentence(data):
    # "Moon. Light" is cited amid the sentence; War must still be true of it, and is not.
    outcome = check(
        FactBook.from_data(data),
        Recommendation(
            RED_SKY,
            (
                " With",
                LIGHT,
                " it has War in common.",
            ),
            True,
        ),
        {LIGHT},
    )
    assert not outcome.grounded


def test_broken_completions_parse_without_error(policy):
    prompts, sequence = policy.prompts, policy.vocabulary.sequences[3]
    assert prompts.parse([]).item == -1
    assert prompts.parse([*sequence, prompts.opener]) == Recommendation(3, (), False)
    assert prompts.parse([*sequence]).finished is False
    assert prompts.parse([*sequence, prompts.end]) == Recommendation(3, (), True)


def test_people_read_titles(policy):
    text = Recommendation(RED_SKY, (" Like", LIGHT, ", it is Drama."), True).text(policy.vocabulary.titles)
    assert text == 'Like "Moon. Light", it is Drama.'


def test_items_that_share_a_title_stay_apart(policy):
    assert policy.vocabulary.titles[2:4] == ("Blue Note [1987]", "Blue Note [1999]")
    assert policy.vocabulary.sequences[2] != policy.vocabulary.sequences[3]


def test_prompts_end_in_the_newest_items(policy):
    prompt = policy.prompts.prompt("42", [0, 1, 2, 3, 4, 5])
    assert prompt[-len(policy.vocabulary.tokens_of([2, 3, 4, 5])) :] == policy.vocabulary.tokens_of([2, 3, 4, 5])
    assert "42" in policy.tokenizer.decode(prompt)


def test_profiles(data):
    assert profile_texts(data.users, ["age"])[:4] == ["20", "31", "42", NEW_USER]
    with pytest.raises(ConfigError, match="user_attributes.*`height`.*age"):
        profile_texts(data.users, ["height"])


def test_vocabulary_files(policy, tmp_path):
    policy.vocabulary.save(tmp_path)
    assert ItemVocabulary.load(tmp_path) == policy.vocabulary
    text = (tmp_path / "item_vocabulary.json").read_text()
    (tmp_path / "item_vocabulary.json").write_text(text.replace('"i4"', '"other"'))
    with pytest.raises(ModelError, match="changed after it was written"):
        ItemVocabulary.load(tmp_path)
    (tmp_path / "item_vocabulary.json").write_text(text[: len(text) // 2])
    with pytest.raises(ModelError, match="not readable"):
        ItemVocabulary.load(tmp_path)
    with pytest.raises(ModelError, match="is missing"):
        ItemVocabulary.load(tmp_path / "nowhere")
