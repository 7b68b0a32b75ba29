"""`llmrec check-text` on a prepared log."""

import json

import pytest

from llmrec.cli.app import main
from tests.configs import write_config


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A prepared run of three users and four films."""
    items = ["item_id,title,categories,year", "a,Heat (1995),Crime|Thriller,1995", "b,Big (1988),Comedy,1988"]
    items += ["c,Alien (1979),Horror,1979", "d,Fargo (1996),Crime,1996", "e,Up (2009),Comedy,2009"]
    (tmp_path / "items.csv").write_text("\n".join(items) + "\n", encoding="utf-8")
    clicks = [f"{user},{item},{time}" for user in "xyz" for time, item in enumerate("abcde")]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(clicks) + "\n", encoding="utf-8")
    config = write_config(tmp_path, data={"click": ["interaction"], "purchase": []})
    assert command(monkeypatch, "prepare", config) == 0
    return tmp_path / "runs" / "tiny"


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr("sys.argv", ["llmrec", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_statements_are_judged_by_what_was_seen_before(run, tmp_path, monkeypatch, capsys):
    """User x took a, b, c, d in this order: at c, only a and b had been seen."""
    texts = ['Like "Heat (1995)", a horror film.', "You liked Fargo, so take this comedy."]
    file = tmp_path / "texts.jsonl"
    rows = [json.dumps({"user_id": "x", "item_id": "c", "text": text}) for text in texts]
    file.write_text("\n".join(rows), encoding="utf-8")
    capsys.readouterr()
    assert command(monkeypatch, "check-text", run, file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    verdicts = [[(claim["text"], claim["verdict"]) for claim in row["claims"]] for row in found["checked"]]
    assert verdicts[0] == [("Heat (1995", "supported"), ("horror", "supported")]
    assert verdicts[1] == [("Fargo", "contradicted"), ("comedy", "contradicted")]
    assert found["statements"] == {"supported": 2, "contradicted": 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "line 1: found 'no json', expected a line such as"),
        ('{"user_id": "x", "item_id": "c", "text": " "}', "line 1: `text` is empty"),
        ('{"user_id": "x", "item_id": "q", "text": "A film."}', "line 1: There is no item with the id q"),
        ('{"user_id": "w", "item_id": "c", "text": "A film."}', "line 1: There is no user w among the 3 users"),
        ("", "holds no reasons"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(run, tmp_path, monkeypatch, capsys, line, message):
    file = tmp_path / "texts.jsonl"
    file.write_text(line, encoding="utf-8")
    assert command(monkeypatch, "check-text", run, file) == 2
    assert message in capsys.readouterr().err
