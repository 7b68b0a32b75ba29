"""Warnings about rows that contradict others, rules of `data.drop` that leave out nothing, and ids in two forms."""

import re
from collections.abc import Collection

from llmrec.data.harm import Warned
from llmrec.data.readers.dropped import read_drop_rule
from llmrec.data.readers.raw import CONTRADICTION, Loss, RawLog, Source
from llmrec.data.readers.whole_ids import two_forms
from llmrec.errors import nearest


def example_of(loss: Loss) -> str:
    """The first row of a loss without the folder of its file; its value may hold slashes."""
    return re.sub(r"^.*?/(?=[^/]*, (?:line|row) \d)", "", loss.examples[0])


def idle_drop_rules(source: Source) -> list[Warned]:
    """Warnings about rules of `data.drop` that leave out nothing, or that compare numbers with text."""
    warnings = []
    why = "rows that were meant to be left out count"
    for text, found in source.drop_rules.items():
        rule = read_drop_rule(text)
        if found.texts:
            share = found.texts / max(1, sum(found.values.values()))
            said = (
                f"{found.texts:,} values of `{rule.column}` are no number, such as `{found.text}`, so the rule "
                f"`{text}` of `data.drop` leaves none of them out. Write them as numbers, or compare with text by `==`."
            )
            warnings.append(Warned("weak", min(1.0, share), why, said))
        elif not found.dropped:
            near = nearest(rule.value, found.values)
            hint = f" Did you mean `{near}`?" if near else ""
            shown = ", ".join(f"`{one}` ({rows:,})" for one, rows in list(found.values.items())[:5])
            holds = f"`{rule.column}` holds {shown}" if shown else f"`{rule.column}` is empty"
            said = f"No row meets the rule `{text}` of `data.drop`: {holds}.{hint}"
            warnings.append(Warned("weak", 0.0, why, said))
    return warnings


def ids_in_two_forms(kind: str, ids: Collection[str]) -> list[Warned]:
    """The warning about ids that a log writes in two forms, which count as two; empty if there are none.

    Args:
        kind: what they are ids of, in the plural.
        ids: the ids, each once.
    """
    doubled = two_forms(ids)
    if not doubled:
        return []
    text = (
        f"{len(doubled):,} ids of {kind} occur in two forms, such as `{doubled[0][:-2]}` and `{doubled[0]}`, and count "
        "as two. Write one form."
    )
    return [Warned("wrong", len(doubled) / len(ids), f"histories of these {kind} are torn apart", text)]


def contradictions(log: RawLog) -> list[Warned]:
    """Warnings about rows of the item and user table that say something else than an earlier row of the same id."""
    warnings = []
    for name, table, source in (("items", log.items, log.item_source), ("users", log.users, log.user_source)):
        for loss in (loss for reason, loss in source.losses.items() if reason.startswith(CONTRADICTION)):
            text = (
                f"{loss.count:,} rows of the table of {name} are left out, because an earlier row says something else "
                f"of the same id, such as {example_of(loss)}. The first row counts. Correct the table."
            )
            share = min(1.0, loss.count / max(1, len(table)))
            warnings.append(Warned("weak", share, f"what models learn of these {name} may be wrong", text))
    return warnings
