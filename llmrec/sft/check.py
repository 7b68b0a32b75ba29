"""A check before SFT: the mask must allow every token of the supervised completions.

A forbidden token has probability 0, so its loss would be infinite. The check walks the decoder over completions and
needs no forward pass.
"""

import torch

from llmrec.errors import ConfigError
from llmrec.language.grammar import DONE
from llmrec.policy.decoding import Decoder, DecodingState
from llmrec.policy.distribution import NextToken
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.sft.windows import TrainingWindows, decision_of

SAMPLE = 256  # completions that are checked, spread over all windows


def check_completions(policy: RecPolicy, windows: TrainingWindows) -> None:
    """Checks a sample of supervised completions against the mask.

    Args:
        policy: its decoder and tokenizer are used.
        windows: the windows.

    Raises:
        ConfigError: the mask forbids a token of a completion.
    """
    rows = [windows[index] for index in range(0, len(windows), max(1, len(windows) // SAMPLE))]
    decisions = [decision_of(row, policy.repeats) for row in rows]
    batch = pack(policy, decisions, [row["completions"] for row in rows]).to(policy.device)
    state = batch.start(policy).select(batch.owner)
    for step in range(batch.completion.shape[1]):
        tokens = batch.completion[:, step]
        wrong = (
            (batch.completion_mask[:, step] & ~allowed_tokens(policy.decoder, state, tokens)).nonzero()[:, 0].tolist()
        )
        if wrong:
            _refuse(policy, batch.completion[wrong[0]][batch.completion_mask[wrong[0]]].tolist(), step)
        state = policy.decoder.advance(state, tokens)


def allowed_tokens(decoder: Decoder, state: DecodingState, tokens: torch.Tensor) -> torch.Tensor:
    """Whether the mask allows a token in each row, int64 [B] to bool [B]; false in rows that are DONE."""
    choice = decoder.choice(state)
    even = NextToken(choice, torch.where(choice.allowed, 0.0, -torch.inf))
    return even.gather(tokens).isfinite() & (state.region != DONE)


def _refuse(policy: RecPolicy, tokens: list[int], step: int) -> None:
    piece = policy.tokenizer.convert_ids_to_tokens(tokens[step])
    text = policy.prompts.parse(tokens).text(policy.vocabulary.titles)
    raise ConfigError(
        f"`model.base`: the tokenizer {policy.prompts.text.name} encodes the justification {text!r} with the token "
        f"{piece!r} (id {tokens[step]}, token {step + 1} of {len(tokens)}), which the mask of justifications forbids "
        "there. Training would reach an infinite loss. Choose another `model.base`, or change the titles and "
        "categories of this text."
    )
