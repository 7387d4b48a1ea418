"""A LoRA adapter on its way to a real vLLM server: the weights once, the adapter each round, both to one that restarted."""

from __future__ import annotations

import pytest

from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.vllm import VLLMServer
from lit_tpgrpo.errors import EngineError
from lit_tpgrpo.serve import arguments
from lit_tpgrpo.training.adapters import LoRA
from tests.engines.vllm_engines.adapted_policy import adapted_policy, train_on
from tests.engines.vllm_engines.conftest import PROMPTS, build_policy, gaps, spread
from tests.engines.vllm_engines.real_server import KEY, RealServer

EXACT = 1e-4


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)


@pytest.fixture(scope="module")
def server(random_model, tmp_path_factory):
    started = RealServer(random_model, tmp_path_factory.mktemp("server"), "--adapter-rank", "4")
    started.launch()
    started.await_ready()
    yield started
    started.end()


def sample(engine):
    return dict(engine.sample(PROMPTS, 2, SamplingParams(20), spread(0, PROMPTS)))


def test_the_weights_once_the_adapter_each_round_and_both_after_a_restart(server, random_model):
    engine = VLLMServer(server.url, probe_interval_s=0.2)
    policy = adapted_policy(random_model)
    engine.load_weights(policy)
    assert gaps(policy, sample(engine), 1.0).max() < EXACT  # pyright: ignore
    passes = policy.base_passes  # one for names and shapes, one for the weights
    assert passes == 2
    train_on(policy, 1)
    assert gaps(policy, sample(engine), 1.0).mean() > 0.01  # pyright: ignore
    engine.load_weights(policy)
    assert gaps(policy, sample(engine), 1.0).max() < EXACT  # pyright: ignore
    assert policy.base_passes == passes

    server.kill()
    server.launch()
    server.await_ready()
    # In mid-round: it is noticed to have been started again, and given what the round is sampled with.
    assert gaps(policy, sample(engine), 1.0).max() < EXACT  # pyright: ignore
    assert policy.base_passes == passes + 1

    policy.held_back = "layers.1.mlp.down_proj.lora_B.weight"
    other = VLLMServer(server.url)  # has announced nothing yet
    with pytest.raises(EngineError, match=r"adapter of model\.layers\.1\.mlp\.down_proj is incomplete"):
        other.load_weights(policy)
    with pytest.raises(EngineError, match="without weights"):
        sample(other)
    policy.held_back = "nothing"
    engine = VLLMServer(server.url)
    engine.load_weights(policy)
    assert gaps(policy, sample(engine), 1.0).max() < EXACT  # pyright: ignore
    whole = build_policy(random_model)
    engine.load_weights(whole)
    assert gaps(whole, sample(engine), 1.0).max() < EXACT
    merged = VLLMServer(server.url, adapter="merged")
    merged.load_weights(policy)
    assert gaps(policy, sample(merged), 1.0).max() < EXACT  # pyright: ignore
    larger = adapted_policy(random_model, LoRA(12, 6.0))
    with pytest.raises(EngineError, match=r"takes no adapters of rank 12; start it with .* --adapter-rank 12`, or set"):
        VLLMServer(server.url).load_weights(larger)
    merged.close()


def test_the_arguments_of_a_server_for_adapters():
    words = arguments(["some/model", "--adapter-rank", "9"], cpu=True)
    assert "--enable-lora" in words
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert words[words.index("--lora-modules") + 1] == "policy=policy"
    assert "--enable-lora" not in arguments(["some/model"], cpu=True)
