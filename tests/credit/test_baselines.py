"""Baselines: the worked numbers, what they have in common, and each under outcome and thought credit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit.baselines import (
    LeaveOneOutBaseline,
    MeanBaseline,
    StandardisedBaseline,
    SuccessRateBaseline,
)
from lit_tpgrpo.credit.outcome import OutcomeCredit
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.credit.unadapted import UnadaptedThoughtCredit
from lit_tpgrpo.errors import ConfigError
from tests.credit.credit_cases import correct, group, incorrect

ALL = [StandardisedBaseline(eps=1e-4), MeanBaseline(), LeaveOneOutBaseline(), SuccessRateBaseline()]


@pytest.mark.parametrize(
    ("baseline", "of_three", "of_eight"),
    [
        (StandardisedBaseline(eps=1e-4), (1.1545, -0.5773), (1.2074, -0.7244)),
        (StandardisedBaseline(eps=0.0), (1.1547, -0.5774), (1.2076, -0.7246)),
        (MeanBaseline(), (0.6667, -0.3333), (0.625, -0.375)),
        (LeaveOneOutBaseline(), (1.0, -0.5), (0.7143, -0.4286)),
        (SuccessRateBaseline(), (2.0, -1.0), (5 / 3, -1.0)),
    ],
    ids=["GRPO", "GRPO without eps", "Dr.GRPO", "RLOO", "MaxRL"],
)
def test_worked_numbers(baseline, of_three, of_eight):
    for n_correct, n, (right, wrong) in ((1, 3, of_three), (3, 8, of_eight)):
        rewards = torch.tensor([1.0] * n_correct + [0.0] * (n - n_correct), dtype=torch.float64)
        expected = [right] * n_correct + [wrong] * (n - n_correct)
        assert baseline.advantages(rewards, rewards).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("baseline", ALL, ids=lambda b: type(b).__name__)
@given(outcomes=st.lists(st.booleans(), min_size=2, max_size=9), low=st.sampled_from([0.0, -1.0, 0.1]))
def test_advantages_sum_to_zero_and_parts_add_up(baseline, outcomes, low):
    rewards = torch.tensor([1.0 if o else low for o in outcomes], dtype=torch.float64)
    whole = baseline.advantages(rewards, rewards)
    assert whole.sum().item() == pytest.approx(0.0, abs=1e-9)
    part = torch.linspace(-1, 1, len(outcomes), dtype=torch.float64)
    torch.testing.assert_close(baseline.advantages(part, rewards) + baseline.advantages(rewards - part, rewards), whole)
    if len(set(outcomes)) == 1:
        assert not whole.any()
        assert not baseline.advantages(part, rewards).any()


@given(st.lists(st.booleans(), min_size=2, max_size=9))
def test_leave_one_out_and_maxrl_against_their_definitions(outcomes):
    rewards = torch.tensor(outcomes, dtype=torch.float64)
    others = [(rewards.sum() - r) / (len(rewards) - 1) for r in rewards]
    naive = [(r - o).item() for r, o in zip(rewards, others, strict=True)]
    assert LeaveOneOutBaseline().advantages(rewards, rewards).tolist() == pytest.approx(naive, abs=1e-9)
    signs = 2 * rewards - 1
    p_normalised = (rewards - rewards.mean()) / (rewards.mean() + 1e-6)
    for r in (rewards, signs):
        torch.testing.assert_close(SuccessRateBaseline().advantages(r, r), p_normalised, rtol=1e-4, atol=1e-9)


def test_thoughts_under_another_baseline():
    # Rewards +-1 of 1 in 4: mean -.5, so 1.5 and -.5; acc 1/4, so r_c = .25. Unmatched thoughts still have 0.
    judged = group(correct("IC"), incorrect("UM"), incorrect("M"), incorrect("M"))
    credited = ThoughtCredit(baseline=MeanBaseline())(judged)
    assert [c.advantages.tolist() for c in credited[:2]] == [[1.25, 1.5, 1.5], [0.0, -0.5, -0.5]]
    credited = UnadaptedThoughtCredit(baseline=LeaveOneOutBaseline())(judged)
    assert credited[0].advantages.tolist() == [1.0, 2.0, 2.0]


def test_a_baseline_of_ones_own():
    class Halved:
        def advantages(self, part, rewards):
            return (part - part.mean()) / 2

    credit = OutcomeCredit(baseline=Halved())
    assert [c.outcome_advantage for c in credit(group(correct("C"), incorrect("M")))] == [0.5, -0.5]
    assert credit.settings == {"baseline": "Halved"}


def test_settings():
    assert ThoughtCredit(alpha=0.5).settings == {
        "alpha": 0.5,
        "baseline": "StandardisedBaseline",
        "ddof": 1,
        "eps": 1e-6,
    }
    assert OutcomeCredit(baseline=MeanBaseline()).settings == {"baseline": "MeanBaseline"}
    with pytest.raises(ConfigError, match="OutcomeCredit: ddof and eps are settings of the default baseline"):
        OutcomeCredit(ddof=0, baseline=MeanBaseline())
    with pytest.raises(ConfigError, match="ddof must be 0"):
        StandardisedBaseline(ddof=2)


def test_maxrl_needs_success_and_failure():
    rewards = torch.tensor([1.0, 0.5, 0.0])
    with pytest.raises(ConfigError, match="two rewards, success and failure, but a group has 3"):
        SuccessRateBaseline().advantages(rewards, rewards)
