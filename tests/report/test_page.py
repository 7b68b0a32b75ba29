"""report.html: complete, self-contained, safe against the text that it shows, and the same bytes every time."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmrec.cli.app import main
from llmrec.config import parse_config
from llmrec.evaluation.report import Report
from llmrec.files import write_json
from llmrec.report.page import render, write_page
from llmrec.run import STAGES, Run

HOSTILE = (
    """</script><script>alert(1)</script> "M*A*S*H" & 'x' {{ 7 * 7 }} </style></title><img src=http://evil.example/x>"""
)
PNG = b"\x89PNG\r\n\x1a\n not really"


def measured(value: float, n: int = 943, **more) -> dict:
    return {"value": value, "ci95": [value - 0.011, value + 0.012], "n": n, **more}


def quality(auc: float, **more) -> dict:
    entry = {"auc": measured(auc), "ece": measured(0.0123), "log_loss": measured(0.4), "brier": measured(0.2)}
    return entry | {"n": 900, "positives": 300, "ece_floor": 0.0111} | more


HIT_RATES = {
    "popularity": 0.0841, "sasrec": 0.2293, "reward_model": 0.2071, "sft": 0.1753, "ppo": 0.1907, "optimum": 0.2391
}  # fmt: skip


def make_report() -> dict:
    models = {
        name: {"hr@10": measured(hr), "ndcg@10": measured(hr / 2), "ndcg@5": measured(hr / 3), "mrr": measured(hr / 4),
               "coverage": {"value": hr + 0.3, "n": 943}, "gini": {"value": 1 - hr, "n": 943},
               "miscalibration": measured(2 - hr), "popularity_bias": measured(hr - 0.4)}
        for name, hr in HIT_RATES.items()
    }  # fmt: skip
    models["ppo"]["ndcg@10"]["seeds"] = [0.0921, 0.0955, 0.0984]
    difference = {"difference": 0.00771, "ci95": [0.00214, 0.01333], "p_holm": 0.0126}
    none = {"difference": -0.00312, "ci95": [-0.00914, 0.00283], "p_holm": 0.71}
    bins = {"predicted": [0.011, 0.421, 0.903], "observed": [0.023, 0.389, 0.871], "count": [30, 30, 30]}
    entry = {"user": "4711", "history": ["Heat (1995)", HOSTILE], "took": "Alien (1979)"}
    answer = {"item": HOSTILE, "grounded": False, "justification": [
        {"text": " Like", "true": None}, {"text": f' "{HOSTILE}"', "true": True}, {"text": ", it is", "true": None},
        {"text": " Western", "true": False}, {"text": ".", "true": None}]}  # fmt: skip
    history = [
        {"step": 0, "kept": True, "eval/ndcg@10": 0.0811, "eval/reward": -5.5, "eval/judge": -7.0},
        {"step": 4, "kept": True, "eval/ndcg@10": 0.0842, "eval/reward": -5.25, "eval/judge": -6.875},
        {"step": 8, "kept": False, "eval/ndcg@10": 0.0807, "eval/reward": -5.125, "eval/judge": -7.125},
    ]
    return {
        "splits": {
            "temporal": {
                "models": models,
                "comparisons": {"ppo_vs_sft": {"ndcg@10": difference, "hr@10": none}},
                "slices": {"cold_items": {"ppo": {"ndcg@10": measured(0.0377, 91), "hr@10": measured(0.0713, 91)},
                                          "sft": {"ndcg@10": measured(0.0361, 91)}}},
                "optimum": {
                    "beta": 0.75,
                    "objective": {"sft": measured(-6.477), "ppo": measured(-5.352), "optimum": measured(-5.176)},
                    "gap_closed": {"objective": {"value": 0.8647, "ci95": [0.71, 0.93]},
                                   "ndcg@10": {"value": None, "ci95": None}},
                },
                "purchases": {"0.5": {"models": {"optimum": {"purchase_ndcg@10": measured(0.0817)}},
                                      "differences": {"sft_reranked": difference}}},
                "targets": 802, "users": 113,
            },
            "leave_one_out": {"models": models, "comparisons": {"ppo_vs_sft": {"ndcg@10": none}}},
        },
        "generation": {name: {"validity": {"rate": 0.9987, "n": 943}, "distinct_wordings": {"count": 417, "n": 943},
                              "faithfulness": {"share": {"rate": 0.6173, "n": 300}}} for name in ("sft", "ppo")},
        "reward": {"before": measured(-5.565), "after": measured(-4.615), "difference": measured(0.951),
                   "list_judge_before": measured(-7.887), "list_judge_after": measured(-7.062),
                   "list_judge_difference": measured(0.823)},
        "reward_model": {"splits": {"temporal": {
            "click": quality(0.9196, reliability=bins, baselines={"constant": quality(0.5)},
                             slices={"user_activity <=46": quality(0.9552)}),
            "purchase": None, "ranking": {"click_ndcg@10": 0.119715}}}},
        "guard": {"best_step": 4, "fell_back_to_sft": False, "history": history},
        "examples": [{**entry, "sft": answer, "ppo": {**answer, "item": "Alien (1979)", "grounded": True}}],
        "data": {"users": 943, "density": 0.063046, "rules": {"click": ["rating>=1"]}},
        "environment": {"seed": 0, "versions": {"torch": "2.13.0"}, "machine": "Linux x86_64"},
        "commands": ["llmrec prepare runs/x", "llmrec sft runs/x"],
        "seconds": {"reward": 462.125},
        "off_policy": {"snips": 0.0417},
    }  # fmt: skip


