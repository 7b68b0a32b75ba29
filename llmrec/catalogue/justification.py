"""Writing justifications for supervised fine-tuning: true, varied, and citing what the user has had.

A justification is a list of segments: strings, and item indices for citations. Only true statements are written;
what a trained policy makes of them is checked by `reward_models.groundedness`.
"""

import random

from llmrec.catalogue.facts import RELATION_WORDS, Fact, FactBook

Segment = str | int

# {C}: categories that both have; {P}: decade of both; {R}: relation in common; {X}: the cited item.
SHARED_CATEGORY = (
    " Like {X}, it is {C}.",
    " Both this and {X} are {C}.",
    " It shares {C} with {X}.",
    " More {C} after {X}.",
    " You know {X}, and this is {C} too.",
    " Because of {X}: {C} once more.",
)
SHARED_PERIOD = (
    " Like {X}, it is from the {P}.",
    " It comes from the {P}, as does {X}.",
    " The {P} again, as with {X}.",
)
SHARED_BOTH = (
    " Like {X}, it is {C} from the {P}.",
    " {C} from the {P}, as was {X}.",
    " With {X} it has the {P} and {C} in common.",
)
SHARED_RELATION = (
    " It shares the {R} of {X}, and is {C} as well.",
    " The same {R} as {X}, and again {C}.",
)
ALONE = (" A {C} pick for you.", " Something from the {P}.", " {C} from the {P}.")


def write(
    facts: FactBook, item: int, history: list[int], generator: random.Random, people: float = 0.1
) -> list[Segment]:
    """Justifies `item` to someone with this history.

    Args:
        facts: what is known of the items.
        item: the recommended item.
        history: items the user has had; the newest is last. Newer ones are cited more often.
        generator: source of the varied wording.
        people: share of justifications that name a shared person, where there is one.

    Returns:
        segments, citations as item indices. Without any fact in common, the item's own facts alone are stated;
        without any fact at all, a citation alone.
    """
    cited, common = _choose_cited(facts, item, history, generator, people)
    by_kind = {kind: [fact for fact in common if fact.kind == kind] for kind in ("category", "period", "shared")}
    if by_kind["shared"] and by_kind["category"] and generator.random() < people:
        template = generator.choice(SHARED_RELATION)
    elif by_kind["category"]:
        template = generator.choice(SHARED_BOTH if by_kind["period"] and generator.random() < 0.4 else SHARED_CATEGORY)
    elif by_kind["period"]:
        template = generator.choice(SHARED_PERIOD)
    else:
        own = facts.of(item)
        by_kind = {kind: [fact for fact in own if fact.kind == kind] for kind in ("category", "period", "shared")}
        fitting = [t for t in ALONE if all(by_kind[k] for k, s in (("category", "{C}"), ("period", "{P}")) if s in t)]
        template = generator.choice(fitting) if fitting else (" Because of {X}." if history else " A pick for you.")
    return _fill(template, by_kind, cited, generator)


def _choose_cited(
    facts: FactBook, item: int, history: list[int], generator: random.Random, people: float
) -> tuple[int | None, list[Fact]]:
    """An item of the history that has most in common with `item`, among a few drawn with a taste for newer ones."""
    if not history:
        return None, []
    recent = history[-20:]
    weights = [0.9 ** (len(recent) - 1 - position) for position in range(len(recent))]
    candidates = generator.choices(recent, weights, k=min(6, len(recent)))
    shared = {other: facts.common(item, other) for other in candidates}
    # Categories decide; a shared person breaks the tie when people are wanted at all.
    best = max(candidates, key=lambda other: sum(2 if f.kind == "category" else people for f in shared[other]))
    return best, shared[best]


def _fill(template: str, facts: dict[str, list[Fact]], cited: int | None, generator: random.Random) -> list[Segment]:
    categories = [fact.value for fact in facts["category"]]
    words = " and ".join(sorted(generator.sample(categories, min(len(categories), generator.choice((1, 1, 2))))))
    text = template.replace("{C}", words)
    if "{P}" in text:
        text = text.replace("{P}", generator.choice(facts["period"]).value)
    if "{R}" in text:
        text = text.replace("{R}", RELATION_WORDS[generator.choice(facts["shared"]).value])
    before, marker, after = text.partition(" {X}")
    return [segment for segment in (before, cited, after) if segment not in ("", None)] if marker else [text]


def all_texts(facts: FactBook) -> list[str]:
    """Stretches of text between citations that hold every word that `write` can use, in its context."""
    categories, periods = facts.all_categories or [""], facts.all_periods or [""]
    pairs = [(category, periods[0]) for category in categories] + [(categories[0], period) for period in periods]
    relations = [RELATION_WORDS[relation] for relation in facts.all_relations] or [""]
    texts = {" A pick for you.", " Because of", "."} | {" and " + category for category in categories}
    for template in (*SHARED_CATEGORY, *SHARED_PERIOD, *SHARED_BOTH, *SHARED_RELATION, *ALONE):
        for part in template.split(" {X}"):
            for category, period in pairs if "{" in part else pairs[:1]:
                for relation in relations if "{R}" in part else relations[:1]:
                    texts.add(part.replace("{C}", category).replace("{P}", period).replace("{R}", relation))
    return sorted(texts - {""})
