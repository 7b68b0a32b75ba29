"""The README.md of a pushed adapter: hub metadata, data, training, results with intervals, use, limits, how to load."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from llmrec.config import CatalogueConfig, Config, ModelConfig

_LIBRARY = "llmrec"
# What the hub shows as results: key in report.json and name.
_INDEXED = {"hr@10": "HR@10", "ndcg@10": "NDCG@10"}


@dataclass(frozen=True)
class Pushed:
    """What a card tells of.

    Attributes:
        repo: `OWNER/NAME` on the hub.
        model, catalogue: that the adapter was made with.
        base: hub id of the base model; None if it is a local directory.
        licence: of the base model as its card's metadata has it: `license`, and of one that is `other` `license_name`
            and `license_link`; empty if it is not known.
        revision: branch that it goes to; None: the main one.
        config: of the run; None for a policy that belongs to none, which then has none of what follows.
        adapter: `sft` or `ppo`.
        report: `report.json`; empty if the run was not evaluated.
        data: the dataset card.
        include: what else was pushed, `reward` or `report`.
        titles: whether the items' titles are there.
    """

    repo: str
    model: ModelConfig
    catalogue: CatalogueConfig
    base: str | None
    licence: Mapping[str, str]
    revision: str | None = None
    config: Config | None = None
    adapter: str | None = None
    report: Mapping = field(default_factory=dict)
    data: Mapping = field(default_factory=dict)
    include: tuple[str, ...] = ()
    titles: bool = True


def model_card(pushed: Pushed) -> str:
    """Markdown with YAML metadata; complete as it is."""
    metadata = yaml.safe_dump(_metadata(pushed), sort_keys=False, allow_unicode=True)
    sections = [f"---\n{metadata}---\n", f"# {_name(pushed)}\n", _summary(pushed)]
    if pushed.config is not None:
        sections += [_results(pushed), _data(pushed), _training(pushed)]
    sections += [_INTENDED_USE, _limits(pushed), _loading(pushed)]
    return "\n".join([*sections, *([_LOADING_REWARD] if "reward" in pushed.include else [])])


def dataset_name(config: Config) -> str:
    """The last part of `data.path`, which unlike the path tells nothing about the machine."""
    return Path(config.data.path.rstrip("/")).name


def _name(pushed: Pushed) -> str:
    return pushed.repo.split("/")[-1]


def _metadata(pushed: Pushed) -> dict:
    tags = ["recommendation", "sequential-recommendation", _LIBRARY, "lora", *filter(None, [pushed.adapter])]
    metadata: dict = {"library_name": "peft", "pipeline_tag": "text-generation", "tags": tags}
    if pushed.base is not None:
        metadata["base_model"] = pushed.base
    metadata |= pushed.licence
    results = [entry for split in pushed.report.get("splits", {}) if (entry := _index_entry(pushed, split))["metrics"]]
    if results:
        metadata["model-index"] = [{"name": _name(pushed), "results": results}]
    return metadata


def _index_entry(pushed: Pushed, split: str) -> dict:
    values = _models(pushed.report, split).get(pushed.adapter, {})
    name = dataset_name(pushed.config)
    return {
        "task": {"type": "recommendation", "name": "Sequential recommendation"},
        "dataset": {"name": f"{name}, {split} split", "type": name, "config": split, "split": "test"},
        "metrics": [
            {"type": key, "name": f"{shown} (full catalogue, seen items filtered)", "value": values[key]["value"]}
            for key, shown in _INDEXED.items()
            if values.get(key, {}).get("value") is not None
        ],
    }


def _models(report: Mapping, split: str) -> dict:
    return report.get("splits", {}).get(split, {}).get("models", {})


def _summary(pushed: Pushed) -> str:
    what = f"items of `{dataset_name(pushed.config)}`" if pushed.config else "items of one catalogue"
    layers = f", cut to its first {pushed.model.layers} layers" if pushed.model.layers else ""
    lines = [
        f"A LoRA adapter that makes a language model recommend {what}: it reads a user's history and writes one "
        "item of the catalogue and a justification.\n",
        f"- Base model: {f'`{pushed.base}`' if pushed.base else 'a local model'}{layers}",
        f"- Licence: {_licence(pushed)}",
        f"- Items as tokens: `{pushed.catalogue.scheme}` scheme, in `item_vocabulary.json`"
        + ("" if pushed.titles else "; titles are withheld, items go by their ids"),
    ]
    if pushed.config is not None:
        rl = ", then PPO against a learned reward" if pushed.adapter == "ppo" else ""
        lines.append(f"- Trained by: supervised fine-tuning{rl}, with {_LIBRARY} (`config.yaml` is the whole config)")
        if "report" in pushed.include:
            lines.append("- All results as a page: `report.html`; as numbers: `report.json`")
    return "\n".join(lines) + "\n"


def _licence(pushed: Pushed) -> str:
    if not pushed.licence:
        return "unknown: that of the base model could not be read. Find it out before you use or share this adapter"
    name = pushed.licence.get("license_name", pushed.licence["license"])
    return f"the base model's is `{name}`; the terms of the data may say more"


def _results(pushed: Pushed) -> str:
    lines = ["## Results\n"]
    for split, found in pushed.report.get("splits", {}).items():
        lines.append(f"Test part of the `{split}` split, full catalogue ranked, seen items filtered; 95 % intervals:\n")
        lines.append("| model | " + " | ".join(_INDEXED.values()) + " |\n|---|" + "---|" * len(_INDEXED))
        for model, metrics in _models(pushed.report, split).items():
            if model == "optimum":  # computed, not a model
                continue
            cells = " | ".join(_with_interval(metrics.get(key)) for key in _INDEXED)
            lines.append(f"| {f'**{model}** (this)' if model == pushed.adapter else model} | {cells} |")
        compared = found.get("comparisons", {}).get("ppo_vs_sft", {}).get("ndcg@10")
        if compared and pushed.adapter == "ppo":
            low, high = compared["ci95"]
            lines.append(f"\nNDCG@10 of ppo less sft, paired: {compared['difference']:+.4f} [{low:+.4f}, {high:+.4f}].")
        lines.append("")
    if len(lines) == 1:
        lines.append("This run was pushed before it was evaluated.\n")
    return "\n".join(lines)


def _with_interval(metric: dict | None) -> str:
    if not metric or metric.get("value") is None:
        return "-"
    interval = metric.get("ci95")
    return f"{metric['value']:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _data(pushed: Pushed) -> str:
    """Counts and rules; nothing of any one user."""
    data, config = pushed.data, pushed.config.data
    rows = {
        "source": f"`{dataset_name(pushed.config)}` ({config.format})",
        "a click is": ", ".join(f"`{rule}`" for rule in config.click),
        "a purchase is": ", ".join(f"`{rule}`" for rule in config.purchase) or "nothing: the log has none",
        **{key: f"{data[key]:,}" for key in ("users", "items", "events", "clicks", "purchases") if key in data},
        **({"density": f"{data['density']:.4f}"} if "density" in data else {}),
        **({"time": f"{data['time']['first'][:10]} to {data['time']['last'][:10]}"} if "time" in data else {}),
        "splits": ", ".join(f"`{split}`" for split in config.splits),
        "of a user the prompt tells": ", ".join(f"`{a}`" for a in pushed.catalogue.user_attributes) or "nothing",
    }
    return "## Data\n\n" + _table(rows) + "\nNo event and no user of the log is in this repository.\n"


def _training(pushed: Pushed) -> str:
    config, model = pushed.config, pushed.model
    quantized = f", base in {model.quantization}" if model.quantization else ""
    rows = {
        "adapter": f"LoRA, r {model.lora_r}, alpha {model.lora_alpha}, on all linear layers; item tokens{quantized}",
        "sft": f"{config.sft.num_train_epochs:g} epochs, learning rate {config.sft.learning_rate:g}, "
        f"{config.sft.per_device_train_batch_size * config.sft.gradient_accumulation_steps} windows a step",
    }
    if pushed.adapter == "ppo":
        ppo = config.ppo
        rows["ppo"] = (
            f"{ppo.total_episodes:,} episodes, learning rate {ppo.learning_rate:g}, `advantage: {ppo.advantage}`, "
            f"item KL {ppo.item_kl_coef:g}, item entropy {ppo.item_entropy_coef:g}, text KL {ppo.kl_coef:g}, "
            f"ptx {ppo.ptx_coef:g}, average {ppo.ema_decay:g}"
        )
    rows["seed"] = str(config.seed)
    if seconds := pushed.report.get("seconds"):
        rows["seconds"] = ", ".join(f"{stage} {value:,.0f}" for stage, value in seconds.items() if value is not None)
    environment = pushed.report.get("environment", {})
    if environment:
        versions = environment.get("versions", {})
        rows["on"] = f"{environment.get('device', 'unknown')}; " + ", ".join(f"{n} {v}" for n, v in versions.items())
    return (
        "## Training\n\n"
        + _table(rows)
        + "\nAgain: `llmrec run config.yaml`, with `data.path` set to where the log is.\n"
    )


def _table(rows: Mapping[str, str]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


_INTENDED_USE = """## Intended use

