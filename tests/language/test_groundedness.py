"""The checker of justifications, on sentences where names, facts and citations follow each other."""

import pytest

from llmrec.catalogue.facts import FactBook
from llmrec.language.groundedness import check
from llmrec.language.prompt import Recommendation
from tests.conftest import make_data


@pytest.fixture(scope="module")
def data():
    """The catalogue of the tiny policy, not this package's own log."""
    return make_data()


@pytest.mark.parametrize("segments", [(" Drama Spielberg made, like", 0, "."), (0, " Spielberg made it, a Drama.")])
def test_a_name_after_a_fact_or_a_citation_opens_no_sentence(data, segments):
    drama = next(i for i, values in enumerate(data.items["categories"]) if i and "Drama" in values)
    found = check(FactBook.from_data(data), Recommendation(drama, segments, True), {0})
    assert found.statements == 3 and not found.grounded
