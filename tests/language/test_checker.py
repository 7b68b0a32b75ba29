"""The checker against 200 texts that were labelled by hand, and what it finds in single sentences."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmrec.catalogue.item_table import ItemRow, ItemTable
from llmrec.language.checker import Checker, Claim, Verdict
from tests.conftest import make_data

LABELS = {"+": Verdict.SUPPORTED, "-": Verdict.CONTRADICTED, "?": Verdict.UNVERIFIABLE}
SPIELBERG, HANKS = ("director", "Steven Spielberg"), ("actor", "Tom Hanks")
ITEMS = {
    "alien": ItemRow(
        "Alien (1979)", 1979, ("Horror", "Sci-Fi"), (("director", "Ridley Scott"), ("actor", "Sigourney Weaver"))
    ),
    "heat": ItemRow(
        "Heat (1995)",
        1995,
        ("Action", "Crime", "Thriller"),
        (("director", "Michael Mann"), ("writer", "Michael Mann"), ("actor", "Al Pacino"), ("actor", "Robert De Niro")),
    ),
    "toy": ItemRow("Toy Story (1995)", 1995, ("Animation", "Children's", "Comedy")),
    "toy2": ItemRow("Toy Story 2 (1999)", 1999, ("Animation", "Children's", "Comedy")),
    "odyssey": ItemRow(
        "2001: A Space Odyssey (1968)", 1968, ("Drama", "Mystery", "Sci-Fi"), (("director", "Stanley Kubrick"),)
    ),
    "big": ItemRow("Big (1988)", 1988, ("Comedy", "Fantasy"), (HANKS,)),
    "apollo": ItemRow("Apollo 13 (1995)", 1995, ("Action", "Drama"), (("director", "Ron Howard"), HANKS)),
    "private": ItemRow("Saving Private Ryan (1998)", 1998, ("Action", "Drama", "War"), (SPIELBERG, HANKS)),
    "list": ItemRow("Schindler's List (1993)", 1993, ("Drama", "War"), (SPIELBERG,)),
    "amelie": ItemRow("Amélie (2001)", 2001, ("Comedy", "Romance")),
    "client": ItemRow("The Client (1994)", 1994, ("Drama", "Mystery", "Thriller")),
    "deadman": ItemRow("Dead Man (1995)", 1995, ("Western",), (("director", "Jim Jarmusch"),)),
    "star": ItemRow(
        "Star Wars (1977)",
        1977,
        ("Action", "Adventure", "Romance", "Sci-Fi", "War"),
        (("director", "George Lucas"),),
    ),
    "roses": ItemRow("War of the Roses, The (1989)", 1989, ("Comedy",)),
    "fargo": ItemRow("Fargo (1996)", 1996, ("Crime", "Drama", "Thriller")),
    "lac": ItemRow("L.A. Confidential (1997)", 1997, ("Crime", "Film-Noir", "Mystery", "Thriller")),
    "seven": ItemRow("Seven (Se7en) (1995)", 1995, ("Crime", "Thriller")),
    "singin": ItemRow("Singin' in the Rain (1952)", 1952, ("Musical", "Romance")),
    "movie": ItemRow("Home Movie"),
    "nineteen": ItemRow("1984 (1984)", 1984, ("Drama", "Sci-Fi")),
    "hoop": ItemRow("Hoop Dreams (1994)", 1994, ("Documentary",)),
    "unforgiven": ItemRow(
        "Unforgiven (1992)", 1992, ("Western",), (("director", "Clint Eastwood"), ("actor", "Clint Eastwood"))
    ),
    "lamp": ItemRow("Aura Desk Lamp", None, ("Lighting", "Office"), (), ("Lumen",), 39.99),
    "drill": ItemRow("Torque 500 Drill", None, ("Tools & Paint",), (), ("Bosch",), 89.0),
    "cream": ItemRow("Day Cream", None, ("Skin Care",), (), ("Dove",), 7.5),
    "roller": ItemRow("Wall Roller", None, ("Tools & Paint",), (), ("Simple",)),
}
NAMES = list(ITEMS)
TABLE = ItemTable(tuple(ITEMS.values()))


@dataclass(frozen=True)
class Labelled:
    """One text with its labels: first and last position, and verdict."""

    item: int
    seen: frozenset[int]
    text: str
    labels: tuple[tuple[int, int, Verdict], ...]


def labelled_texts(name: str) -> list[Labelled]:
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return [read_line(line) for line in lines if line and not line.startswith("#")]


def read_line(line: str) -> Labelled:
    item, seen, marked = (part.strip() for part in line.split("|"))
    text, labels = "", []
    for number, part in enumerate(re.split(r"(\{[+?-].*?[+?-]\})", marked)):
        words = part[2:-2] if number % 2 else part
        if number % 2:
            labels.append((len(text), len(text) + len(words), LABELS[part[1]]))
        text += words
    history = frozenset(NAMES.index(name.strip()) for name in seen.split(",") if name.strip())
    return Labelled(NAMES.index(item), history, text, tuple(labels))


def overlaps(claim: Claim, label: tuple[int, int, Verdict]) -> bool:
    return claim.start < label[1] and label[0] < claim.stop and claim.verdict is label[2]


def counts(name: str) -> tuple[Counter[str], list[str]]:
    """Found, right and missed statements by verdict, and the texts in which one is wrong."""
    checker, count, wrong = Checker(TABLE), Counter(), []
    for one in labelled_texts(name):
        claims = checker.check(one.text, one.item, one.seen)
        for verdict in (Verdict.SUPPORTED, Verdict.CONTRADICTED):
            found = [claim for claim in claims if claim.verdict is verdict]
            labels = [label for label in one.labels if label[2] is verdict]
            extra = [claim for claim in found if not any(overlaps(claim, label) for label in labels)]
            missed = [label for label in labels if not any(overlaps(claim, label) for claim in found)]
            count += Counter(
                {
                    f"{verdict} found": len(found),
                    f"{verdict} labelled": len(labels),
                    f"{verdict} extra": len(extra),
                    f"{verdict} missed": len(missed),
                }
            )
            wrong += [f"{one.text}: extra {verdict} {one.text[c.start : c.stop]!r}" for c in extra]
            wrong += [f"{one.text}: missed {verdict} {one.text[a:b]!r}" for a, b, _ in missed]
    return count, wrong


MISSED = {
    ("labelled_texts.txt", Verdict.SUPPORTED): 8,
    ("labelled_texts.txt", Verdict.CONTRADICTED): 0,
    ("unseen_texts.txt", Verdict.SUPPORTED): 9,
    ("unseen_texts.txt", Verdict.CONTRADICTED): 0,
}


# The rules were written with the first set at hand, so only the second says how often the checker is right.
@pytest.mark.parametrize(
    ("name", "supported", "contradicted"),
    [
        ("labelled_texts.txt", (282, 284, 290), (58, 62, 58)),
        ("unseen_texts.txt", (76, 78, 85), (16, 17, 16)),
    ],
)
def test_precision_and_recall_on_texts_labelled_by_hand(name, supported, contradicted):
    """Right, found and labelled statements of each verdict. `docs/guide/free_text.md` states the shares."""
    count, wrong = counts(name)
    for verdict, (right, found, labelled) in ((Verdict.SUPPORTED, supported), (Verdict.CONTRADICTED, contradicted)):
        assert count[f"{verdict} labelled"] == labelled, "the texts were changed: measure again"
        assert count[f"{verdict} found"] - count[f"{verdict} extra"] >= right, wrong
        assert count[f"{verdict} extra"] <= found - right, wrong
        assert count[f"{verdict} missed"] <= MISSED[name, verdict], wrong


def verdicts(text: str, item: str, *seen: str) -> list[tuple[str, str]]:
    found = Checker(TABLE).check(text, NAMES.index(item), {NAMES.index(name) for name in seen})
    return [(text[claim.start : claim.stop], claim.verdict.value) for claim in found]


def test_a_title_of_common_words_needs_the_marks_of_a_title():
    assert verdicts("The heat is big.", "alien", "heat", "big") == []
    assert verdicts("You liked Heat.", "alien", "heat") == [("Heat", "supported")]
    assert verdicts("You liked Heat.", "alien") == [("Heat", "contradicted")]


def test_a_year_inside_a_title_is_no_statement():
    assert verdicts("After 2001: A Space Odyssey (1968), this.", "alien", "odyssey") == [
        ("2001: A Space Odyssey (1968", "supported")
    ]


def test_what_the_tables_lack_cannot_be_contradicted():
    assert verdicts("A comedy from 1990 by Tom Hanks.", "movie") == [
        ("comedy", "unverifiable"),
        ("1990", "unverifiable"),
        ("Tom Hanks", "unverifiable"),
    ]


def test_the_table_of_a_log_has_what_its_columns_hold():
    table = ItemTable.from_data(make_data())
    assert table[0] == ItemRow("Red Sky", 1995, ("Drama", "War"))  # its director is an opaque id, which has no name
    assert table[3].title == "Blue Note [1999]"
