"""KL in the reward: worked numbers, what has no log-probs or no reward, and the credit inside."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.credit import (
    CAPOCredit,
    CreditAssignment,
    LeaveOneOutBaseline,
    MeanBaseline,
    OutcomeCredit,
    ReturnCredit,
    SequenceRewardKL,
    SuccessRateBaseline,
    ThoughtCredit,
    TokenRewardKL,
    VinePPOCredit,
)
from lit_tpgrpo.datamodules.settings_checks import checked_evidence
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Continuations, ReferenceLogprobs
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.records import Reward
from tests.credit.credit_cases import correct, group, incorrect, undecided

RLOO = OutcomeCredit(baseline=LeaveOneOutBaseline())
K = (0.2, -0.1, 0.4)


def scored(judged, *k):
    """Log-probs -1 under the policy and -1 - k under the reference."""
    logprobs = ReferenceLogprobs((-1.0,) * len(k), tuple(-1.0 - x for x in k))
    return dataclasses.replace(judged, evidence=(logprobs,))


def test_a_token_has_the_penalties_of_what_follows():
    """REINFORCE++ with rewards 1 and -1, k of 0.2, -0.1, 0.4 and beta 0.5: sums 0.5, 0.3, 0.4; lengths 1 and 9 beside."""
    judged = [
        scored(correct("CC"), *K),
        scored(incorrect("M", lengths=[1]), 2.0),
        scored(incorrect("UM", lengths=[4, 5]), *[0.1] * 9),
    ]
    one, two, three = TokenRewardKL(ReturnCredit(), beta=0.5)(group(*judged))
    assert one.advantages.tolist() == pytest.approx([0.75, 0.85, 0.8])
    assert two.advantages.tolist() == pytest.approx([-2.0])
    assert three.advantages.tolist() == pytest.approx([-1 - 0.05 * n for n in range(9, 0, -1)])
    assert one.advantages.dtype == torch.float32
    assert [c.outcome_advantage for c in (one, two, three)] == [1.0, -1.0, -1.0]


def test_a_solution_has_the_penalty_of_all_its_tokens_before_rewards_are_compared():
    """RLOO: rewards 1 - 0.25, -1 - 1, -1 - 0.45 = .75, -2, -1.45 against the means of the others."""
    judged = [
        scored(correct("CC"), *K),
        scored(incorrect("M", lengths=[1]), 2.0),
        scored(incorrect("UM", lengths=[4, 5]), *[0.1] * 9),
    ]
    credited = SequenceRewardKL(RLOO, beta=0.5)(group(*judged))
    for c, expected, n in zip(credited, (2.475, -1.65, -0.825), (3, 1, 9), strict=True):
        assert c.advantages.tolist() == pytest.approx([expected] * n)
    assert [c.judged for c in credited] == judged  # what is logged has no penalty


def test_terms_of_the_reward_stay_and_a_skipped_solution_is_left_alone():
    rewards = [
        Reward(0.5, 1.0, {"outcome": 1.0, "overlong": -0.5}),
        Reward(0.0, 0.0, {"outcome": 0.0, "overlong": 0.0}),
    ]
    judged = [scored(dataclasses.replace(correct("CC"), reward=r), *K) for r in rewards]
    skipped = scored(dataclasses.replace(correct("CC"), reward=Reward(None, 0.0, {"outcome": None})), *K)
    credited = SequenceRewardKL(RLOO, beta=0.5)(group(*judged, skipped, undecided("AA")))
    assert [c.advantages[0].item() for c in credited] == pytest.approx([0.5, -0.5, 0.0, 0.0])
    tokens = TokenRewardKL(RLOO, beta=0.5)(group(*judged, skipped, undecided("AA")))
    assert tokens[0].advantages.tolist() == pytest.approx([0.25, 0.35, 0.3])
    assert not tokens[2].advantages.any()
    assert not tokens[3].advantages.any()


def test_what_is_compared_with_nothing_has_no_penalty():
    """A group with one rewarded solution."""
    for kind in (TokenRewardKL, SequenceRewardKL):
        for credited in kind(RLOO)(group(scored(correct("CC"), *K), undecided("AA"))):
            assert not credited.advantages.any()


@pytest.mark.parametrize("kind", [TokenRewardKL, SequenceRewardKL])
def test_without_log_probs_the_credit_inside_is_left(kind):
    judged = group(correct("CIC"), incorrect("UM"))
    plain = [c.advantages.tolist() for c in RLOO(judged)]
    assert [c.advantages.tolist() for c in kind(RLOO)(judged)] == plain
    assert isinstance(kind(RLOO), CreditAssignment)


@pytest.mark.parametrize("kind", [TokenRewardKL, SequenceRewardKL])
def test_a_group_of_which_a_solution_was_not_scored_has_no_penalty(kind):
    """Else the one without would be the better one by its missing penalty; a solution without a reward need not be scored."""
    judged = [scored(correct("CC"), *K), correct("CC"), scored(incorrect("UM"), 0.5, 0.5, 0.5)]
    plain = [c.advantages.tolist() for c in RLOO(group(*judged))]
    assert [c.advantages.tolist() for c in kind(RLOO)(group(*judged))] == plain
    rewarded = [judged[0], undecided("AA"), judged[2]]
    assert [c.advantages.tolist() for c in kind(RLOO)(group(*rewarded))] != [
        c.advantages.tolist() for c in RLOO(group(*rewarded))
    ]


@settings(max_examples=25)
@given(k=st.lists(st.floats(-3, 3), min_size=3, max_size=3), beta=st.floats(0.01, 2.0))
def test_the_first_token_has_what_the_whole_solution_has(k, beta):
    """Without a baseline both forms agree on the first token."""
    judged = group(scored(correct("CC"), *k), correct("CC"))
    first = TokenRewardKL(ReturnCredit(), beta)(judged)[0].advantages[0].item()
    assert first == pytest.approx(SequenceRewardKL(ReturnCredit(), beta)(judged)[0].advantages[0].item(), abs=1e-5)


def test_needs_and_settings():
    credit = TokenRewardKL(VinePPOCredit())
    assert credit.needs == (Continuations, ReferenceLogprobs)
    with pytest.raises(ConfigError, match="TokenRewardKL needs Continuations"):
        checked_evidence(None, credit)
    assert checked_evidence(None, SequenceRewardKL(RLOO)) == ()  # the trainer gives the log-probs
    assert settings_of(SequenceRewardKL(RLOO))["credit"]["baseline"] == "LeaveOneOutBaseline"
    for beta in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"above 0 and finite, got {beta}"):
            TokenRewardKL(RLOO, beta)
    with pytest.raises(ValueError, match="same tokens, got 1 and 2"):
        ReferenceLogprobs((0.0,), (0.0, 0.0))
    with pytest.raises(ValueError, match="finite"):
        ReferenceLogprobs((0.0,), (math.nan,))


@pytest.mark.parametrize(
    "inside",
    [
        OutcomeCredit(),
        ThoughtCredit(),
        OutcomeCredit(baseline=SuccessRateBaseline()),
        CAPOCredit(),
        TokenRewardKL(RLOO),
    ],
)
def test_a_credit_that_rescales_or_ignores_the_penalised_reward_is_refused(inside):
    """Standardised, penalties of 1e-4 in a group of equal rewards would be advantages of 0.7; CAPO takes no reward."""
    with pytest.raises(ConfigError, match=rf"needs a credit .*got {type(inside).__name__}") as refused:
        SequenceRewardKL(inside)
    assert "\n" not in str(refused.value)


def test_equal_rewards_with_tiny_penalties_get_tiny_advantages():
    judged = group(scored(correct("CC"), 1e-6, 0.0, 0.0), scored(correct("CC"), 0.0, 0.0, 0.0))
    for inside in (RLOO, ThoughtCredit(baseline=MeanBaseline())):
        plain, credited = inside(judged), SequenceRewardKL(inside, beta=0.5)(judged)
        for p, c in zip(plain, credited, strict=True):
            assert c.advantages.tolist() == pytest.approx(p.advantages.tolist(), abs=1e-6)


def test_a_discounted_return_is_refused_around_the_token_penalty():
    with pytest.raises(ConfigError, match=r"ReturnCredit has gamma 0\.9; set gamma to 1"):
        TokenRewardKL(ReturnCredit(gamma=0.9))
