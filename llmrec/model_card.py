"""The README.md of a pushed adapter: hub metadata, results with intervals, use, limits, how to load."""

from pathlib import Path

import yaml

from llmrec.config import Config

_LIBRARY = "llmrec"
# What the hub shows as results: key in report.json and name.
_INDEXED = {"hr@10": "HR@10", "ndcg@10": "NDCG@10"}


def model_card(config: Config, *, repo: str, adapter: str, base: str | None, report: dict, reward: bool) -> str:
    """Markdown with YAML metadata.

    Args:
        config: of the run.
        repo: `OWNER/NAME` on the hub.
        adapter: `sft` or `ppo`.
        base: hub id of the base model; None if it is a local directory.
        report: `report.json`, or an empty dict if the run was not evaluated.
        reward: whether the repository holds the reward models too.
    """
    metadata = yaml.safe_dump(_metadata(config, repo, adapter, base, report), sort_keys=False, allow_unicode=True)
    sections = [
        f"---\n{metadata}---\n",
        f"# {repo.split('/')[-1]}\n",
        _summary(config, adapter, base),
        _results(adapter, report),
        _INTENDED_USE,
        _limits(config, report),
        _loading(config, repo, base),
        *([_LOADING_REWARD] if reward else []),
    ]
    return "\n".join(sections)


def dataset_name(config: Config) -> str:
    """The last part of `data.path`, which unlike the path tells nothing about the machine."""
    return Path(config.data.path.rstrip("/")).name


def _metadata(config: Config, repo: str, adapter: str, base: str | None, report: dict) -> dict:
    tags = ["recommendation", "sequential-recommendation", _LIBRARY, "lora", adapter]
    metadata: dict = {"library_name": "peft", "pipeline_tag": "text-generation", "tags": tags}
    if base is not None:
        metadata["base_model"] = base
    values = _split(report, "leave_one_out").get(adapter, {})
    results = [
        {"type": key, "name": f"{name} (full catalogue, seen items filtered)", "value": values[key]["value"]}
        for key, name in _INDEXED.items()
        if key in values
    ]
    if results:
        dataset = {"name": dataset_name(config), "type": dataset_name(config), "split": "leave_one_out test"}
        task = {"type": "recommendation", "name": "Sequential recommendation"}
        entry = {"task": task, "dataset": dataset, "metrics": results}
        metadata["model-index"] = [{"name": repo.split("/")[-1], "results": [entry]}]
    return metadata


def _split(report: dict, split: str) -> dict:
    return report.get("splits", {}).get(split, {}).get("models", {})


def _summary(config: Config, adapter: str, base: str | None) -> str:
    trained = "supervised fine-tuning" + (", then PPO against a learned reward" if adapter == "ppo" else "")
    layers = f", cut to its first {config.model.layers} layers" if config.model.layers else ""
    return (
        f"A LoRA adapter that makes a language model recommend items of `{dataset_name(config)}`: "
        "it reads a user's history and writes one item of the catalogue and a justification.\n\n"
        f"- Base model: {f'`{base}`' if base else 'a local model'}{layers}\n"
        f"- Trained by: {trained}, with {_LIBRARY} (`config.yaml` is the whole config)\n"
        f"- Items as tokens: `{config.catalogue.scheme}` scheme, in `item_vocabulary.json`\n"
    )


def _results(adapter: str, report: dict) -> str:
    lines = ["## Results\n"]
    for split in report.get("splits", {}):
        models = _split(report, split)
        lines.append(f"Test part of the `{split}` split, full catalogue ranked, seen items filtered; 95 % intervals:\n")
        lines.append("| model | " + " | ".join(_INDEXED.values()) + " |\n|---|" + "---|" * len(_INDEXED))
        for model, metrics in models.items():
            if model == "optimum":  # computed, not a model
                continue
            cells = " | ".join(_with_interval(metrics.get(key)) for key in _INDEXED)
            lines.append(f"| {f'**{model}** (this)' if model == adapter else model} | {cells} |")
        lines.append("")
    if len(lines) == 1:
        lines.append("This run was pushed before it was evaluated.\n")
    return "\n".join(lines)


def _with_interval(metric: dict | None) -> str:
    if not metric or metric.get("value") is None:
        return "-"
    interval = metric.get("ci95")
    return f"{metric['value']:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


_INTENDED_USE = """## Intended use

Research on recommendation with language models, and next-item recommendation over the catalogue in
`item_vocabulary.json`, with items drawn under that catalogue's mask. Not for decisions about people, and not
for items outside the catalogue.
"""


def _limits(config: Config, report: dict) -> str:
    lines = [
        "## Limits\n",
        "- It learned from one event log: popular items are favoured, rare users are served worse.",
        "- Justifications are generated under a mask that allows only true facts and real citations when used with "
        "llmrec; decoded by plain `generate`, they may be fluent and wrong.",
        "- The repository holds no event log, but weights trained on behaviour can carry traces of it.",
    ]
    if config.model.base.startswith("bundled:"):
        lines.append(
            "- It was trained on 4-bit weights of the base model, widened to full precision; on the hub's "
            "weights its numbers differ a little from those above."
        )
    if report.get("guard", {}).get("fell_back_to_sft"):
        lines.append("- No PPO step beat the supervised start on validation, so this is the supervised adapter.")
    return "\n".join(lines) + "\n"


def _loading(config: Config, repo: str, base: str | None) -> str:
    cut = f", num_hidden_layers={config.model.layers}" if config.model.layers else ""
    note = " The base must be cut to the same layers: an adapter on another depth is garbage." if cut else ""
    return f"""## How to load

With llmrec, which masks the item span so that every recommended item exists:

```python
from huggingface_hub import snapshot_download
from llmrec.policy.model import RecPolicy

policy = RecPolicy.from_pretrained(snapshot_download("{repo}"))
```

With plain peft, without that mask:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
base = AutoModelForCausalLM.from_pretrained("{base or "PATH/TO/BASE"}"{cut})
base.resize_token_embeddings(len(tokenizer))  # the items' tokens
model = PeftModel.from_pretrained(base, "{repo}")
```

`llmrec.json` records the base, the layers kept and the item scheme.{note}
"""


_LOADING_REWARD = """## The reward models

`reward/` holds the click/purchase model that PPO was rewarded by, its independent judge, and how far they can be
trusted (`metrics.json`).

```python
from reward_models import EaseJudge, load_reward_model

model = load_reward_model("PATH/TO/DOWNLOAD/reward")
judge = EaseJudge.from_pretrained("PATH/TO/DOWNLOAD/reward")
rewards = model.log_rewards([[3, 1, 4]])  # [1, items] in nats, of item indices in the catalogue's order
```
"""