STAGE_METRICS = {
    "sft": {"log": [{"step": 10, "loss": 8.25, "item_loss": 6.5}, {"step": 20, "loss": 6.125, "item_loss": 5.75}]},
    "ppo": {
        "log": [
            {"step": 1, "objective/scores": -5.0625, "objective/kl": 0.0, "objective/item_kl": 0.0, "reward/had": 0.0,
             "reward/log_odds": -6.0625},
            {"step": 2, "objective/scores": -4.9375, "objective/kl": 0.1875, "objective/item_kl": 0.3125,
             "reward/had": 0.0, "reward/log_odds": -5.8125},
        ],
        "events": [{"step": 4, "event": "guard: NDCG@10 is 0.0842, the best so far; kept"}],
    },
}  # fmt: skip


def page_of(report: dict, **more) -> str:
    stages = {stage: {"seconds": 12.5, "metrics": metrics} for stage, metrics in STAGE_METRICS.items()}
    return render(Report.model_validate(report), **{"name": "tiny", "config": "seed: 0\n", "stages": stages} | more)


class Reader(HTMLParser):
    """Text by element and attributes by tag, as a browser reads them. Fails if elements are not closed in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []  # innermost element, text
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        return " ".join("".join(data for where, data in self.texts if where != "style").split())


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(make_report())


def test_nothing_is_loaded_and_no_script_runs(page):
    tags = Reader(page_of(make_report(), reliability=PNG)).tags
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in tags}
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "style")], tag
        assert attributes.get("src", "data:").startswith("data:")
    assert not re.search(r"@import|url\(", page)
    assert ("meta", {"http-equiv": "Content-Security-Policy",
                     "content": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}) in tags  # fmt: skip


def test_hostile_titles_are_text(page):
    assert " ".join(HOSTILE.split()) in Reader(page).text
    assert "<script" not in page and "evil.example/x>" not in page and "49" not in Reader(page).text.split()


def test_a_hostile_name_and_config():
    reader = Reader(page_of(make_report(), name=HOSTILE, config=f"path: {HOSTILE}\n"))
    assert reader.text.count("alert(1)") == Reader(page_of(make_report())).text.count("alert(1)") + 3


def test_ids_are_unique_and_references_exist(page):
    tags = Reader(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        assert set(attributes.get("aria-labelledby", "").split()) <= set(ids)


def numbers_in(value, key=""):
    """All numbers of a report with their keys."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from numbers_in(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item, key)
    elif isinstance(value, float):
        yield key, value


