"""Rows draw from streams of their own, with the right frequencies, whatever is sampled beside them."""

from __future__ import annotations

import torch

from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.engines.seeded_choice import SeededChoice, truncations
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [3], [40, 41], [50, 51, 52]]


def drawn(probabilities: list[float], seeds: list[int], length: int) -> torch.Tensor:
    """(rows, length) tokens, each from the same distribution."""
    scores = torch.tensor(probabilities).log().expand(len(seeds), -1)
    choice = SeededChoice(seeds, length, width=2, device=CPU)
    steps = [choice(torch.zeros(len(seeds), 2 + t, dtype=torch.long), scores) for t in range(length)]
    assert all((step > -torch.inf).sum(1).eq(1).all() for step in steps)
    return torch.stack([step.argmax(1) for step in steps], 1)


def test_tokens_come_as_often_as_their_probabilities_say():
    probabilities = [0.5, 0.0, 0.3, 0.15, 0.05, 0.0]
    found = drawn(probabilities, list(range(40)), 500)
    shares = torch.bincount(found.flatten(), minlength=6) / found.numel()
    # 20,000 draws: the standard error of a share is at most 0.0036.
    assert (shares - torch.tensor(probabilities)).abs().max() < 0.015
    assert shares[1] == shares[5] == 0


def test_a_stream_is_that_of_its_seed_alone():
    probabilities = [0.25] * 4
    raise_if_any_failed = drawn(probabilities, [7, 8, 9], 50)
    assert torch.equal(drawn(probabilities, [9], 50)[0], raise_if_any_failed[2])
    assert torch.equal(drawn(probabilities, [9, 7], 50)[1], raise_if_any_failed[0])
    assert not torch.equal(raise_if_any_failed[0], raise_if_any_failed[1])
    # Consecutive seeds are the samples of one prompt: they must not resemble one another.
    assert 0.1 < float((raise_if_any_failed[0] == raise_if_any_failed[1]).float().mean()) < 0.5


def test_what_top_k_and_top_p_cut_is_never_drawn():
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    for params, left in ((SamplingParams(top_k=2), 2), (SamplingParams(top_p=0.6), 2), (SamplingParams(), 4)):
        kept = scores
        for cut in truncations(params):
            kept = cut(torch.zeros(1, 1, dtype=torch.long), kept)
        assert int((kept > -torch.inf).sum()) == left


def test_a_prompts_samples_do_not_depend_on_what_is_sampled_beside_it(random_model):
    model = load_causal_lm(random_model, False, torch.float32, "sdpa").eval()
    engine, params = HFEngine(batch_size=6), SamplingParams(24)
    engine.load_weights(LoadedModel(model, load_tokenizer(random_model)))
    raise_if_any_failed = dict(engine.sample(PROMPTS, 3, params, [11, 22, 33, 44, 55]))
    assert len({tuple(c.token_ids) for completions in raise_if_any_failed.values() for c in completions}) == 15
    order = [3, 0, 4]
    fewer = dict(engine.sample([PROMPTS[i] for i in order], 3, params, [[11, 22, 33, 44, 55][i] for i in order]))
    for place, i in enumerate(order):
        assert [c.token_ids.tolist() for c in fewer[place]] == [c.token_ids.tolist() for c in raise_if_any_failed[i]]
    (again,) = dict(engine.sample([PROMPTS[1]], 1, params, [22 + 2])).values()
    assert again[0].token_ids.tolist() == raise_if_any_failed[1][2].token_ids.tolist()


def test_batches_hold_whole_prompts_and_come_again_as_they_were(random_model):
    """The rest of a round, sampled after an interruption, is bit for bit that of an uninterrupted one."""
    engine = HFEngine(batch_size=6)
    engine.load_weights(
        LoadedModel(load_causal_lm(random_model, False, None, "sdpa").eval(), load_tokenizer(random_model))
    )
    assert [engine.prompts_at_once(n) for n in (1, 3, 4, 6, 9)] == [6, 2, 1, 1, 1]
    seeds = [1, 2, 3, 4, 5]
    whole = list(engine.sample(PROMPTS, 3, SamplingParams(12), seeds))
    assert [i for i, _ in whole] == [1, 0, 4, 3, 2]  # longest first, two at once
    left = [i for i, _ in whole[2:]]
    rest = sorted(left)
    again = dict(engine.sample([PROMPTS[i] for i in rest], 3, SamplingParams(12), [seeds[i] for i in rest]))
    for place, i in enumerate(rest):
        assert again[place] == dict(whole)[i]
    (large,) = HFEngine.sample(engine, [PROMPTS[0]], 8, SamplingParams(12), [9])
    assert len(large[1]) == 8
