"""Policies that are pushed to a hub and loaded again, and adapters that do not fit their base or their files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from llmrec.cli import app as cli
from llmrec.cli import process as command
from llmrec.config import ModelConfig
from llmrec.data.decision import Decision
from llmrec.data.profiles import NEW_USER
from llmrec.errors import ModelError, UserError
from llmrec.estimate import _base_config
from llmrec.hub import client
from llmrec.hub.bundle import withhold_titles
from llmrec.language import base_model as base_module
from llmrec.language.base_model import load_base
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.recommend import Recommender
from tests.conftest import TITLES, disturb, make_base, make_config, make_data
from tests.fakes.hub import Fault, Hub
from tests.hub.pushing import NAME, TOKEN, run_python

HISTORY = [0, 5, 3]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base) -> RecPolicy:
    """A policy with atomic items, which no test changes."""
    policy = RecPolicy.create(make_config(base), make_data())
    disturb(policy)
    return policy.eval()


@pytest.fixture
def saved(trained, tmp_path) -> Path:
    trained.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def _scores(policy: RecPolicy) -> torch.Tensor:
    return next(item_scores(policy, [Decision(NEW_USER, [], HISTORY)]))


def _python(server: Hub, tmp_path: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own, with an empty cache."""
    return run_python(code, server.url, *arguments, HF_HOME=str(tmp_path / "hf"))


def _edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- loading


def test_a_pushed_policy_is_bit_for_bit_the_same_in_another_process(
    server: Hub, trained: RecPolicy, base: str, tmp_path: Path
) -> None:
    """The same holds for plain peft with a base from the hub. Pickles in the repository are never requested."""
    server.store("alice/base", Path(base))
    own = trained.model_config
    trained.model_config = own.model_copy(update={"base": "alice/base"})
    try:
        url = trained.push_to_hub(NAME, private=True, revision="v2", commit_message="said so")
    finally:
        trained.model_config = own
    assert url == f"{server.url}/{NAME}/tree/v2"
    commit = server.repositories[NAME].branches["v2"][-1]
    assert commit.title == "said so" and server.repositories[NAME].commits == []
    commit.files["adapter_model.bin"] = commit.files["evil.pt"] = b"a pickle"
    assert not [name for name, content in commit.files.items() if base.encode() in content]

    code = """
import sys, torch
from peft import AutoPeftModelForCausalLM
from llmrec.cli.app import main
from tests.hub.test_policy import HISTORY, NAME, RecPolicy, _scores
scores = _scores(RecPolicy.from_pretrained(NAME, revision="v2").eval())
plain = AutoPeftModelForCausalLM.from_pretrained(NAME, revision="v2").eval()
torch.save([scores, plain(torch.tensor([[5, 6, 7]])).logits.detach()], sys.argv[1])
sys.argv = ["llmrec", "recommend", "--model", NAME, "--revision", "v2", "Red Sky", "--json"]
main()
"""
    done = _python(server, tmp_path, code, str(tmp_path / "out.pt"))
    assert done.returncode == 0, done.stderr
    scores, logits = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.equal(scores, _scores(trained))
    assert torch.equal(logits, trained.model(torch.tensor([[5, 6, 7]])).logits.detach())
    first = json.loads(done.stdout)["recommendations"][0]
    expected = Recommender(trained, trained.completion_length).recommend(history=[0])[0]
    assert (first["title"], first["justification"]) == (expected.title, expected.justification)
    assert not any(".bin" in request or ".pt" in request for request in server.requests)
    assert TOKEN not in done.stdout + done.stderr


def test_plain_peft_loads_an_adapter_of_a_truncated_base_as_its_card_says(
    server: Hub, monkeypatch, tmp_path: Path
) -> None:
    """Without the number of layers, plain peft loads another model."""
    base = make_base(tmp_path / "whole", layers=4)
    server.store("alice/base", Path(base))
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "llmrec"))
    policy = RecPolicy.create(make_config(base, model={"base": base, "layers": 3, "lora_r": 4}), make_data())
    disturb(policy)
    policy.eval().model_config = policy.model_config.model_copy(update={"base": "alice/base"})
    policy.push_to_hub(NAME)
    card = server.repositories[NAME].files["README.md"].decode()
    code = next(block for block in card.split("```python\n") if block.startswith("from peft")).split("```")[0]
    assert code.splitlines()[2:] == [f'model = AutoPeftModelForCausalLM.from_pretrained("{NAME}", num_hidden_layers=3)']
    tokens = [[5, 6, policy.vocabulary.new_tokens[3]]]
    code += f"""
import sys, torch
whole = AutoPeftModelForCausalLM.from_pretrained("{NAME}")
torch.save([plain.eval()(torch.tensor({tokens})).logits.detach() for plain in (model, whole)], sys.argv[1])
"""
    done = _python(server, tmp_path, code, str(tmp_path / "out.pt"))
    assert done.returncode == 0, done.stderr
    cut, whole = torch.load(tmp_path / "out.pt", weights_only=True)
    expected = policy.model(torch.tensor(tokens)).logits.detach()
    assert torch.equal(cut, expected) and not torch.allclose(whole, expected, atol=1e-3)


