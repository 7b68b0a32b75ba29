"""Quality of the recommendations that a policy writes: valid, unseen, grounded, varied and faithful."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from llmrec.catalogue.facts import Fact, FactBook
from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.data.ragged import Ragged
from llmrec.distributed import gathered, own_rows
from llmrec.evaluation.faithfulness import faithfulness
from llmrec.evaluation.ranking import BATCH, by_length, chunks
from llmrec.evaluation.report import Count, Estimate, GenerationReport, Measurement, Rate
from llmrec.language.groundedness import Groundedness, check, sentences
from llmrec.language.prompt import Recommendation
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.recommenders.tuning import evaluated_users

WRITTEN_USERS = 10_000  # users for whom a policy writes; the interval of a share is at most 1 % wide to each side then
FAITHFULNESS_USERS = 300  # faithfulness takes three forward passes per user
TITLE = "X"  # placeholder for a cited title, so that wordings can be compared across users


def generation_report(
    policy: RecPolicy, data: InteractionData, config: Config, advance: Callable[[int], None]
) -> GenerationReport:
    """Writes the most probable recommendation for each user after the whole history, and measures it.

    The processes share the users, at most `WRITTEN_USERS` of the evaluated ones. Users to whom no item may be
    recommended are left out. Faithfulness is measured on a seeded sample of at most `FAITHFULNESS_USERS` users (see
    `llmrec.evaluation.faithfulness`).

    Args:
        policy: the policy.
        data: the prepared log.
        config: config of the run.
        advance: called after each batch with the number of its users.
    """
    lengths = Ragged.of(data.histories).lengths
    may_be_recommended = np.array([data.repeats or len(np.unique(seen)) < data.num_items for seen in data.histories])
    users = np.flatnonzero(may_be_recommended & evaluated_users(data.num_users, config, WRITTEN_USERS))
    decisions = Decisions.from_targets(data, Targets(users, lengths[users]), config.catalogue)
    own = decisions.select(own_rows(len(decisions)))
    written = gathered(write(policy, own, config.ppo.response_length, advance), len(decisions))
    histories = (set(history.tolist()) for history in decisions.histories)
    sample = np.random.default_rng((config.seed, 17)).permutation(len(decisions))[:FAITHFULNESS_USERS]
    chosen = decisions.select(sample), [written[m] for m in sample]
    measured: dict[str, Any] = {
        **rates(written, histories, policy.facts, data.num_items, data.repeats),
        **text_metrics(written, policy.facts),
        "faithfulness": faithfulness(policy, *chosen, seed=config.seed, batch=BATCH),
    }
    return GenerationReport(**measured)


def write(
    policy: RecPolicy, decisions: Decisions, max_new_tokens: int, advance: Callable[[int], None]
) -> list[Recommendation]:
    """The most probable recommendation at each of M decisions.

    Args:
        policy: the policy.
        decisions: the M decisions.
        max_new_tokens: greatest length of a completion.
        advance: called after each batch with the number of its decisions.
    """
    found: dict[int, Recommendation] = {}
    order = by_length(decisions)
    for rows in chunks(len(decisions)):
        batch = order[rows].tolist()
        prompts = pack(policy, decisions.select(batch)).to(policy.device)
        found |= zip(batch, parse(policy, generate(policy, prompts, max_new_tokens)), strict=True)
        advance(len(rows))
    return [found[m] for m in range(len(decisions))]


def rates(
    written: Sequence[Recommendation],
    histories: Iterable[set[int]],
    facts: FactBook,
    num_items: int,
    may_repeat: bool = False,
) -> dict[str, Rate]:
    """Shares of M recommendations that are valid, unseen, grounded and repetitive, and the share of true statements.

    The metrics are defined in `llmrec.report.glossary`.

    Args:
        written: the recommendations, [M].
        histories: seen items of each user, [M].
        facts: facts of the catalogue.
        num_items: size of the catalogue.
        may_repeat: whether seen items may be recommended. Then `seen` takes the place of `unseen`.
    """
    checked: list[Groundedness] = []
    is_seen: list[bool] = []
    for one, seen in zip(written, histories, strict=True):
        checked.append(check(facts, one, seen))
        is_seen.append(one.item in seen)
    unseen = [one.item >= 0 and not seen for one, seen in zip(written, is_seen, strict=True)]
    pairs = [_ngrams(words(one), 2) for one in written]
    true = sum(one.true for one in checked)
    statements = sum(one.statements for one in checked)
    return {
        "validity": _share([0 <= one.item < num_items and one.finished for one in written]),
        **({"seen": _share(is_seen)} if may_repeat else {"unseen": _share(unseen)}),
        "groundedness": _share([one.grounded for one in checked]),
        "repeats": _share([len(set(of_text)) < len(of_text) for of_text in pairs]),
        "factual_precision": _ratio(true, statements),
    }


def text_metrics(written: Sequence[Recommendation], facts: FactBook) -> dict[str, Measurement]:
    """Variety and length of M justifications, with each cited title replaced by one placeholder word.

    The metrics are defined in `llmrec.report.glossary`.
    """
    texts = [words(one) for one in written]
    metrics: dict[str, Measurement] = {}
    for n in (1, 2):
        grams = [gram for text in texts for gram in _ngrams(text, n)]
        metrics[f"distinct_{n}"] = _ratio(len(set(grams)), len(grams))
    stated = {fact for one in written for fact in stated_facts(one, facts)}
    metrics["unique_sentences"] = _ratio(len(set(map(tuple, texts))), len(texts))
    metrics["feature_coverage"] = _ratio(len(stated), len(facts.facts))
    metrics["distinct_wordings"] = Count(count=len({_wording(one, facts) for one in written}), n=len(written))
    mean = float(np.mean([len(text) for text in texts])) if texts else None
    return metrics | {"mean_words": Estimate(value=mean, n=len(texts))}


def _share(flags: Sequence[bool]) -> Rate:
    return Rate(rate=float(np.mean(flags)) if flags else None, n=len(flags))


def _ratio(count: int, total: int) -> Rate:
    return Rate(rate=count / total if total else None, n=total)


def words(recommendation: Recommendation) -> list[str]:
    """Words of a justification in lower case; each cited title becomes `TITLE`."""
    result: list[str] = []
    for segment in recommendation.segments:
        result += re.findall(r"[\w'-]+", segment.lower()) if isinstance(segment, str) else [TITLE]
    return result


def stated_facts(recommendation: Recommendation, facts: FactBook) -> list[Fact]:
    """Facts that a justification states, whether true or false."""
    texts = [piece for sentence in sentences(recommendation) for piece in sentence if isinstance(piece, str)]
    return [fact for text in texts for fact in facts.find(text)[0]]


def _ngrams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(text[start:] for start in range(n)), strict=False))


def _wording(recommendation: Recommendation, facts: FactBook) -> str:
    text = "".join(s if isinstance(s, str) else f" {TITLE}" for s in recommendation.segments)
    return " ".join(facts.find(text)[1].split())
