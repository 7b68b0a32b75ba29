"""The grammar: every form can be said, and no form is both trained and held out."""

import random
import re

import pytest

from llmrec.requests.request import Condition
from llmrec.requests.wording import english, slots_of

WORDING = english()


def test_no_form_is_both_trained_and_held_out():
    groups = [*WORDING.frames.values(), *WORDING.words.values()]
    groups += [forms for places in WORDING.conditions.values() for forms in places.values()]
    for forms in groups:
        assert forms["train"] and not set(forms["train"]) & set(forms.get("test", []))
        assert len(set(forms["train"])) == len(forms["train"])


def test_a_frame_has_a_slot_for_each_condition():
    for number, forms in WORDING.frames.items():
        for frame in [*forms["train"], *forms["test"]]:
            assert len(slots_of(frame)) == number and set(slots_of(frame)) <= {"before", "after", "also"}


def test_a_word_names_one_value():
    named = [word for forms in WORDING.words.values() for word in (*forms["train"], *forms.get("test", []))]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("attribute", sorted(WORDING.conditions))
@pytest.mark.parametrize("of", ["train", "test"])
def test_every_attribute_can_be_said_alone_and_second_and_negated(attribute, of):
    generator = random.Random(0)
    for _ in range(50):
        for negated in (False, True):
            condition = Condition(attribute, "Xy", negated)
            for conditions in ([condition], [Condition("decade", "1980s"), condition]):
                sentence = WORDING.sentence(conditions, of, generator)
                assert re.search("xy", sentence, re.IGNORECASE) and not set("{}") & set(sentence)


def test_a_negated_condition_keeps_its_negation():
    generator = random.Random(1)
    for _ in range(200):
        sentence = WORDING.sentence([Condition("category", "Comedy", True)], "train", generator)
        assert re.search(r"\b(not|no|without)\b", sentence), sentence


def test_the_article_fits():
    generator = random.Random(2)
    sentences = [WORDING.sentence([Condition("decade", "1980s")], "train", generator) for _ in range(300)]
    assert any("an eighties one" in one for one in sentences) and any("a 1980s one" in one for one in sentences)
    assert not any("a eighties" in one or "an 1980s" in one for one in sentences)


def test_held_out_words_and_frames_are_used_by_tests_alone():
    generator = random.Random(3)
    conditions = [Condition("category", "Comedy")]
    held_out = WORDING.frames[1]["test"]
    starts = tuple(frame.partition("{")[0] for frame in held_out)
    for _ in range(300):
        trained = WORDING.sentence(conditions, "train", generator)
        assert "humorous" not in trained and "hilarious" not in trained and not trained.startswith(starts)
        unseen = WORDING.sentence(conditions, "test", generator)
        assert unseen.startswith(starts) and "funny" not in unseen
