"""Several reward models that differ in their seed: the mean of what they say, less their disagreement."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from llmrec.errors import ModelError
from llmrec.files import write_json
from reward_models.click_purchase import ClickPurchaseModel
from reward_models.rewarder import Prediction, Rewarder
from reward_models.storage import MEND, load_config, load_state, save_tensors

FAMILY = "click_purchase_ensemble"


class RewardEnsemble(Rewarder):
    """K click/purchase models as one.

    P(click) is the renormalised geometric mean of the members', the purchase logit their mean, each calibrated once
    more. The reward is a lower bound: its value less `penalty` standard deviations of the members' own rewards, so
    that a policy gains nothing where the members disagree.

    Attributes:
        members: K models of the same catalogue.
        penalty: standard deviations that are subtracted (config `reward.uncertainty_penalty`).
    """

    def __init__(self, members: Sequence[ClickPurchaseModel], penalty: float):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.penalty, self.config = penalty, members[0].config
        self.register_buffer("click_temperature", torch.tensor(1.0))
        self.register_buffer("purchase_scale", torch.tensor(1.0))
        self.register_buffer("purchase_offset", torch.tensor(0.0))

    @property
    def device(self) -> torch.device:
        return self.members[0].device

    def predict(self, *arguments) -> Prediction:
        """As `ClickPurchaseModel.predict`."""
        return self._combine([member.predict(*arguments) for member in self.members])

    def predict_packed(self, *arguments) -> Prediction:
        """As `ClickPurchaseModel.predict_packed`."""
        return self._combine([member.predict_packed(*arguments) for member in self.members])

    def _combine(self, parts: list[Prediction]) -> Prediction:
        click = torch.stack([part.log_click for part in parts]).mean(0) / self.click_temperature
        purchase = torch.stack([part.purchase for part in parts]).mean(0)
        purchase = self.purchase_scale * purchase + self.purchase_offset
        return Prediction(click.log_softmax(-1), purchase, parts[0].had, parts, self.penalty)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `config.json`, `model.safetensors` (the calibration) and one folder a member."""
        directory = Path(directory)
        for number, member in enumerate(self.members):
            member.save_pretrained(directory / f"member{number}")
        calibration = {name: value for name, value in self.state_dict().items() if not name.startswith("members.")}
        save_tensors(directory / "model.safetensors", calibration)
        write_json(
            directory / "config.json",
            {"model_type": FAMILY, "members": len(self.members), "penalty": self.penalty},
        )


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
    if not isinstance(values.get("members"), int) or not isinstance(values.get("penalty"), int | float):
        raise ModelError(f"{directory / 'config.json'} does not describe an ensemble: {values}. {MEND}")
    item_ids = None if item_ids is None else list(item_ids)
    members = [
        ClickPurchaseModel.from_pretrained(directory / f"member{number}", item_ids)
        for number in range(values["members"])
    ]
    ensemble, calibration = RewardEnsemble(members, float(values["penalty"])), _Calibration()
    load_state(calibration, directory / "model.safetensors")
    ensemble.load_state_dict(calibration.state_dict(), strict=False)
    return ensemble.eval()
