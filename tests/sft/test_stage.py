"""The SFT stage: resuming from the newest complete checkpoint, and the counts that it reports."""

import json
from dataclasses import replace

from transformers.trainer import TRAINER_STATE_NAME

from llmrec.files import newest_checkpoint
from llmrec.sft.stage import coverage


def test_an_incomplete_checkpoint_is_skipped(tmp_path):
    assert newest_checkpoint(tmp_path, TRAINER_STATE_NAME) is None
    for step, state in ((9, {"global_step": 9}), (10, {"global_step": 10})):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "checkpoint-20").mkdir()  # the trainer state is written last
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "checkpoint-30" / "trainer_state.json").write_text('{"global_st')
    assert newest_checkpoint(tmp_path, TRAINER_STATE_NAME) == tmp_path / "checkpoint-10"


def test_coverage_counts_items_with_facts_and_users_with_attributes(policy, data):
    users = data.users.assign(age=["25", "", "", "18", "18", "35"])
    assert coverage(policy, replace(data, users=users)) == (
        "9 of 10 items have facts that can be stated; 4 of 6 users have attributes in the prompt"
    )
