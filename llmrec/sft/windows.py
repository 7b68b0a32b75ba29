"""Training windows of SFT: slices of user histories, each followed by a true justification of its last item."""

import random
from itertools import cycle, islice
from typing import Any

import numpy as np
from datasets import Dataset

from llmrec.config import SFTConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.profiles import drop_profiles, profile_texts
from llmrec.language.templates import sample_justification
from llmrec.policy.model import RecPolicy

Window = dict[str, Any]  # {profile, prior, items, completions}, a row of the data set


def training_windows(
    policy: RecPolicy, data: InteractionData, attributes: list[str], section: SFTConfig, seed: int
) -> Dataset:
    """The windows of all epochs, in training order. Each epoch draws new windows and new justifications.

    Args:
        policy: renders completions as tokens.
        data: the prepared log; windows come from the training part of its histories.
        attributes: user attributes that the prompt names.
        section: number of epochs, batch size and share of hidden profiles.
        seed: seed of windows, justifications and order.

    Returns:
        rows `{profile, prior, items, completions}`. The only completion recommends the item that followed `items` and
        justifies it with true facts.
    """
    generator = random.Random(seed)
    profiles = profile_texts(data.users, attributes)
    rows: list[Window] = []
    for _ in range(int(np.ceil(section.num_train_epochs))):
        epoch: list[Window] = []
        for user, history in enumerate(data.train_histories):
            for start, stop in _cut(len(history), policy.catalogue.max_history, generator):
                *shown, last = history[start:stop].tolist()
                completion = _completion(policy, shown, last, generator)
                prior = history[:start].tolist()
                epoch.append({"profile": profiles[user], "prior": prior, "items": shown, "completions": [completion]})
        rows += _batches_of_like_length(epoch, section.batch_size, generator)
    shown_profiles = drop_profiles([row["profile"] for row in rows], section.profile_dropout, seed)
    rows = [row | {"profile": profile} for row, profile in zip(rows, shown_profiles, strict=True)]
    share = section.num_train_epochs / np.ceil(section.num_train_epochs)
    rows = rows[: int(len(rows) * share)]
    # The first windows fill up the last batch. A smaller one could not be shared by processes evenly.
    return Dataset.from_list(rows + list(islice(cycle(rows), -len(rows) % section.batch_size)))


def _completion(policy: RecPolicy, shown: list[int], item: int, generator: random.Random) -> list[int]:
    """Token ids that recommend an item after the shown ones, with a sampled justification and the end token."""
    justification = policy.prompts.justification(sample_justification(policy.facts, item, shown, generator))
    completion: list[Any] = [*policy.vocabulary.sequences[item], *justification, policy.prompts.end]
    return completion


def _cut(length: int, width: int, generator: random.Random) -> list[tuple[int, int]]:
    """Cuts positions [0, length) into windows of at most `width` shown items and one item to predict.

    The first cut is random, so that epochs differ.
    """
    if length <= width + 1:
        return [(0, length)] if length else []
    bounds = [0, *range(generator.randint(2, width + 1), length, width + 1), length]
    return [(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False) if stop - start > 1]


def _batches_of_like_length(rows: list[Window], batch_size: int, generator: random.Random) -> list[Window]:
    """Shuffles rows into batches of similar length: less padding, and still a random order of batches."""
    generator.shuffle(rows)
    chunk_size = 16 * batch_size
    ordered: list[Window] = []
    for start in range(0, len(rows), chunk_size):
        ordered += sorted(rows[start : start + chunk_size], key=lambda row: len(row["items"]))
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    generator.shuffle(batches)
    return [row for batch in batches for row in batch]
