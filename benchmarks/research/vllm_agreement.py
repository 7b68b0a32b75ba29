"""Measures whether vLLM ranks the items of an exported model as the policy does.

    llmrec export --run runs/quickstart --merged out/quickstart
    python benchmarks/research/vllm_agreement.py ask --run runs/quickstart --file questions.json [--users 100]
    VLLM/bin/python benchmarks/research/vllm_agreement.py answer --model out/quickstart --file questions.json

vLLM pins other versions of transformers and NumPy, so it has an environment of its own, here VLLM. `ask` writes
prompts, the tokens of unseen items, and the policy's ten best. `answer` needs vLLM alone: it lets the model choose
among these tokens and compares the ten most probable.
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script has only its own folder on the path

TOP = 10
app = typer.Typer()


@app.command()
def ask(
    run: Annotated[Path, typer.Option(help="Run that was exported.")],
    file: Annotated[Path, typer.Option(help="JSON file to write.")],
    adapter: Annotated[Literal["sft", "ppo"], typer.Option(help="Adapter that was exported.")] = "ppo",
    users: Annotated[int, typer.Option(min=1, help="Number of users to ask for.")] = 100,
) -> None:
    """Write prompts of users and the policy's best items."""
    import numpy as np
    import torch

    from llmrec.data.dataset import Targets, load_data
    from llmrec.data.decision import Decisions
    from llmrec.policy.model import RecPolicy
    from llmrec.policy.ranking import item_scores
    from llmrec.run import Run

    opened = Run.open(run)
    data = load_data(opened.path("data"))
    policy = RecPolicy.from_pretrained(opened.path(adapter, "adapter"), quantized=False)
    asked = np.arange(data.num_users)[:: max(1, data.num_users // users)][:users]
    ends = np.array([len(data.histories[user]) for user in asked])
    decisions = Decisions.from_targets(data, Targets(asked, ends), opened.config.catalogue)
    scores = torch.cat(list(item_scores(policy, decisions)))
    tokens = torch.tensor([sequence[0] for sequence in policy.vocabulary.sequences])
    questions = [
        {
            "prompt": policy.prompts.prompt(profile, history),
            "allowed": tokens[row.isfinite()].tolist(),
            "best": tokens[row.topk(TOP).indices].tolist(),
        }
        for profile, history, row in zip(decisions.profiles, decisions.histories, scores, strict=True)
    ]
    file.write_text(json.dumps(questions), encoding="utf-8")


@app.command()
def answer(
    model: Annotated[Path, typer.Option(help="Directory that `llmrec export --merged` wrote.")],
    file: Annotated[Path, typer.Option(help="File of `ask`.")],
) -> None:
    """Print as JSON how many users get the same best item, and how many of the ten best are the same."""
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    questions = json.loads(file.read_text(encoding="utf-8"))
    engine = LLM(
        model=str(model),
        dtype="float32",
        max_model_len=2048,
        max_logprobs=TOP,
        logprobs_mode="processed_logprobs",
        enforce_eager=True,  # compilation takes minutes and changes no result
    )
    prompts = [{"prompt_token_ids": one["prompt"]} for one in questions]
    settings = [
        SamplingParams(max_tokens=1, temperature=0.0, logprobs=TOP, allowed_token_ids=one["allowed"])
        for one in questions
    ]
    engine.generate(prompts[:2], settings[:2], use_tqdm=False)
    started = time.perf_counter()
    answers = engine.generate(prompts, settings, use_tqdm=False)
    seconds = time.perf_counter() - started
    same, shared, outside = 0, 0, 0
    for question, reply in zip(questions, answers, strict=True):
        chosen = reply.outputs[0].token_ids[0]
        ranked = sorted(reply.outputs[0].logprobs[0].items(), key=lambda pair: -pair[1].logprob)
        same += chosen == question["best"][0]
        shared += len({token for token, _ in ranked[:TOP]} & set(question["best"]))
        outside += chosen not in question["allowed"]
    count = len(questions)
    result = {"users": count, "same_best": same, "same_of_ten": shared / (TOP * count), "not_allowed": outside}
    print(json.dumps(result | {"seconds": round(seconds, 2)}))


if __name__ == "__main__":
    app()
