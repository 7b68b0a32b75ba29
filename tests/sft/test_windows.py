"""Training windows cover the training part of every history, and only that part."""

from llmrec.config import SFTConfig
from llmrec.sft.windows import training_windows


def test_windows_cover_the_training_part_only(policy, data):
    rows = training_windows(policy, data, ["age"], SFTConfig(num_train_epochs=2.0), seed=0)
    allowed = {tuple(history.tolist()) for history in data.train_histories}
    covered = set()
    for row in rows:
        recommendation = policy.prompts.parse(row["completions"][0])
        whole = (*row["prior"], *row["items"], recommendation.item)
        assert any(history[: len(whole)] == whole for history in allowed)
        assert len(row["items"]) <= policy.catalogue.max_history
        assert recommendation.finished
        covered.add(whole)
    assert {history for history in allowed if len(history) <= 5} <= covered
