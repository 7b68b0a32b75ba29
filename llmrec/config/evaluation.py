"""Section `evaluation`."""

from typing import Annotated

from pydantic import Field

from llmrec.config.section import Section


class SASRecConfig(Section):
    """Settings of the SASRec baseline; all combinations are tried and the best on validation is kept."""

    hidden_size: list[Annotated[int, Field(ge=4, multiple_of=4)]] = Field([64], min_length=1)
    num_layers: list[Annotated[int, Field(ge=1)]] = Field([2], min_length=1)
    dropout: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.2, 0.5], min_length=1)
    learning_rate: list[Annotated[float, Field(gt=0)]] = Field([3e-3], min_length=1)
    epochs: int = Field(30, ge=1, description="the one that is best on validation is kept")


class EvaluationConfig(Section):
    """What is measured, and with how many bootstrap samples."""

    ks: list[Annotated[int, Field(ge=1)]] = Field([1, 5, 10, 20], min_length=1)
    bootstrap: int = Field(1000, ge=100, description="resamples behind an interval; ten times as many behind a p")
    sasrec: SASRecConfig | None = Field(SASRecConfig(), description="null: no SASRec among the baselines")
