"""Violations that are penalized: a seen item, and a justification that is too short, too long or repetitive."""

import re
from collections.abc import Collection

from llmrec.config import PenaltyConfig
from llmrec.language.prompt import Recommendation

# Names of the violations. Each is also a weight in `PenaltyConfig` and a part of the reward.
OF_ITEM = ("seen",)
OF_TEXT = ("too_short", "too_long", "repeated")
VIOLATIONS = (*OF_ITEM, *OF_TEXT)


def violations(recommendation: Recommendation, history: Collection[int], limits: PenaltyConfig) -> dict[str, float]:
    """How far a recommendation violates each of `VIOLATIONS`, from 0 (not at all) to 1.

    Args:
        recommendation: a parsed completion.
        history: item indices that the user has seen.
        limits: smallest and largest number of words.
    """
    words: list[str | int] = []
    for segment in recommendation.segments:
        words += [segment] if isinstance(segment, int) else re.findall(r"[\w'-]+", segment.lower())
    pairs = list(zip(words, words[1:], strict=False))
    return {
        "seen": float(recommendation.item in history),
        "too_short": max(0.0, 1.0 - len(words) / limits.min_words),
        "too_long": min(1.0, max(0.0, len(words) / limits.max_words - 1.0)),
        "repeated": 1.0 - len(set(pairs)) / len(pairs) if pairs else 0.0,
    }
