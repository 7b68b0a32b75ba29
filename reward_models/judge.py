"""A judge fitted on other users: a second opinion that a policy was not trained on.

If the reward a policy is trained on rises and the judge's does not, the policy has learned the reward model's errors.
The judge shares nothing with `ClickPurchaseModel`: no gradients, no order of events, and users of its own; with
`LinearNextItem`, where it is pooled, users and order alone are not shared. Clicks come from EASE (Steck, WWW 2019)
and item popularity, purchases from each item's smoothed purchase rate. Its reward has the same unit, log P(click) +
log P(purchase | click) in nats.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.catalogue.cooccurrence import cooccurrence
from llmrec.errors import DataError, ModelError
from llmrec.files import write_json
from reward_models.reward_model import lowest_for_had
from reward_models.storage import MEND, check_catalogue, load_config, load_state, save_tensors

FAMILY = "ease_judge"
# EASE inverts a dense matrix of this size at most; rarer items are scored by their popularity alone.
MAX_EASE_ITEMS = 5_000
# Clicks of an average item that count beside an item's own in its purchase rate.
PURCHASE_PRIOR = 10.0


def ease_weights(histories: Sequence[np.ndarray], num_items: int, l2: float) -> np.ndarray:
    """Weights B of EASE: argmin |X - XB|^2 + l2 |B|^2 with a zero diagonal (Steck, 2019, eq. 8).

    Args:
        histories: item indices of each user.
        num_items: N.
        l2: regularisation, in users.

    Returns:
        float32 [N, N]; the scores of a history are the sum of its items' rows.
    """
    gram = cooccurrence(histories, num_items, "users").numpy()
    gram[np.diag_indices(num_items)] += l2
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)


@dataclass(frozen=True)
class JudgeConfig:
    """Shape of the judge; saved as `judge.json`.

    Attributes:
        num_items: size N of the catalogue.
        ease_items: items K that EASE covers.
        items_sha256: fingerprint of the item ids in catalogue order, or "" if unknown.
    """

    num_items: int
    ease_items: int
    items_sha256: str = ""


class EaseJudge(nn.Module):
    """Rewards in nats from EASE, popularity and purchase rates; fit it with `fit_judge`.

    Attributes:
        covered: catalogue indices of the items that EASE covers, int64 [K].
        weights: EASE weights, float [K, K].
        log_popularity: log of each item's smoothed share of clicks, float [N].
        log_purchase: log of each item's smoothed purchase rate, float [N].
        mix: log-linear weights of EASE score and log-popularity in the click logit, float [2].
    """

    def __init__(self, config: JudgeConfig):
        super().__init__()
        self.config = config
        self.register_buffer("covered", torch.zeros(config.ease_items, dtype=torch.long))
        self.register_buffer("weights", torch.zeros(config.ease_items, config.ease_items))
        self.register_buffer("log_popularity", torch.zeros(config.num_items))
        self.register_buffer("log_purchase", torch.zeros(config.num_items))
        self.register_buffer("mix", torch.ones(2))

    def features(self, histories: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """EASE scores float [B, N] and which items each history holds, bool [B, N].

        Raises:
            DataError: an item outside the catalogue.
        """
        had = torch.zeros(len(histories), self.config.num_items, dtype=torch.bool)
        for row, history in enumerate(histories):
            items = np.asarray(history, dtype=np.int64)
            if len(items) and (items.min() < 0 or items.max() >= self.config.num_items):
                raise DataError(
                    f"History {row} holds an item index outside 0..{self.config.num_items - 1}. "
                    "Was the judge fitted on another catalogue? Run the reward stage on this data."
                )
            had[row, torch.from_numpy(items)] = True
        had = had.to(self.weights.device)
        ease = torch.zeros(had.shape, device=had.device)
        ease[:, self.covered] = had[:, self.covered].float() @ self.weights
        return ease, had

    @torch.no_grad()
    def log_rewards(self, histories: Sequence[np.ndarray], conversion_weight: float = 1.0) -> Tensor:
        """Reward of every item as the next of each history, float [B, N], nats.

        As in `ClickPurchaseModel`, clicks are a softmax over items not had, log P(purchase | click) has a weight, and
        an item already had gets the lowest reward of its row.

        Raises:
            DataError: an item outside the catalogue.
        """
        log_click, had = self.click(histories)
        return lowest_for_had(log_click + conversion_weight * self.log_purchase, had)

    def click(self, histories: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """log P(click) among the items not had, float [B, N] (-inf: had), and which each history holds, bool [B, N]."""
        ease, had = self.features(histories)
        logits = self.mix[0] * ease + self.mix[1] * self.log_popularity
        return logits.masked_fill(had, float("-inf")).log_softmax(-1), had

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `judge.safetensors` and `judge.json` into `directory`, beside whatever else it holds."""
        directory = Path(directory)
        save_tensors(directory / "judge.safetensors", self.state_dict())
        write_json(directory / "judge.json", {"model_type": FAMILY, **asdict(self.config)})

    @classmethod
    def from_pretrained(cls, directory: str | Path, item_ids: Iterable[str] | None = None) -> "EaseJudge":
        """Reads what `save_pretrained` wrote.

        Args:
            directory: the run's `reward/`.
            item_ids: the catalogue's item ids; if given, the judge must have been fitted on exactly these.

        Raises:
            ModelError: a file is missing, truncated or of another model, or the catalogue is another.
        """
        directory = Path(directory)
        values = load_config(directory / "judge.json", FAMILY)
        try:
            judge = cls(JudgeConfig(**values))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{directory / 'judge.json'} does not describe a judge ({error}). {MEND}") from None
        check_catalogue(directory, judge.config.num_items, judge.config.items_sha256, item_ids)
        load_state(judge, directory / "judge.safetensors")
        return judge.eval()


