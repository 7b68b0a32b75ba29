"""Config section `evaluation`: cut-offs, bootstraps and the SASRec baseline."""

from typing import Annotated

from pydantic import Field

from llmrec.config.section import Section


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
        default=30, ge=1, description="Number of training epochs. The best epoch on validation is kept."
    )


class EvaluationConfig(Section):
    """The cut-offs of the ranking metrics, the bootstrap, and the SASRec baseline."""

    ks: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 5, 10, 20], min_length=1, description="Cut-offs k of HR@k and NDCG@k."
    )
    bootstrap: int = Field(
        default=1000,
        ge=100,
        description="Bootstrap resamples behind a confidence interval. A p-value takes ten times as many.",
    )
    sasrec: SASRecConfig | None = Field(
        default=SASRecConfig(), description="Grid of the SASRec baseline. null: no SASRec."
    )
