"""Ablations of `RecPPOTrainer`: each function takes one of its optimizations out of a finished trainer."""

import copy
from typing import Any

import torch

from llmrec.data.decision import Decision
from llmrec.language.grammar import TEXT_RULES, TextClass
from llmrec.policy.decoding import Decoder
from llmrec.ppo.network import NetworkOutput
from llmrec.ppo.trainer import RecPPOTrainer


def never_end(decoder: Decoder) -> None:
    """Forbids the end token, so every completion has the full length."""
    decoder._class_columns[list(TEXT_RULES).index(TextClass.END)] = 0.0


def whole_vocabulary(trainer: RecPPOTrainer) -> None:
    """Justifications may use every token of the base, so the output head is evaluated over all of them.

    The end token stays forbidden. The catalogue must have no facts.
    """
    policy = trainer.policy
    decoder = policy.decoder
    classes = decoder.classes
    size = policy.vocabulary.new_tokens[0]  # the tokens of items follow those of the base
    model: Any = policy.model.get_base_model()
    embeddings = model.get_output_embeddings().token_adapter.get_base_layer().weight[:size]
    columns = torch.zeros(len(TEXT_RULES), size)
    columns[list(TEXT_RULES).index(TextClass.WORD)] = 1.0
    for kind, token in (
        (TextClass.OPENER, classes.opener),
        (TextClass.STOP, classes.stop),
        (TextClass.END, classes.end),
    ):
        columns[:, token] = 0.0
        columns[list(TEXT_RULES).index(kind), token] = 1.0
    decoder.tokens = torch.arange(size)
    decoder._class_columns = columns
    never_end(decoder)

    def logits(hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        # The embeddings are used as they are: indexing them by `tokens` would copy the whole matrix.
        return hidden @ embeddings.T if len(tokens) == size else policy.logits(hidden, tokens)

    policy.distribution._logits = logits


def separate_reference(trainer: RecPPOTrainer) -> None:
    """The reference policy is a second model, instead of the same model with the RL adapter switched off."""
    network: Any = trainer.model
    score = trainer.reference
    second = copy.deepcopy(network)

    def reference(decisions: list[Decision], completions: list[list[list[int]]]) -> NetworkOutput:
        trainer.model = second
        trainer.policy = second.policy
        try:
            return score(decisions, completions)
        finally:
            trainer.model = network
            trainer.policy = network.policy

    trainer.reference = reference
