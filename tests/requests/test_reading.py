"""What people type: refused with advice, or read as the conditions that it names."""

import random

import numpy as np
import pytest

from llmrec.errors import CatalogueError, UserError
from llmrec.requests.attributes import Attributes
from llmrec.requests.draw import KINDS, RequestSampler
from llmrec.requests.reading import LONGEST, Reader, checked
from llmrec.requests.request import Condition

MEMBERS = {
    ("category", "Comedy"): [0, 1, 2, 3],
    ("category", "Animation"): [1],
    ("category", "Western"): [4],
    ("category", "War"): [5],
    ("category", "Sci-Fi"): [6],
    ("decade", "1980s"): [0, 1, 6],
    ("decade", "1970s"): [4],
    ("brand", "Arts, Crafts & Co"): [7],
}
TITLES = [
    "Big Laugh (1988)",
    "Toon (1985)",
    "The War Room (1993)",
    "Heat (1995)",
    "Dust (1971)",
    "Front",
    "Orbit",
    "Box",
]


@pytest.fixture
def reader() -> Reader:
    return Reader(Attributes(MEMBERS, TITLES))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a funny one from the eighties, not animated", ["Comedy", "1980s", "not Animation"]),
        ("Something FUNNY", ["Comedy"]),
        ("not western or war", ["not Western", "not War"]),
        ("not a western, but from the 1980s", ["not Western", "1980s"]),
        ("something funny. nothing animated", ["Comedy", "not Animation"]),
        ("anything but sci-fi", ["not Sci-Fi"]),
        ("other than science-fiction, please", ["not Sci-Fi"]),
        ("something like The War Room but funny", ["like The War Room (1993)", "Comedy"]),
        ("similar to heat (1995), not western", ["like Heat (1995)", "not Western"]),
        ("made by Arts, Crafts & Co", ["Arts, Crafts & Co"]),
        ("something darker", []),
        ("funny and funny", ["Comedy"]),
    ],
)
def test_conditions_that_a_text_names(reader, text, expected):
    assert [str(condition) for condition in reader.read(text).conditions] == expected


def test_the_reader_reads_what_the_grammar_says():
    generator = np.random.default_rng(0)
    values = [("category", name) for name in ("Comedy", "Drama", "Horror", "War", "Adventure", "Musical")]
    values += [("decade", f"19{tens}0s") for tens in (5, 6, 7, 8)]
    members = {key: sorted(generator.choice(120, 40, replace=False).tolist()) for key in values}
    sampler = RequestSampler(Attributes(members, [f"Film {item}" for item in range(120)]))
    reader = Reader(sampler.attributes)
    draws = random.Random(0)
    for kind in KINDS:
        for item in range(120):
            request = sampler.draw(item, list(range(0, 120, 9)), draws, kind)
            if request is not None:
                assert set(reader.read(request.text).conditions) == set(request.conditions), request


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "is empty; expected a sentence"),
        (" \n\t ", "is empty; expected a sentence"),
        ("x" * 10_000, "has 10,000 characters; expected at most 300"),
        ("что-нибудь смешное", "written in the script of 'ч'; expected English words"),
        ("何か面白い", "written in the script of '何'"),
        ("something funny \ud800", 'funny \\ud800" holds half of a character'),
        ("?!", "written in no letters"),
    ],
)
def test_requests_that_no_model_can_use(text, shown):
    with pytest.raises(UserError, match="request") as error:
        checked(text)
    assert shown in str(error.value) and len(str(error.value)) < LONGEST + 100


def test_spaces_become_single_and_accents_stay():
    assert checked("  something \n  by   Buñuel ") == "something by Buñuel"


def test_a_request_that_nothing_satisfies_names_what_is_near(reader):
    available = np.ones(8, dtype=bool)
    request = reader.read("a funny western from the seventies")
    with pytest.raises(CatalogueError) as error:
        reader.check_satisfiable(request, available)
    assert str(error.value) == (
        'No item that the person has not seen satisfies "a funny western from the seventies", which was read as: '
        "Comedy, Western, 1970s. Nearest: Western, 1970s (1 item)."
    )
    available[6] = False
    with pytest.raises(CatalogueError, match="Ask for something else"):
        reader.check_satisfiable(reader.read("sci-fi"), available)
    reader.check_satisfiable(reader.read("something darker"), np.zeros(8, dtype=bool))  # nothing was recognized
    reader.check_satisfiable(reader.read("funny"), np.ones(8, dtype=bool))


def test_conditions_print_as_people_say_them():
    assert str(Condition("like", "Heat (1995)", True)) == "not like Heat (1995)"
