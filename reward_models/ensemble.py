"""Several models of the next click as one: what they say together, less their disagreement."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from llmrec.errors import ModelError
from llmrec.files import write_json
from reward_models.click_purchase import ClickPurchaseModel
from reward_models.linear import LinearNextItem
from reward_models.reward_model import Prediction, Rewarder
from reward_models.storage import MEND, load_config, load_state, save_tensors

FAMILY = "click_purchase_ensemble"


class RewardEnsemble(Rewarder):
    """K click/purchase models as one and, possibly, a linear model beside them.

    P(click) is a logarithmic opinion pool (Genest & Zidek, Statistical Science 1986): the renormalised product of
    powers of the members' geometric mean, of the linear model's votes and of popularity. Without a linear model it is
    the members' alone. The powers are fitted on validation (`held_out.best_pool`), and the purchase logit, the
    members' mean, is calibrated once more. The reward is a lower bound: its value less `penalty` standard deviations
    of the members' own rewards (at their power in the pool), so that a policy gains nothing where the members
    disagree.

    Attributes:
        members: K models of the same catalogue.
        penalty: standard deviations that are subtracted (config `reward.uncertainty_penalty`).
        linear: the linear model, which also holds the powers, or None.
    """

    def __init__(self, members: Sequence[ClickPurchaseModel], penalty: float, linear: LinearNextItem | None = None):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.linear = linear
        self.penalty, self.config = penalty, members[0].config
        self.register_buffer("click_temperature", torch.tensor(1.0))
        self.register_buffer("purchase_scale", torch.tensor(1.0))
        self.register_buffer("purchase_offset", torch.tensor(0.0))

    @property
    def device(self) -> torch.device:
        return self.members[0].device

    def predict(self, histories, purchases=None, profiles=None) -> Prediction:
        """As `ClickPurchaseModel.predict`."""
        parts = [member.predict(histories, purchases, profiles) for member in self.members]
        return self._combine(parts, None if self.linear is None else self.votes(histories))

    def predict_packed(self, history, purchased, mask, had=None, profiles=None) -> Prediction:
        """As `ClickPurchaseModel.predict_packed`."""
        parts = [member.predict_packed(history, purchased, mask, had, profiles) for member in self.members]
        if self.linear is None:
            return self._combine(parts)
        history, mask = history.to(self.device), mask.to(self.device)
        prior = torch.zeros_like(parts[0].had[:, 0]) if had is None else had.to(self.device)
        return self._combine(parts, self.linear.log_scores(history.masked_fill(~mask, 0), mask, prior)[:, 1:])

    def votes(self, histories: Sequence) -> Tensor:
        """The linear model's log-scores after the last item of each history, [B, N]."""
        newest, _, lengths, had = self.members[0].pack(histories, None)
        mask = torch.arange(newest.shape[1], device=self.device) < lengths[:, None]
        in_window = torch.zeros(had.shape, device=self.device).scatter_add(1, newest, mask.float()) > 0
        return self.linear.log_scores_at_end(newest, mask, had & ~in_window)

    def _combine(self, parts: list[Prediction], votes: Tensor | None = None) -> Prediction:
        had = parts[0].had
        click = torch.stack([part.log_click for part in parts]).mean(0)
        if votes is not None:
            members, linear, popularity = self.linear.powers
            click = members * click + linear * votes + popularity * self.linear.share.log()
            parts = [replace(part, log_click=members * part.log_click) for part in parts]
        click = (click / self.click_temperature).masked_fill(had, float("-inf"))
        purchase = torch.stack([part.purchase for part in parts]).mean(0)
        purchase = self.purchase_scale * purchase + self.purchase_offset
        return Prediction(click.log_softmax(-1), purchase, had, parts, self.penalty)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `config.json`, `model.safetensors` (the calibration), `linear.safetensors` and one folder a member."""
        directory = Path(directory)
        for number, member in enumerate(self.members):
            member.save_pretrained(directory / f"member{number}")
        calibration = {name: value for name, value in self.state_dict().items() if "." not in name}
        save_tensors(directory / "model.safetensors", calibration)
        values = {"model_type": FAMILY, "members": len(self.members), "penalty": self.penalty}
        if self.linear is not None:
            save_tensors(directory / "linear.safetensors", self.linear.state_dict())
            values["linear_items"] = len(self.linear.covered)
        write_json(directory / "config.json", values)


class _Calibration(nn.Module):
    """The three numbers that an ensemble keeps beside its members."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("click_temperature", "purchase_scale", "purchase_offset"):
            self.register_buffer(name, torch.tensor(1.0))


def load_reward_model(directory: str | Path, item_ids: Iterable[str] | None = None) -> Rewarder:
    """Reads a model or an ensemble, whichever the reward stage left in `directory`, in eval mode.

    Args:
        directory: the run's `reward/`.
        item_ids: the catalogue's item ids; if given, the model must have been trained on exactly these.

    Raises:
        ModelError: a file is missing, truncated or of another model, or the catalogue is another.
    """
    directory = Path(directory)
    if not (directory / "member0").is_dir():
        return ClickPurchaseModel.from_pretrained(directory, item_ids)
    values = load_config(directory / "config.json", FAMILY)
    kinds = (values.get("members"), int), (values.get("penalty"), int | float), (values.get("linear_items", 0), int)
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise ModelError(f"{directory / 'config.json'} does not describe an ensemble: {values}. {MEND}")
    item_ids = None if item_ids is None else list(item_ids)
    members = [
        ClickPurchaseModel.from_pretrained(directory / f"member{number}", item_ids)
        for number in range(values["members"])
    ]
    linear = None
    if "linear_items" in values:
        linear = LinearNextItem(members[0].config.num_items, values["linear_items"])
        load_state(linear, directory / "linear.safetensors")
    ensemble, calibration = RewardEnsemble(members, float(values["penalty"]), linear), _Calibration()
    load_state(calibration, directory / "model.safetensors")
    ensemble.load_state_dict(calibration.state_dict(), strict=False)
    return ensemble.eval()
