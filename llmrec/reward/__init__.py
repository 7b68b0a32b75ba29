"""The reward that PPO maximizes, and the stage that fits the models it is made of.

Classes with "reward" in their names:

| class | what it is |
|---|---|
| `llmrec.reward.protocol.RewardFunction` | what PPO calls: recommendations and decisions to rewards |
| `llmrec.reward.protocol.RewardBatch` | what a reward function returns for a batch of recommendations |
| `llmrec.reward.composite.CompositeReward` | the reward function of a run: weighted models, penalties and functions |
| `reward_models.RewardModel` | base class of models that score all items after a history |
| `reward_models.ClickPurchaseModel` | a reward model: one transformer |
| `reward_models.RewardEnsemble` | a reward model: several transformers and, optionally, a linear model |
| `reward_models.text.model.TextRewardModel` | log-odds of one recommendation as text; not a `RewardModel` |
| `llmrec.config.RewardConfig` | config section `reward`: training of the models and weights of the parts |
| `llmrec.config.reward.TextRewardConfig` | config section `reward.text` |

`reward_models.EaseJudge` is the independent second opinion. It has the same unit, but PPO never maximizes it.
"""
