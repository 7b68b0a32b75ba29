"""The table of baselines: name, description, grid of settings, and how each is fitted."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from llmrec.config import BaselineName, Config
from llmrec.data.dataset import InteractionData
from llmrec.recommenders.ease import EASE
from llmrec.recommenders.factors import BPR, IALS
from llmrec.recommenders.gru4rec import GRU4Rec
from llmrec.recommenders.gsasrec import GSASRec
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.linear import Linear, LinearFit
from llmrec.recommenders.markov import Markov
from llmrec.recommenders.personal_popularity import PersonalPopularity
from llmrec.recommenders.pool import MeanLogSoftmax, Pool, smoothed
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.protocol import Baseline
from llmrec.recommenders.sasrec import SASRec
from llmrec.recommenders.sequence import SequenceModel
from llmrec.recommenders.transitions import Transitions
from llmrec.recommenders.tuning import Advance, FittedBaseline, Grid, Tuning
from llmrec.timing import timed

Parts = Mapping[str, FittedBaseline]  # the baselines that another one consists of, by name
SEED_STEP = 1000  # distance of the seeds of one ensemble, so that ensembles of neighboring seeds share no member


@dataclass(frozen=True)
class Entry:
    """One baseline.

    Attributes:
        fit: fits it and chooses its setting.
        parts: names of the baselines that it consists of; they are fitted first.
        random: whether the result depends on the seed of the experiment.
    """

    fit: Callable[[Tuning, Parts], FittedBaseline]
    parts: tuple[BaselineName, ...] = ()
    random: bool = False


def fit_baselines(data: InteractionData, config: Config, advance: Advance) -> dict[str, FittedBaseline]:
    """Fits the baselines of a config on `data.train_histories` and chooses their settings on validation.

    Args:
        data: the prepared log.
        config: `evaluation.baselines` names the baselines and `evaluation.sasrec` holds SASRec's grid.
        advance: called before each baseline and after each fit.

    Returns:
        The fitted baselines by name, in the order of the config.
    """
    tuning = Tuning(data, config, advance)
    fitted: dict[str, FittedBaseline] = {}
    for name in config.evaluation.baselines:
        fit_one(name, tuning, fitted)
    return {name: fitted[name] for name in config.evaluation.baselines}


def fit_one(name: BaselineName, tuning: Tuning, fitted: dict[str, FittedBaseline]) -> FittedBaseline:
    """Fits a baseline unless it is fitted already, after those that it consists of.

    Args:
        name: name of the baseline.
        tuning: the data and the validation targets.
        fitted: the fitted baselines by name; new ones are added.
    """
    if name not in fitted:
        entry = REGISTRY[name]
        parts = {part: fit_one(part, tuning, fitted) for part in entry.parts}
        started = time.perf_counter()
        cpu_started = time.process_time()
        with timed(f"baseline {name}"):
            one = entry.fit(tuning, parts)
        fitted[name] = replace(
            one,
            seconds=time.perf_counter() - started + sum(part.seconds for part in parts.values()),
            cpu_seconds=time.process_time() - cpu_started + sum(part.cpu_seconds for part in parts.values()),
        )
    return fitted[name]


def _plain(name: BaselineName, make: Callable[..., Baseline], grid: Grid) -> Entry:
    """A baseline that is fitted anew for each setting."""

    def fit(tuning: Tuning, _: Parts) -> FittedBaseline:
        return tuning.best(name, lambda **setting: make(**setting).fit(tuning.histories, tuning.data.num_items), grid)

    return Entry(fit)


def _seeded(name: BaselineName, make: Callable[..., Baseline], grid: Grid) -> Entry:
    """As `_plain`, for a baseline that also takes the seed of the experiment."""

    def fit(tuning: Tuning, parts: Parts) -> FittedBaseline:
        return _plain(name, partial(make, seed=tuning.config.seed), grid).fit(tuning, parts)

    return Entry(fit, random=True)


def _transitions_refit(tuning: Tuning, parts: Parts) -> FittedBaseline:
    """The transitions with the setting that was chosen on validation, counted again with the validation items."""
    one = parts["transitions"]
    model = Transitions(**one.chosen).fit(tuning.histories_with_validation, tuning.data.num_items)
    return replace(one, model=model, refitted=True)


def _linear(tuning: Tuning, _: Parts) -> FittedBaseline:
    """The linear model: the sums over events are taken once, and the regression is solved for each setting."""
    sums = LinearFit(tuning.histories, tuning.data.num_items)
    return tuning.best("linear", lambda l2: Linear(sums.solve(l2)), {"l2": [100.0, 300.0, 1000.0, 3000.0]})


def _pool(tuning: Tuning, parts: Parts) -> FittedBaseline:
    """The pool of closed forms; its four powers are fitted on the validation targets."""
    linear = parts["linear"].model
    assert isinstance(linear, Linear)
    share = linear.weights.share.numpy()
    log_scores = [linear.scores, smoothed(parts["markov"].scores, share), smoothed(parts["ease"].scores, share)]
    best = tuning.best("pool", lambda: Pool(log_scores, share).fit(tuning.valid), {})
    assert isinstance(best.model, Pool)
    powers = dict(zip(("linear", "markov", "ease", "popularity"), best.model.powers.tolist(), strict=True))
    return replace(best, chosen={"powers": powers})


def _sasrec(tuning: Tuning, _: Parts) -> FittedBaseline:
    """SASRec with the grid of the config."""
    grid = tuning.config.evaluation.sasrec.model_dump(exclude={"double_epochs"})
    return _best_sequence("sasrec", SASRec, grid | {"epochs": [grid["epochs"]]}, tuning)


def _sequential(name: BaselineName, kind: type[SequenceModel], grid: Grid) -> Entry:
    """A sequential baseline with a grid of its own and the number of epochs of SASRec."""

    def fit(tuning: Tuning, _: Parts) -> FittedBaseline:
        return _best_sequence(name, kind, grid | {"epochs": [tuning.config.evaluation.sasrec.epochs]}, tuning)

    return Entry(fit, random=True)


def _best_sequence(name: str, kind: type[SequenceModel], grid: Grid, tuning: Tuning) -> FittedBaseline:
    """The best of a grid; with `double_epochs` trained again for twice the epochs if its last evaluation was best."""
    fit = partial(_train, kind, tuning, tuning.config.seed)
    best = tuning.best(name, fit, grid)
    assert isinstance(best.model, SequenceModel)
    if not (tuning.config.evaluation.sasrec.double_epochs and best.model.still_rises):
        return best
    longer = tuning.best(
        f"{name}, longer",
        fit,
        {key: [value] for key, value in best.chosen.items()} | {"epochs": [2 * best.chosen["epochs"]]},
    )
    kept = longer if longer.valid_ndcg > best.valid_ndcg else best
    return replace(kept, grid=best.grid + longer.grid)


def _train(kind: type[SequenceModel], tuning: Tuning, seed: int, **setting: int | float) -> SequenceModel:
    """A sequential baseline that is trained with one setting and one seed."""
    shape = {"window": tuning.config.catalogue.max_history, "seed": seed, "repeats": tuning.data.repeats}
    model = kind(tuning.validate, **shape, **setting)  # type: ignore[arg-type]
    return model.fit(tuning.histories, tuning.data.num_items)


def _sasrec_x3(tuning: Tuning, parts: Parts) -> FittedBaseline:
    """Three SASRecs with the setting that was chosen for the first."""
    one = parts["sasrec"]
    seeds = [tuning.config.seed + number * SEED_STEP for number in (1, 2)]
    tuning.advance("baselines: sasrec_x3", len(seeds))
    others = []
    for seed in seeds:
        others.append(_train(SASRec, tuning, seed, **one.chosen).scores)
        tuning.advance()
    best = tuning.best("sasrec_x3", lambda: MeanLogSoftmax([one.scores, *others]), {})
    return replace(best, chosen=one.chosen)


REGISTRY: dict[BaselineName, Entry] = {
    "popularity": _plain("popularity", Popularity, {}),
    "personal_popularity": _plain("personal_popularity", PersonalPopularity, {"decay": [1.0, 0.99, 0.95, 0.8]}),
    "markov": _plain("markov", Markov, {"decay": [0.5, 0.7, 0.8, 0.9], "smoothing": [3.0, 10.0, 30.0, 100.0]}),
    "transitions": _plain(
        "transitions",
        Transitions,
        {"last": [5], "decay": [0.5, 0.8], "distance": [1, 5], "damping": [0.0, 0.5, 1.0]},
    ),
    "transitions_refit": Entry(_transitions_refit, ("transitions",)),
    "itemknn": _plain("itemknn", ItemKNN, {"neighbors": [50, 200], "shrinkage": [0.0, 10.0, 50.0]}),
    "ease": _plain("ease", EASE, {"l2": [30.0, 100.0, 300.0, 1000.0, 3000.0]}),
    "linear": Entry(_linear),
    "pool": Entry(_pool, ("linear", "markov", "ease")),
    "ials": _seeded("ials", IALS, {"factors": [32, 128], "regularization": [0.1, 10.0], "alpha": [1.0, 10.0, 40.0]}),
    "bpr": _seeded("bpr", BPR, {"factors": [64], "regularization": [0.001, 0.01, 0.1], "learning_rate": [0.02, 0.1]}),
    "sasrec": Entry(_sasrec, random=True),
    "sasrec_x3": Entry(_sasrec_x3, ("sasrec",), random=True),
    "gru4rec": _sequential(
        "gru4rec", GRU4Rec, {"loss_name": ["cross_entropy", "bpr_max"], "num_layers": [1], "dropout": [0.2]}
    ),
    "gsasrec": _sequential("gsasrec", GSASRec, {"dropout": [0.2], "learning_rate": [1e-3, 3e-3]}),
}
