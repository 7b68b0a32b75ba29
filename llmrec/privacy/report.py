"""Everything that `llmrec privacy` says of a run, as JSON values."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from llmrec.data.dataset import InteractionData, load_data
from llmrec.privacy.anonymity import SinglingOut, precisions, profile_anonymity, singling_out
from llmrec.run import Run


def privacy_report(run: Run, adapter: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures the log of a run and attacks its adapter.

    Args:
        run: the run.
        adapter: `ppo` or `sft`; None for `ppo` if that stage has finished, else `sft`.
        say: receives lines about the progress.

    Raises:
        RunError: the log has not been prepared, or the named adapter has not been trained.
    """
    run.require("data")
    if adapter is not None:
        run.adapter(adapter)  # a missing one is reported before anything is measured
    data = load_data(run.path("data"))
    found: list[SinglingOut] = []
    for precision in precisions(data):
        say(f"log with {precision.item} and date {precision.date} ...")
        found += singling_out(data, precision, run.config.seed)
    say("attack on the adapter ...")
    from llmrec.privacy.attack import attack_run  # here: a log alone needs no torch

    return {
        "users": data.num_users,
        "singling_out": [_as_json(one) for one in found],
        "profiles": _profiles(run, data),
        "training": run.metrics("sft").get("privacy") if run.finished("sft") else None,
        "membership": attack_run(run, data, adapter, run.config.seed),
    }


def _as_json(one: SinglingOut) -> dict[str, Any]:
    shares = {name: {"value": value[0], "ci95": value[1:]} for name, value in (("alone", one.alone), ("few", one.few))}
    numbers = {"known": one.known, "users": one.users, "median_k": one.median_k}
    return asdict(one.precision) | numbers | shares


def _profiles(run: Run, data: InteractionData) -> list[dict[str, Any]]:
    """The user table as a whole, without each of its columns, and with the columns of the prompt."""
    columns = [column for column in data.users.columns if column != "user_id"]
    shown = [columns, run.config.catalogue.user_attributes]
    shown += [[other for other in columns if other != column] for column in columns]
    distinct = list(dict.fromkeys(tuple(one) for one in shown if one))
    return [profile_anonymity(data, one) for one in distinct]
