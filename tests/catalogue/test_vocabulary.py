"""The item vocabulary: distinct titles, trie paths and the hash."""

import json
from dataclasses import replace

import pytest

from llmrec.catalogue.vocabulary import ItemVocabulary
from llmrec.errors import ModelError

# The trie numbers its nodes level by level: 5 is 1, 7 is 2, (5, 1) is 3 and (5, 2) is 4.
SEQUENCES = ((5, 1, 9), (5, 2, 9), (7, 9), (5, 1, 8))
VOCABULARY = ItemVocabulary("title", ("a", "b", "c", "d"), ("A", "B", "C", "D"), SEQUENCES)


def test_paths_by_hand():
    assert VOCABULARY.paths == [(0, 1, 3), (0, 1, 4), (0, 2), (0, 1, 3)]
    assert VOCABULARY.longest == 3
    assert VOCABULARY.tokens_of([2, 0]) == [7, 9, 5, 1, 9]
    assert VOCABULARY.new_tokens == []


def test_a_vocabulary_is_built_from_titles_or_new_tokens(policy, data):
    vocabulary = policy.vocabulary
    assert vocabulary.titles[2:4] == ("Blue Note [1987]", "Blue Note [1999]")
    if vocabulary.scheme == "atomic":
        assert [list(sequence) for sequence in vocabulary.sequences] == [[token] for token in vocabulary.new_tokens]
        assert vocabulary.paths == [(0,)] * data.num_items
    else:
        assert policy.tokenizer.decode(vocabulary.sequences[3]) == "Blue Note [1999]\n"
        assert vocabulary.new_tokens == []


@pytest.mark.parametrize(
    "changes",
    [{"item_ids": ("a", "b", "d", "c")}, {"sequences": (*SEQUENCES[:3], (5, 1, 7))}, {"scheme": "atomic"}],
)
def test_the_hash_changes_with_items_and_tokens(changes):
    assert replace(VOCABULARY, **changes).vocabulary_hash != VOCABULARY.vocabulary_hash
    assert replace(VOCABULARY, titles=("a", "b", "c", "d")).vocabulary_hash == VOCABULARY.vocabulary_hash


def test_read_back_with_and_without_titles(tmp_path):
    VOCABULARY.save(tmp_path)
    assert ItemVocabulary.load(tmp_path) == VOCABULARY
    value = json.loads((tmp_path / "item_vocabulary.json").read_text())
    for item in value["items"]:
        del item["title"]
    (tmp_path / "item_vocabulary.json").write_text(json.dumps(value))
    assert ItemVocabulary.load(tmp_path).titles == VOCABULARY.item_ids


def test_a_changed_file_is_refused(tmp_path):
    VOCABULARY.save(tmp_path)
    path = tmp_path / "item_vocabulary.json"
    path.write_text(path.read_text().replace('"a"', '"other"'))
    with pytest.raises(ModelError, match="changed after it was written"):
        ItemVocabulary.load(tmp_path)
