"""Tables of reports: the best number of a column, undefined numbers, and columns of a reward model."""

from llmrec.evaluation.report import (
    Comparison,
    Estimate,
    EventQuality,
    GenerationReport,
    OptimumReport,
    PartTime,
    PurchaseReport,
    Rate,
    RequestReport,
)
from llmrec.report.tables import (
    comparisons_table,
    generation_tables,
    models_table,
    optimum_table,
    pairs,
    purchases_table,
    quality_tables,
    requests_table,
    slices_tables,
    times_table,
)


def best_of(metric: str, **values: float | None) -> list[str]:
    table = models_table("", {name: {metric: Estimate(value=value)} for name, value in values.items()}, [metric])
    return [row.heading for row in table.rows if row.cells[0].best]


def test_the_best_follows_the_direction_of_the_metric():
    assert best_of("ndcg@10", sft=0.1, ppo=0.2) == ["PPO"]
    assert best_of("gini", sft=0.1, ppo=0.2) == ["SFT"]
    assert best_of("popularity_bias", sft=0.1, ppo=0.2) == []


def test_the_best_is_a_model_that_exists_and_differs():
    assert best_of("ndcg@10", ppo=0.1, ease=0.2, optimum=0.9) == ["EASE"]
    assert best_of("ndcg@10", ppo=0.1, sft=0.1) == []
    assert best_of("ndcg@10", ppo=None, sft=0.1, ease=0.05) == ["SFT"]


def test_policies_of_the_run_are_marked():
    table = models_table("", {name: {} for name in ("ease", "sft", "ppo")}, [])
    assert [row.ours for row in table.rows] == [False, True, True]


def test_a_metric_that_was_not_measured_differs_from_an_undefined_one():
    table = models_table("", {"sft": {"mrr": Estimate(value=None)}, "ppo": {}}, ["mrr"])
    assert [row.cells[0].text for row in table.rows] == ["undefined", "-"]


def test_comparisons_show_small_p_values_as_a_bound():
    entry = Comparison(difference=0.1, ci95=(0.05, 0.2), p_holm=0.0002, verdict="better")
    row = comparisons_table("temporal", {"ppo_vs_sft": {"mrr": entry}}).rows[0]
    assert [cell.text for cell in row.cells] == ["MRR", "+0.1000", "< 0.001", "better"]
    assert (row.cells[1].interval, row.cells[2].raw, row.cells[3].tone) == ("[+0.0500, +0.2000]", 0.0002, "better")


def test_descriptive_metrics_have_no_verdict_and_the_rival_is_marked():
    row = comparisons_table("temporal", {"sft_vs_ease": {"mrr": Comparison(difference=0.1)}}, rival="ease").rows[0]
    assert (row.heading, row.cells[2].text, row.cells[3].text) == ("SFT − EASE (best on validation)", "-", "-")


def test_guarantees_stand_apart_from_what_training_changes():
    found = {"ppo": GenerationReport(validity=Rate(rate=1.0), repeats=Rate(rate=0.5))}
    tables = generation_tables(found)
    assert [[row.heading for row in table.rows] for table in tables if table] == [["validity"], ["repeats"]]
    assert generation_tables({}) == (None, None)


def test_rankings_for_purchases():
    models = {"optimum": {"purchases@10": Estimate(value=0.5)}, "sft_reranked": {"purchases@10": Estimate(value=0.25)}}
    found = PurchaseReport(models=models, differences={"sft_reranked": Comparison(difference=0.125)})
    table = purchases_table("temporal", {"0.5": found})
    assert table.columns == ["purchases per list", "optimum minus this, purchase NDCG@10"]
    assert [(row.heading, *(one.text for one in row.cells)) for row in table.rows] == [
        ("0.5: optimum", "0.500", "-"), ("0.5: SFT re-ranked", "0.250", "+0.1250")
    ]  # fmt: skip


