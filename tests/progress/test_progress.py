"""The progress of a stage on a terminal, in a log file, in JSON lines, in TensorBoard and in trackio."""

import importlib.util
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginEventAccumulator
from torch import nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from llmrec.config import Config, parse_config
from llmrec.errors import ConfigError
from llmrec.progress import LiveTable, Sample, TrainingLog, table, watch
from llmrec.progress.records import RecordFiles, TensorBoard, as_markdown
from llmrec.run import Run

ROOT = Path(__file__).parents[2]
COLUMNS = {"objective/scores": "reward", "eval/ndcg@10": "NDCG@10"}
needs_trackio = pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="needs llmrec[trackio]")


class Screen(io.StringIO):
    """A terminal in memory."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Replaces the module `time`."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(table, "time", clock)
    return clock


class FakeTrainer:
    """Calls a watcher in the way in which a trainer calls its callbacks."""

    def __init__(self, watcher, first_step: int = 0, max_steps: int = 100):
        self.watcher = watcher
        self.state = TrainerState(global_step=first_step, max_steps=max_steps)
        self.call("on_train_begin")

    def step(self, **logs: float) -> None:
        self.state.global_step += 1
        self.call("on_log", logs={name.replace("__", "/"): value for name, value in logs.items()})
        self.call("on_step_end")

    def call(self, what: str, **more) -> None:
        getattr(self.watcher, what)(None, self.state, TrainerControl(), **more)


def sample(step: int, item: str = "Alien [Director's cut]") -> Sample:
    return Sample(step, "man of 24", ["Heat", "M*A*S*H"], item, 'As "Heat" was.', {"item": -4.25, "groundedness": 1.0})


def make_config(directory: Path, **values) -> Config:
    return parse_config(
        {"name": "tiny", "output_dir": str(directory), "data": {"format": "movielens", "path": "x"}} | values
    )


def make_table(stream: io.StringIO) -> LiveTable:
    return LiveTable("ppo", COLUMNS, Console(file=stream, width=120, height=40, highlight=False))


def drawn(watcher: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(watcher.render())
    return console.file.getvalue()


# --- the table


def test_the_table_shows_values_and_time_left(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    watcher = make_table(Screen())
    trainer = FakeTrainer(watcher)
    assert watcher.live is not None and "0/100, 0:00:00 elapsed, ETA ?" in drawn(watcher)
    for step in range(1, 13):
        clock.now += 5
        trainer.step(objective__scores=step / 8, **({"eval/ndcg@10": 0.0912} if step == 8 else {}))
    clock.now += 2
    text = drawn(watcher)
    assert "12/100, 0:01:02 elapsed, ETA 0:07:18" in text  # 88 steps of 5 s, less the 2 s that have passed
    rows = [line.split() for line in text.splitlines() if re.match(r" *\d+ +[\d.]+", line)]
    assert [row[0] for row in rows] == [str(step) for step in range(3, 13)]
    assert rows[5] == ["8", "1", "0.0912"] and rows[6] == ["9", "1.125"]  # blank where it was not measured
    watcher.on_event(12, "[KL] grew")
    watcher.on_samples([sample(12), sample(12, "Quiet")])
    text = drawn(watcher)
    for part in ("ppo 12: [KL] grew", "Heat, M*A*S*H: Alien [Director's cut]", "[item -4.25, groundedness 1]", "Quiet"):
        assert part in text
    watcher.close()
    assert watcher.console.file.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def test_metrics_of_one_step_share_a_row(clock):
    watcher = make_table(io.StringIO())
    trainer = FakeTrainer(watcher)
    trainer.step(objective__scores=0.5)
    trainer.call("on_log", logs={"eval/ndcg@10": 0.25})
    trainer.call("on_log", logs={"train_runtime": 3.0})
    assert watcher.rows == [(1, {"reward": "0.5", "NDCG@10": "0.25"})]


def test_the_display_fits_a_small_screen(clock):
    watcher = make_table(io.StringIO())
    trainer = FakeTrainer(watcher)
    for step in range(20):
        trainer.step(objective__scores=1.0)
        watcher.on_event(step, "long " * 60)
    watcher.on_samples([sample(20, "long " * 60)] * 5)
    assert len(drawn(watcher).splitlines()) <= 24


def test_a_narrow_screen_shows_the_newest_values(clock):
    columns = {name: f"unbroken-heading-{name}" for name in ("a", "b", "c")}
    watcher = LiveTable("ppo", columns, Console(file=io.StringIO(), width=40, height=24))
    trainer = FakeTrainer(watcher)
    trainer.step(a=0.1, b=0.2)
    trainer.step(a=0.3)
    watcher.console.print(watcher.render())
    lines = [line.rstrip() for line in watcher.console.file.getvalue().splitlines()]
    assert lines[-2:] == ["unbroken-heading-a 0.3,", "unbroken-heading-b 0.2"]
    assert max(map(len, lines[-4:])) <= 40


def test_without_a_terminal_lines_are_printed(clock):
    stream = io.StringIO()
    watcher = make_table(stream)
    trainer = FakeTrainer(watcher, max_steps=9)
    for step in range(1, 10):
        clock.now += 4
        trainer.step(objective__scores=float(step), **({"eval/ndcg@10": 0.5} if step == 2 else {}))
        if step == 5:
            watcher.on_event(5, "KL grew")
    watcher.close()
    assert stream.getvalue().splitlines() == [
        "ppo 1/9, 0:00:04 elapsed, ETA 0:00:32: reward 1",
        "ppo 4/9, 0:00:16 elapsed, ETA 0:00:20: reward 4, NDCG@10 0.5",  # NDCG@10 was measured since the last line
        "ppo 5: KL grew",
        "ppo 7/9, 0:00:28 elapsed, ETA 0:00:08: reward 7",
        "ppo 9/9, 0:00:36 elapsed, ETA 0:00:00: reward 9",
    ]


def test_forced_colors_do_not_make_a_file_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    watcher = make_table(io.StringIO())
    FakeTrainer(watcher)
    assert watcher.live is None


def test_a_resumed_run_starts_at_its_step(clock):
    stream = io.StringIO()
    trainer = FakeTrainer(make_table(stream), first_step=90)
    clock.now += 3
    trainer.step(objective__scores=0.5)
    assert stream.getvalue() == "ppo 91/100, 0:00:03 elapsed, ETA 0:00:27: reward 0.5\n"


def test_a_log_without_watchers_discards_everything():
    log = TrainingLog()
    log.event(1, "x")
    log.samples([sample(1)])


# --- records


def attempt(watcher, first_step: int, last_step: int) -> None:
    trainer = FakeTrainer(watcher, first_step)
    log = TrainingLog([watcher])
    if first_step == 0:
        log.event(0, "start")
    while trainer.state.global_step < last_step:
        trainer.step(objective__scores=float(100 * first_step + trainer.state.global_step))
        step = trainer.state.global_step
        log.samples([sample(step, f"from {first_step}"), sample(step)])
        log.event(step, f"from {first_step}")
        log.event(step, "second")
    watcher.close()


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_json_lines_hold_every_step_once(tmp_path):
    for first, last in ((0, 2), (0, 4), (2, 3), (2, 5)):  # killed three times; no checkpoint before the first kill
        attempt(RecordFiles(tmp_path), first, last)
    samples, events = read_lines(tmp_path / "samples.jsonl"), read_lines(tmp_path / "events.jsonl")
    assert [line["step"] for line in samples] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [line["item"] for line in samples[::2]] == ["from 0", "from 0", "from 2", "from 2", "from 2"]
    assert samples[0]["history"] == ["Heat", "M*A*S*H"] and samples[0]["rewards"] == {"item": -4.25, "groundedness": 1}
    assert [line["step"] for line in events] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert events[0] == {"step": 0, "event": "start"} and events[-2] == {"step": 5, "event": "from 2"}


def test_json_lines_with_other_line_ends_in_their_strings(tmp_path):
    """JSON leaves U+2028, U+2029 and U+0085 as they are; a resumed run reads them back."""
    text = "a\u2028b\u2029c\u0085d"
    for last in (1, 2):
        watcher = RecordFiles(tmp_path)
        trainer = FakeTrainer(watcher, last - 1)
        trainer.step(loss=1.0)
        TrainingLog([watcher]).event(last, text)
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["event"] for line in lines if line] == [text, text]


def test_a_stage_without_samples_leaves_no_empty_files(tmp_path):
    FakeTrainer(RecordFiles(tmp_path)).step(loss=1.0)
    assert list(tmp_path.iterdir()) == []


def tensorboard(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def test_tensorboard_holds_scalars_and_text_once(tmp_path):
    for first, last in ((0, 1), (0, 4), (2, 5)):
        attempt(TensorBoard(tmp_path), first, last)
    events = tensorboard(tmp_path)
    scalars = [(event.step, event.value) for event in events.Scalars("objective/scores")]
    assert scalars == [(1, 0.0), (2, 1.0), (3, 202.0), (4, 203.0), (5, 204.0)]
    # TensorBoard's own accumulator. The other one does not discard the text of earlier processes.
    events = PluginEventAccumulator(str(tmp_path)).Reload()
    texts = events.Tensors("samples/text_summary")
    assert [text.step for text in texts] == [1, 2, 3, 4, 5]
    assert texts[-1].tensor_proto.string_val[0].decode() == as_markdown([sample(5, "from 2"), sample(5)])
    said = [text.tensor_proto.string_val[0].decode() for text in events.Tensors("events/text_summary")]
    assert said == ["start", *(["from 0", "second"] * 2), *(["from 2", "second"] * 3)]


def test_titles_are_escaped_in_markdown():
    assert as_markdown([sample(1, "A | B\n*")]).splitlines()[2] == (
        r'| man of 24 | Heat; M\*A\*S\*H | A \| B \* | As "Heat" was. | item -4.25, groundedness 1 |'
    )


ATTEMPT_WITH_TRACKIO = """
import sys
from pathlib import Path
from llmrec.progress.records import Trackio
from tests.progress.test_progress import FakeTrainer, TrainingLog, sample

