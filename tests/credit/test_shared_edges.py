"""What every credit assignment of the package keeps to, whatever its formula."""

import dataclasses
import inspect
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lit_tpgrpo.credit
from lit_tpgrpo.credit import (
    CAPOCredit,
    CreditAssignment,
    GDPOCredit,
    GroupCredit,
    GroupRelativeCredit,
    MirroredThoughtCredit,
    OutcomeCredit,
    ProcessSupervisedCredit,
    PURECredit,
    ReturnCredit,
    StandardisedBaseline,
    ThoughtCredit,
)
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome, Reward, StopReason
from tests.credit.credit_cases import correct, group, incorrect, retold, solution, undecided

PUBLISHED = [getattr(lit_tpgrpo.credit, name) for name in lit_tpgrpo.credit.__all__]
KINDS = [kind for kind in PUBLISHED if issubclass(kind, GroupCredit) and not inspect.isabstract(kind)]
# Those that need evidence: tests/credit/test_continuation_credit.py.
KINDS = [kind for kind in KINDS if not hasattr(kind, "needs")]


def advantages(credited):
    return [c.advantages.tolist() for c in credited]


solutions = st.one_of(
    st.text("CI", max_size=4).map(lambda labels: correct(labels + "C")),
    st.text("MU", max_size=4).map(lambda labels: incorrect(labels + "M")),
    st.sampled_from([undecided("AA"), correct("AAA"), incorrect("UUM", stop=StopReason.LENGTH)]),
    st.just(solution("UM", Outcome.UNVERIFIABLE)),
)


@pytest.mark.parametrize("kind", KINDS)
def test_interface_and_group_of_one(kind):
    assert isinstance(kind(), CreditAssignment)
    with pytest.raises(ConfigError, match=r"'p' has 1 solution: .* at least 2"):
        kind()(group(correct("C")))


@pytest.mark.parametrize("kind", KINDS)
@given(judged=st.lists(solutions, min_size=2, max_size=7), seed=st.integers(0, 99))
def test_the_order_of_the_group_does_not_matter(kind, judged, seed):
    order = random.Random(seed).sample(range(len(judged)), len(judged))
    straight = kind()(group(*judged))
    shuffled = kind()(group(*(judged[i] for i in order)))
    for i, one in zip(order, shuffled, strict=True):
        assert one.judged is judged[i]
        assert one.advantages.dtype == torch.float32
        assert one.advantages.shape == (len(judged[i].solution.completion_ids),)
        assert len(one.process_rewards) == len(one.thoughts)
        torch.testing.assert_close(one.advantages, straight[i].advantages, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_undecided_solutions_get_no_credit_and_the_others_as_if_they_were_absent(kind):
    others = [correct("CICC"), incorrect("MUUM"), correct("CC")]
    alone = advantages(kind()(group(*others)))
    credited = kind()(group(undecided("AAA"), *others, undecided("AA"), capability=2 / 3))
    assert advantages(credited) == [[0.0] * 4, *alone, [0.0] * 3]
    assert any(map(any, alone))
    assert not any(credited[0].process_rewards)
    assert credited[0].outcome_advantage == 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decided", [[], [correct("IC")], [incorrect("UM")]])
def test_fewer_than_two_decided_solutions_have_nothing_to_be_compared_with(kind, decided):
    for credited in kind()(group(*decided, undecided("AA"), undecided("A"))):
        assert not credited.advantages.any()
        assert not any(credited.process_rewards)


@pytest.mark.parametrize("kind", KINDS)
def test_unverifiable_is_rewarded_as_incorrect(kind):
    one = advantages(kind()(group(correct("CIC"), incorrect("UM"))))
    assert one == advantages(kind()(group(correct("CIC"), solution("UM", Outcome.UNVERIFIABLE))))


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not ReturnCredit])  # its baseline is the batch stage
def test_a_group_that_is_alike_in_outcomes_and_labels_teaches_nothing(kind):
    for judged in (group(correct("C"), correct("C")), group(incorrect("MM"), incorrect("MM"))):
        assert not any(map(any, advantages(kind()(judged))))


@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_that_do_not_tile_are_named(kind):
    with pytest.raises(ValueError, match="sample 0 of problem 'p' has steps that do not cover its 4 tokens"):
        kind()(group(incorrect("M"), retold([(0, 1), (2, 3), (3, 4)])))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_tokens_is_allowed(kind):
    credited = kind()(group(incorrect("UM"), retold([(0, 1), (1, 1), (1, 4)], "CIC")))
    assert [len(c.advantages) for c in credited] == [3, 4]


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if not issubclass(k, GroupRelativeCredit | ReturnCredit | GDPOCredit)]
)
def test_reward_terms_that_give_no_credit_are_warned_of(kind):
    shaped = dataclasses.replace(correct("CC"), reward=Reward(0.5, 1.0, {"outcome": 1.0, "overlong": -0.5}))
    with pytest.warns(UserWarning, match=f"{kind.__name__} uses outcomes and step labels alone"):
        kind()(group(shaped, incorrect("UM")))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (OutcomeCredit, "eps"),
        (StandardisedBaseline, "eps"),
        (CAPOCredit, "eps"),
        (CAPOCredit, "process_weight"),
        (ProcessSupervisedCredit, "eps"),
        (MirroredThoughtCredit, "kappa"),
        (PURECredit, "outcome_weight"),
        (ThoughtCredit, "alpha"),
    ],
)
def test_settings_that_are_not_finite_are_refused(build, argument, value):
    with pytest.raises(ConfigError, match=f"finite.*{value}"):
        build(**{argument: value})
