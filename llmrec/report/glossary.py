"""Every metric of a report with its definition, and the names that people read in tables.

Notation: M targets of U users, N catalogue items. `rank` is the position of a target among all items that its user has
not seen, 1 is best; tied items share the mean of their places. A metric of targets or lists is averaged within users
first.
"""

from dataclasses import dataclass
from typing import Literal

from llmrec.config import BASELINES

Direction = Literal["higher", "lower", "neither"]  # which values are better


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        key: its name in `report.json`, with `K` for a cut-off.
        label: its name for people.
        definition: the formula or the exact count, in a sentence.
        range: the values that it can take.
        better: which values are better.
        source: where the definition comes from; empty for counts that need none.
    """

    key: str
    label: str
    definition: str
    range: str
    better: Direction
    source: str = ""


RANKING = (
    Metric("hr@K", "HR@K", "Hit rate: 1 if rank <= K, else 0. With one target it equals Recall@K.", "0 to 1", "higher"),
    Metric(
        "ndcg@K", "NDCG@K", "1 / log2(1 + rank) if rank <= K, else 0.", "0 to 1", "higher",
        "Järvelin & Kekäläinen, TOIS 2002, for one relevant item",
    ),
    Metric("mrr", "MRR", "1 / rank, over the whole catalogue.", "0 to 1", "higher", "Voorhees, TREC-8 1999"),
)  # fmt: skip

PURCHASES = (
    Metric("purchase_hr@K", "purchase HR@K", "HR@K over the targets that the user purchased.", "0 to 1", "higher"),
    Metric(
        "purchase_ndcg@K", "purchase NDCG@K", "NDCG@K over the targets that the user purchased.", "0 to 1", "higher"
    ),
    Metric(
        "purchases@K", "purchases per list",
        "1 if rank <= K and the user purchased the target, else 0: purchased targets per list of K.", "0 to 1",
        "higher",
    ),
    Metric(
        "expected_purchases@K", "expected purchases",
        "Sum over the list of P(click) P(purchase given click) by the reward model: the purchases per list that it "
        "predicts.",
        "0 to 1", "higher",
    ),
)  # fmt: skip

LISTS = (
    Metric("coverage", "coverage", "Share of the catalogue that occurs in at least one list.", "0 to 1", "higher"),
    Metric(
        "gini", "Gini",
        "sum_i (2i - N - 1) x_i / (N sum_i x_i) over the recommendation counts x of all items in ascending order.",
        "0 (all items alike) to (N - 1) / N (one item only)", "lower",
    ),
    Metric(
        "diversity", "diversity",
        "Mean Jaccard distance of the categories of two items of a list, 1 - |intersection| / |union|.",
        "0 to 1", "higher", "Ziegler et al., WWW 2005",
    ),
    Metric(
        "novelty", "novelty",
        "Mean over the list of -log2((k + 1) / (U + 1)), where k users clicked the item in training.",
        "0 to log2(U + 1) bits", "higher", "Zhou et al., PNAS 2010",
    ),
    Metric(
        "popularity_bias", "popularity bias",
        "Mean training clicks of the list divided by those of the user's history, minus 1 (each count plus one).",
        "-1 to infinity; 0 is the user's own taste", "neither", "popularity lift: Abdollahpouri et al., RecSys 2020",
    ),
    Metric(
        "miscalibration", "category miscalibration",
        "KL(p || 0.99 q + 0.01 p), where p and q are the category shares of the history and of the list.",
        "0 (same shares) to log(100) = 4.6 nats", "lower", "Steck, RecSys 2018",
    ),
)  # fmt: skip

GENERATION = (
    Metric(
        "validity", "validity", "Share of completions that end by themselves and name an item of the catalogue.",
        "0 to 1", "higher",
    ),
    Metric("unseen", "unseen", "Share of completions that name an item the user has not seen.", "0 to 1", "higher"),
    Metric(
        "seen", "seen", "Share of completions that name an item the user has seen; only if repeats are kept.",
        "0 to 1", "neither",
    ),
    Metric(
        "groundedness", "groundedness",
        "Share of completions that end by themselves, cite the history (if there is one), state a fact (if the item "
        "has any) and state nothing false.",
        "0 to 1", "higher",
    ),
    Metric(
        "factual_precision", "factual precision",
        "True statements divided by all statements. Facts and citations are statements; an unknown name or number is "
        "a false one.",
        "0 to 1", "higher",
    ),
    Metric("repeats", "repeats", "Share of justifications that contain a pair of words twice.", "0 to 1", "lower"),
    Metric(
        "distinct_1, distinct_2", "distinct 1, distinct 2",
        "Distinct word n-grams divided by all word n-grams, each cited title counted as one word.",
        "0 to 1", "higher", "Li et al., NAACL 2016",
    ),
    Metric(
        "unique_sentences", "unique sentences",
        "Distinct justifications divided by all justifications, cited titles removed.",
        "0 to 1", "higher", "USR: Li, Zhang & Chen, CIKM 2020",
    ),
    Metric(
        "feature_coverage", "feature coverage", "Distinct facts stated divided by all facts of the catalogue.",
        "0 to 1", "higher", "FCR: Li, Zhang & Chen, CIKM 2020",
    ),
    Metric(
        "distinct_wordings", "distinct wordings",
        "Number of distinct justifications after cited titles and facts are removed.", "1 to n", "higher",
    ),
    Metric("mean_words", "mean words", "Mean number of words per justification.", "0 to infinity", "neither"),
    Metric(
        "faithfulness.share", "faithfulness: share",
        "Share of recommendations whose log-probability falls when the cited items are dropped from the history.",
        "0 to 1", "higher", "comprehensiveness: DeYoung et al., ACL 2020",
    ),
    Metric(
        "faithfulness.fall", "faithfulness: fall",
        "Mean fall of the log-probability when the cited items are dropped.", "any, in nats", "higher",
        "comprehensiveness: DeYoung et al., ACL 2020",
    ),
    Metric(
        "faithfulness.fall_of_others", "faithfulness: fall of others",
        "Mean fall when as many random other items of the same history are dropped: the control of `fall`.",
        "any, in nats", "neither",
    ),
)  # fmt: skip

OBJECTIVE = (
    Metric(
        "objective", "objective", "E[reward] - beta KL(policy, SFT) + alpha H(policy), mean over targets.",
        "any, in nats", "higher", "Korbak et al., Findings of EMNLP 2022",
    ),
    Metric(
        "gap_closed", "gap closed",
        "(ppo - sft) / (optimum - sft), undefined if the interval of optimum - sft is not above 0.",
        "any; 0 is SFT, 1 the optimum", "higher",
    ),
)  # fmt: skip

REWARD_QUALITY = (
    Metric("auc", "AUC", "Area under the ROC curve of held-out events; ties count half.", "0 to 1", "higher"),
    Metric(
        "auc_popularity_matched", "AUC, popular negatives",
        "AUC of clicks against unseen items drawn in proportion to their training clicks.", "0 to 1", "higher",
    ),
    Metric(
        "lift_auc_popularity_matched", "AUC of the lift, popular negatives",
        "The same AUC for log P(click) minus the log of the item's share of clicks.", "0 to 1", "higher",
    ),
    Metric("log_loss", "log-loss", "Mean of -log p of what happened.", "0 to infinity, in nats", "lower"),
    Metric("brier", "Brier", "Mean of (p - y)^2.", "0 to 1", "lower", "Brier, Monthly Weather Review 1950"),
    Metric(
        "ece", "ECE", "Mean over ten bins of equal count of |mean p - mean y|, weighted by their size.",
        "0 to 1", "lower", "Naeini et al., AAAI 2015",
    ),
    Metric(
        "ece_floor", "ECE, perfect model", "ECE of events drawn from the predicted probabilities, mean of 30 draws.",
        "0 to 1", "neither",
    ),
    Metric(
        "catalogue_loss", "catalogue loss", "Mean of -log P(click) over all unseen items.",
        "0 to infinity, in nats", "lower",
    ),
)  # fmt: skip

GROUPS = {
    "Ranking": RANKING,
    "Purchases": PURCHASES,
    "Lists of ten recommendations": LISTS,
    "Written recommendations": GENERATION,
    "Objective of PPO": OBJECTIVE,
    "Reward model": REWARD_QUALITY,
}
MODELS: dict[str, str] = {
    **BASELINES,
    "reward_model": "The click/purchase model that PPO is rewarded by, used as a ranker.",
    "sft": "The language model after supervised fine-tuning.",
    "ppo": "The language model after PPO.",
    "sft_new_user": "SFT with the profile `new user` in every prompt, if the run's prompts name user attributes.",
    "ppo_new_user": "PPO with the profile `new user`.",
    "sft_reranked": "SFT times P(purchase given click) to the power of a weight, in rankings for purchases only.",
    "optimum": "The exact maximum of PPO's item objective. It is computed, not trained.",
}
SLICES = {
    "later_day": "Targets on a later calendar day (UTC) than the item before; only of logs with times.",
    "same_day": "Targets on the day of the item before: they complete a basket or a session.",
    "cold_items": "Targets with fewer than 5 training clicks.",
    "head": "Targets among the 20 % of items with the most training clicks.",
    "long_tail": "All other targets.",
    "low_activity": "Targets of the third of the split's users with the fewest training clicks.",
    "middle_activity": "Targets of the middle third.",
    "high_activity": "Targets of the third with the most training clicks.",
    "short_history": "Targets after at most 10 items.",
    "middle_history": "Targets after 11 to 50 items.",
    "long_history": "Targets after more than 50 items.",
    "seen_targets": "Targets that the user has clicked before; only with `data.repeats: keep`.",
    "new_targets": "Targets that the user has never clicked; only with `data.repeats: keep`.",
}
METRICS = {metric.key.removesuffix("@K"): metric for metrics in GROUPS.values() for metric in metrics}

# Properties that the mask gives to any policy, trained or not.
GUARANTEES = ("validity", "unseen", "groundedness", "factual_precision")

_LABELS = {
    "sft": "SFT",
    "ppo": "PPO",
    "sft_new_user": "SFT, new user",
    "ppo_new_user": "PPO, new user",
    "sft_reranked": "SFT re-ranked",
    "ease": "EASE",
    "sasrec": "SASRec",
    "markov": "Markov",
    "itemknn": "ItemKNN",
    "transitions_refit": "transitions, refitted",
    "ials": "iALS",
    "bpr": "BPR",
    "sasrec_x3": "SASRec x 3",
    "gru4rec": "GRU4Rec",
    "gsasrec": "gSASRec",
    "leave_one_out": "leave-one-out",
    "had": "already seen",  # penalty of the reward
}


def label(key: str) -> str:
    """The name that people read for a model, metric, split or slice: `ndcg@10` is `NDCG@10`."""
    stem, at, k = key.partition("@")
    if stem in METRICS:
        name = METRICS[stem].label
        return name.replace("@K", at + k) if "@K" in name else name
    return _LABELS.get(stem, stem.replace("_", " ")) + at + k


def better(key: str) -> Direction:
    """Which values of a metric are better; `higher` for metrics that the glossary lacks."""
    metric = METRICS.get(key.partition("@")[0])
    return metric.better if metric else "higher"


def is_ranking(key: str) -> bool:
    """Whether a metric is about the rank of the target."""
    return _is_in(RANKING, key)


def is_of_purchases(key: str) -> bool:
    """Whether a metric is about purchases."""
    return _is_in(PURCHASES, key)


def _is_in(group: tuple[Metric, ...], key: str) -> bool:
    return key.partition("@")[0] in {metric.key.removesuffix("@K") for metric in group}