Research on recommendation with language models, and next-item recommendation over the catalogue in
`item_vocabulary.json`, with items drawn under that catalogue's mask. Not for decisions about people, and not
for items outside the catalogue.
"""


def _limits(pushed: Pushed) -> str:
    lines = [
        "## Limits\n",
        "- It learned from one event log: popular items are favoured, rare users are served worse.",
        "- Justifications are generated under a mask that allows only true facts and real citations when used with "
        "llmrec; decoded by plain `generate`, they may be fluent and wrong.",
        "- The repository holds no event log, but weights trained on behaviour can carry traces of it.",
    ]
    if pushed.model.base.startswith("bundled:"):
        lines.append(
            "- It was trained on 4-bit weights of the base model, widened to full precision; on the hub's "
            "weights its numbers differ a little from those above."
        )
    if not pushed.titles:
        lines.append("- Facts that are a whole title of some item are withheld too, so it cannot state them.")
    if pushed.report.get("guard", {}).get("fell_back_to_sft"):
        lines.append("- No PPO step beat the supervised start on validation, so this is the supervised adapter.")
    return "\n".join(lines) + "\n"


def _loading(pushed: Pushed) -> str:
    revision = f', revision="{pushed.revision}"' if pushed.revision else ""
    flag = f" --revision {pushed.revision}" if pushed.revision else ""
    item = "TITLE" if pushed.titles else "ITEM_ID"
    return f"""## How to load

