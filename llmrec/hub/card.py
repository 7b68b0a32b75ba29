"""The model card of a pushed run: hub metadata, results with intervals, data, training, limits and how to load it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from llmrec.config import Config
from llmrec.evaluation.report import COMPARED_METRICS, DatasetCard, Report, SplitReport
from llmrec.policy.sharing import SharedPolicy, card_data, render_card
from llmrec.report.format import measured, number
from llmrec.report.glossary import label
from llmrec.report.verdict import remarks, verdict

DIGITS = 4  # decimals of metrics

Row = tuple[str, str]


@dataclass(frozen=True)
class SharedRun:
    """What a model card says about a run.

    Attributes:
        policy: the pushed policy.
        config: config of the run.
        adapter: the stage that trained the pushed adapter, `sft` or `ppo`.
        report: results of the run; empty if it has not been evaluated.
        data: counts and rules of the prepared data.
        include: the further parts that are pushed, of `llmrec.config.INCLUDABLE`.
        privacy: what SFT recorded of its differential privacy; None without it.
    """

    policy: SharedPolicy
    config: Config
    adapter: str
    report: Report = field(default_factory=Report)
    data: DatasetCard = field(default_factory=DatasetCard)
    include: Sequence[str] = ()
    privacy: dict[str, Any] | None = None

    @property
    def dataset(self) -> str:
        """The last part of `data.path`. The whole path would describe this machine."""
        return Path(self.config.data.path.rstrip("/")).name


def run_card(run: SharedRun) -> str:
    """The card of a run as Markdown with a YAML block."""
    results = _eval_results(run)
    data = card_data(
        run.policy,
        tags=(run.adapter,),
        eval_results=results or None,
        model_name=run.policy.name if results else None,
    )
    return render_card(
        "card.md.jinja",
        data,
        packages=("llmrec.hub",),
        policy=run.policy,
        run=run,
        splits=[_split_table(run, name, split) for name, split in run.report.splits.items()],
        conclusions=[verdict(run.report), *remarks(run.report)] if run.adapter == "ppo" else [],
        data_rows=_data_rows(run),
        training_rows=_training_rows(run),
        privacy_rows=_privacy_rows(run.privacy),
    )


# --- results --------------------------------------------------------------------------------------


def _eval_results(run: SharedRun) -> list[EvalResult]:
    """The metrics of the pushed adapter, as hubs index them."""
    kept = run.report.data is not None and run.report.data.repeats == "keep"
    seen = "seen items included" if kept else "seen items filtered"
    return [
        EvalResult(
            task_type="recommendation",
            task_name="Sequential recommendation",
            dataset_type=run.dataset,
            dataset_name=f"{run.dataset}, {name} split",
            dataset_config=name,
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{label(metric)} (full catalogue, {seen})",
            metric_value=estimate.value,
        )
        for name, split in run.report.splits.items()
        for metric in COMPARED_METRICS
        if (estimate := split.metric(run.adapter, metric)) is not None and estimate.value is not None
    ]


@dataclass(frozen=True)
class SplitTable:
    """Results of all models on one split.

    Attributes:
        split: name of the split.
        headings: a heading for each metric.
        rows: name of a model and its cells.
    """

    split: str
    headings: list[str]
    rows: list[tuple[str, list[str]]]


def _split_table(run: SharedRun, name: str, split: SplitReport) -> SplitTable:
    metrics = [metric for metric in COMPARED_METRICS if any(metric in model for model in split.deployable.values())]
    rows = [
        (
            f"**{label(model)}** (this adapter)" if model == run.adapter else label(model),
            [measured(estimates.get(metric), DIGITS) for metric in metrics],
        )
        for model, estimates in split.deployable.items()
    ]
    return SplitTable(split=name, headings=[label(metric) for metric in metrics], rows=rows)


# --- data and training ----------------------------------------------------------------------------


def _data_rows(run: SharedRun) -> list[Row]:
    """Rules and counts of the data. No row is about a single user."""
    config = run.config.data
    data = run.data
    rows = [
        ("source", f"`{run.dataset}` ({config.format})"),
        ("click", _listed(config.click)),
        ("purchase", _listed(config.purchase) or "the log has none"),
    ]
    counts = {
        "users": data.users,
        "items": data.items,
        "events": data.events,
        "clicks": data.clicks,
        "purchases": data.purchases,
    }
    rows += [(name, number(count)) for name, count in counts.items() if count is not None]
    if data.density is not None:
        rows.append(("density", number(data.density, DIGITS)))
    if data.time:
        rows.append(("time", f"{data.time['first'][:10]} to {data.time['last'][:10]}"))
    rows.append(("splits", _listed(config.splits)))
    rows.append(("user attributes in the prompt", _listed(run.config.catalogue.user_attributes) or "none"))
    return rows


def _training_rows(run: SharedRun) -> list[Row]:
    """Settings of the adapter and of its training, its duration, and the environment."""
    model = run.config.model
    quantized = f"; base model in {model.quantization}" if model.quantization else ""
    lora = f"LoRA on all linear layers, r {model.lora_r}, alpha {model.lora_alpha}"
    rows = [("adapter", f"{lora}; rows of the item tokens{quantized}"), ("sft", _sft_settings(run.config))]
    if run.adapter == "ppo":
        rows.append(("ppo", _ppo_settings(run.config)))
    rows.append(("seed", str(run.config.seed)))
    seconds = [f"{stage} {number(value, 0)}" for stage, value in run.report.seconds.items() if value is not None]
    if seconds:
        rows.append(("seconds", ", ".join(seconds)))
    environment = run.report.environment
    if environment is not None:
        versions = [f"{name} {version}" for name, version in environment.versions.items()]
        rows.append(("environment", ", ".join([environment.device or "unknown device", *versions])))
    return rows


def _privacy_rows(privacy: dict[str, Any] | None) -> list[Row]:
    """The guarantee of a private adapter, how it was trained and how it ranks; nothing without one."""
    if privacy is None:
        return []
    ranking = privacy["ranking"]
    return [
        ("guarantee", f"epsilon {privacy['epsilon']:.3g}, delta {privacy['delta']:g}, for each user, added or removed"),
        ("accountant", privacy["accountant"]),
        ("noise", f"{privacy['noise_multiplier']:.3g} x the clipping norm {privacy['clip']:g}"),
        ("sampling", f"{privacy['batch_size']} of {number(privacy['users'])} users a step on average (Poisson)"),
        ("steps", str(privacy["steps"])),
        ("clipped gradients", f"{privacy['clipped_share']:.0%}"),
        ("validation NDCG@10", f"{number(ranking['private'], DIGITS)}, {number(ranking['users'])} users"),
        ("untrained start", number(ranking["start"], DIGITS)),
        ("popularity", number(ranking["popularity"], DIGITS)),
        ("verdict", privacy["verdict"]),
    ]


def _sft_settings(config: Config) -> str:
    sft = config.sft
    return f"{sft.num_train_epochs:g} epochs, learning rate {sft.learning_rate:g}, {sft.batch_size} windows per step"


def _ppo_settings(config: Config) -> str:
    ppo = config.ppo
    return (
        f"{ppo.total_episodes:,} episodes, learning rate {ppo.learning_rate:g}, `advantage: {ppo.advantage}`, "
        f"`item_kl_coef: {ppo.item_kl_coef:g}`, `item_entropy_coef: {ppo.item_entropy_coef:g}`, "
        f"`kl_coef: {ppo.kl_coef:g}`, `ptx_coef: {ppo.ptx_coef:g}`, `ema_decay: {ppo.ema_decay:g}`"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