def refuse(event, arguments):
    if event == "socket.connect":
        raise RuntimeError(f"a connection was opened: {arguments}")

sys.addaudithook(refuse)
watcher = Trackio(Path(sys.argv[1]), "my.run", "ppo")
trainer = FakeTrainer(watcher, int(sys.argv[2]))
for _ in range(3):
    trainer.step(objective__scores=trainer.state.global_step + 1.5)
TrainingLog([watcher]).event(trainer.state.global_step, "said")
TrainingLog([watcher]).samples([sample(trainer.state.global_step)])
watcher.close()
"""


@needs_trackio
def test_trackio_stores_locally(tmp_path):
    variables = {name: value for name, value in os.environ.items() if not name.startswith("TRACKIO")}
    variables |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}

    def python(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for first_step in "02":
        assert python(ATTEMPT_WITH_TRACKIO, str(tmp_path / "trackio"), first_step) == ""  # trackio greets on stderr
    variables["TRACKIO_DIR"] = str(tmp_path / "trackio")
    read = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S; "
        "print(json.dumps({run: S.get_logs('my.run', run) for run in S.get_runs('my.run')}))"
    )
    runs = json.loads(python(read).splitlines()[-1])
    scores = {
        run: [(entry["step"], entry["objective/scores"]) for entry in logs if "objective/scores" in entry]
        for run, logs in runs.items()
    }
    assert scores == {"ppo": [(1, 1.5), (2, 2.5), (3, 3.5)], "ppo-from-2": [(3, 3.5), (4, 4.5), (5, 5.5)]}
    logs = runs["ppo"]
    assert {"_type": "trackio.markdown", "_value": "said"} in [entry.get("events") for entry in logs]
    assert any("Alien" in entry["samples"]["_value"] for entry in logs if "samples" in entry)
    assert not (tmp_path / "home" / "trackio").exists()


# --- a real trainer


class Line(nn.Module):
    """y = wx."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x, y):
        return {"loss": ((self.w * x - y) ** 2).mean()}


