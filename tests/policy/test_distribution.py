import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue.facts import Fact
from llmrec.data.decision import Decision
from llmrec.errors import CatalogueError
from llmrec.language.grammar import CITE, DONE, FACT, ITEM, TEXT
from llmrec.language.groundedness import check, sentences
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from tests.conftest import disturb, make_config, make_data

PROMPTS = [Decision("42", [], [0, 1, 2]), Decision("new user", [3, 4], [5, 6, 7, 8]), Decision("20", [], [9])]


def start(policy, windows=PROMPTS):
    batch = pack(policy, windows)
    return batch.start(policy)


def allowed(policy, state, row=0) -> set[int]:
    """Token ids that a row may continue with."""
    hidden = torch.zeros(len(state.region), policy.hidden_size)
    following = policy.distribution.next_token(hidden, state)
    choice = following.choice
    tokens = torch.cat([choice.tokens, choice.shown[choice.prompt[row]]])
    return set(tokens[following.log_probs[row] > -torch.inf].tolist())


def feed(policy, state, row_tokens: list[int]):
    for token in row_tokens:
        state = policy.decoder.advance(state, torch.full_like(state.region, token))
    return state


def test_regions_by_hand(policy):
    sequence, prompts = policy.vocabulary.sequences[9], policy.prompts
    state = start(policy, PROMPTS[:1])
    assert state.region.tolist() == [ITEM]
    state = feed(policy, state, list(sequence))
    assert state.region.tolist() == [TEXT]
    cited = feed(policy, state, [prompts.opener])
    assert cited.region.tolist() == [CITE]
    assert feed(policy, cited, list(policy.vocabulary.sequences[0])).region.tolist() == [TEXT]
    assert feed(policy, state, [prompts.end]).region.tolist() == [DONE]
    assert feed(policy, state, [prompts.end, prompts.opener]).region.tolist() == [DONE]


def test_items_that_were_had_cannot_begin(policy):
    first = {policy.vocabulary.sequences[item][0] for item in (3, 4, 5, 6, 7, 8, 9)}
    assert allowed(policy, start(policy)) == first  # 0, 1 and 2 are seen
    first = {policy.vocabulary.sequences[item][0] for item in (0, 1, 2, 9)}
    assert allowed(policy, start(policy), row=1) == first  # 3 and 4 before the window, 5 to 8 in it


def test_only_true_facts_can_be_stated(policy):
    """Item 5 is Sci-Fi and Drama of the 1990s; of the history 0 (Drama, War, 1990s), 1 (Comedy, 1990s), 2."""
    prompts, facts = policy.prompts, policy.facts
    state = feed(policy, start(policy, PROMPTS[:1]), list(policy.vocabulary.sequences[5]))
    drama, war, nineties = Fact("category", "Drama"), Fact("category", "War"), Fact("period", "1990s")
    stated = {fact for fact, may in zip(facts.facts, state.statable[0].tolist(), strict=True) if may}
    assert stated == {drama, nineties}  # Sci-Fi is true, but no item of the history shares it
    assert state.citable.tolist() == [[True, False, False]]  # only item 0 shares a category
    said = feed(policy, state, prompts.words(drama.words))
    assert said.region.tolist() == [TEXT] and not said.statable[0, facts.index[drama]]
    assert not state.statable[0, facts.index[war]]
    token = prompts.words(war.words)[0]
    assert token in policy.decoder.tokens and token not in allowed(policy, state)


def test_a_new_sentence_begins_afresh(policy):
    prompts, drama = policy.prompts, Fact("category", "Drama")
    state = feed(policy, start(policy, PROMPTS[:1]), list(policy.vocabulary.sequences[5]))
    after = feed(policy, state, [*prompts.words(drama.words), prompts.stop])
    assert torch.equal(after.statable, state.statable) and torch.equal(after.citable, state.citable)


def test_facts_and_citations_of_one_sentence_agree(policy):
    prompts, facts = policy.prompts, policy.facts
    # Item 7 (War, 1990s) to someone with 0 (Drama, War, 1990s) and 1 (Comedy, 1990s).
    state = feed(policy, start(policy, [Decision("x", [], [1, 0])]), list(policy.vocabulary.sequences[7]))
    assert state.citable.tolist() == [[False, True]]
    cited = feed(policy, state, [prompts.opener, *policy.vocabulary.sequences[0]])
    may = {fact.value for fact, ok in zip(facts.facts, cited.statable[0].tolist(), strict=True) if ok}
    assert may == {"War", "1990s"}


