"""The words by which texts name the titles and categories of a catalogue, for the checker of free texts."""

import re

from llmrec.language.english import ARTICLES, OTHER_FORMS
from llmrec.language.words import key_of


def title_keys(title: str) -> set[tuple[str, ...]]:
    """The words by which people name an item: with or without year, article and the other title in brackets."""
    bare = re.sub(r"\s*(\(\d{4}\)|\[[^\]]*\])$", "", re.sub(r"\s*\[[^\]]*\]$", "", title)).strip()
    names = [title, bare, *re.split(r"\s*[()]\s*", bare)]
    keys: set[tuple[str, ...]] = set()
    for name in names:
        key = key_of(name)
        keys.add(key)
        if len(key) > 1 and key[0] in ARTICLES:
            keys |= {key[1:], (*key[1:], key[0])}
        elif len(key) > 1 and key[-1] in ARTICLES:
            keys |= {key[:-1], (key[-1], *key[:-1])}
    return {key for key in keys if key and not (len(key) == 1 and key[0] in ARTICLES)}


def category_keys(name: str) -> set[tuple[str, ...]]:
    """A category as people write it: singular and plural, adjectives, `and` for `&`."""
    keys: set[tuple[str, ...]] = set()
    for form in (name, name.replace("&", " and "), *OTHER_FORMS.get(name.casefold(), ())):
        key = key_of(form)
        if not key:
            continue
        *rest, noun = key
        if noun.endswith("ies") and len(noun) > 4:
            nouns = {noun, noun[:-3] + "y"}
        elif noun.endswith("y") and noun[-2:-1] not in "aeiou":
            nouns = {noun, noun[:-1] + "ies"}
        elif noun.endswith("s"):
            nouns = {noun} if noun.endswith("ss") else {noun, noun[:-1]}
        else:
            nouns = {noun, noun + "s"}
        keys |= {(*rest, one) for one in nouns if len(one) > 1}
    if len(key := key_of(name)) == 2 and len(key[0]) + len(key[1]) < 10 and "-" in name:
        keys.add(("".join(key),))  # sci-fi, scifi
    return keys
