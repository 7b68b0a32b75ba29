"""The item table and the user table beside an unknown log, for `llmrec prepare --check`."""

from dataclasses import dataclass, field, replace
from typing import Any

from llmrec.config import DataConfig
from llmrec.data.check.columns import ColumnCheck, describe_table
from llmrec.data.check.files import Sample, change_command
from llmrec.data.check.names import rank, rank_of_items
from llmrec.data.check.neighbors import ENOUGH, Neighbor, ids_of, read_neighbors
from llmrec.data.check.titles import titles_note
from llmrec.data.readers.csv_and_json import read_any_table
from llmrec.data.readers.other_files import quote
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.text_files import TextFormat
from llmrec.data.readers.values import as_numbers

# Share of the rows whose id is in an earlier row: more are another kind of table. Titles show that it is no log.
_MOST_REPEATED = {"items": 0.5, "users": 0.1}
_FEW = 0.01
_WORDS = {"items": ("item", "item_id"), "users": ("user", "user_id")}


@dataclass(frozen=True)
class TableCheck:
    """A table beside the log.

    Attributes:
        title: which table it is, and its file.
        columns: what its columns are used for.
    """

    title: str
    columns: list[ColumnCheck]


@dataclass
class FoundTables:
    """What was found beside a log.

    Attributes:
        tables: the tables that the config names, or that need a change.
        notes: what to do with them, or to get an item table.
    """

    tables: list[TableCheck] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """A neighbor that may be the item table or the user table.

    Attributes:
        neighbor: the table.
        key: `items` or `users`.
        column: its column of ids.
        share: share of the log's ids that it holds, once `mend` has run.
        renamed: new names of its columns that `prepare` needs, by their names.
        better: new names of its columns that `prepare` would use.
        mend: code that makes its ids those of the log; "" if they are.
    """

    neighbor: Neighbor
    key: str
    column: str
    share: float
    renamed: dict[str, str]
    better: dict[str, str]
    mend: str = ""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.neighbor.path.name

    @property
    def titled(self) -> bool:
        """Whether it has titles, under this name or another; a user table needs none."""
        return self.key == "users" or "title" in [*self.neighbor.table.columns, *self.renamed.values()]

    @property
    def repeated(self) -> float:
        """Share of the rows whose id is also in an earlier row."""
        return self.neighbor.repeated(self.column)

    @property
    def usable(self) -> bool:
        """Whether `prepare` can read it as it is."""
        return self.share > ENOUGH and self.titled and not self.renamed and not self.mend

    def check(self) -> TableCheck:
        """Its columns."""
        own = {old: f"{new}, once it is renamed" for old, new in (self.renamed | self.better).items()}
        own = {self.column: _WORDS[self.key][1]} | own
        return TableCheck(f"the {_WORDS[self.key][0]} table {self.name}", describe_table(self.neighbor.table, own))

    def command(self) -> str:
        """A line for the shell that changes it as needed."""
        new_names = self.renamed | self.better
        names = ", ".join(f"{quote(old)}: {quote(new)}" for old, new in new_names.items())
        steps = [self.mend, f"t = t.rename(columns={{{names}}})" if new_names else ""]
        change = "; ".join(step for step in steps if step) or "pass"
        return change_command(self.neighbor.path, self.neighbor.text, change, self.key)


def find_tables(sample: Sample, roles: dict[str, str], data: dict[str, Any]) -> FoundTables:
    """Finds the item table and the user table beside a log, and adds those that there are to the config.

    Args:
        sample: the log.
        roles: the column's name in the log, by llmrec's name.
        data: the section `data` of the config.
    """
    found = FoundTables()
    neighbors, unread = read_neighbors(sample)
    misses = unread
    for key in ("items", "users"):
        own = _WORDS[key][1]
        ids = ids_of(sample.table, roles[own])
        others = [one for one in neighbors if str(one.path) != data.get("items")]
        candidates = [one for one in (_candidate(one, key, roles[own], ids) for one in others) if one is not None]
        if _use(sample, candidates, found, data):
            continue
        for one in candidates:
            note = _conflict(sample, one, data) or _miss(one, roles[own], ids)
            (misses if key == "items" else found.notes).extend([note] * bool(note))
            found.tables += [one.check()] * bool(note and one.share > ENOUGH)
    if "items" not in data:
        found.notes = [*misses, _no_items(sample, roles, bool(misses)), *found.notes]
    return found


def _no_items(sample: Sample, roles: dict[str, str], has_miss: bool) -> str:
    """The note for a log without an item table."""
    wanted = sample.path.with_name("titles.csv" if sample.path.name == "items.csv" else "items.csv")
    found = (
        "No file beside the log can be used as its item table as it is, so"
        if has_miss
        else "No file beside the log is its item table, so"
    )
    stand_in = f"{found} the ids of the items stand in for their titles."
    own = titles_note(sample, roles)
    if own:
        return f"{stand_in} {own}"
    write = "" if has_miss else f"Write one with the columns `item_id` and `title`, such as {wanted}. "
    return (
        f"{stand_in} {write}Name the table in `data.items`, because the language model learns an item from its title."
    )


