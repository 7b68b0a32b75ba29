"""Files of a kind that is not read: how to make a table of them, in one line."""

import shlex
from itertools import islice
from json import dumps
from pathlib import Path

from llmrec.data.readers.text_files import encoding_of_file, open_text
from llmrec.errors import DataError

_UNPACKED_BY = {
    **{".zip": "unzip", ".7z": "7z x", ".rar": "unrar x", ".tar": "tar -xf", ".tgz": "tar -xf"},
    **{".zst": "unzstd", ".xz": "unxz", ".bz2": "bunzip2", ".lz4": "unlz4"},
}
# Function of pandas that reads a file, and the package that it needs.
_READ_BY = {
    **{".xlsx": ("read_excel", "openpyxl"), ".xls": ("read_excel", "xlrd"), ".ods": ("read_excel", "odfpy")},
    **{".feather": ("read_feather", ""), ".arrow": ("read_feather", ""), ".orc": ("read_orc", "")},
    **{".h5": ("read_hdf", "tables"), ".hdf5": ("read_hdf", "tables"), ".dta": ("read_stata", "")},
    **{".sas7bdat": ("read_sas", ""), ".sav": ("read_spss", "pyreadstat")},
}
_SEPARATORS = ("\t", "::", "|", ";", ",", "^", "~", "#", " ")
_SHOWN = {"\t": "tabs", " ": "spaces"}


def remedy(path: Path, suffixes: tuple[str, ...]) -> str:
    """A sentence that says how to make a file readable; "" if nothing is known about it.

    Args:
        path: the file.
        suffixes: those of the files that are read.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or not path.is_file():
        return ""
    if Path(path.name.lower().removesuffix(".gz")).suffix in suffixes:
        return _rename(path, path.with_name(path.name.lower()))
    if path.name.lower().endswith((".tar.gz", ".tgz")):
        return f"Unpack it: `tar -xf {_quoted(path)}`."
    if suffix in _UNPACKED_BY:
        return f"Unpack it: `{_UNPACKED_BY[suffix]} {_quoted(path)}`."
    if suffix in _READ_BY:
        function, package = _READ_BY[suffix]
        needs = f" (`pip install {package}` first)" if package else ""
        change = f"pd.{function}({quote(path)}).to_csv({quote(path.with_suffix('.csv'))}, index=False)"
        return f"Convert it{needs}: {pandas_command(change)}."
    return _as_text(path)


def pandas_command(code: str) -> str:
    """A line for the shell that runs some code with pandas as `pd`."""
    modules = ", ".join([*(name for name in ("gzip", "json") if f"{name}." in code), "pandas as pd"])
    return f"`python -c {shlex.quote(f'import {modules}; {code}')}`"


def opened(path: Path) -> str:
    """Python code that opens a text file."""
    name, mode = ("gzip.open", ', "rt"') if path.suffix == ".gz" else ("open", "")
    return f'{name}({quote(path)}{mode}, encoding="utf-8")'


def quote(text: object) -> str:
    """Text as a Python literal in double quotes, which the shell leaves alone inside of single ones."""
    return dumps(str(text), ensure_ascii=False)


def _as_text(path: Path) -> str:
    """What to do with a text file, by its first lines; "" if it is no text, or no table."""
    try:
        with open_text(path, encoding_of_file(path)) as lines:
            first = [line.strip("\r\n") for line in islice(lines, 20)]
    except DataError:
        return ""
    first = [line for line in first if line.strip()]
    gz = ".gz" if path.suffix == ".gz" else ""
    bare = path.with_name(path.name.removesuffix(gz)).with_suffix("")
    if first and first[0].lstrip()[0] in "[{":
        return _as_json(path, first, f"{bare}.jsonl{gz}")
    separator = find_constant_separator(first)
    if separator is None:
        return ""
    target = f"{bare}{'.tsv' if separator == chr(9) else '.csv'}{gz}"
    return f"It is a table separated by {_SHOWN.get(separator, f'`{separator}`')}. {_rename(path, Path(target))}"


def _as_json(path: Path, lines: list[str], target: str) -> str:
    """What to do with a file of JSON."""
    if lines[0].lstrip().startswith("["):
        read = f"pd.DataFrame(json.load({opened(path)}), dtype=object)"
        write = f'.to_json({quote(target.removesuffix(".gz"))}, orient="records", lines=True, force_ascii=False)'
        return f"It holds a list of objects. Write one object per line: {pandas_command(read + write)}."
    if len(lines) > 1 and not lines[1].lstrip().startswith("{"):
        return "It holds one object. Write the events in it one per line, to a file that ends in .jsonl."
    return f"It holds one object per line. {_rename(path, Path(target))}"


def find_constant_separator(lines: list[str], separators: tuple[str, ...] = _SEPARATORS) -> str | None:
    """The first separator that is equally often in all lines, at least once."""
    counts = {one: {line.count(one) for line in lines} for one in separators} if lines else {}
    return next((one for one, found in counts.items() if len(found) == 1 and 0 not in found), None)


def _rename(path: Path, target: Path) -> str:
    return f"Rename it: `mv {_quoted(path)} {_quoted(target)}`."


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
