"""Several models of the next click as one: their pooled prediction, minus a penalty where they disagree."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.data.seen_mask import click_counts
from reward_models.click_purchase import ClickPurchaseModel
from reward_models.linear import LinearNextItem
from reward_models.reward_model import CALIBRATION, Histories, Prediction, Purchases, RewardModel
from reward_models.storage import SavedModel, save_tensors

LINEAR_FILE = "linear.safetensors"


class RewardEnsemble(RewardModel, SavedModel):
    """K click/purchase models as one, optionally pooled with a linear next-item model.

    P(click) is a logarithmic opinion pool (Genest & Zidek, Statistical Science 1986). It is the renormalized product of
    powers of the members' geometric mean, of the linear model's scores and of popularity. Without a linear model it is
    the members' geometric mean. The powers are fitted on validation (`held_out.best_pool`). The purchase logit is the
    mean of the members' logits and is calibrated again.

    The reward is a lower bound: `penalty` standard deviations of the members' own rewards (at their power in the pool)
    are subtracted, so that a policy gains nothing where the members disagree.

    Args:
        members: K models of the same catalogue.
        penalty: number of standard deviations that are subtracted (config `reward.uncertainty_penalty`).
        linear: the linear model, which also holds the powers, or None.
    """

    FAMILY = "click_purchase_ensemble"

    def __init__(self, members: Sequence[ClickPurchaseModel], penalty: float, linear: LinearNextItem | None = None):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.linear = linear
        self.penalty = penalty
        self.config = members[0].config

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._first.device

    @property
    def num_items(self) -> int:
        """Size N of the catalogue."""
        return self.config.num_items

    @property
    def window(self) -> int:
        """Number of newest items of a history that the encoder reads."""
        return self.config.window

    @property
    def _first(self) -> ClickPurchaseModel:
        return cast(ClickPurchaseModel, self.members[0])

    def predict(
        self,
        histories: Histories,
        purchases: Purchases = None,
        profiles: np.ndarray | None = None,
        clicks_before: Tensor | None = None,
    ) -> Prediction:
        """Scores [B, N] after the last item of each history; arguments as in `RewardModel.predict`."""
        models = click_purchase_models(self)
        parts = [model.predict(histories, purchases, profiles, clicks_before) for model in models]
        return self._combine(parts, None if self.linear is None else self.linear_scores(histories, clicks_before))

    def predict_packed(
        self,
        history: Tensor,
        purchased: Tensor | None,
        mask: Tensor,
        clicks_before: Tensor | None = None,
        profiles: np.ndarray | None = None,
    ) -> Prediction:
        """Scores [B, L, N] after every prefix; arguments as in `log_rewards_packed`."""
        models = click_purchase_models(self)
        parts = [model.predict_packed(history, purchased, mask, clicks_before, profiles) for model in models]
        if self.linear is None:
            return self._combine(parts)
        history = history.to(self.device)
        mask = mask.to(self.device)
        scores = self.linear.log_scores(history.masked_fill(~mask, 0), mask, clicks_before)
        return self._combine(parts, scores[:, 1:])

    def linear_scores(self, histories: Histories, clicks_before: Tensor | None = None) -> Tensor:
        """Log-scores of the linear model after the last item of each history, [B, N]; arguments as in `predict`."""
        assert self.linear is not None
        recent, _, lengths, _ = self._first.pack(histories, None)
        mask = torch.arange(recent.shape[1], device=self.device) < lengths[:, None]
        older = [history[: max(len(history) - self.window, 0)] for history in histories]
        before = torch.from_numpy(click_counts(older, self.num_items)).to(self.device)
        if clicks_before is not None:
            before = before + clicks_before.to(self.device)
        return self.linear.log_scores_at_end(recent, mask, before)

    def _combine(self, parts: list[Prediction], linear_scores: Tensor | None = None) -> Prediction:
        seen = parts[0].seen
        click = _mean([part.log_click for part in parts])
        if self.linear is not None and linear_scores is not None:
            members, linear, popularity = self.linear.pool_weights
            click = members * click + linear * linear_scores + popularity * self.linear.share.log()
            parts = [replace(part, log_click=members * part.log_click) for part in parts]
        click = torch.where(seen, -torch.inf, click / self.click_temperature)
        purchase = _mean([part.purchase for part in parts])
        return Prediction(
            log_click=click.log_softmax(-1),
            purchase=self.purchase_scale * purchase + self.purchase_offset,
            seen=seen,
            members=parts,
            penalty=self.penalty,
        )

    # --- files: the calibration is the ensemble's own state; members and the linear model have files of their own ---

    def _own_state(self) -> dict[str, Tensor]:
        state = self.state_dict()
        return {name: state[name] for name in CALIBRATION}

    def _config_values(self) -> dict[str, Any]:
        values: dict[str, Any] = {"members": len(self.members), "penalty": self.penalty}
        if self.linear is not None:
            values["linear_items"] = len(self.linear.covered)
        return values

    def _save_parts(self, directory: Path) -> None:
        for number, member in enumerate(click_purchase_models(self)):
            member.save_pretrained(_member_directory(directory, number))
        if self.linear is not None:
            save_tensors(directory / LINEAR_FILE, self.linear.state_dict())

    @classmethod
    def _build(cls, values: dict[str, Any], directory: Path, item_ids: list[str] | None) -> Self:
        count = values.get("members")
        penalty = values.get("penalty")
        linear_items = values.get("linear_items", 0)
        if not (isinstance(count, int) and isinstance(penalty, int | float) and isinstance(linear_items, int)):
            raise TypeError(f"expected numbers as `members`, `penalty` and `linear_items`, found {values}")
        folders = [_member_directory(directory, number) for number in range(count)]
        members = [ClickPurchaseModel.from_pretrained(folder, item_ids) for folder in folders]
        linear = None
        if "linear_items" in values:
            linear = LinearNextItem.load(directory / LINEAR_FILE, members[0].num_items, linear_items)
        return cls(members, float(penalty), linear)


def _mean(parts: list[Tensor]) -> Tensor:
    """The mean of tensors of one shape, without a copy of a single one."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)


def _member_directory(directory: Path, number: int) -> Path:
    return directory / f"member{number}"


def click_purchase_models(model: ClickPurchaseModel | RewardEnsemble) -> list[ClickPurchaseModel]:
    """The members of an ensemble, or the single model."""
    if isinstance(model, RewardEnsemble):
        return [cast(ClickPurchaseModel, member) for member in model.members]
    return [model]


def load_reward_model(
    directory: str | Path, item_ids: Iterable[str] | None = None
) -> ClickPurchaseModel | RewardEnsemble:
    """Loads the single model or the ensemble that the reward stage wrote, in eval mode.

    Args:
        directory: the run's `reward/`.
        item_ids: item ids of the catalogue. If given, the model must have been trained on exactly these.

    Raises:
        ModelError: a file is missing, damaged or of another model, or the catalogue is another one.
    """
    is_ensemble = _member_directory(Path(directory), 0).is_dir()
    return (RewardEnsemble if is_ensemble else ClickPurchaseModel).from_pretrained(directory, item_ids)
