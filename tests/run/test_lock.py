"""The lock of a run directory: who holds it, when it is taken over, and what works without it."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from filelock import FileLock

from llmrec.config import Config, parse_config
from llmrec.errors import RunError, UserError
from llmrec.files import read_json, write_json, write_text
from llmrec.run import STAGES, Run, run_all, run_stage
from llmrec.run.lock import LOCK_FILE, OWNER_FILE, SILENT_SECONDS, Owner, locked

ROOT = Path(__file__).parents[2]
HERE = replace(Owner.this_process(), pid=os.getppid(), command="llmrec run other.yaml")
ELSEWHERE = replace(HERE, host="node-7")
ENDED_PID = 2**22 + 1  # larger than any process id of Linux


@contextmanager
def held_by(owner: Owner, directory: Path) -> Iterator[None]:
    """The lock as another process holds it: a lock belongs to the open file, not to the process."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / OWNER_FILE, asdict(owner))
    with FileLock(directory / LOCK_FILE):
        yield
    (directory / OWNER_FILE).unlink()


def config_of(folder: Path, **values: object) -> Config:
    return parse_config(
        {"name": "a", "output_dir": str(folder), "data": {"format": "movielens", "path": "x"}, **values}
    )


def test_the_second_process_learns_who_holds_the_lock_and_what_to_do(tmp_path: Path) -> None:
    owner = replace(HERE, started=Owner.this_process().started)
    with held_by(owner, tmp_path):
        with pytest.raises(RunError, match="is in use by `llmrec run other.yaml`, process") as caught, locked(tmp_path):
            pass
        message = str(caught.value)
        assert caught.value.exit_code == 2 and HERE.host in message and "(0 minutes ago)" in message
        assert f"`kill {HERE.pid}`" in message and "another `name`" in message
        assert read_json(tmp_path / OWNER_FILE) == asdict(owner)
    with locked(tmp_path):
        assert read_json(tmp_path / OWNER_FILE)["pid"] == os.getpid()
    assert not (tmp_path / OWNER_FILE).exists()


def test_a_lock_without_a_record_is_respected(tmp_path: Path) -> None:
    with FileLock(tmp_path / LOCK_FILE), pytest.raises(RunError, match="another process"), locked(tmp_path):
        pass


def test_the_block_may_lock_again(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        with locked(tmp_path / "x" / ".." / "run"):
            pass
        assert (tmp_path / "run" / OWNER_FILE).exists()


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over_and_its_leftovers_are_removed(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom llmrec.files import atomic_directory\n"
        "from llmrec.run.lock import locked\n"
        "with locked(Path(sys.argv[1])), atomic_directory(Path(sys.argv[1], 'sft', 'adapter')) as folder:\n"
        "    (folder / 'half').touch()\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=variables)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match=f"`kill {process.pid}`"), locked(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list((tmp_path / "sft").iterdir())) == 1
    with locked(tmp_path):
        assert list((tmp_path / "sft").iterdir()) == []


def test_an_owner_on_another_host_is_alive_while_it_renews_its_record(tmp_path: Path) -> None:
    write_json(tmp_path / OWNER_FILE, asdict(ELSEWHERE))  # the lock itself holds on that host alone
    with pytest.raises(RunError, match=r"on node-7\).*last sign of life is 0 s old") as caught, locked(tmp_path):
        pass
    assert f"delete {tmp_path / OWNER_FILE}" in str(caught.value)
    silent = time.time() - SILENT_SECONDS - 1
    os.utime(tmp_path / OWNER_FILE, (silent, silent))
    with locked(tmp_path):
        assert read_json(tmp_path / OWNER_FILE)["host"] == HERE.host


def test_the_advice_to_delete_the_record_works(tmp_path: Path) -> None:
    write_json(tmp_path / OWNER_FILE, asdict(ELSEWHERE))
    with pytest.raises(RunError), locked(tmp_path):
        pass
    (tmp_path / OWNER_FILE).unlink()
    with locked(tmp_path):
        pass


def test_the_record_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrec.run.lock.RENEWAL_SECONDS", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / OWNER_FILE, (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / OWNER_FILE).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / OWNER_FILE).stat().st_mtime > 0


@pytest.mark.parametrize(("pid", "refused"), [(HERE.pid, True), (ENDED_PID, False)])
def test_without_locks_of_the_system_the_record_decides(tmp_path: Path, monkeypatch, pid: int, refused: bool) -> None:
    def unsupported(self: FileLock) -> None:
        Path(self.lock_file).touch()
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(FileLock, "acquire", unsupported)
    write_json(tmp_path / OWNER_FILE, asdict(replace(HERE, pid=pid)))
    if refused:
        with pytest.raises(RunError, match="last sign of life"), locked(tmp_path):
            pass
    else:
        with locked(tmp_path), locked(tmp_path):
            assert read_json(tmp_path / OWNER_FILE)["pid"] == os.getpid()


def test_only_the_main_process_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with held_by(HERE, tmp_path), locked(tmp_path):
        pass


def test_a_file_in_place_of_the_directory_is_explained(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "")
    with pytest.raises(UserError, match="Move or rename what is in the way"), locked(tmp_path / "a"):
        pass


def test_a_damaged_record_does_not_hide_the_lock(tmp_path: Path) -> None:
    write_text(tmp_path / OWNER_FILE, '{"pid": 1}')
    with FileLock(tmp_path / LOCK_FILE), pytest.raises(RunError, match="is in use by another process"):  # noqa: SIM117
        with locked(tmp_path):
            pass


def test_a_locked_run_keeps_its_config(tmp_path: Path) -> None:
    run = Run.create(config_of(tmp_path))
    before = (run.directory / "config.yaml").read_text(encoding="utf-8")
    with held_by(HERE, run.directory):
        assert Run.create(run.config).directory == run.directory  # the same config: nothing to write
        with pytest.raises(RunError, match="is in use"):
            Run.create(config_of(tmp_path, seed=5))
    assert (run.directory / "config.yaml").read_text(encoding="utf-8") == before


def test_a_locked_run_starts_no_stage_but_its_results_can_be_read(tmp_path: Path) -> None:
    run = Run.create(config_of(tmp_path))
    run.finish("data", {"users": 3})
    with held_by(HERE, run.directory):
        said: list[str] = []
        run_all(run, "data", say=said.append)
        assert "skipped" in said[0] and Run.open(run.directory).metrics("data") == {"users": 3}
        with pytest.raises(RunError, match="is in use"):
            run_all(run, say=said.append)
        with pytest.raises(RunError, match="is in use"):
            run_stage(run, "sft")
    assert not any(run.path(stage).exists() for stage in STAGES[1:])
