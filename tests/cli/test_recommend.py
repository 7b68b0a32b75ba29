"""The command `recommend`: titles as arguments, users of the log and the interactive loop."""

import io
import json
from pathlib import Path

import pytest

from tests.cli.conftest import CATALOGUE

pytestmark = pytest.mark.usefixtures("fake_recommender")
TITLES = ["Toy Story (1995)", "Aladdin (1992)"]


@pytest.mark.parametrize("titles_first", [True, False])
def test_titles_are_arguments_before_or_after_the_options(llmrec, capsys, run_directory: Path, titles_first) -> None:
    options = ["--run", str(run_directory), "--top-k", "1", "--json"]
    arguments = [*TITLES, *options] if titles_first else [*options, *TITLES]
    assert llmrec("recommend", *arguments) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    asked = {"user", "history", "history_ids", "exclude", "adapter", "agent", "model"}
    assert set(answer) == asked | {"recommendations"}
    assert answer["history"] == TITLES and answer["exclude"] == []
    assert [item["title"] for item in answer["recommendations"]] == ["Heat (1995)"]
    assert "a library prints this" in err


def test_exclude_is_repeated(llmrec, capsys, run_directory: Path) -> None:
    exclude = ["--exclude", "Aladdin (1992)", "--exclude", "Heat (1995)"]
    assert llmrec("recommend", "--run", str(run_directory), *exclude, "Toy Story (1995)", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["history"] == ["Toy Story (1995)"] and answer["exclude"] == ["Aladdin (1992)", "Heat (1995)"]
    assert [item["title"] for item in answer["recommendations"]] == [CATALOGUE[3]]


def test_ids_follow_the_titles(llmrec, capsys, run_directory: Path) -> None:
    ids = ["--history-ids", "1", "--history-ids", "2"]
    assert llmrec("recommend", "--run", str(run_directory), "Toy Story (1995)", *ids, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["history"] == ["Toy Story (1995)"] and answer["history_ids"] == ["1", "2"]
    assert [item["title"] for item in answer["recommendations"]] == [CATALOGUE[3]]
    assert llmrec("recommend", "--run", str(run_directory), "--history-ids", "1", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["recommendations"]) == 3


def test_a_title_that_begins_with_a_dash_follows_two_dashes(llmrec, capsys, run_directory: Path) -> None:
    assert llmrec("recommend", "--run", str(run_directory), "--", "-30- (1959)") == 2
    assert "-30- (1959) is not in the catalogue" in capsys.readouterr().err


@pytest.mark.parametrize("titles", [TITLES, TITLES[:1]])
def test_the_old_history_option_names_the_new_form(llmrec, capsys, run_directory: Path, titles: list[str]) -> None:
    assert llmrec("recommend", "--run", str(run_directory), "--history", *titles, "--json") == 2
    out, err = capsys.readouterr()
    assert out == "" and "titles are positional arguments" in err
    assert 'llmrec recommend --run DIR "Toy Story (1995)" "Aladdin (1992)" --exclude "Babe (1995)"' in err


def test_a_user_of_the_log(llmrec, capsys, run_directory: Path) -> None:
    exclude = [argument for title in TITLES for argument in ("--exclude", title)]
    assert llmrec("recommend", "--run", str(run_directory), "--user", "7", *exclude, "--adapter", "sft") == 0
    out = capsys.readouterr().out
    assert "Heat (1995)" in out and "Alien [Director's cut] (1979)" in out  # rich would read [...] as markup
    assert "because of Toy Story" in out and " 1. Toy Story" not in out


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["Haet"], "Nearest: Heat (1995)"),
        (["--user", "7", "Heat (1995)"], "not both"),
        (["--user", "7", "--history-ids", "1"], "not both"),
        ([], "--user ID"),
        (["--interactive", "--json"], "not both"),
        (["--user", "7", "--model", "x"], "exactly one of them"),
        (["--user", "7", "--revision", "v2"], "has no revisions"),
        (["--user", "7", "--adapter", "rl"], "'rl' is not one of"),
        (["--user", "7", "--top-k", "0"], "greater than or equal to 1"),
        (["--user", "7", "--exclude"], "requires an argument"),
    ],
)
def test_mistakes(llmrec, capsys, monkeypatch, run_directory: Path, arguments: list[str], shown: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert llmrec("recommend", "--run", str(run_directory), *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and shown in " ".join(err.split()) and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--user", "7"], "--user needs --run"),
        (["Heat (1995)", "--adapter", "sft"], "--adapter needs --run"),
    ],
)
def test_options_that_a_saved_adapter_does_not_have(llmrec, capsys, arguments: list[str], shown: str) -> None:
    assert llmrec("recommend", "--model", "alice/tiny", *arguments) == 2
    assert shown in capsys.readouterr().err


def test_interactive(llmrec, monkeypatch, capsys, run_directory: Path) -> None:
    lines = iter(["Haet", "Toy Story (1995); Aladdin (1992)", ":exclude Heat (1995)", ":what", "", ":quit"])
    monkeypatch.setattr("builtins.input", lambda *prompt: next(lines))
    assert llmrec("recommend", "--run", str(run_directory), "--interactive") == 0
    out = capsys.readouterr().out
    assert "Nearest: Heat" in out and "no command :what" in out
    last = out[out.rindex(" 1. ") :]
    assert last.startswith(" 1. Alien") and "Heat" not in last
    assert next(lines, None) is None


