"""Config files for small logs that a test writes as `log.csv` and `items.csv`."""

from pathlib import Path
from typing import Any

import yaml


def write_config(folder: Path, **sections: Any) -> Path:
    """Writes `tiny.yaml` into the folder of a log; returns its path.

    Args:
        folder: holds `log.csv` and `items.csv`, and receives the runs.
        sections: sections of the config. Those of `data` are added to the keys that read the log.
    """
    data = {
        "format": "table",
        "path": str(folder / "log.csv"),
        "items": str(folder / "items.csv"),
        "splits": ["leave_one_out"],
        **sections.pop("data", {}),
    }
    values = {"name": "tiny", "output_dir": str(folder / "runs"), "data": data, "report_to": [], **sections}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
