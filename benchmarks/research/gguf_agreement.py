"""How often llama.cpp, running an exported GGUF file, recommends the item that the policy recommends.

    python benchmarks/research/gguf_agreement.py --run runs/quickstart --gguf model.gguf [--users 100] [--json]

It needs `pip install xllamacpp`, which is llama.cpp with its server for Python. Prompts are given as text, so the
tokenizer in the file is tried as well. Both choose the best item that the user has not had, at the first decision
after the prompt.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, its own package is not on the path

from llmrec.config import CatalogueConfig
from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.data.decision import Decisions
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.run import Run

CONTEXT = 2048  # tokens
ALLOW = 1000.0  # added to the logits of items that may be recommended: all others are out


def main(
    run: Annotated[Path, typer.Option(help="the run that was exported")],
    gguf: Annotated[Path, typer.Option(help="what `llmrec export --gguf` wrote")],
    adapter: Annotated[Literal["sft", "ppo"], typer.Option(help="which adapter it was")] = "ppo",
    users: Annotated[int, typer.Option(min=1)] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON on stdout and nothing else")] = False,
) -> None:
    """Prints the share of users for whom both recommend the same item."""
    opened = Run.open(run)
    data = load_data(opened.path("data"))
    policy = RecPolicy.from_pretrained(opened.path(adapter, "adapter"), quantized=False)
    result = agreement(policy, data, opened.config.catalogue, gguf, users)
    if as_json:
        print(json.dumps(result))
    else:
        print(f"same item for {result['same']} of {result['users']} users ({result['share']:.1%})")


def agreement(policy: RecPolicy, data: InteractionData, catalogue: CatalogueConfig, gguf: Path, users: int) -> dict:
    """Asks both for users spread over the user table, each with all that the user had.

    Returns:
        `users`, `same` and `share`.

    Raises:
        RuntimeError: llama.cpp cut a prompt into other tokens.
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
        token = answer(server, policy.tokenizer.decode(prompt), len(prompt), allowed)
        same += token == policy.vocabulary.sequences[int(row.argmax())][0]
    return {"users": len(asked), "same": same, "share": same / len(asked)}


def start(gguf: Path) -> Any:
    """llama.cpp with the file's model, on one thread."""
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path, options.n_ctx, options.n_parallel, options.n_gpu_layers = str(gguf), CONTEXT, 1, 0
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    options.warmup, options.verbosity = False, 0
    return xllamacpp.Server(options)


def answer(server: Any, text: str, tokens: int, allowed: list[int]) -> int:
    """The token that llama.cpp finds most probable after a text, of those that are allowed."""
    bias = [[token, ALLOW] for token in allowed]
    reply = server.handle_completions(
        {"prompt": text, "n_predict": 1, "temperature": 0.0, "n_probs": 1, "logit_bias": bias}
    )
    if reply["usage"]["prompt_tokens"] != tokens:
        raise RuntimeError(f"llama.cpp reads {reply['usage']['prompt_tokens']} tokens where the policy has {tokens}.")
    return reply["choices"][0]["logprobs"]["content"][0]["id"]


if __name__ == "__main__":
    typer.run(main)
