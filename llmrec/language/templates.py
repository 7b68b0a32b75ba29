"""Writing justifications for supervised fine-tuning: true, varied, and citing what the user has had.

A justification is a list of segments: strings, facts, and item indices for citations. Every template takes every
kind of fact, so that whatever is true of an item and a cited one can be said in any of them.
"""

import random

import torch

from llmrec.catalogue.facts import Fact, FactBook

Segment = str | int
# {X}: the cited item; {F}: facts in common, each with the space before it.
TEMPLATES = (
    " Like {X}, it is{F}.",
    " Both this and {X} are{F}.",
    " You know {X}, and this is{F} too.",
    " Because of {X}:{F} once more.",
    " More{F} after {X}.",
    " It is{F}, as is {X}.",
    " After {X}, one that is{F}.",
    "{F} again, as in {X}.",
)
# Without any fact in common, one sentence states facts of the item and another one cites.
FACT_SENTENCE = " It is"
CITATION_SENTENCE = " You also know"
NOTHING_IN_COMMON = f"{FACT_SENTENCE}{{F}}.{CITATION_SENTENCE} {{X}}."
NO_HISTORY = " A pick for you:{F}."
NO_FACTS = " Because of {X}."


def write(
    facts: FactBook, item: int, history: list[int], generator: random.Random, people: float = 0.25
) -> list[str | int | Fact]:
    """Justifies `item` to someone with this history.

    Args:
        facts: what is known of the items.
        item: the recommended item.
        history: items the user has had; the newest is last. Newer ones are cited more often.
        generator: source of the varied wording.
        people: share of justifications that name a shared person, where there is one.

    Returns:
        segments. Without any fact in common, the item's own facts are stated in a sentence of their own; without
        any fact at all, a citation alone.
    """
    own = facts.facts_of(item)
    if not history:
        return _fill(NO_HISTORY, own, None, generator, people)
    common = facts.common(torch.tensor([item]), torch.tensor([history]))[0]
    fitting = [common[facts.of_kind(*kinds)].any(0) for kinds in (("category",), ("category", "period"))]
    cited = _choose_cited([*fitting, common.any(0)], generator)
    shared = [facts.facts[number] for number in common[:, cited].nonzero()[:, 0].tolist()]
    if any(fact.kind == "category" for fact in shared):
        return _fill(generator.choice(TEMPLATES), shared, history[cited], generator, people)
    categories = [fact for fact in own if fact.kind == "category"]
    one = generator.sample(categories, min(1, len(categories))) + [fact for fact in own if fact.kind == "period"]
    return _fill(NOTHING_IN_COMMON if own else NO_FACTS, one, history[cited], generator, people)


def _choose_cited(fitting: list[torch.Tensor], generator: random.Random) -> int:
    """A position of the history, with a taste for newer ones, among those of the first mask that has any."""
    length = len(fitting[0])
    positions = next((mask.nonzero()[:, 0].tolist() for mask in fitting if mask.any()), list(range(length)))
    weights = [0.9 ** (length - 1 - position) for position in positions]
    return generator.choices(positions, weights)[0]


def _fill(
    template: str, facts: list[Fact], cited: int | None, generator: random.Random, people: float
) -> list[str | int | Fact]:
    segments: list[str | int | Fact] = []
    sayable = [fact for fact in facts if fact.kind != "shared"]  # until it is said with whom
    text = ""
    for piece in _pieces(template):
        if piece not in ("{X}", "{F}"):
            text += piece
            continue
        if piece == "{X}":
            said, sayable = [cited], facts
        else:
            said = _phrase(sayable, generator, people)
        segments += [text, *said] if text else said
        text = ""
    return segments + ([text] if text else [])


def _pieces(template: str) -> list[str]:
    """`" Like {X}, it is{F}."` is `" Like", "{X}", ", it is", "{F}", "."`."""
    return [part for chunk in template.replace(" {X}", "|{X}|").split("|") for part in _around_fact(chunk) if part]


def _around_fact(chunk: str) -> list[str]:
    before, slot, after = chunk.partition("{F}")
    return [before, slot, after]


def _phrase(facts: list[Fact], generator: random.Random, people: float) -> list[str | Fact]:
    """One or two categories, perhaps the period, perhaps a person: ` Drama and War from the 1990s`."""
    by_kind = {kind: [fact for fact in facts if fact.kind == kind] for kind in ("category", "period", "shared")}
    categories = by_kind["category"]
    chosen = generator.sample(categories, min(len(categories), generator.choice((1, 1, 2))))
    phrase: list[str | Fact] = list(chosen[:1])
    for fact in chosen[1:]:
        phrase += [" and", fact]
    if by_kind["period"] and (not chosen or generator.random() < 0.35):
        phrase += by_kind["period"]
    if by_kind["shared"] and generator.random() < people:
        phrase.append(generator.choice(by_kind["shared"]))
    return phrase


def all_texts() -> list[str]:
    """Every stretch of text outside citations and facts that `write` can produce."""
    templates = (*TEMPLATES, NOTHING_IN_COMMON, NO_HISTORY, NO_FACTS)
    pieces = {piece for template in templates for piece in _pieces(template)}
    return sorted((pieces - {"{X}", "{F}"}) | {" and"})
