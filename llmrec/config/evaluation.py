"""Config section `evaluation`: cut-offs, bootstraps and the baselines."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmrec.config.section import Section

BaselineName = Literal[
    "popularity",
    "personal_popularity",
    "markov",
    "transitions",
    "transitions_refit",
    "itemknn",
    "ease",
    "linear",
    "pool",
    "ials",
    "bpr",
    "sasrec",
    "sasrec_x3",
    "gru4rec",
    "gsasrec",
]
BASELINES: dict[BaselineName, str] = {  # how each is fitted: llmrec/recommenders/registry.py
    "popularity": "Items by the number of training clicks.",
    "personal_popularity": "Items by the user's own clicks on them, then by popularity (GP-TopFreq, Li et al., TOIS "
    "2023).",
    "markov": "First-order transitions from the last few items, filled up by popularity.",
    "transitions": "Transition counts from the last five items, in sparse matrices.",
    "transitions_refit": "The same, counted again with the validation items.",
    "itemknn": "Item-based nearest neighbors by cosine similarity.",
    "ease": "EASE, a linear item-item autoencoder in closed form (Steck, WWW 2019).",
    "linear": "Ridge regression of the next item on recent items and on the whole history, as in the reward model.",
    "pool": "Product of powers of linear, Markov, EASE and popularity; the four powers are fitted on validation.",
    "ials": "iALS, matrix factorization by alternating least squares (Hu, Koren & Volinsky, ICDM 2008).",
    "bpr": "Matrix factorization for pairwise ranking (Rendle et al., UAI 2009).",
    "sasrec": "SASRec, a transformer over item ids (Kang & McAuley, ICDM 2018).",
    "sasrec_x3": "Mean log-softmax of three SASRecs with different seeds.",
    "gru4rec": "GRU4Rec, a recurrent network over item ids (Hidasi & Karatzoglou, CIKM 2018).",
    "gsasrec": "gSASRec, SASRec with drawn negatives and a calibrated loss (Petrov & Macdonald, RecSys 2023).",
}
DEFAULT_BASELINES: list[BaselineName] = [
    "popularity",
    "markov",
    "transitions",
    "transitions_refit",
    "itemknn",
    "ease",
    "linear",
    "pool",
    "ials",
    "sasrec",
]


class SASRecConfig(Section):
    """Grid of the SASRec baseline. All combinations are trained, and the best on validation is reported."""

    hidden_size: list[Annotated[int, Field(ge=4, multiple_of=4)]] = Field(
        default=[64], min_length=1, description="Widths of the hidden states that are tried, multiples of 4."
    )
    num_layers: list[Annotated[int, Field(ge=1)]] = Field(
        default=[2], min_length=1, description="Numbers of transformer layers that are tried."
    )
    dropout: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=[0.2, 0.5], min_length=1, description="Dropout probabilities that are tried."
    )
    learning_rate: list[Annotated[float, Field(gt=0)]] = Field(
        default=[3e-3], min_length=1, description="Peak learning rates that are tried."
    )
    epochs: int = Field(
        default=30,
        ge=1,
        description="Number of training epochs, of which the best of 12 evaluations is kept. The other sequential "
        "baselines use the same number.",
    )
    double_epochs: bool = Field(
        default=True,
        description="Whether the best setting is also trained for twice as many epochs if its last evaluation was its "
        "best. It holds for the other sequential baselines too. false with twice the epochs saves the shorter training "
        "where the longer one is known to be better.",
    )


class EvaluationConfig(Section):
    """The cut-offs of the ranking metrics, the bootstrap, and the baselines."""

    ks: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 5, 10, 20], min_length=1, description="Cut-offs k of HR@k and NDCG@k."
    )
    bootstrap: int = Field(
        default=1000,
        ge=100,
        description="Bootstrap resamples behind a confidence interval. A p-value takes ten times as many.",
    )
    users: int = Field(
        default=100_000,
        ge=1,
        description="Largest number of users whose targets are measured, on validation and test; of more, a seeded "
        "sample. Every model scores all items for each of them. Text and rewards are measured for at most 10,000 of "
        "them.",
    )
    baselines: list[BaselineName] = Field(
        default=DEFAULT_BASELINES,
        description="Baselines that are fitted and compared. The default takes minutes on MovieLens-100K. `sasrec_x3`, "
        "`bpr`, `gru4rec` and `gsasrec` are further ones. With `data.repeats: keep` the default includes "
        "`personal_popularity`.",
    )
    sasrec: SASRecConfig = Field(default=SASRecConfig(), description="Grid of the SASRec baseline.")

    @model_validator(mode="before")
    @classmethod
    def _without_sasrec(cls, values: Any) -> Any:
        """Earlier versions left SASRec out by `sasrec: null`."""
        if isinstance(values, dict) and "sasrec" in values and values["sasrec"] is None:
            named = values.get("baselines", DEFAULT_BASELINES)
            kept = [name for name in named if name not in ("sasrec", "sasrec_x3")]
            return {key: value for key, value in values.items() if key != "sasrec"} | {"baselines": kept}
        return values
