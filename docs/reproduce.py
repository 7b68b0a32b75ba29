"""Makes the numbers of a page again and names each that differs.

    python docs/reproduce.py README.md                # run its commands, then compare
    python docs/reproduce.py README.md --check-only   # compare with the files of runs that exist
    python docs/reproduce.py --list                   # every claim with its command

`docs/research/claims.yaml` lists the claims. A number differs if it lies outside of the interval of its claim, or off
by more than its tolerance where the claim has no interval. Exit codes: 0 all agree, 1 a number differs or is missing,
2 wrong arguments.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = ROOT / "docs" / "research" / "claims.yaml"
NUMBERS = ("value", "rate", "difference", "count")  # keys that hold the number of a measurement in `report.json`


@dataclass(frozen=True)
class Claim:
    """One number of a page.

    Attributes:
        page: path of the page from the root of the repository.
        command: the shell command that makes the number.
        file: the JSON file that the command writes.
        key: keys that lead to the number in the file, joined by `/`.
        text: what the page says, letter by letter, such as a row of a table.
        shown: the number as it stands in the text.
        interval: lower and upper bound that a new measurement may have; None for a number without interval.
        tolerance: largest deviation of a number without interval.
    """

    page: str
    command: str
    file: str
    key: str
    text: str
    shown: str
    interval: tuple[float, float] | None = None
    tolerance: float = 0.0

    @property
    def value(self) -> float:
        """The number itself; a percentage as a share."""
        number = float(self.shown.removesuffix("%").replace(",", ""))
        return number / 100 if self.shown.endswith("%") else number

    def agrees(self, measured: float) -> bool:
        """Whether a new measurement is within the interval, or else within the tolerance."""
        if self.interval is not None:
            return self.interval[0] <= measured <= self.interval[1]
        return abs(measured - self.value) <= self.tolerance


def read_claims(path: Path = CLAIMS) -> list[Claim]:
    """All claims, in the order of the file, which groups them by page and command."""
    groups = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    return [
        Claim(
            page=group["page"],
            command=group["command"],
            file=group["file"],
            key=claim["key"],
            text=claim["text"],
            shown=claim["shown"],
            interval=tuple(claim["interval"]) if "interval" in claim else None,
            tolerance=claim.get("tolerance", 0.0),
        )
        for group in groups
        for claim in group["claims"]
    ]


def measured_number(values: Any, key: str) -> float | None:
    """The number at a key of a JSON file; None if it is missing or undefined."""
    for part in key.split("/"):
        values = values.get(part) if isinstance(values, dict) else None
    if isinstance(values, dict):
        values = next((values[name] for name in NUMBERS if name in values), None)
    return float(values) if isinstance(values, int | float) else None


def differences(claims: list[Claim], root: Path = ROOT) -> list[str]:
    """A line for each claim that the files below `root` do not confirm."""
    lines = []
    for claim in claims:
        file = root / claim.file
        if not file.is_file():
            lines.append(f"{claim.page}: {claim.shown} of `{claim.text}`: {claim.file} is missing: {claim.command}")
            continue
        found = measured_number(json.loads(file.read_text(encoding="utf-8")), claim.key)
        if found is None:
            lines.append(f"{claim.page}: {claim.shown} of `{claim.text}`: {claim.file} has no number at {claim.key}")
        elif not claim.agrees(found):
            allowed = (
                f"+-{claim.tolerance:g}" if claim.interval is None else f"[{claim.interval[0]}, {claim.interval[1]}]"
            )
            lines.append(f"{claim.page}: {claim.shown} {allowed} of `{claim.text}`: measured {found:.4f}")
    return lines


def main() -> int:
    """Runs, compares or lists; returns the exit code."""
    parser = argparse.ArgumentParser(description="Makes the numbers of a page again and names each that differs.")
    parser.add_argument("page", nargs="?", help="a page such as README.md; without it, all pages")
    parser.add_argument("--list", action="store_true", help="print every claim with its command, and stop")
    parser.add_argument("--check-only", action="store_true", help="run nothing; read the files of runs that exist")
    parser.add_argument("--runs", type=Path, default=ROOT, help="folder that the files of the claims lie in")
    arguments = parser.parse_args()
    every = read_claims()
    claims = [claim for claim in every if arguments.page in (None, claim.page)]
    if not claims:
        pages = ", ".join(dict.fromkeys(claim.page for claim in every))
        print(f"{arguments.page} has no claims in {CLAIMS.name}. Pages with claims: {pages}.", file=sys.stderr)
        return 2
    if arguments.list:
        for claim in claims:
            print(f"{claim.page}: {claim.shown} of `{claim.text}`\n    {claim.command}\n    {claim.file}: {claim.key}")
        return 0
    if not arguments.check_only:
        for command in dict.fromkeys(claim.command for claim in claims):
            print(f"$ {command}", flush=True)
            subprocess.run(command, shell=True, check=True, cwd=arguments.runs)
    lines = differences(claims, arguments.runs)
    print("\n".join([*lines, f"{len(claims) - len(lines)} of {len(claims)} numbers agree."]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