def test_a_typed_title_may_hold_the_separator(llmrec, monkeypatch, capsys, run_directory: Path) -> None:
    monkeypatch.setattr("tests.cli.conftest.CATALOGUE", ["Heat", "Cold", "Heat; Cold", "Alien"])
    lines = iter(["Heat; Cold", "Cold; Heat", ":exclude Heat; Cold", ":quit"])
    monkeypatch.setattr("builtins.input", lambda *prompt: next(lines))
    assert llmrec("recommend", "--run", str(run_directory), "--interactive") == 0
    answers = capsys.readouterr().out.split(" 1. ")[1:]
    assert [answer.partition("  p=")[0] for answer in answers] == ["Heat", "Heat; Cold", "Alien"]
    assert "excluded titles: 1" in answers[1]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_bytes_that_the_encoding_lacks_are_a_wrong_title(
    llmrec, monkeypatch, capsys, run_directory: Path, encoding: str
) -> None:
    typed = "Андрей\nHeat (1995)\n".encode()  # 0x90 is in neither encoding
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), encoding=encoding))
    assert llmrec("recommend", "--run", str(run_directory), "--interactive") == 0
    out = capsys.readouterr().out
    assert "is not in the catalogue" in out and " 1. Toy Story" in out


def test_interactive_ends_with_the_input(llmrec, monkeypatch, run_directory: Path) -> None:
    def end_of_input(*prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end_of_input)
    assert llmrec("recommend", "--run", str(run_directory), "--interactive") == 0


def test_a_request(llmrec, capsys, run_directory: Path) -> None:
    assert llmrec("recommend", "--run", str(run_directory), "--user", "7", "--request", "a funny one") == 0
    out = capsys.readouterr().out
    assert "recognized: a, funny, one" in out and "Answer to: a funny one" in out and "outside of the request" in out
    arguments = ["--user", "7", "--request", "something funny and old", "--json"]
    assert llmrec("recommend", "--run", str(run_directory), *arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["request"] == "something funny and old" and answer["recommendations"][0]["satisfies"] is True


def test_a_second_sentence_refines_the_first(llmrec, monkeypatch, capsys, run_directory: Path) -> None:
    lines = iter([":ask funny", ":ask opera", ":ask old.", ":ask and long", "Heat (1995)", ":ask", ":quit"])
    monkeypatch.setattr("builtins.input", lambda *prompt: next(lines))
    assert llmrec("recommend", "--run", str(run_directory), "--user", "7", "--interactive") == 0
    answers = [line for line in capsys.readouterr().out.splitlines() if "Answer to" in line or "No item" in line]
    shown = [line.partition("  p=")[0].strip() for line in answers]
    expected = ["funny", "funny. old.", "funny. old. and long", "funny. old. and long"]
    assert [line for line in shown if "No item" not in line] == [f"1. Answer to: {text}" for text in expected]
    assert shown[1].endswith("No item satisfies it.") and next(lines, None) is None


def test_a_batch(llmrec, capsys, run_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"
    rows = [{"user": "7", "request": "funny"}, {"history": ["Heat (1995)"]}, {"user": "8"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert llmrec("recommend", "--run", str(run_directory), "--batch", str(file), "--top-k", "1") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{key: answer[key] for key in row} for answer, row in zip(answers, rows, strict=True)] == rows
    titles = [[item["title"] for item in answer["recommendations"]] for answer in answers]
    assert titles == [["Answer to: funny"], ["Toy Story (1995)"], ["Toy Story (1995)"]]


def test_a_batch_with_other_line_ends_in_its_strings(llmrec, capsys, run_directory: Path, tmp_path: Path) -> None:
    """A byte-order mark, empty lines, and line separators that JSON allows inside of a string."""
    file = tmp_path / "people.jsonl"
    request = "a\u2028b\u0085c"
    file.write_text(json.dumps({"user": "7", "request": request}, ensure_ascii=False) + "\n\n", encoding="utf-8-sig")
    assert llmrec("recommend", "--run", str(run_directory), "--batch", str(file)) == 0
    assert [json.loads(line)["request"] for line in capsys.readouterr().out.splitlines()] == [request]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("", "is empty; expected a JSON object on each line"),
        ('{"user": "7"}\n{"user"', "line 2: found '{\"user\"', expected a JSON object"),
        ('{"user": 7}', "line 1: found"),
        ('{"user": "7", "history": []}', "line 1: found"),
        ('{"user": "7", "requests": "x"}', "line 1: found"),
        ('{"user": "7"}\n{"history": ["Haet"]}', "line 2: Haet is not in the catalogue. Nearest: Heat (1995)"),
        ('{"user": "7"}\n\n{"user": "7", "request": "an opera"}', "line 3: No item satisfies it."),
    ],
)
def test_a_wrong_batch_prints_nothing(llmrec, capsys, run_directory: Path, tmp_path: Path, content, shown) -> None:
    file = tmp_path / "people.jsonl"
    file.write_text(content)
    assert llmrec("recommend", "--run", str(run_directory), "--batch", str(file)) == 2
    out, err = capsys.readouterr()
    assert out == "" and shown in err and "Traceback" not in err


def test_a_batch_names_its_people_alone(llmrec, capsys, run_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "missing.jsonl"
    assert llmrec("recommend", "--run", str(run_directory), "--batch", str(file)) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert llmrec("recommend", "--run", str(run_directory), "--batch", str(file), "--user", "7") == 2
    assert "--batch and --user were both given" in capsys.readouterr().err
    assert llmrec("recommend", "--model", "a/b", "--batch", str(file), "--interactive") == 2
    assert "--batch and --interactive were both given" in capsys.readouterr().err
