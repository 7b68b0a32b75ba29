"""The command `export`: arguments and output. The files are tested in `tests/export`."""

import json
from pathlib import Path

import pytest

from llmrec.export.merged import Exported


def test_an_output_is_needed(llmrec, capsys, run_directory: Path) -> None:
    assert llmrec("export", "--run", str(run_directory)) == 2
    assert "--merged OUT, --gguf FILE and --onnx OUT" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--gguf-type", "q4"]])
def test_missing_and_unknown_values(llmrec, capsys, arguments: list[str]) -> None:
    assert llmrec("export", *arguments) == 2
    assert "Usage:" in capsys.readouterr().err


def test_json_holds_the_result(llmrec, monkeypatch, capsys, run_directory: Path, tmp_path: Path) -> None:
    def export(run, paths, adapter, gguf_type, say) -> Exported:
        say("writing")
        return Exported(adapter=adapter or "sft", paths=paths, largest_difference=0.5)

    monkeypatch.setattr("llmrec.export.merged.export", export)
    assert llmrec("export", "--run", str(run_directory), "--merged", str(tmp_path / "out"), "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "adapter": "sft",
        "merged": str(tmp_path / "out"),
        "gguf": None,
        "onnx": None,
        "largest_difference": 0.5,
    }
    assert "writing" in err