With llmrec, which masks the item span so that every recommended item exists:

```bash
llmrec recommend --model {pushed.repo}{flag} "{item}" "{item}"
```

```python
from llmrec.policy.model import RecPolicy

policy = RecPolicy.from_pretrained("{pushed.repo}"{revision})
```

With plain peft, without that mask:

```python
{_plain_peft(pushed, revision)}
```
{_base_note(pushed)}"""


def _plain_peft(pushed: Pushed, revision: str) -> str:
    cut = f", num_hidden_layers={pushed.model.layers}" if pushed.model.layers else ""
    if pushed.base:
        return f"""from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("{pushed.repo}"{revision}{cut})"""
    return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{pushed.repo}"{revision})
base = AutoModelForCausalLM.from_pretrained("PATH/TO/BASE"{cut})
base.resize_token_embeddings(len(tokenizer))  # the items' tokens
model = PeftModel.from_pretrained(base, "{pushed.repo}"{revision})"""


def _base_note(pushed: Pushed) -> str:
    notes = ["\n`llmrec.json` records the base, the layers kept and the item scheme."]
    if pushed.model.layers:
        notes.append(
            f"Without `num_hidden_layers={pushed.model.layers}` plain peft puts the adapter on the whole base, with "
            "a warning at most: that is another model."
        )
    if pushed.base is None:
        notes.append("The base is on no hub: set `model.base` there to the directory that holds it.")
    return " ".join(notes) + "\n"


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
