"""Measures how often llama.cpp recommends the same item from an exported GGUF file as the policy does.

    python benchmarks/research/gguf_agreement.py --run runs/quickstart --gguf model.gguf [--users 100] [--json]

It needs `pip install xllamacpp`, a Python package of llama.cpp with its server. Prompts are given as text, so the
tokenizer in the file is tested as well. Both choose the best unseen item after the prompt.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script has only its own folder on the path

from llmrec.config import CatalogueConfig
from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.data.decision import Decisions
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.run import Run

CONTEXT_LENGTH = 2048  # tokens
ALLOWED_BIAS = 1000.0  # added to the logits of allowed items, so that no other token can win


def main(
    run: Annotated[Path, typer.Option(help="Run that was exported.")],
    gguf: Annotated[Path, typer.Option(help="File that `llmrec export --gguf` wrote.")],
    adapter: Annotated[Literal["sft", "ppo"], typer.Option(help="Adapter that was exported.")] = "ppo",
    users: Annotated[int, typer.Option(min=1, help="Number of users to ask for.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Print the share of users for whom both recommend the same item."""
    opened = Run.open(run)
    data = load_data(opened.path("data"))
    policy = RecPolicy.from_pretrained(opened.path(adapter, "adapter"), quantized=False)
    result = agreement(policy, data, opened.config.catalogue, gguf, users)
    if as_json:
        print(json.dumps(result))
    else:
        print(f"same item for {result['same']} of {result['users']} users ({result['share']:.1%})")


def agreement(
    policy: RecPolicy, data: InteractionData, catalogue: CatalogueConfig, gguf: Path, users: int
) -> dict[str, float]:
    """Asks both for recommendations to users spread over the user table.

    Args:
        policy: the policy.
        data: the prepared log. Prompts show the full histories of users.
        catalogue: config of the prompts.
        gguf: the exported file.
        users: largest number of users.

    Returns:
        `users`, `same` (users with the same item) and `share`.

    Raises:
        RuntimeError: llama.cpp tokenizes a prompt differently.
    """
    asked = np.arange(data.num_users)[:: max(1, data.num_users // users)][:users]
    ends = np.array([len(data.histories[user]) for user in asked])
    decisions = Decisions.from_targets(data, Targets(asked, ends), catalogue)
    scores = torch.cat(list(item_scores(policy, decisions)))
    server = start(gguf)
    same = 0
    for profile, history, row in zip(decisions.profiles, decisions.histories, scores, strict=True):
        prompt = policy.prompts.prompt(profile, history)
        allowed = [policy.vocabulary.sequences[item][0] for item in row.isfinite().nonzero()[:, 0].tolist()]
        token = answer(server, str(policy.tokenizer.decode(prompt)), len(prompt), allowed)
        same += token == policy.vocabulary.sequences[int(row.argmax())][0]
    return {"users": len(asked), "same": same, "share": same / len(asked)}


def start(gguf: Path) -> Any:
    """A llama.cpp server for a file, with one thread on the CPU."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
    options = xllamacpp.CommonParams()
    options.model.path = str(gguf)
    options.n_ctx = CONTEXT_LENGTH
    options.n_parallel = 1
    options.n_gpu_layers = 0
    options.cpuparams.n_threads = 1
    options.cpuparams_batch.n_threads = 1
    options.warmup = False
    options.verbosity = 0
    return xllamacpp.Server(options)


def answer(server: Any, text: str, tokens: int, allowed: list[int]) -> int:
    """The most probable of the allowed tokens after a text, according to llama.cpp.

    Args:
        server: the server of `start`.
        text: the prompt.
        tokens: number of tokens of the prompt according to the policy.
        allowed: allowed token ids.
    """
    bias = [[token, ALLOWED_BIAS] for token in allowed]
    reply = server.handle_completions(
        {"prompt": text, "n_predict": 1, "temperature": 0.0, "n_probs": 1, "logit_bias": bias}
    )
    found = reply["usage"]["prompt_tokens"]
    if found != tokens:
        raise RuntimeError(f"llama.cpp tokenizes a prompt to {found} tokens, expected {tokens} as in the policy.")
    return reply["choices"][0]["logprobs"]["content"][0]["id"]


if __name__ == "__main__":
    typer.run(main)
