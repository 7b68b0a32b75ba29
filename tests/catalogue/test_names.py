"""Distinct names of items, and finding items by name."""

import pandas as pd

from llmrec.catalogue.names import NameIndex, distinct_names


def names_of(rows: list[tuple], **columns: list) -> list[str]:
    items = pd.DataFrame(rows, columns=["title", "year", "categories"]).assign(**columns)
    items["year"] = items["year"].astype("Int64")
    return distinct_names(items.assign(item_id=[f"i{n}" for n in range(len(items))]))


def test_titles_that_differ_stay_as_they_are():
    assert names_of([("Quiet", 1982, []), ("Quiet \n Storm", None, [])]) == ["Quiet", "Quiet Storm"]


def test_equal_titles_are_told_apart_by_year_brand_and_category():
    assert names_of([("A", 1987, []), ("A", 1999, [])]) == ["A [1987]", "A [1999]"]
    assert names_of([("A", 1987, []), ("A", 1987, [])], brand=["Sony", "Bose"]) == ["A [Sony]", "A [Bose]"]
    assert names_of([("A", None, []), ("A", 1987, [])], store=["Sony", "Bose"]) == ["A [Sony]", "A [Bose]"]
    assert names_of([("A", 1987, ["War", "Drama"]), ("A", 1987, ["War", "Comedy"])]) == ["A [Drama]", "A [Comedy]"]


def test_items_that_agree_in_all_of_these_add_their_id():
    assert names_of([("A", 1987, ["War"])] * 3) == ["A", "A [i1]", "A [i2]"]
    rows = [("A", 1987, []), ("A", 1999, []), ("A", 1999, [])]
    assert names_of(rows) == ["A [1987]", "A [1999]", "A [1999, i2]"]


def test_names_are_distinct_even_if_a_title_looks_like_one():
    assert names_of([("A", 1987, []), ("A", 1999, []), ("A [1999]", 2000, [])])[2] == "A [1999] [i2]"


def test_items_that_look_the_same_are_alike():
    index = NameIndex(
        names_of([("A", 1987, []), ("A", 1999, []), ("A", 1999, []), ("B", None, [])]), ["i0", "i1", "i2", "i3"]
    )
    assert [index.alike(item) for item in range(4)] == [[0], [1, 2], [1, 2], [3]]
    assert [index.representative(item) for item in range(4)] == [0, 1, 1, 3]
    # In these names the number is no id, as in adapters that number equal titles.
    assert NameIndex(["A", "A [2]"], ["x", "y"]).alike(0) == [0]


def test_find():
    index = NameIndex(
        ["ALIEN", "Alien", "Amélie (2001)", "Blue [1987]", "Blue [1999]", "1984"], ["1984", "b", "c", "d", "e", "f"]
    )
    assert index.find("Alien") == [1] and index.find("ALIEN") == [0] and index.find("alien") == [0, 1]
    assert index.find(" amélie  (2001)") == [2]
    assert index.find("blue") == [3, 4] and index.find("blue [1999]") == [4]
    assert index.find("1984") == [5]  # the title comes before the id
    assert index.find("e") == [4] and index.find("x") == []