def test_a_directory_is_enough_to_recommend(saved: Path, trained: RecPolicy) -> None:
    recommender = Recommender.from_pretrained(saved)
    assert recommender.max_new_tokens == trained.completion_length == 32
    assert GenerationConfig.from_pretrained(saved).eos_token_id == trained.tokenizer.eos_token_id
    with pytest.raises(UserError, match="has no user data"):
        recommender.recommend(user="7")


def test_without_titles_items_are_named_by_their_ids(saved: Path, trained: RecPolicy) -> None:
    withhold_titles(saved)
    loaded = Recommender.from_pretrained(saved)
    assert torch.equal(_scores(loaded.policy), _scores(trained))
    assert loaded.resolve_titles(["i3", "I7"]) == [3, 7]
    assert loaded.policy.vocabulary.titles == loaded.policy.vocabulary.item_ids
    for name in ("item_vocabulary.json", "facts.json", "llmrec.json"):
        assert not [title for title, *_ in TITLES if title in (saved / name).read_text()]


@pytest.mark.parametrize(
    ("hidden_size", "layers", "message"),
    [(32, 1, "layers 2, but the base 1"), (16, 2, "hidden size 32, but the base 16")],
)
def test_another_base_is_refused(
    saved: Path, trained: RecPolicy, tmp_path: Path, hidden_size: int, layers: int, message: str
) -> None:
    other = make_base(tmp_path / "other", hidden_size, layers)
    _edit(saved / "llmrec.json", model=trained.model_config.model_dump() | {"base": other})
    with pytest.raises(ModelError, match=message):
        RecPolicy.from_pretrained(saved)


@pytest.mark.parametrize("change", ["embeddings", "norm"])
def test_other_weights_of_the_same_shape_are_refused(
    saved: Path, trained: RecPolicy, base: str, tmp_path: Path, change: str
) -> None:
    model, tokenizer = load_base(make_config(base).model)
    weight = model.get_input_embeddings().weight if change == "embeddings" else model.model.norm.weight
    weight.data *= 1.01
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    other = trained.model_config.model_dump() | {"base": str(tmp_path / "other")}
    _edit(saved / "llmrec.json", model=other)
    with pytest.raises(ModelError, match="another base.*base fingerprint"):
        RecPolicy.from_pretrained(saved)
    _edit(saved / "llmrec.json", base_fingerprint=None)  # as in adapters of early versions
    assert RecPolicy.from_pretrained(saved).base_fingerprint != trained.base_fingerprint


def test_a_base_with_another_vocabulary_is_refused_under_the_title_scheme(tmp_path: Path, base: str) -> None:
    RecPolicy.create(make_config(base, "title"), make_data()).save_pretrained(tmp_path / "a")
    model, tokenizer = load_base(make_config(base).model)
    tokenizer.add_tokens(["<|more|>"])
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    _edit(tmp_path / "a" / "llmrec.json", model=make_config(str(tmp_path / "other")).model.model_dump())
    with pytest.raises(ModelError, match=r"another base.*words \d+, but the base \d+"):
        RecPolicy.from_pretrained(tmp_path / "a")


@pytest.mark.parametrize("change", ["lacks", "has more"])
def test_weights_that_are_not_exactly_those_of_the_adapter_are_refused(saved: Path, change: str) -> None:
    path = saved / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "layers.1" in name)
    changed = {"x": weights[name].clone(), **weights}
    if change == "lacks":
        changed = {other: weight for other, weight in weights.items() if other != name}
    save_file(changed, path)
    with pytest.raises(ModelError, match=f"1 are missing or unknown, such as {name if change == 'lacks' else 'x'}"):
        RecPolicy.from_pretrained(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"},
        {"r": 8},
        {"lora_alpha": 16},
        {"use_rslora": True},
        {"target_modules": ["q_proj"]},
        {"trainable_token_indices": {"embed_tokens": [1, 2]}},
    ],
)
def test_settings_of_another_adapter_are_refused(saved: Path, change: dict) -> None:
    _edit(saved / "adapter_config.json", **change)
    with pytest.raises(ModelError, match=f"belongs to another adapter.*{next(iter(change))} differ"):
        RecPolicy.from_pretrained(saved)


def test_weights_are_never_unpickled(saved: Path) -> None:
    (saved / "adapter_model.safetensors").rename(saved / "adapter_model.bin")
    with pytest.raises(ModelError, match="never from a pickle"):
        RecPolicy.from_pretrained(saved)


def test_a_base_is_never_unpickled(saved: Path, trained: RecPolicy, base: str, tmp_path: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "other"))
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    _edit(saved / "llmrec.json", model=trained.model_config.model_dump() | {"base": str(other)})
    with pytest.raises(ModelError, match="safetensors"):
        RecPolicy.from_pretrained(saved)


