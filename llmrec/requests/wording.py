"""The sentences that state a request. They are written in `english.yaml`."""

import random
import string
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal

from ruamel.yaml import YAML

from llmrec.requests.request import Condition

Set = Literal["train", "test"]
Forms = dict[Set, list[str]]
VOWELS = "aeiou8"  # first letters of words that `an` goes before


class Wording:
    """A grammar of requests.

    Args:
        grammar: contents of `english.yaml`.

    Attributes:
        frames: sentences by number of conditions.
        conditions: forms of conditions, by attribute and place.
        words: words of values, by their name in lower case.
    """

    def __init__(self, grammar: dict[str, Any]):
        self.frames: dict[int, Forms] = {1: grammar["frames"]["one"], 2: grammar["frames"]["two"]}
        self.conditions: dict[str, dict[str, Forms]] = grammar["conditions"]
        self.words: dict[str, Forms] = grammar["words"]

    def sentence(self, conditions: Sequence[Condition], of: Set, generator: random.Random) -> str:
        """A sentence that states one or two conditions.

        Args:
            conditions: the conditions. If there are two, the first one is not negated.
            of: `train` draws every form from those of training. `test` draws the frame from those held out, and each
                other form if the grammar holds one out for it.
            generator: draws the forms.
        """
        can_lead = self.has_form(conditions[0], "before")
        frames = [frame for frame in self.frames[len(conditions)][of] if can_lead or "{before}" not in frame]
        frame = generator.choice(frames)
        left = list(conditions)
        slots = {}
        for slot in slots_of(frame):
            condition = left.pop(0)
            place = "negated" if condition.negated else "before" if slot == "before" else "after"
            slots[slot] = self.phrase(condition, place, of, generator)
        if slots.get("before", " ")[0].lower() in VOWELS:
            frame = frame.replace("a {before}", "an {before}")
        return frame.format(**slots)

    def has_form(self, condition: Condition, place: str) -> bool:
        """Whether a condition can be stated at a place: `before` or after the noun."""
        return place in self.conditions[condition.attribute] and not (condition.negated and place == "before")

    def phrase(self, condition: Condition, place: str, of: Set, generator: random.Random) -> str:
        """A form of one condition, with a word of its value."""
        form = generator.choice(_forms(self.conditions[condition.attribute][place], of))
        word = generator.choice(_forms(self.words_of(condition.value), of))
        name = condition.value if condition.attribute != "category" else condition.value.lower()
        return form.format(word=word, name=name)

    def words_of(self, value: str) -> Forms:
        """The words of a value: its own name if the grammar lists none."""
        return self.words.get(value.lower(), {"train": [value]})

    def all_words(self, value: str) -> list[str]:
        """Every word of a value, and its name."""
        forms = self.words_of(value)
        return [value, *forms["train"], *forms.get("test", [])]

    def leads(self, attribute: str) -> list[str]:
        """The texts before the value in the forms of an attribute, such as `similar to`."""
        forms = [form for sets in self.conditions[attribute].values() for group in sets.values() for form in group]
        return sorted({form.partition("{word}")[0].strip() for form in forms})


def slots_of(frame: str) -> list[str]:
    """Names of the slots of a frame, in order."""
    return [name for _, name, _, _ in string.Formatter().parse(frame) if name]


def _forms(forms: Forms, of: Set) -> list[str]:
    return forms.get(of) or forms["train"]


@cache
def english() -> Wording:
    """The grammar of `english.yaml`."""
    text = resources.files("llmrec.requests").joinpath("english.yaml").read_text(encoding="utf-8")
    return Wording(YAML(typ="safe", pure=True).load(text))


def joined(conditions: Iterable[Condition]) -> str:
    """Conditions as a list for people."""
    return ", ".join(map(str, conditions))
