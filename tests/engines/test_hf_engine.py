"""Sampling is exact: stop reasons, log-probs equal to the trainer's, batches that do not disturb one another."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lit_tpgrpo.engines.base import Engine, Policy, SamplingParams, ScoringEngine
from lit_tpgrpo.engines.hf import HFEngine, stop_ids
from lit_tpgrpo.engines.stop_strings import StopStrings
from lit_tpgrpo.engines.vllm.sampling import request_settings, to_completion
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import StopReason, TrainingSequence
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.training.padding import Padded

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15], [3], [40, 41]]


@pytest.fixture(scope="module")
def policy(random_model: str) -> TPGRPOModule:
    torch.manual_seed(0)
    module = TPGRPOModule(random_model, max_grad_norm=None)
    module.configure_model()
    # Sharper than uniform, and with some EOS, so that sampled sequences differ in length and likelihood.
    with torch.no_grad():
        weight = module.policy_model.get_input_embeddings().weight
        weight.mul_(8.0)
    return module


def spread(seed: int, prompts) -> list[int]:
    return [derived_seed(seed, i) for i in range(len(prompts))]


def sample(policy: TPGRPOModule, params: SamplingParams, n: int = 3, batch_size: int = 128, seed: int = 0):
    engine = HFEngine(batch_size)
    engine.load_weights(policy)
    done = dict(engine.sample(PROMPTS, n, params, spread(seed, PROMPTS)))
    assert sorted(done) == [0, 1, 2, 3]
    assert all(len(completions) == n for completions in done.values())
    return done


def trainer_logprobs(policy: TPGRPOModule, done, temperature: float) -> list[torch.Tensor]:
    sequences = [
        TrainingSequence(
            torch.tensor(PROMPTS[i]),
            torch.tensor(c.token_ids).long(),
            torch.tensor(c.logprobs),
            torch.zeros(len(c.token_ids)),
        )
        for i, completions in sorted(done.items())
        for c in completions
    ]
    with torch.no_grad():
        flat, _ = policy.policy(Padded(0).collate(sequences), temperature)
    return list(flat.split([len(s.completion_ids) for s in sequences]))


def test_engine_and_module_fit_the_protocols(policy: TPGRPOModule):
    assert isinstance(HFEngine(), Engine)
    policy.trainer = SimpleNamespace(global_step=0, state=SimpleNamespace(fn=TrainerFn.FITTING))  # pyright: ignore
    assert isinstance(policy, Policy)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_sampling_logprobs_equal_the_trainers(policy: TPGRPOModule, temperature: float):
    done = sample(policy, SamplingParams(24, temperature))
    ours = [torch.tensor(c.logprobs) for _, completions in sorted(done.items()) for c in completions]
    theirs = trainer_logprobs(policy, done, temperature)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    # The choice of temperature is visible: at another one the log-probs are others.
    other = trainer_logprobs(policy, done, 2.0)
    assert max(float((a - b).abs().max()) for a, b in zip(ours, other, strict=True)) > 0.1


@pytest.mark.parametrize("batch_size", [2, 128])
def test_scores_of_given_completions_are_those_of_the_whole_distribution(policy: TPGRPOModule, batch_size: int):
    """Completions of 1 to 9 tokens, against logits of each row alone; the next training step sees no change of mode."""
    engine = HFEngine(batch_size)
    engine.load_weights(policy)
    completions = [[7], [20, 21, 22], [9] * 9, [1, 2]]
    assert isinstance(engine, ScoringEngine)
    scores = engine.score(PROMPTS, completions)
    assert policy.policy_model.training
    for prompt, completion, found in zip(PROMPTS, completions, scores, strict=True):
        with torch.no_grad():
            logits = policy.policy_model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        logp = logits.log_softmax(-1)
        assert found.logprobs == pytest.approx([logp[t, i].item() for t, i in enumerate(completion)], abs=2e-5)
        assert found.entropies == pytest.approx((-(logp.exp() * logp).sum(-1)).tolist(), abs=2e-5)
    assert engine.score([], []) == []
    with pytest.raises(RuntimeError, match="score was called before load_weights"):
        HFEngine().score(PROMPTS, completions)


def test_top_p_does_not_change_which_distribution_logprobs_are_of(policy: TPGRPOModule):
    done = sample(policy, SamplingParams(24, 1.0, top_p=0.5, top_k=20))
    ours = torch.cat([torch.tensor(c.logprobs) for _, cs in sorted(done.items()) for c in cs])
    torch.testing.assert_close(ours, torch.cat(trainer_logprobs(policy, done, 1.0)), atol=2e-5, rtol=1e-5)


def test_greedy_takes_the_most_likely_token(policy: TPGRPOModule):
    done = sample(policy, SamplingParams(12, temperature=0.0), n=2)
    for i, (first, second) in done.items():
        assert first.token_ids.tolist() == second.token_ids.tolist()
        ids = list(PROMPTS[i])
        for token in first.token_ids:
            with torch.no_grad():
                logits = policy.policy_model.eval()(torch.tensor([ids])).logits[0, -1]
            assert int(logits.argmax()) == token
            ids.append(token)


def test_stop_reasons_are_exact(policy: TPGRPOModule):
    eos = policy.tokenizer.eos_token_id
    done = sample(policy, SamplingParams(40, 1.3), n=32)
    completions = [c for cs in done.values() for c in cs]
    assert {c.stop for c in completions} == {StopReason.EOS, StopReason.LENGTH}
    for c in completions:
        assert len(c.token_ids) == len(c.logprobs)
        assert eos not in c.token_ids[:-1]
        assert (c.token_ids[-1] == eos) == (c.stop is StopReason.EOS)
        assert len(c.token_ids) == 40 or c.stop is StopReason.EOS


def test_the_same_seed_gives_the_same_and_another_seed_other_solutions(policy: TPGRPOModule):
    params = SamplingParams(16)
    assert sample(policy, params, seed=1) == sample(policy, params, seed=1)
    assert sample(policy, params, seed=1) != sample(policy, params, seed=2)


def test_greedy_does_not_depend_on_the_batch(policy: TPGRPOModule):
    params = SamplingParams(16, temperature=0.0)
    one, many = sample(policy, params, n=1, batch_size=1), sample(policy, params, n=1, batch_size=128)
    assert {i: c[0].token_ids.tolist() for i, c in one.items()} == {i: c[0].token_ids.tolist() for i, c in many.items()}


def test_groups_larger_than_a_batch_come_back_whole(policy: TPGRPOModule):
    groups = sample(policy, SamplingParams(4), n=7, batch_size=3)
    assert {len(completions) for completions in groups.values()} == {7}


def test_sampling_leaves_everything_as_it_was(policy: TPGRPOModule):
    model = policy.policy_model.train()
    model.generation_config.repetition_penalty = 5.0
    before, defaults = torch.random.get_rng_state(), model.generation_config
    penalised = sample(policy, SamplingParams(8), seed=3)
    assert model.training
    assert model.generation_config is defaults
    assert torch.equal(before, torch.random.get_rng_state())
    model.generation_config.repetition_penalty = 1.0
    # The model's own repetition penalty has no say: it would make log-probs and samples disagree.
    assert penalised == sample(policy, SamplingParams(8), seed=3)


def test_the_weights_are_the_policys_own(policy: TPGRPOModule):
    engine = HFEngine()
    engine.load_weights(policy)
    params = SamplingParams(16, temperature=0.0)
    before = dict(engine.sample(PROMPTS, 1, params, spread(0, PROMPTS)))
    weight = policy.policy_model.get_input_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(weight.flip(0))
    after = dict(engine.sample(PROMPTS, 1, params, spread(0, PROMPTS)))
    with torch.no_grad():
        weight.copy_(kept)
    assert before != after


def test_prompts_that_cannot_be_sampled_are_refused(policy: TPGRPOModule):
    engine = HFEngine()
    engine.load_weights(policy)
    with pytest.raises(InputError, match="prompt 1 is empty"):
        list(engine.sample([[1], []], 1, SamplingParams(4), [0, 1]))
    with pytest.raises(InputError, match=r"prompt 0 has 4090 tokens and max_new_tokens is 10.*4096 positions"):
        list(engine.sample([[1] * 4090], 1, SamplingParams(10), [0]))


def test_misuse_is_named():
    with pytest.raises(RuntimeError, match="before load_weights"):
        list(HFEngine().sample([[1]], 1, SamplingParams(4), [0, 1]))
    with pytest.raises(ConfigError, match="batch_size of at least 1, got 0"):
        HFEngine(0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, r"temperature must be 0 \(greedy\) or positive, got -1.0"),
        ({"temperature": float("nan")}, r"temperature must be .* got nan"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\].* got 0.0"),
        ({"top_p": 2.0}, r"top_p must lie in \(0, 1\].* got 2.0"),
        ({"top_k": -1}, r"top_k must be 0 \(off\) or positive, got -1"),
    ],
    ids=str,
)
def test_sampling_settings_out_of_range_are_named(setting: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**setting)


def test_all_eos_tokens_of_a_chat_model_end_a_solution(policy: TPGRPOModule):
    model = policy.policy_model
    own = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = [7, 3]
        assert stop_ids(model, 5) == [3, 5, 7]
        model.generation_config.eos_token_id = None
        assert stop_ids(model, 5) == [5]
        with pytest.raises(ConfigError, match="no end token"):
            stop_ids(model, None)
    finally:
        model.generation_config.eos_token_id = own


def test_a_stop_string_ends_a_completion_and_is_kept(policy: TPGRPOModule):
    """Samples without stop strings, cut by hand behind the token that completes the first string, are what is expected."""
    params = SamplingParams(max_new_tokens=30, temperature=1.0)
    free = sample(policy, params, n=8)

    def text(ids) -> str:
        return policy.tokenizer.decode(list(ids), skip_special_tokens=False)

    strings = tuple(text(c.token_ids)[6:9] for c in (free[0][0], free[3][1]))
    done = sample(policy, replace(params, stop=strings), n=8, batch_size=5)
    ended = 0
    for i, completions in free.items():
        for whole, cut in zip(completions, done[i], strict=True):
            lengths = range(1, len(whole.token_ids) + 1)
            holds = [n for n in lengths if any(s in text(whole.token_ids[:n]) for s in strings)]
            n = holds[0] if holds else len(whole.token_ids)
            assert cut.token_ids.tolist() == whole.token_ids[:n].tolist()
            torch.testing.assert_close(cut.logprobs, whole.logprobs[:n], atol=2e-4, rtol=0)
            last_is_eos = n == len(whole.token_ids) and whole.stop is StopReason.EOS
            assert cut.stop is (StopReason.STOP_STRING if holds and not last_is_eos else whole.stop)
            ended += cut.stop is StopReason.STOP_STRING
    assert 2 <= ended < 32
    trained = trainer_logprobs(policy, done, 1.0)
    sampled = [torch.tensor(c.logprobs) for _, completions in sorted(done.items()) for c in completions]
    for ours, theirs in zip(sampled, trained, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


def test_a_stop_string_in_the_prompt_ends_nothing(policy: TPGRPOModule):
    params = SamplingParams(max_new_tokens=3)
    string = policy.tokenizer.decode(PROMPTS[1])[-2:]
    tokenizer = policy.tokenizer
    stops = StopStrings(tokenizer, (string,), len(PROMPTS[1]), 1)
    assert stops(torch.tensor([PROMPTS[1]]), torch.zeros(1)).tolist() == [False]
    assert stops(torch.tensor([PROMPTS[1] + PROMPTS[1]]), torch.zeros(1)).tolist() == [True]
    assert stops.ends == [len(PROMPTS[1])]
    with pytest.raises(ConfigError, match="stop strings must not be empty"):
        replace(params, stop=("",))


def test_vllm_is_asked_for_stop_strings_and_tells_them_from_end_tokens():
    plain = request_settings(SamplingParams(), 1, 0, [7])
    asked = request_settings(SamplingParams(stop=("\n\nQ:",)), 1, 0, [7])
    assert "stop" not in plain
    assert plain["detokenize"] is False
    assert (asked["stop"], asked["detokenize"], asked["skip_special_tokens"]) == (["\n\nQ:"], True, False)
    assert to_completion([5, 7], [0.0, 0.0], "stop").stop is StopReason.EOS
    assert to_completion([5, 7], [0.0, 0.0], "stop", [7]).stop is StopReason.EOS
    assert to_completion([5, 6], [0.0, 0.0], "stop", [7]).stop is StopReason.STOP_STRING
    assert to_completion([5, 6], [0.0, 0.0], "length", [7]).stop is StopReason.LENGTH