def fit_judge(
    histories: Sequence[np.ndarray],
    purchases: Sequence[np.ndarray],
    num_items: int,
    items_sha256: str = "",
    l2: float = 100.0,
) -> EaseJudge:
    """Fits the judge on some users; its two mixture weights on the last item of a tenth of them.

    Args:
        histories: item indices of each user in time order.
        purchases: whether each item was purchased, bool, shaped as `histories`.
        num_items: size N of the catalogue.
        items_sha256: fingerprint of the item ids.
        l2: EASE regularisation, in users.

    Raises:
        DataError: fewer than two users have at least two events.
    """
    usable = [u for u, history in enumerate(histories) if len(history) > 1]
    if len(usable) < 2:
        raise DataError(
            f"The judge needs at least 2 users with 2 or more training events, found {len(usable)}: "
            "use a longer log, or a smaller `judge_users`."
        )
    # Every fifth user calibrates: the EASE used for that must not have seen their last item.
    held = set(usable[::5])
    shown = [history[:-1] if u in held else history for u, history in enumerate(histories)]
    judge = _counted(shown, purchases, num_items, items_sha256, l2)
    targets = torch.tensor([int(histories[u][-1]) for u in sorted(held)])
    judge.mix.copy_(_fit_mix(judge, [shown[u] for u in sorted(held)], targets))
    return judge


def _counted(shown, purchases, num_items: int, items_sha256: str, l2: float) -> EaseJudge:
    """A judge with everything but its mixture weights, from item indices and purchase flags of each user."""
    clicks, buys = np.zeros(num_items), np.zeros(num_items)
    for history, bought in zip(shown, purchases, strict=True):
        np.add.at(clicks, history, 1.0)
        np.add.at(buys, history, np.asarray(bought[: len(history)], dtype=np.float64))
    covered = np.sort(np.argsort(-clicks, kind="stable")[:MAX_EASE_ITEMS])
    position = np.full(num_items, -1)
    position[covered] = np.arange(len(covered))
    inside = [position[history][position[history] >= 0] for history in shown]
    judge = EaseJudge(JudgeConfig(num_items, len(covered), items_sha256))
    judge.covered.copy_(torch.from_numpy(covered))
    judge.weights.copy_(torch.from_numpy(ease_weights(inside, len(covered), l2)))
    share = (clicks + 1.0) / (clicks.sum() + num_items)
    # One more non-purchase in the prior keeps the logarithm finite where nobody bought anything.
    base = (buys.sum() + 1.0) / (clicks.sum() + 2.0)
    rate = (buys + PURCHASE_PRIOR * base) / (clicks + PURCHASE_PRIOR)
    judge.log_popularity.copy_(torch.from_numpy(np.log(share)))
    judge.log_purchase.copy_(torch.from_numpy(np.log(rate)))
    return judge


def _fit_mix(judge: EaseJudge, histories: Sequence[np.ndarray], targets: Tensor) -> Tensor:
    """Mixture weights [2] of maximum likelihood of the targets; convex, so L-BFGS finds the optimum."""
    ease, had = judge.features(histories)
    mix = torch.tensor([1.0, 1.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([mix], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = (mix[0] * ease + mix[1] * judge.log_popularity).masked_fill(had, float("-inf"))
        # A tiny pull to (1, 1) bounds the weights where the targets are separable.
        value = nn.functional.cross_entropy(logits, targets) + 1e-3 * (mix - 1.0).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return mix.detach()