def describe_tables(config: DataConfig) -> list[TableCheck]:
    """The item table and the user table that a config names."""
    checks = []
    for key, (word, own) in _WORDS.items():
        named = getattr(config, key)
        if named is None:
            continue
        path = resolve_path(named, f"data.{key}")
        table = read_any_table(path, replace(TextFormat.of(config), skip=True))
        mapped = getattr(config.columns, own)
        column = mapped if mapped in table.columns else own
        checks.append(TableCheck(f"the {word} table {path.name}", describe_table(table, {column: own})))
    return checks


# --- what a table is ----------------------------------------------------------------------------------


def _candidate(neighbor: Neighbor, key: str, id_column: str, ids: set[str]) -> _Candidate | None:
    """A table as the item table or the user table; None if it is of another kind.

    Args:
        neighbor: the table.
        key: `items` or `users`.
        id_column: the log's column of these ids.
        ids: these ids.
    """
    own, other = ("item_id", "user_id") if key == "items" else ("user_id", "item_id")
    # Ids such as 1, 2, 3 are often those of users and of items. A name decides.
    columns = [name for name in neighbor.table.columns if rank(name, other) is None or name in (own, id_column)]
    named = [name for name in (id_column, own) if name in columns]
    if key == "users":
        columns = [name for name in columns if rank(name, own) is not None or name in named]
    if not columns:
        return None
    column = max(columns, key=lambda name: (neighbor.share(name, ids), name in named, rank(name, own) is not None))
    share, mend = neighbor.share(column, ids), ""
    if share <= ENOUGH:
        column = next((name for name in columns if name in named or rank(name, own) is not None), column)
        share, mend = _mended(neighbor, column, ids)
    renamed = {} if column in (own, id_column) else {column: own}
    better: dict[str, str] = {}
    if key == "items":
        text = [name for name in neighbor.table.columns if name != column and _is_text(neighbor, name)]
        renamed |= _named_otherwise(neighbor, text, "title")
        rest = [name for name in text if name not in renamed]
        better = _named_otherwise(neighbor, rest, "categories")
        better |= _named_otherwise(neighbor, [name for name in neighbor.table.columns if name != column], "year")
    return _Candidate(neighbor, key, column, share, renamed, better, mend)


def _is_text(neighbor: Neighbor, name: str) -> bool:
    return bool(as_numbers(neighbor.table.frame[name]).notna().mean() < ENOUGH)


def _named_otherwise(neighbor: Neighbor, names: list[str], own: str) -> dict[str, str]:
    """The column that is one of llmrec's under another name, with llmrec's name; empty without one."""
    places = {name: rank_of_items(name, own) for name in names}
    known = {name: place for name, place in places.items() if place is not None}
    return {} if own in neighbor.table.columns or not known else {min(known, key=lambda name: known[name]): own}


def _mended(neighbor: Neighbor, column: str, ids: set[str]) -> tuple[float, str]:
    """Share of the log's ids that a column holds once zeros at the beginning are as in the log, and code for it."""
    lengths = {len(one) for one in ids}
    found = ids_of(neighbor.table, column)
    ways = [({one.lstrip("0") for one in found}, 'str.lstrip("0")')]
    if len(lengths) == 1:
        (length,) = lengths
        ways.append(({one.zfill(length) for one in found}, f"str.zfill({length})"))
    mended, way = max(ways, key=lambda one: len(ids & one[0]))
    share = len(ids & mended) / len(ids)
    if share <= ENOUGH:
        return neighbor.share(column, ids), ""
    return share, f"t[{quote(column)}] = t[{quote(column)}].{way}"


# --- which table is used ------------------------------------------------------------------------------


def _use(sample: Sample, candidates: list[_Candidate], found: FoundTables, data: dict[str, Any]) -> bool:
    """Adds the best of the tables that `prepare` can read to the config, if there is one."""
    usable = [one for one in candidates if one.usable and one.repeated <= _MOST_REPEATED[one.key]]
    readable = [one for one in usable if not _conflict(sample, one, data)]
    if not readable:
        return False

    best = max(readable, key=_worth)  # the first by name of equal ones
    data[best.key] = str(best.neighbor.path)
    for name in ("encoding", "separator"):
        value = getattr(best.neighbor.text, name)
        if value is not None and getattr(sample.text, name) is None:
            data[name] = value
    found.tables.append(best.check())
    found.notes += [_rival(best, one) for one in readable if one is not best]
    if best.better:
        new = " and ".join(f"rename `{old}` to `{name}`" for old, name in best.better.items())
        found.notes.append(
            f"{best.name}: {', '.join(f'`{name}`' for name in best.better)} is not used under this name. To make facts "
            f"of it, {new}: {best.command()}, then set `data.items` to the new file."
        )
    if best.repeated:
        found.notes.append(_repeated(best) + " The config skips them with `data.bad_rows: skip`.")
        data["bad_rows"] = "skip"
    return True


