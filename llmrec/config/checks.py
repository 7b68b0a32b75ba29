"""What no single key of a config can show: combinations that cannot work, and packages that are not installed."""

import importlib.util
import re

from llmrec.config import Config, RewardConfig
from llmrec.errors import ConfigError, UserError


def check_options(config: Config) -> None:
    """Options whose combination cannot work.

    Raises:
        ConfigError: names the keys and says what would fit.
    """
    check_reporters(config)
    check_hub(config)
    check_optimizers(config)
    section = config.ppo
    least = config.data.min_user_events
    if "given" in config.data.splits and len(config.data.splits) > 1:
        raise ConfigError(
            f"data.splits is {list(config.data.splits)}: the log's own split (`given`) stands alone, since what it "
            "trains on may be held out by another. Use one run for each."
        )
    if least is not None and least < 3 and "leave_one_out" in config.data.splits:
        raise ConfigError(
            f"data.min_user_events is {least}, but leave_one_out needs 3 clicks a user, one each for training, "
            "validation and test: set it to 3 or more, or data.splits to [temporal]."
        )
    if section.advantage == "exact" and config.catalogue.scheme != "atomic":
        raise ConfigError(
            f"ppo.advantage `exact` needs one token an item (catalogue.scheme: atomic), found "
            f"`{config.catalogue.scheme}`: set ppo.advantage to `gae`."
        )
    if section.item_entropy_coef and section.advantage != "exact":
        raise ConfigError(
            f"ppo.item_entropy_coef is {section.item_entropy_coef:g}, but only ppo.advantage `exact` knows an entropy "
            f"bonus, found `{section.advantage}`: set it to 0."
        )
    if section.per_device_train_batch_size % section.num_generations:
        raise ConfigError(
            f"ppo.num_generations is {section.num_generations}, which does not divide "
            f"ppo.per_device_train_batch_size ({section.per_device_train_batch_size}): all generations of a prompt "
            "share one forward pass."
        )
    if section.advantage in ("rloo", "group") and section.num_generations < 2:
        raise ConfigError(
            f"ppo.advantage `{section.advantage}` compares the generations of one prompt, but ppo.num_generations is "
            f"{section.num_generations}: set it to 2 or more."
        )
    if section.gradient_accumulation_steps % section.num_mini_batches:
        raise ConfigError(
            f"ppo.num_mini_batches is {section.num_mini_batches}, which does not divide gradient_accumulation_steps "
            f"({section.gradient_accumulation_steps})."
        )
    _check_reward(config.reward)


def _check_reward(section: RewardConfig) -> None:
    for key, names in (
        ("terms", [term.column for term in section.terms]),
        ("parts", [part.callable for part in section.parts]),
    ):
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"reward.{key} names `{twice[0]}` twice: expected each once, with one weight.")
    for part in section.parts:
        if not re.fullmatch(r"[\w.]+:\w+", part.callable):
            raise ConfigError(
                f"reward.parts: `{part.callable}` does not name a function; expected `module:function`, for instance "
                "`my_rewards:brevity` for the function `brevity` in my_rewards.py."
            )
    limits = section.penalties
    if limits.min_words > limits.max_words:
        raise ConfigError(
            f"reward.penalties.min_words is {limits.min_words}, more than max_words ({limits.max_words}): no "
            "justification would do. Lower the one or raise the other."
        )


def check_reporters(config: Config) -> None:
    """Whether what `report_to` names is installed.

    Raises:
        ConfigError: it is not.
    """
    if "trackio" in config.report_to and importlib.util.find_spec("trackio") is None:
        raise ConfigError(
            "report_to names `trackio`, which is not installed: run `pip install 'llmrec[trackio]'`, or take it out "
            "of report_to."
        )


def check_hub(config: Config) -> None:
    """What would make the push at the end fail, told before anything is trained.

    Raises:
        ConfigError: see there.
    """
    section = config.hub
    if section is None:
        return
    from llmrec.hub.client import (  # here: without this section there is no wait for huggingface_hub
        check_branch,
        check_name,
    )

    try:
        check_name(section.repo)
    except UserError as error:
        raise ConfigError(f"hub.repo: {error}") from None
    try:
        check_branch(section.revision)
    except UserError as error:
        raise ConfigError(f"hub.revision: {error}") from None
    if not section.titles and config.catalogue.scheme == "title":
        raise ConfigError(
            "hub.titles is false, but under catalogue.scheme `title` the model spells items by their titles: set "
            "hub.titles to true, or catalogue.scheme to `atomic`."
        )


def check_optimizers(config: Config) -> None:
    """Whether what `sft.optim` and `ppo.optim` name is installed.

    Raises:
        ConfigError: it is not.
    """
    keys = [key for key, section in (("sft", config.sft), ("ppo", config.ppo)) if section.optim == "adamw_bnb_8bit"]
    if keys and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{keys[0]}.optim is `adamw_bnb_8bit`, which needs bitsandbytes: run `pip install 'llmrec[quantized]'`, or "
            "leave the key out."
        )