def test_where_nothing_is_in_common_both_are_said_apart(policy, data):
    """Item 8 (Musical, 1990s) to someone with item 6 alone (Comedy, Drama, 1980s)."""
    window = Decision("x", [], [6])
    uniforms = torch.rand(20, 60, generator=torch.Generator().manual_seed(5))
    items = torch.full((20,), 8)
    completions = generate(policy, pack(policy, [window]), 60, uniforms, 20, temperature=3.0, first_items=items)
    ended = [r for r in parse(policy, completions) if r.finished]
    assert ended
    for recommendation in ended:
        assert recommendation.citations == (6,)
        assert check(policy.facts, recommendation, {6}).true >= 2  # its own fact, and the citation
        (said,), citing = sentences(recommendation)
        assert policy.facts.find(said)[0] and 6 in citing


def test_a_justification_ends_when_it_has_cited_and_stated(policy):
    """Item 5 (Drama, 1990s, ...) to someone with 0 (Drama, War, 1990s), 1 (Comedy, 1990s) and 2."""
    prompts, drama = policy.prompts, Fact("category", "Drama")
    ends = {prompts.stop, prompts.end}
    state = feed(policy, start(policy, PROMPTS[:1]), list(policy.vocabulary.sequences[5]))
    said, citation = prompts.words(drama.words), [prompts.opener, *policy.vocabulary.sequences[0]]
    assert not ends & allowed(policy, state)
    assert not ends & allowed(policy, feed(policy, state, said))
    assert not ends & allowed(policy, feed(policy, state, citation))
    for both in ([*said, *citation], [*citation, *said]):
        whole = feed(policy, state, both)
        assert ends & allowed(policy, whole) == {prompts.stop}
        assert ends & allowed(policy, feed(policy, whole, [prompts.stop])) == {prompts.end}


def test_a_fact_that_leaves_nothing_to_cite_is_not_stated(policy):
    """Item 5 is of the 1990s as item 1 is, but only item 0 shares a category, and so only it can be cited."""
    facts = policy.facts
    state = feed(policy, start(policy, [Decision("x", [], [6, 1])]), list(policy.vocabulary.sequences[5]))
    cited = {item for item, ok in zip([6, 1], state.citable[0].tolist(), strict=True) if ok}
    may = {fact for fact, ok in zip(facts.facts, state.statable[0].tolist(), strict=True) if ok}
    assert cited == {6} and may == {Fact("category", "Drama")}  # not that it is of the 1990s
    stated = feed(
        policy, state, [*policy.prompts.words(" Drama"), policy.prompts.opener, *policy.vocabulary.sequences[6]]
    )
    assert policy.prompts.stop in allowed(policy, stated)


def test_what_is_shared_is_shared_with_all_that_a_sentence_cites(policy):
    """Item 0 (Drama, War, 1990s) has the director of item 1, not of item 6."""
    state = feed(policy, start(policy, [Decision("x", [], [1, 6])]), list(policy.vocabulary.sequences[0]))
    director = policy.facts.index[Fact("shared", "directed_by")]
    one, other = ([policy.prompts.opener, *policy.vocabulary.sequences[item]] for item in (1, 6))
    assert not state.statable[0, director]
    assert feed(policy, state, one).statable[0, director]
    assert not feed(policy, state, [*other, *one]).statable[0, director]
    assert not feed(policy, state, [*one, *other]).statable[0, director]
    afresh = feed(policy, state, [*other, policy.prompts.stop, *one])
    assert afresh.statable[0, director]


def test_a_sentence_cites_an_item_once(policy):
    one, two = ([policy.prompts.opener, *policy.vocabulary.sequences[item]] for item in (0, 6))
    state = feed(policy, start(policy, [Decision("x", [], [6, 0])]), list(policy.vocabulary.sequences[5]))
    assert state.citable.tolist() == [[True, True]]
    cited, drama = feed(policy, state, one), policy.prompts.words(" Drama")
    assert cited.citable.tolist() == [[True, False]]
    assert policy.prompts.opener not in allowed(policy, cited)  # first a fact
    said = feed(policy, cited, drama)
    assert policy.prompts.opener in allowed(policy, said)
    both = feed(policy, said, two)
    assert policy.prompts.opener not in allowed(policy, both)
    assert feed(policy, both, [policy.prompts.stop]).citable.tolist() == [[True, True]]


def test_names_begin_sentences_alone(policy):
    prompts = policy.prompts
    state = feed(policy, start(policy, PROMPTS[:1]), list(policy.vocabulary.sequences[5]))
    capital, plain = prompts.words(" Both")[0], prompts.words(" are")[0]
    assert {capital, plain} <= allowed(policy, state)
    later = allowed(policy, feed(policy, state, [capital]))
    assert plain in later and capital not in later