def _worth(one: _Candidate) -> tuple[float, bool]:
    """By what the best of several tables is chosen."""
    return one.share, "categories" in one.neighbor.table.columns


def _rival(best: _Candidate, one: _Candidate) -> str:
    """The note on a table that could be used as well."""
    why = "comes first by name"
    if one.share != best.share:
        why = f"holds {best.share:.0%} of the ids of the log, the other {one.share:.0%}"
    elif _worth(one) != _worth(best):
        why = "has categories"
    return (
        f"{best.name} and {one.name} both fit as the {_WORDS[best.key][0]} table. The config uses {best.name}, which "
        f"{why}. If the other one is right, set `data.{best.key}` to it."
    )


def _conflict(sample: Sample, one: _Candidate, data: dict[str, Any]) -> str:
    """Why a config cannot read a table together with the log and the tables before it; "" if it can, or need not."""
    for name in ("encoding", "separator") if one.usable else ():
        value, taken = getattr(one.neighbor.text, name), getattr(sample.text, name) or data.get(name)
        if value is not None and taken is not None and value != taken:
            utf8 = name == "encoding" and value == "utf-8"
            command = sample.command("pass", "utf-8") if utf8 else one.command()
            return (
                f"{one.name} may be the {_WORDS[one.key][0]} table, but it needs `data.{name}: {value}`, and another "
                f"table {taken}. Write {'the log' if utf8 else 'it'} again, then check the log again: {command}."
            )
    return ""


def _repeated(one: _Candidate) -> str:
    """The note on rows of a table that say something else of the same id."""
    source = one.neighbor.table.source
    ids = one.neighbor.table.text(one.column)
    again = ids[ids.duplicated()]
    rows = "1 row has" if len(again) == 1 else f"{len(again):,} rows have"
    return (
        f"{one.name}: {rows} an id of an earlier row and other values, such as {source.unit} {again.index[0]}: "
        f"{again.iloc[0]!r}; expected one row for each id. {_joined(one) or 'Correct the table.'}"
    )


def _joined(one: _Candidate) -> str:
    """How to join rows of the same id if a single column differs, such as the category; "" if several do."""
    frame = one.neighbor.table.frame.astype("str")
    different = [name for name in frame.columns if (frame.groupby(one.column)[name].nunique() > 1).any()]
    if one.key == "users" or len(different) != 1 or "title" in different:
        return ""
    change = f"t = t.groupby({quote(one.column)}, as_index=False, sort=False)"
    change += '.agg(lambda x: "|".join(dict.fromkeys(x)))'
    command = change_command(one.neighbor.path, one.neighbor.text, change, "joined")
    return f"Only `{different[0]}` differs. To join its values, write one row for each id: {command}."


# --- what keeps a table from being used ---------------------------------------------------------------


def _miss(one: _Candidate, id_column: str, ids: set[str]) -> str:
    """What keeps a table from being the item table or the user table; "" if it is another kind of table.

    Args:
        one: the table.
        id_column: the column of the log that holds the ids.
        ids: these ids.
    """
    word, own = _WORDS[one.key]
    if one.usable:
        return _repeated(one) if _joined(one) else ""
    if one.repeated > (_MOST_REPEATED[one.key] if one.titled else _FEW):
        return ""
    if one.share > ENOUGH:
        changes = [f"rename `{old}` to `{new}`" for old, new in one.renamed.items()]
        if one.titled:
            changes += [f"rename `{old}` to `{new}`" for old, new in one.better.items()]
        else:
            changes.append("add a column `title`")
        if one.mend:
            changes.insert(0, f"write zeros at the beginning of its ids as the log does, such as `{min(ids)}`")
        done_by = f": {one.command()}, then check the log again" if one.titled else ""
        return (
            f"{one.name} may be the {word} table: its column `{one.column}` holds the ids of the {one.key}. To use "
            f"it, {' and '.join(changes)}{done_by}."
        )
    named = rank(one.column, own) is not None or one.column == id_column
    if not one.titled or not (named or (one.key == "items" and "title" in one.neighbor.table.columns)):
        return ""
    known = one.neighbor.table.text(one.column).dropna()
    example = f"`{min(ids)}`, the table `{known.iloc[0]}`" if len(known) else f"`{min(ids)}`, the table none"
    found = "has titles, but its" if one.key == "items" else "may be the user table, but its"
    return (
        f"{one.name} {found} column `{one.column}` holds {one.share:.0%} of the ids in `{id_column}` of the log: "
        f"the log has {example}. Write the same ids in both files."
    )