def test_every_number_is_on_the_page(page):
    """Each is exact in a <data> element or as text, or rounded in an interval."""
    reader = Reader(page)
    exact = {attributes["value"] for tag, attributes in reader.tags if tag == "data"}
    changes = {"eval/reward": 5.5, "eval/judge": 7.0}  # the chart shows the change since the start
    for key, number in numbers_in(make_report()):
        value = number + changes[key] if key in changes else number
        rounded = {f"{value:.{digits}f}".replace("-", "−") for digits in (1, 3, 4)} | {f"{100 * value:.0f} %"}
        rounded |= {f"{value:+.{digits}f}".replace("-", "−") for digits in (3, 4)}
        shown = str(value) in exact or any(text in reader.text for text in rounded) or f"{value:.6g}" in reader.text
        assert shown or key == "count", (key, value)
    for log in (STAGE_METRICS["sft"]["log"], STAGE_METRICS["ppo"]["log"]):
        for key, value in numbers_in(log):
            assert str(value) in exact or key == "reward/had", (key, value)
    assert "Parts that were 0 throughout: already seen." in reader.text


OPTIMUM = "temporal: E[reward] − β KL(policy, SFT), β = 0.75, nats"


def row_of(page: str, caption: str, heading: str) -> str:
    table = page[page.index(f"<caption>{caption}</caption>") :]
    return re.search(
        rf'<tr[^>]*><th scope="row">{heading}</th>.*?</tr>', table[: table.index("</table>")], re.S
    ).group()


def test_the_best_is_bold_whatever_the_direction(page):
    assert '<strong><data value="0.2293">0.229</data></strong>' in row_of(page, "temporal: ranking", "SASRec")
    assert page.count("<strong>") and "<strong>" not in row_of(page, "temporal: ranking", "PPO")
    assert "<strong>" not in row_of(page, "temporal: ranking", "optimum")  # computed, not a model
    optimum = row_of(page, OPTIMUM, "objective")
    assert "86 %" in optimum and "−5.352" in optimum
    assert "not above SFT" in row_of(page, OPTIMUM, "NDCG@10")
    gini = row_of(page, "temporal: beyond accuracy", "SASRec")
    assert f'<strong><data value="{1 - 0.2293}">' in gini  # lower is better
    assert gini.count("<strong>") == 3  # also coverage and miscalibration; popularity bias has no best value


def test_seeds_are_shown(page):
    assert "seeds 0.092, 0.096, 0.098" in row_of(page, "temporal: ranking", "PPO")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "NDCG@10 on the temporal split: PPO is better than SFT (+0.0077 [+0.0021, +0.0133])."),
        ({"p_holm": 0.2}, "PPO does not differ significantly from SFT"),
        ({"difference": -0.02, "ci95": [-0.03, -0.01], "p_holm": 0.001}, "PPO is worse than SFT"),
    ],
)
def test_the_verdict_follows_from_the_comparison(change, words):
    report = make_report()
    report["splits"]["temporal"]["comparisons"]["ppo_vs_sft"]["ndcg@10"] |= change
    assert words in Reader(page_of(report)).text


def test_a_guard_that_fell_back_is_reported():
    report = make_report()
    assert "The guard fell back" not in page_of(report)
    report["guard"]["fell_back_to_sft"] = True
    assert "The guard fell back" in page_of(report)


def test_statements_are_marked(page):
    assert '<mark class="false">Western<span class="hidden"> (false)</span></mark>.' in page
    assert page.count("<mark>") == 1 + 2  # one in the legend, one citation per policy


def test_kept_steps_are_marked(page):
    chart = page[page.index("NDCG@10 on validation") : page.index("Reward and judge on validation")]
    assert chart.count('class="kept"') == 2 and "PPO update 4: 0.0842, kept" in chart and "8: 0.0807<" in chart


def test_the_same_report_gives_the_same_bytes(page):
    assert page_of(make_report()) == page


@pytest.mark.parametrize("key", [key for key in make_report() if key not in ("seconds", "off_policy")])
def test_a_section_without_data_is_left_out(page, key):
    headings = {"splits": "results", "reward_model": "trust"} | {
        name: name for name in ("generation", "reward", "examples", "data")
    }
    report = make_report()
    del report[key]
    shorter = page_of(report)
    assert len(shorter) < len(page)
    Reader(shorter)
    if key in headings:
        heading = f'id="{headings[key]}"'
        assert heading in page and heading not in shorter


