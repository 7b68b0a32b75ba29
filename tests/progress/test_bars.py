"""The progress bar of stages without a trainer."""

import io

from rich.console import Console

from llmrec.progress import bar


def last_line(stream: io.StringIO) -> str:
    return stream.getvalue().splitlines()[-1]


def test_a_bar_shows_stage_steps_and_what_is_done() -> None:
    stream = io.StringIO()
    with bar("evaluate", Console(file=stream, width=120)) as progress:
        progress.start("ranking", 10)
        progress.advance()
        progress.advance(3)
    assert "evaluate" in last_line(stream) and "4/10" in last_line(stream) and "ranking" in last_line(stream)


def test_start_begins_again_at_zero() -> None:
    stream = io.StringIO()
    with bar("evaluate", Console(file=stream, width=120)) as progress:
        progress.start("ranking", 10)
        progress.advance(10)
        progress.start("writing", 5)
    assert "0/5" in last_line(stream) and "writing" in last_line(stream)


def test_update_sets_steps_total_and_text_at_once() -> None:
    stream = io.StringIO()
    with bar("reward", Console(file=stream, width=120)) as progress:
        progress.update(3, 20, "epoch 1: AUC 0.8")
    assert "3/20" in last_line(stream) and "epoch 1: AUC 0.8" in last_line(stream)


def test_a_narrow_bar_keeps_steps_and_text() -> None:
    stream = io.StringIO()
    with bar("evaluate", Console(file=stream, width=40)) as progress:
        progress.start("ranking of the temporal split", 1000)
        progress.advance(3)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 40 and "3/1000" in stream.getvalue()
    assert " ".join(line[-13:].strip() for line in lines).strip() == "ranking of the temporal split"


def test_the_bar_is_on_stderr_by_default(capsys) -> None:
    with bar("reward") as progress:
        progress.start("fitting", 1)
    out, err = capsys.readouterr()
    assert out == "" and "fitting" in err