@pytest.mark.parametrize("load", [load_base, _base_config])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("config.json", cut="before", times=99), "cannot be reached"),
        (Fault("config.json", status=500, times=99), r"refused to send `alice/base` \(HTTP 500\)"),
        (Fault("config.json", status=401, times=99), "set HF_TOKEN"),
        (Fault("config.json", status=503, times=1), None),
    ],
)
def test_faults_of_downloads_of_a_base_are_explained_and_temporary_ones_retried(
    server: Hub, base: str, monkeypatch, load, fault: Fault, message: str | None
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.store("alice/base", Path(base))
    server.faults = [Fault(**vars(fault))]
    if message is None:
        load(ModelConfig(base="alice/base"))
    else:
        with pytest.raises(UserError, match=message):
            load(ModelConfig(base="alice/base"))


def test_advice_to_edit_a_file_of_the_cache_names_a_copy(server: Hub, saved: Path, tmp_path: Path) -> None:
    _edit(saved / "llmrec.json", model=make_config("somewhere else").model.model_dump())
    with pytest.raises(ModelError, match="Correct `model.base`.$"):
        RecPolicy.from_pretrained(saved)
    server.store(NAME, saved)
    for load in (RecPolicy.from_pretrained, Recommender.from_pretrained):
        with pytest.raises(ModelError, match="should not be edited.*`hf download OWNER/NAME --local-dir DIR`"):
            load(NAME)


def test_full_precision_does_not_need_bitsandbytes(saved: Path, trained: RecPolicy, monkeypatch, capsys) -> None:
    _edit(saved / "llmrec.json", model=trained.model_config.model_dump() | {"quantization": "nf4"})
    monkeypatch.setattr(base_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "silence_libraries", lambda: None)
    asked = ["llmrec", "recommend", "--model", str(saved), "Red Sky", "--json"]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "--full-precision" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*asked, "--full-precision"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0 and json.loads(capsys.readouterr().out)["recommendations"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", '{"version":'),
        ("generation_config.json", "{}"),
        ("adapter_config.json", "{}"),
        ("llmrec.json", '{"format": 1, "model": {"layerz": 3}, "catalogue": {}, "item_vocabulary": ""}'),
    ],
)
def test_broken_files_are_named(saved: Path, file: str, content: str) -> None:
    (saved / file).write_text(content)
    with pytest.raises(ModelError, match=file.split(".", maxsplit=1)[0]):
        Recommender.from_pretrained(saved)


@pytest.mark.parametrize("file", ["generation_config.json", "adapter_config.json"])
def test_a_file_that_is_no_json_is_reported_once(saved: Path, file: str) -> None:
    (saved / file).write_text("{")
    with pytest.raises(ModelError) as raised:
        Recommender.from_pretrained(saved)
    assert str(raised.value).count("is not readable") == 1


def test_facts_of_another_catalogue_are_refused(saved: Path) -> None:
    _edit(saved / "facts.json", of_item=[[]], entities=[{}])
    with pytest.raises(ModelError, match="different catalogues"):
        RecPolicy.from_pretrained(saved)


def test_wrong_arguments_of_recommend_end_with_a_message(server: Hub, monkeypatch, capsys) -> None:
    monkeypatch.setattr(command, "silence_libraries", lambda: None)
    for arguments, message in (
        (["--model", "alice/none", "x"], "no such repository"),
        (["--model", NAME, "--user", "7"], "--user needs --run"),
        (["--model", NAME, "--run", ".", "x"], "one of them"),
        (["--run", ".", "--revision", "v2", "x"], "has no revisions"),
    ):
        monkeypatch.setattr(sys, "argv", ["llmrec", "recommend", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_the_token_is_in_no_message_and_no_file(server: Hub, trained: RecPolicy, tmp_path: Path, capfd, caplog) -> None:
    with caplog.at_level("DEBUG"):
        trained.push_to_hub(NAME)
        client.find_adapter(NAME)
        server.faults = [Fault("POST .*/preupload/", status=400, message=f"bad header: Bearer {TOKEN}")]
        with pytest.raises(UserError, match="<token>") as raised:
            client.upload({"README.md": Path(__file__)}, NAME, message="push")
    printed = "".join(capfd.readouterr())
    assert TOKEN not in str(raised.value) + printed + caplog.text
    assert not [name for name, content in server.repositories[NAME].files.items() if TOKEN.encode() in content]
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and TOKEN.encode() in f.read_bytes()]


def test_an_empty_main_branch_is_explained(trained: RecPolicy, server: Hub) -> None:
    trained.push_to_hub(NAME, revision="v2")
    with pytest.raises(UserError, match=f"no adapter of llmrec at `main`.*llmrec list --repo {NAME}"):
        RecPolicy.from_pretrained(NAME)


def test_a_scheme_that_is_not_that_of_the_vocabulary_is_refused(saved: Path) -> None:
    about = json.loads((saved / "llmrec.json").read_text())
    about["catalogue"]["scheme"] = "title"
    (saved / "llmrec.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match="vocabulary is not the one"):
        RecPolicy.from_pretrained(saved)
