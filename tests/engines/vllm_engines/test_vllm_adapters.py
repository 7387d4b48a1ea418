"""A LoRA adapter beside the weights in a real vLLM in this process: sampled with, replaced each round, checked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.vllm import VLLMEngine
from lit_tpgrpo.errors import ConfigError, EngineError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.adapters import LoRA
from tests.engines.vllm_engines.adapted_policy import adapted_policy, train_on
from tests.engines.vllm_engines.conftest import PROMPTS, build_policy, gaps, spread

EXACT = 1e-4
OTHER = 0.01


@pytest.fixture(scope="module")
def engine():
    made = VLLMEngine(max_num_seqs=16, kv_cache_gib=0.125)
    yield made
    made.close()


@pytest.fixture
def policy(random_model):
    return adapted_policy(random_model)


def sample(engine, seed=0):
    return dict(engine.sample(PROMPTS, 2, SamplingParams(20), spread(seed, PROMPTS)))


def distance(policy: Any, engine: VLLMEngine) -> float:
    return float(gaps(policy, sample(engine), 1.0).max())


def test_the_adapter_is_sent_each_round_and_the_weights_once(engine, policy):
    engine.close()
    engine.load_weights(policy)
    assert distance(policy, engine) < EXACT
    train_on(policy, 1)
    assert distance(policy, engine) > OTHER
    engine.load_weights(policy)
    assert distance(policy, engine) < EXACT
    assert policy.base_passes == 1
    with torch.no_grad():  # weights that do not train are not looked at again
        policy.policy_model.get_input_embeddings().weight.mul_(2.0)
    engine.load_weights(policy)
    assert policy.base_passes == 1
    assert distance(policy, engine) > OTHER


def test_samples_are_not_those_of_the_weights_beneath(engine, policy, random_model):
    engine.load_weights(policy)
    plain = TPGRPOModule(random_model)
    plain.configure_model()
    assert float(gaps(plain, sample(engine), 1.0).mean()) > OTHER  # pyright: ignore


def test_weights_without_an_adapter_take_it_away_and_the_next_one_brings_all(engine, policy, random_model):
    engine.load_weights(policy)
    whole = build_policy(random_model)
    before = policy.base_passes
    engine.load_weights(whole)
    assert distance(whole, engine) < EXACT
    engine.load_weights(policy)
    assert distance(policy, engine) < EXACT
    assert policy.base_passes == before + 1


def test_a_larger_adapter_needs_a_new_vllm_and_a_part_of_the_layers_is_enough(engine, policy, random_model):
    engine.load_weights(policy)
    larger = adapted_policy(random_model, LoRA(12, 6.0, ["q_proj", "down_proj"]))
    engine.load_weights(larger)
    assert distance(larger, engine) < EXACT
    engine.load_weights(policy)
    assert distance(policy, engine) < EXACT


@pytest.mark.parametrize(
    ("held_back", "message"),
    [
        ("layers.1.mlp.down_proj.lora_B.weight", r"adapter of model\.layers\.1\.mlp\.down_proj is incomplete"),
        ("layers.0.self_attn.q_proj.lora_A.weight", r"adapter of model\.layers\.0\.self_attn\.q_proj is incomplete"),
    ],
)
def test_a_part_that_does_not_come_is_an_error_and_nothing_is_sampled(engine, policy, held_back, message):
    engine.load_weights(policy)
    policy.held_back = held_back
    with pytest.raises(EngineError, match=rf"step 3: .*{message}"):
        engine.load_weights(policy)
    with pytest.raises(EngineError, match="without weights"):
        sample(engine)
    policy.held_back, before = "nothing", policy.base_passes
    engine.load_weights(policy)  # a new vLLM, which gets the weights, too
    assert policy.base_passes == before + 1
    assert distance(policy, engine) < EXACT


def test_a_layer_that_vllm_does_not_adapt_is_an_error(engine, policy):
    policy.renamed = ("layers.1.mlp.up_proj", "layers.1.mlp.sideways_proj")
    with pytest.raises(EngineError, match=r"adapts no layer model\.layers\.1\.mlp\.sideways_proj \(one of 1\)"):
        engine.load_weights(policy)


def test_merged_where_the_user_asks(policy):
    engine = VLLMEngine(max_num_seqs=16, kv_cache_gib=0.125, adapter="merged")
    try:
        engine.load_weights(policy)
        assert distance(policy, engine) < EXACT
        assert engine._engine.vllm_config.lora_config is None
        assert policy.base_passes == 0
    finally:
        engine.close()


def test_backends_of_vllm_bring_weights_and_adapters_in_pieces(engine, policy):
    """What NCCL and CUDA IPC do, which need GPUs: ``load_weights`` of their model, again and again, from reused memory."""
    from lit_tpgrpo.engines.vllm.extension import CheckedUpdates

    class Pieces:
        def __init__(self, worker):
            self.model = worker.model_runner.get_model()
            self.model_config = worker.vllm_config.model_config

        def receive_weights(self, pairs):
            for name, tensor in pairs:
                piece = tensor.clone()
                self.model.load_weights([(name, piece)])
                if ".lora_" in name:
                    piece.fill_(torch.nan)

        def finish_weight_update(self):
            from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

            finalize_layerwise_reload(self.model, self.model_config)

    class CheckedPieces(CheckedUpdates, Pieces):
        pass

    def update(worker, *passes):
        from vllm.config import set_current_vllm_config

        worker = getattr(worker, "worker", worker)
        with set_current_vllm_config(worker.vllm_config):
            backend = CheckedPieces(worker)
            backend.start_weight_update()
            for pairs in passes:
                backend.receive_weights(pairs)
            backend.finish_weight_update()
        worker.model_runner.reset_lora_state()  # as vLLM does after each update

    engine.load_weights(policy)
    weights = policy.adapter_weights()
    train_on(policy, 2)
    engine._engine.collective_rpc(update, args=(weights.tensors(),))
    engine._engine.reset_prefix_cache()
    assert distance(policy, engine) < EXACT
    with torch.no_grad():
        policy.policy_model.get_input_embeddings().weight.mul_(2.0)
    engine._engine.collective_rpc(update, args=(weights.base_tensors(), weights.tensors()))
    engine._engine.reset_prefix_cache()
    assert distance(policy, engine) < EXACT
    partial = (pair for pair in weights.base_tensors() if "v_proj" not in pair[0])
    with pytest.raises(RuntimeError, match="2 layers did not get all of their weights"):
        engine._engine.collective_rpc(update, args=(partial,))
    with pytest.raises(RuntimeError, match="the weights beneath it were not sent completely before"):
        engine._engine.collective_rpc(update, args=(weights.tensors(),))
    engine.close()


def test_ranks_beyond_vllms_are_refused():
    from lit_tpgrpo.engines.vllm.weight_forms import max_lora_rank

    assert [max_lora_rank(rank) for rank in (1, 2, 8, 9, 512)] == [1, 8, 8, 16, 512]
    with pytest.raises(ConfigError, match="at most 512, and the policy's is 513"):
        max_lora_rank(513)
