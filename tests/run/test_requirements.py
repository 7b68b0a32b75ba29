"""Optional packages that a config needs are missed before any training starts."""

from pathlib import Path

import pytest

from llmrec.config import parse_config
from llmrec.errors import ConfigError
from llmrec.run import Run


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"sft": {"optim": "adamw_bnb_8bit"}}, r"sft.optim is `adamw_bnb_8bit`.*pip install 'llmrec\[quantized\]'"),
        ({"ppo": {"optim": "adamw_bnb_8bit"}}, r"ppo.optim is `adamw_bnb_8bit`.*pip install 'llmrec\[quantized\]'"),
        ({"privacy": {"epsilon": 8.0, "delta": 1e-5}}, r"`privacy` needs.*opacus.*pip install 'llmrec\[privacy\]'"),
        ({"report_to": ["trackio"]}, r"report_to names `trackio`.*pip install 'llmrec\[trackio\]'"),
    ],
)
def test_a_package_that_is_not_installed(
    tmp_path: Path, sections: dict, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"name": "a", "output_dir": str(tmp_path), "data": {"format": "movielens", "path": "x"}}
    config = parse_config(values | sections)
    monkeypatch.setattr("llmrec.run.requirements.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=says):
        Run.create(config)
    assert not list(tmp_path.iterdir())