def test_the_optimum_names_its_weights():
    optimum = OptimumReport(
        beta=0.6,
        alpha=1.0,
        objective={"sft": Estimate(value=1.0)},
        gap_closed={"objective": Estimate(value=0.5, ci95=(0.25, 0.75))},
    )
    table = optimum_table("temporal", optimum)
    assert table.caption == "temporal: E[reward] − β KL(policy, SFT) + α H(policy), β = 0.60, α = 1.00, nats"
    assert [cell.text for cell in table.rows[0].cells] == ["1.000", "-", "-", "50 % [25 %, 75 %]"]


def test_requests_stand_beside_their_controls():
    def one(value: float) -> RequestReport:
        return RequestReport(requests=9, satisfied=Estimate(value=value), ndcg_oracle=Estimate(value=0.25))

    table = requests_table({"sft": {"unseen_wording_2": one(0.5)}, "ppo": {"unseen_wording_2": one(0.75)}})
    assert [row.heading for row in table.rows] == ["unseen wording, 2: SFT", "unseen wording, 2: PPO"]
    satisfied, oracle = table.columns.index("satisfied, top 10"), table.columns.index("oracle filter")
    assert [row.cells[satisfied].text for row in table.rows] == ["0.500", "0.750"]
    assert [row.cells[oracle].text for row in table.rows] == ["0.250", "0.250"]
    assert [row.cells[0].text for row in table.rows] == ["9", "9"]


def test_times_name_large_parts_and_add_up_small_ones():
    sft = {"other": PartTime(seconds=0.1, cpu_seconds=0.1), "training": PartTime(seconds=30.0, cpu_seconds=50.0)}
    reward = {
        "judge": PartTime(seconds=0.4, cpu_seconds=0.2),
        "models": PartTime(seconds=69.0, cpu_seconds=69.0),
        "other": PartTime(seconds=0.5, cpu_seconds=0.3),
    }
    table = times_table({"sft": sft, "reward": reward})
    assert {row.heading: [cell.text for cell in row.cells] for row in table.rows} == {
        "sft": ["30.1", "50.1", "30.1 %"],
        "sft: training": ["30.0", "50.0", "30.0 %"],
        "sft: other": ["0.1", "0.1", "0.1 %"],
        "reward": ["69.9", "69.5", "69.9 %"],
        "reward: models": ["69.0", "69.0", "69.0 %"],
        "reward: other": ["0.9", "0.5", "0.9 %"],
        "all": ["100.0", "119.6", "100.0 %"],
    }


def test_slices_with_ndcg_first_and_their_size():
    slices = {"head": {"ppo": {"hr@10": Estimate(value=0.5, n=7), "ndcg@10": Estimate(value=None, ci95=None, n=0)}}}
    ndcg, hit_rate = slices_tables("temporal", slices)
    assert (ndcg.caption, hit_rate.caption) == ("temporal: NDCG@10 by slice", "temporal: HR@10 by slice")
    assert [cell.text for cell in hit_rate.rows[0].cells] == ["7", "0.500"]
    assert [cell.text for cell in ndcg.rows[0].cells] == ["0", "undefined"]


def test_quality_of_events_with_one_label_is_undefined():
    quality = EventQuality(auc=None, ece=Estimate(value=0.1), slices={"user_activity <=4": EventQuality(auc=None)})
    whole, by_slice = quality_tables("click", quality)
    assert whole.columns == ["AUC", "ECE"] and [cell.text for cell in whole.rows[0].cells] == ["undefined", "0.100"]
    assert [cell.text for cell in by_slice.rows[0].cells] == ["undefined", "-"]


def test_other_kinds_of_measurements_fit_in_a_table():
    table = models_table("", {"sft": {"validity": Rate(rate=0.5)}}, ["validity"])
    assert table.rows[0].cells[0].text == "0.500"


def test_facts_are_flattened():
    values = {"time": {"first": "1997"}, "users": 1200, "density": 0.0652397, "rules": ["a", "b"], "cap": None}
    assert pairs(values) == [
        ("time.first", "1997"), ("users", "1,200"), ("density", "0.0652397"), ("rules", "a, b"), ("cap", "-")
    ]  # fmt: skip
