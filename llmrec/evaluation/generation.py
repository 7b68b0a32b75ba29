"""What a policy writes for every user: is it whole, new, true, varied and honest?"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from llmrec.catalogue.facts import Fact, FactBook
from llmrec.config import Config
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.evaluation.faithfulness import faithfulness
from llmrec.evaluation.ranking import BATCH, by_length, chunks
from llmrec.language.groundedness import check, sentences
from llmrec.language.prompt import Recommendation
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack

FAITHFULNESS_USERS = 300  # three forward passes each
TITLE = "X"  # stands for a cited title where wordings are compared: the titles differ for every user


def generation_rates(policy: RecPolicy, data: InteractionData, config: Config, advance: Callable[..., None]) -> dict:
    """Writes the most probable recommendation for every user, from the whole history, and counts what holds.

    Returns:
        `rates` and `text_metrics` of what was written, and `faithfulness`, on a seeded sample of at most
        `FAITHFULNESS_USERS` (see `llmrec.evaluation.faithfulness`).
    """
    lengths = np.array([len(history) for history in data.histories])
    users = np.flatnonzero(lengths < data.num_items)  # nothing is left to recommend to the others
    decisions = Decisions.from_targets(data, Targets(users, lengths[users]), config.catalogue)
    written: list[Recommendation] = [None] * len(decisions)
    order = by_length(decisions)
    for rows in chunks(len(decisions)):
        asked = order[rows]
        prompts = pack(policy, decisions.select(asked)).to(policy.device)
        answers = parse(policy, generate(policy, prompts, config.ppo.response_length))
        for m, recommendation in zip(asked, answers, strict=True):
            written[m] = recommendation
        advance()
    histories = [set(data.histories[user].tolist()) for user in users]
    sample = np.random.default_rng((config.seed, 17)).permutation(len(decisions))[:FAITHFULNESS_USERS]
    chosen = decisions.select(sample), [written[m] for m in sample]
    return {
        **rates(written, histories, policy.facts, data.num_items),
        **text_metrics(written, policy.facts),
        "faithfulness": faithfulness(policy, *chosen, seed=config.seed, batch=BATCH),
    }


def rates(
    written: Sequence[Recommendation], histories: Sequence[set[int]], facts: FactBook, num_items: int
) -> dict[str, dict]:
    """Shares of M recommendations, `{rate, n}` each; `factual_precision` is a share of all their statements.

    `validity`: an item of the catalogue, and the completion ended by itself; `unseen`: an item that the user has not
    had; `groundedness`: see `llmrec.language.groundedness.Groundedness`; `repeats`: its justification says one pair of
    words twice; `factual_precision`: statements (facts and citations) that are true, whatever else is wrong.
    """
    checked = [check(facts, one, history) for one, history in zip(written, histories, strict=True)]
    flags = {
        "validity": [0 <= one.item < num_items and one.finished for one in written],
        "unseen": [one.item >= 0 and one.item not in history for one, history in zip(written, histories, strict=True)],
        "groundedness": [one.grounded for one in checked],
        "repeats": [len(set(pairs)) < len(pairs) for pairs in (_ngrams(words(one), 2) for one in written)],
    }
    counted = {
        name: {"rate": float(np.mean(values)) if values else None, "n": len(values)} for name, values in flags.items()
    }
    true, statements = sum(one.true for one in checked), sum(one.statements for one in checked)
    return counted | {"factual_precision": {"rate": true / statements if statements else None, "n": statements}}


def text_metrics(written: Sequence[Recommendation], facts: FactBook) -> dict[str, dict]:
    """How varied M justifications are; titles are taken out first, as they differ for every user.

    `distinct_1`, `distinct_2`: distinct word n-grams / all n-grams (Li et al., NAACL 2016). `unique_sentences`:
    distinct justifications / all (USR), and `feature_coverage`: distinct facts stated / all that can be stated (FCR),
    both of Li, Zhang & Chen (CIKM 2020). `distinct_wordings`: distinct justifications once facts are taken out too.
    `mean_words`: words of a justification, a title being one.
    """
    texts = [words(one) for one in written]
    metrics = {}
    for n in (1, 2):
        grams = [gram for text in texts for gram in _ngrams(text, n)]
        metrics[f"distinct_{n}"] = {"rate": len(set(grams)) / len(grams) if grams else None, "n": len(grams)}
    stated = {fact for one in written for fact in stated_facts(one, facts)}
    metrics["unique_sentences"] = {
        "rate": len(set(map(tuple, texts))) / len(texts) if texts else None,
        "n": len(texts),
    }
    metrics["feature_coverage"] = {
        "rate": len(stated) / len(facts.facts) if facts.facts else None,
        "n": len(facts.facts),
    }
    metrics["distinct_wordings"] = {"count": len({_wording(one, facts) for one in written}), "n": len(written)}
    mean = float(np.mean(list(map(len, texts)))) if texts else None
    return metrics | {"mean_words": {"value": mean, "n": len(texts)}}


def words(recommendation: Recommendation) -> list[str]:
    """Words of a justification in lower case, each cited title as one `X`."""
    result = []
    for segment in recommendation.segments:
        result += re.findall(r"[\w'-]+", segment.lower()) if isinstance(segment, str) else [TITLE]
    return result


def stated_facts(recommendation: Recommendation, facts: FactBook) -> list[Fact]:
    """Facts that a justification states, true or not."""
    texts = [piece for sentence in sentences(recommendation) for piece in sentence if isinstance(piece, str)]
    return [fact for text in texts for fact in facts.find(text)[0]]


def _ngrams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(text[start:] for start in range(n)), strict=False))


def _wording(recommendation: Recommendation, facts: FactBook) -> str:
    text = "".join(s if isinstance(s, str) else f" {TITLE}" for s in recommendation.segments)
    return " ".join(facts.find(text)[1].split())
