"""Checks that the optional packages a config needs are installed, before any training starts."""

import importlib.util

from llmrec.config import Config
from llmrec.errors import ConfigError


def check_installed(config: Config) -> None:
    """Checks the packages behind `report_to`, `privacy`, `sft.optim` and `ppo.optim`.

    Raises:
        ConfigError: a package is not installed; the message names the key and the command that installs it.
    """
    check_trackers(config)
    if config.privacy is not None and not _is_installed("opacus"):
        raise ConfigError(
            "`privacy` needs the accountant of opacus, which is not installed: run `pip install 'llmrec[privacy]'`, or "
            "leave the section out."
        )
    for key, section in (("sft", config.sft), ("ppo", config.ppo)):
        if section.optim == "adamw_bnb_8bit" and not _is_installed("bitsandbytes"):
            raise ConfigError(
                f"{key}.optim is `adamw_bnb_8bit`, which needs bitsandbytes: run `pip install 'llmrec[quantized]'`, or "
                "leave the key out."
            )


def check_trackers(config: Config) -> None:
    """Checks the packages behind `report_to`.

    Raises:
        ConfigError: a tracker is not installed.
    """
    if "trackio" in config.report_to and not _is_installed("trackio"):
        raise ConfigError(
            "report_to names `trackio`, which is not installed: run `pip install 'llmrec[trackio]'`, or remove it "
            "from report_to."
        )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
