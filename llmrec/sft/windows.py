"""Training windows of SFT: slices of user histories, each followed by a true justification of its last item."""

import random
from itertools import cycle, islice
from typing import Any

import numpy as np
from datasets import Dataset

from llmrec.config import SFTConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision
from llmrec.data.profiles import drop_profiles, profile_texts
from llmrec.language.templates import sample_justification
from llmrec.policy.model import RecPolicy
from llmrec.requests.draw import RequestSampler
from llmrec.requests.request import Request

Window = dict[str, Any]  # {profile, request, prior, items, learned, completions}, a row of the data set


def training_windows(
    policy: RecPolicy, data: InteractionData, attributes: list[str], section: SFTConfig, seed: int
) -> Dataset:
    """The windows of all epochs, in training order. Each epoch draws new windows and new justifications.

    Args:
        policy: renders completions as tokens.
        data: the prepared log; windows come from the training part of its histories.
        attributes: user attributes that the prompt names.
        section: number of epochs, batch size, and shares of hidden profiles and of requests.
        seed: seed of windows, justifications and order.

    Returns:
        rows `{profile, request, prior, items, learned, completions}`. The only completion recommends the item that
        followed `items` and justifies it with true facts. It satisfies the request, which is "" in most rows.
        `learned` says which of the shown items are targets: all, or those that satisfy the request.
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
    rows = _with_requests(policy, rows, section.requests, seed)
    share = section.num_train_epochs / np.ceil(section.num_train_epochs)
    rows = rows[: int(len(rows) * share)]
    # The first windows fill up the last batch. A smaller one could not be shared by processes evenly.
    return Dataset.from_list(rows + list(islice(cycle(rows), -len(rows) % section.batch_size)))


def _with_requests(policy: RecPolicy, rows: list[Window], share: float, seed: int) -> list[Window]:
    """Adds `request` and `learned` to rows. A share of the rows gets a request that the recommended item satisfies."""
    generator = random.Random(f"requests {seed}")  # the other draws are the same with and without requests
    sampler = RequestSampler(policy.attributes) if policy.attributes is not None else None
    found: list[Window] = []
    for row in rows:
        request = None
        if sampler is not None and generator.random() < share:
            item = policy.prompts.parse(row["completions"][0]).item
            request = sampler.draw(item, row["items"], generator)
        if sampler is None or request is None:
            found.append(row | {"request": "", "learned": [True] * len(row["items"])})
        else:
            learned = sampler.attributes.satisfied(request.conditions)[row["items"]].tolist()
            found.append(row | {"request": request.text, "learned": learned})
    return found


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


def decision_of(row: Window) -> Decision:
    """The decision that a window ends with."""
    request = Request(row["request"]) if row["request"] else None
    return Decision(row["profile"], row["prior"], row["items"], request=request)
