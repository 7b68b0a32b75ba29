"""Templates: samples the justifications of supervised fine-tuning, which are true and cite seen items.

A justification is a list of segments: strings, facts, and item indices for citations. Every template takes every
kind of fact. The templates follow the grammar of `language.grammar`.
"""

import random

import torch

from llmrec.catalogue.facts import Fact, FactBook

Segment = str | int
# {X} is the cited item. {F} stands for facts in common, each with its leading space.
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


def sample_justification(
    facts: FactBook, item: int, history: list[int], generator: random.Random, people: float = 0.25
) -> list[str | int | Fact]:
    """Samples a true justification of an item for a user.

    Args:
        facts: the facts of all items.
        item: index of the recommended item.
        history: indices of seen items, oldest first. Newer items are cited more often.
        generator: source of randomness for template, facts and citation.
        people: probability of stating a shared entity, such as a director, where there is one.

    Returns:
        the segments. With no fact in common, one sentence states facts of the item and another one cites. With no known
        fact, the justification only cites.
    """
    own = facts.facts_of(item)
    if not history:
        return _fill(NO_HISTORY, own, None, generator, people)
    common = facts.on_host.common(torch.tensor([item]), torch.tensor([history]))[0]
    fitting = [common[facts.of_kind(*kinds)].any(0) for kinds in (("category",), ("category", "period"))]
    cited = _choose_cited([*fitting, common.any(0)], generator)
    shared = [facts.facts[number] for number in common[:, cited].nonzero()[:, 0].tolist()]
    if any(fact.kind == "category" for fact in shared):
        return _fill(generator.choice(TEMPLATES), shared, history[cited], generator, people)
    categories = [fact for fact in own if fact.kind == "category"]
    one = generator.sample(categories, min(1, len(categories))) + [fact for fact in own if fact.kind == "period"]
    return _fill(NOTHING_IN_COMMON if own else NO_FACTS, one, history[cited], generator, people)


def _choose_cited(fitting: list[torch.Tensor], generator: random.Random) -> int:
    """A random position of the history, newer ones more often, among those of the first mask that allows any."""
    length = len(fitting[0])
    positions = next((mask.nonzero()[:, 0].tolist() for mask in fitting if mask.any()), list(range(length)))
    weights = [0.9 ** (length - 1 - position) for position in positions]
    return generator.choices(positions, weights)[0]


def _fill(
    template: str, facts: list[Fact], cited: int | None, generator: random.Random, people: float
) -> list[str | int | Fact]:
    """Fills a template. Shared entities are stated only after the citation, which says with whom they are shared."""
    segments: list[str | int | Fact] = []
    statable = [fact for fact in facts if fact.kind != "shared"]
    text = ""
    for piece in _pieces(template):
        if piece not in ("{X}", "{F}"):
            text += piece
            continue
        if text:
            segments.append(text)
            text = ""
        if piece == "{F}":
            segments += _phrase(statable, generator, people)
        elif cited is not None:
            segments.append(cited)
            statable = facts
    return segments + ([text] if text else [])


def _pieces(template: str) -> list[str]:
    """Cuts a template: `" Like {X}, it is{F}."` becomes `" Like", "{X}", ", it is", "{F}", "."`."""
    return [part for chunk in template.replace(" {X}", "|{X}|").split("|") for part in _around_fact(chunk) if part]


def _around_fact(chunk: str) -> list[str]:
    before, slot, after = chunk.partition("{F}")
    return [before, slot, after]


def _phrase(facts: list[Fact], generator: random.Random, people: float) -> list[str | Fact]:
    """One or two categories, sometimes the period, sometimes a shared entity: ` Drama and War from the 1990s`."""
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
    """Every stretch of text outside citations and facts that `sample_justification` can produce."""
    templates = (*TEMPLATES, NOTHING_IN_COMMON, NO_HISTORY, NO_FACTS)
    pieces = {piece for template in templates for piece in _pieces(template)}
    return sorted((pieces - {"{X}", "{F}"}) | {" and"})
