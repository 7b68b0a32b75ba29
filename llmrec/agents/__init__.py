"""Learners of Stable-Baselines3 and simpler ones that act in the worlds of `llmrec.simulator`, and their comparison."""

from importlib.util import find_spec

from llmrec.errors import UserError

if any(find_spec(name) is None for name in ("gymnasium", "stable_baselines3", "sb3_contrib")):
    raise UserError("The agents need Stable-Baselines3 and gymnasium: run `pip install 'llmrec[simulate]'`.")