def test_an_old_report_renders():
    """A report without slices, examples, calibration bins and training logs."""
    values = {"splits": {"leave_one_out": {"models": {"sft": {"hr@10": {"value": 0.1, "n": 3}}}}}}
    page = render(Report.model_validate(values), name="old", config="", stages={})
    reader = Reader(page)
    assert "This report does not compare PPO with its SFT start." in reader.text and "0.100" in reader.text
    assert {attributes.get("id") for tag, attributes in reader.tags if tag == "h2"} == {"results", "how"}
    assert "This report does not compare" in render(Report(), name="empty", config="", stages={})


def test_the_diagram_is_an_image_only_without_bins():
    report = make_report()
    assert "data:image/png" not in page_of(report, reliability=PNG)
    del report["reward_model"]["splits"]["temporal"]["click"]["reliability"]
    assert "data:image/png;base64,iVBORw0KGgo" in page_of(report, reliability=PNG)


def test_an_unknown_key_is_shown_as_yaml(page):
    assert "off_policy:\n  snips: 0.0417" in page


def test_undefined_numbers_are_shown_as_undefined():
    """A small log leaves empty slices, empty calibration bins and events of one class only."""
    report = make_report()
    split = report["splits"]["temporal"]
    undefined = {"value": None, "ci95": None, "n": 0}
    split["slices"]["cold_items"]["ppo"]["ndcg@10"] = undefined
    split["models"]["ppo"]["ndcg@10"] = undefined
    split["comparisons"]["ppo_vs_sft"]["ndcg@10"] = {"difference": None, "ci95": [None, None], "p_holm": None}
    split["optimum"]["objective"]["ppo"] = undefined
    report["generation"]["ppo"]["validity"] = {"rate": None, "n": 0}
    report["reward"]["list_judge_difference"] = undefined
    click = report["reward_model"]["splits"]["temporal"]["click"]
    click |= {"auc": None, "ece_floor": None, "brier": {"value": None, "ci95": [None, None]}}
    click["reliability"]["observed"][1] = None
    report["guard"]["history"][1] |= {"eval/ndcg@10": None, "eval/judge": None}
    page = page_of(report)
    assert "undefined" in row_of(page, "temporal: NDCG@10 by slice", "cold items")
    assert "undefined" in row_of(page, "temporal: ranking", "PPO")
    assert "undefined" in row_of(page, "temporal: comparisons", "PPO − SFT")
    assert "undefined" in row_of(page, OPTIMUM, "objective")
    assert "undefined" in row_of(page, "Guarantees of the mask", "validity")
    assert row_of(page, "click, temporal", "reward model").count("undefined") == 3
    assert "NDCG@10 on the temporal split: PPO has an undefined difference from SFT." in Reader(page).text
    assert "the judge's reward by undefined nats" in Reader(page).text
    assert "None" not in Reader(page).text and "nan" not in Reader(page).text


@pytest.fixture
def run(tmp_path: Path) -> Run:
    values = {"name": "tiny", "output_dir": str(tmp_path / "runs"), "data": {"format": "movielens", "path": "x"}}
    return Run.create(parse_config(values))


def llmrec(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("llmrec.cli.process.silence_libraries", lambda: None)
    monkeypatch.setattr(sys, "argv", ["llmrec", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0


def test_the_command_writes_the_page(run, monkeypatch, capsys):
    for stage in STAGES:
        run.begin(stage)
        run.finish(stage, STAGE_METRICS.get(stage, {}))
    write_json(run.report_path, make_report())
    assert llmrec(monkeypatch, "report", str(run.directory)) == 0
    page = run.directory / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    written = page.read_bytes()
    assert b"SFT loss" in written and b"output_dir" in written
    assert write_page(run).read_bytes() == written


@pytest.mark.parametrize("there", [True, False])
def test_a_run_without_a_report_is_refused(run, monkeypatch, capsys, tmp_path, there):
    place = run.directory if there else tmp_path / "nowhere"
    assert llmrec(monkeypatch, "report", str(place)) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert (f"llmrec evaluate {place}" if there else "is not a run directory") in error
    assert not (place / "report.html").exists()