def make_trainer(directory: Path) -> Trainer:
    arguments = TrainingArguments(
        str(directory / "checkpoints"), report_to="none", logging_steps=1, max_steps=6, save_steps=2, use_cpu=True
    )
    return Trainer(Line(), arguments, train_dataset=[{"x": 1.0, "y": 2.0}] * 64)


def test_a_trainer_is_watched_and_resumed(tmp_path, capsys):
    run = Run.create(make_config(tmp_path))
    for checkpoint in (None, str(tmp_path / "checkpoints" / "checkpoint-4")):
        trainer = make_trainer(tmp_path)
        with watch(trainer, run, "sft", {"loss": "loss"}) as log:
            trainer.train(resume_from_checkpoint=checkpoint)
            log.event(6, "over")
    out, err = capsys.readouterr()
    assert out == "" and "sft 1/6" in err and "sft 5/6" in err and "sft 6: over" in err
    assert [event.step for event in tensorboard(run.path("sft", "logs")).Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert read_lines(run.path("sft", "events.jsonl")) == [{"step": 6, "event": "over"}]


def test_report_to_may_be_empty(tmp_path):
    run = Run.create(make_config(tmp_path, report_to=[]))
    with watch(make_trainer(tmp_path), run, "sft", {}) as log:
        assert [type(watcher) for watcher in log.watchers] == [RecordFiles, LiveTable]


def test_other_processes_are_silent(tmp_path, capsys, monkeypatch):
    run, trainer = Run.create(make_config(tmp_path)), make_trainer(tmp_path)
    monkeypatch.setenv("RANK", "1")
    with watch(trainer, run, "sft", {"loss": "loss"}) as log:
        trainer.train()
        log.event(6, "over")
    assert capsys.readouterr() == ("", "") and not run.path("sft").exists()


ON_A_TERMINAL = """
import sys
from pathlib import Path
from tests.progress.test_progress import Run, make_config, make_trainer, watch
directory = Path(sys.argv[1])
with watch(make_trainer(directory), Run.create(make_config(directory)), "ppo", {"loss": "loss"}) as log:
    trainer = log.watchers[-1]
    make_state = __import__("transformers").TrainerState(max_steps=9)
    trainer.on_train_begin(None, make_state, None)
    print("a library prints")
    raise KeyboardInterrupt
"""


def test_ctrl_c_restores_the_terminal(tmp_path):
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL, str(tmp_path)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:  # the other side is closed
        pass
    os.close(leader)
    process.communicate(timeout=60)
    assert process.returncode != 0 and b"0/9" in shown and b"a library prints" in shown
    hidden, back = shown.rindex(b"\x1b[?25l"), shown.rindex(b"\x1b[?25h")
    assert hidden < back < shown.index(b"Traceback")


# --- the option


def test_a_missing_package_is_a_config_error(tmp_path, monkeypatch):
    config = make_config(tmp_path, report_to=["tensorboard", "trackio"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'llmrec\[trackio\]'"):
        Run.create(config)


@pytest.mark.parametrize(
    ("value", "says"), [(["wandb"], "Input should be 'tensorboard' or 'trackio'"), ("trackio", "a valid list")]
)
def test_unknown_values_of_report_to_are_config_errors(tmp_path, value, says):
    with pytest.raises(ConfigError, match=f"report_to.*{says}"):
        make_config(tmp_path, report_to=value)
