"""The command `export`: arguments and output. The files are tested in `tests/export`."""

import json
from pathlib import Path

import pytest


def test_an_output_is_needed(llmrec, capsys, run_directory: Path) -> None:
    assert llmrec("export", "--run", str(run_directory)) == 2
    assert "--merged OUT, --gguf FILE and --onnx OUT" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--gguf-type", "q4"]])
def test_missing_and_unknown_values(llmrec, capsys, arguments: list[str]) -> None:
    assert llmrec("export", *arguments) == 2
    assert "Usage:" in capsys.readouterr().err


def test_json_holds_the_result(llmrec, monkeypatch, capsys, run_directory: Path, tmp_path: Path) -> None:
    def export(run, adapter, merged, gguf, gguf_type, onnx, say) -> dict:
        say("writing")
        return {"adapter": adapter, "merged": merged, "type": gguf_type}

    monkeypatch.setattr("llmrec.export.merged.export", export)
    assert llmrec("export", "--run", str(run_directory), "--merged", str(tmp_path / "out"), "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"adapter": None, "merged": str(tmp_path / "out"), "type": "q8_0"}
    assert "writing" in err
