"""Every stage on a disk that fills up: nothing is half-written, and the same command finishes once there is room.

The disk is a tmpfs of a few kilobytes more than the run needs, which only root may mount.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from llmrec.run import STAGES
from tests.cli.test_interrupts import PATIENCE, start, tiny_config, unfinished_files
from tests.conftest import make_base

pytestmark = pytest.mark.slow
ROOM = 64 * 2**20  # more than any stage of the tiny run writes
SHARES = (0.0, 0.4, 0.8)  # of what a stage writes, the part that still fits


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def resize(disk: Path, size: int) -> None:
    limit = max(size, 4096)  # 0 would be no limit
    subprocess.run(["mount", "-o", f"remount,size={limit}", disk], check=True)


def used(disk: Path) -> int:
    return shutil.disk_usage(disk).used


def digests(run: Path) -> dict[str, str]:
    """Digest of every file by path."""
    files = (path for path in run.rglob("*") if path.is_file())
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_full_disk_in_any_stage(tmp_path: Path, disk: Path) -> None:
    config = tiny_config(tmp_path, make_base(tmp_path / "base"))
    values = yaml.safe_load(config.read_text(encoding="utf-8")) | {"output_dir": str(disk / "runs")}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    run = disk / "runs" / "tiny"
    refused = dict.fromkeys(STAGES, 0)
    for stage in STAGES:
        # The page is written last, after the stage has finished. The same command writes it again.
        result = run / "report.html" if stage == "evaluate" else run / stage / "metrics.json"
        kept = tmp_path / f"before_{stage}"
        run.mkdir(parents=True, exist_ok=True)
        shutil.copytree(run, kept)
        before = used(disk)
        process = start(stage, config)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        written = used(disk) - before
        for share in SHARES:
            shutil.rmtree(run)
            shutil.copytree(kept, run)
            resize(disk, used(disk) + int(share * written))
            process = start(stage, config)
            _, err = process.communicate(timeout=PATIENCE)
            resize(disk, ROOM)
            assert process.returncode in (0, 2), err  # 0: what grows during the stage is larger than what it leaves
            if process.returncode == 0:
                continue
            refused[stage] += 1
            assert "No space" in err and "Traceback" not in err, err
            assert unfinished_files(run) == [] and not result.exists()
            earlier = {name: digest for name, digest in digests(kept).items() if not name.startswith(f"{stage}/")}
            assert digests(run).items() >= earlier.items()
        process = start(stage, config)  # continues what the last refusal left
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert result.exists() and unfinished_files(run) == []
    assert min(refused.values()) >= 2, refused