def test_nobody_can_cite_without_a_history(policy):
    prompts = policy.prompts
    state = feed(policy, start(policy, [Decision("x", [], [])]), list(policy.vocabulary.sequences[0]))
    assert prompts.opener not in allowed(policy, state)
    assert prompts.stop not in allowed(policy, state)
    assert prompts.stop in allowed(policy, feed(policy, state, prompts.words(" Drama")))


def test_probabilities_sum_to_one_and_entropy_has_its_bound(policy):
    generator = torch.Generator().manual_seed(0)
    state = start(policy)
    for _ in range(12):
        hidden = torch.randn(3, policy.hidden_size, generator=generator)
        following = policy.distribution.next_token(hidden, state)
        total = following.log_probs.exp().sum(1)
        assert torch.allclose(total, torch.ones_like(total), atol=1e-5)
        count = (following.log_probs > -torch.inf).sum(1)
        assert (following.entropy() <= count.log() + 1e-5).all()
        state = policy.decoder.advance(state, following.pick(None))


def test_nothing_left_is_an_error(policy):
    with pytest.raises(CatalogueError, match="Nothing is left to recommend in row 1"):
        start(policy, [PROMPTS[0], Decision("x", list(range(5)), list(range(5, 10)))])


def test_the_last_item_left_is_certain(policy):
    windows = [Decision("x", [0, 1, 2, 4, 5], [6, 7, 8, 9])]
    completions = generate(policy, pack(policy, windows), 40, torch.full((1, 40), 0.5))
    assert parse(policy, completions)[0].item == 3
    length = len(policy.vocabulary.sequences[3])
    assert torch.allclose(completions.log_probs[0, :length], torch.zeros(length), atol=1e-6)


@pytest.fixture(scope="module", params=["atomic", "title"])
def drifted(request, tmp_path_factory, tiny_base) -> RecPolicy:
    """A policy that says anything that it is allowed to."""
    policy = RecPolicy.create(make_config(tiny_base, request.param), make_data())
    disturb(policy, 0.5)
    return policy.eval()


@settings(max_examples=25, deadline=None)
@given(history=st.lists(st.integers(0, 9), unique=True, max_size=9), seed=st.integers(0, 2**32 - 1))
def test_whatever_is_sampled_is_an_unseen_item_and_true(drifted, history, seed):
    uniforms = torch.from_numpy(np.random.default_rng(seed).random((4, 60)))
    window = Decision("20", history[:-4], history[-4:])
    completions = generate(drifted, pack(drifted, [window]), 60, uniforms, num_generations=4, temperature=2.0)
    for tokens, recommendation in zip(completions.lists(), parse(drifted, completions), strict=True):
        assert 0 <= recommendation.item < 10
        assert recommendation.item not in history
        assert set(recommendation.citations) <= set(history[-4:])
        for sentence in sentences(recommendation):
            cited = tuple(piece for piece in sentence if isinstance(piece, int))
            text = " , ".join(piece for piece in sentence if isinstance(piece, str))
            assert all(drifted.facts.is_true(fact, recommendation.item, cited) for fact in drifted.facts.find(text)[0])
        has_something_to_say = bool(history or drifted.facts.facts_of(recommendation.item))
        if recommendation.finished and has_something_to_say:
            assert check(drifted.facts, recommendation, set(history)).grounded
        sequence = drifted.vocabulary.sequences[recommendation.item]
        assert tuple(tokens[: len(sequence)]) == sequence


def test_whatever_ends_is_grounded(drifted):
    history = [0, 1, 2, 6]
    uniforms = torch.rand(64, 200, generator=torch.Generator().manual_seed(1))
    completions = generate(drifted, pack(drifted, [Decision("20", [], history)]), 200, uniforms, 64, temperature=2.0)
    ended = [r for r in parse(drifted, completions) if r.finished]
    assert len(ended) > 5
    assert all(check(drifted.facts, one, history).grounded for one in ended)


def test_fact_regions_span_their_tokens(policy):
    nineties = policy.prompts.words(Fact("period", "1990s").words)
    assert len(nineties) > 1
    state = feed(policy, start(policy, PROMPTS[:1]), [*policy.vocabulary.sequences[5], nineties[0]])
    assert state.region.tolist() == [FACT]
    assert allowed(policy, state) == {nineties[1]}
    assert math.isclose(float(policy.distribution.next_token(torch.zeros(1, policy.hidden_size), state).entropy()), 0)
