"""Reference pages of `report.json` and of its metrics, rendered from their definitions in code."""

import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from llmrec.evaluation.report import ALPHA, HEADLINE_METRIC, Report, SeedsReport
from llmrec.report.glossary import GROUPS, MODELS, SLICES, Metric

_REPORT_INTRODUCTION = """\
# report.json

`llmrec evaluate` writes `report.json` into the run directory. `llmrec.evaluation.report.Report.load(path)` reads it.

- An undefined number is null, with `n` 0: an empty slice, or a list metric of items without categories.
- `n` counts users, whose targets are averaged first. For `coverage` and `gini` it counts targets, for generated text it
  counts users or statements.
- Intervals are percentile bootstraps over users (`evaluation.bootstrap` resamples), and over seeds if there are
  several.
- A key is missing if it does not apply. Keys of a newer version are kept when an older version reads the file.
- `splits.temporal.models.ppo.ndcg@10.value` is an example of a path: split, model and metric are keys.
- `evaluate/ranks.parquet` holds the rank of every test target by every model, `evaluate/objectives.parquet` PPO's
  objective at every target.
- `llmrec run CONFIG --seeds N` writes `NAME-seeds.json`, a [SeedsReport](#seedsreport) with means over seeds.
"""

_METRICS_INTRODUCTION = f"""\
# Metrics

Every model ranks the full catalogue without the items that the user has seen; nothing is sampled. With `data.repeats:
keep` seen items are ranked as well, because they can be targets. A target that ties with other items gets the mean of
their places, on validation and on test. Lists order equal scores by a seeded hash. A policy's list is the exact top
ten of its masked distribution. Under the `title` scheme it is the best ten that a beam search finds. Metrics of
targets and lists are averaged within users, then over users.

Comparisons are paired by user. One metric is tested, `{HEADLINE_METRIC}`; the others are descriptive and have an
interval alone. PPO is tested against SFT, and both against the reward model, the pool, SASRec, Markov and the baseline
with the highest {HEADLINE_METRIC} on validation, where they exist. Holm's correction covers all these pairs on all
splits. The verdict is `better` or `worse` if the corrected p-value is below {ALPHA}, else `no difference`.

Over several seeds, every seed has its own order of tied events, its own targets and its own training. Users are
matched by id, and intervals and tests resample users and seeds. With S seeds this shows (S - 1) / S of the variance
between seeds on average: two thirds for three seeds.

Notation: M targets of U users, N catalogue items. `rank` is the position of the target, 1 is best.
"""


def reference_markdown() -> str:
    """A Markdown page with every key of `report.json`, its type and its meaning."""
    sections = [_section(model) for model in [*_models(Report), SeedsReport]]
    return "\n".join([_REPORT_INTRODUCTION, *sections])


def metrics_reference() -> str:
    """A Markdown page with the definition of every metric, model and slice of a report."""
    metrics = [_metrics_section(name, group) for name, group in GROUPS.items()]
    models = _definitions("Models", "model", MODELS)
    slices = _definitions("Slices", "slice", SLICES)
    return "\n".join([_METRICS_INTRODUCTION, *metrics, models, slices])


def _models(root: type[BaseModel]) -> list[type[BaseModel]]:
    """The root and all models that its fields refer to, each once, in order of depth."""
    found = [root]
    for model in found:  # grows while it is read
        for field in model.model_fields.values():
            found += [one for one in _models_in(field.annotation) if one not in found]
    return found


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _section(model: type[BaseModel]) -> str:
    lines = [f"## {model.__name__}", "", *inspect.getdoc(model).splitlines(), ""]  # pyright: ignore
    if issubclass(model, RootModel):
        return "\n".join([*lines, f"Type: {_type(model.model_fields['root'].annotation)}.", ""])
    own = _own_fields(model)
    if issubclass(model, SeedsReport):
        lines += ["It has the keys of [Report](#report), where every measurement has `seeds`, and these:", ""]
    lines += ["| key | type | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | {_type(field.annotation)} | {_cell(field.description or '')} |" for key, field in own]
    return "\n".join([*lines, ""])


def _own_fields(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """Fields by their key in the file; those of Report are left out for its subclasses. A model's own fields first."""
    inherited = Report.model_fields if model is not Report and issubclass(model, Report) else {}
    fields = [(name, field) for name, field in model.model_fields.items() if name not in inherited]
    fields.sort(key=lambda pair: pair[0] not in inspect.get_annotations(model))
    return [(field.serialization_alias or field.alias or name, field) for name, field in fields]


def _type(annotation: Any) -> str:
    """The type of a JSON value in words."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin in (Union, types.UnionType):
        kinds = list(dict.fromkeys(_type(one) for one in arguments if one is not type(None)))
        kinds = [kind for kind in kinds if not (kind == "integer" and "number" in kinds)]
        return " or ".join(kinds + ["null"] * (type(None) in arguments))
    if origin is not None:
        return _composite_type(origin, arguments)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {str: "string", int: "integer", float: "number", bool: "boolean"}.get(annotation, "any value")


def _composite_type(origin: Any, arguments: tuple[Any, ...]) -> str:
    inner = [_type(one) for one in arguments]
    element = f"({inner[0]})" if " or " in inner[0] else inner[0]
    words = {
        Annotated: inner[0],
        Literal: " or ".join(f"`{value}`" for value in arguments),
        dict: f"{{string: {inner[-1]}}}",
        list: f"list of {element}",
        tuple: f"[{', '.join(inner)}]",
    }
    return words[origin]


def _metrics_section(name: str, metrics: Iterable[Metric]) -> str:
    lines = [f"## {name}", "", "| key | name | definition | range | better | source |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{one.key}` | {one.label} | {_cell(one.definition)} | {one.range} | {one.better} | {one.source} |"
        for one in metrics
    ]
    return "\n".join([*lines, ""])


def _definitions(title: str, heading: str, definitions: Mapping[str, str]) -> str:
    lines = [f"## {title}", "", f"| {heading} | meaning |", "|---|---|"]
    lines += [f"| `{key}` | {_cell(meaning)} |" for key, meaning in definitions.items()]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table, where a bar would end the cell."""
    return " ".join(text.split()).replace("|", "\\|")
