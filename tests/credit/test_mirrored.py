"""Mirrored credit: wrong thoughts of correct solutions have the reward's negative, everything else the outcome advantage."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit.mirrored import MirroredThoughtCredit
from lit_tpgrpo.credit.outcome import OutcomeCredit
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome, Reward
from tests.credit.credit_cases import correct, group, incorrect, solution

EXACT = {"ddof": 0, "eps": 0.0}


def advantages(credited):
    return [c.advantages.tolist() for c in credited]


def test_by_hand():
    # Rewards 1, -1, -1, -1: mean -1/2, std sqrt(3)/2, so r is sqrt(3) and -1/sqrt(3).
    judged = group(correct("CIIC"), incorrect("MUUM"), incorrect("M"), incorrect("M"))
    right, *wrong = advantages(MirroredThoughtCredit(kappa=0.5, **EXACT)(judged))
    r = 3**0.5
    assert right == pytest.approx([r, -r / 2, -r / 2, r, r])
    assert [a for row in wrong for a in row] == pytest.approx([-1 / r] * 9)


def test_kappa_0_takes_the_reward_away():
    right, _ = MirroredThoughtCredit(kappa=0.0, **EXACT)(group(correct("CIC"), incorrect("M")))
    assert right.advantages.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert right.process_rewards == (1.0, -1.0, 0.0)


def test_without_wrong_thoughts_it_is_plain_grpo():
    judged = group(correct("CC"), incorrect("UM"), solution("CA", Outcome.UNDECIDED), incorrect("MU"))
    assert advantages(MirroredThoughtCredit()(judged)) == advantages(OutcomeCredit()(judged))


labelled = st.lists(st.tuples(st.booleans(), st.text("01", min_size=1, max_size=6)), min_size=2, max_size=8)


@given(labelled, st.floats(0, 3))
def test_every_token_by_the_formula(solutions, kappa: float):
    names = {True: ("C", "I"), False: ("M", "U")}
    cases = [(correct if ok else incorrect)("".join(names[ok][int(c)] for c in t + "0")) for ok, t in solutions]
    judged = group(*cases)
    plain, got = OutcomeCredit()(judged), MirroredThoughtCredit(kappa)(judged)
    for (ok, labels), before, after in zip(solutions, plain, got, strict=True):
        wrong = torch.tensor([ok and label == "1" for label in labels + "00"])
        expected = torch.where(wrong, -kappa * before.advantages, before.advantages)
        torch.testing.assert_close(after.advantages, expected)


def test_text_that_the_answer_does_not_use_gains_nothing():
    """A filler in each solution, CORRECT or UNMATCHED: its advantages add up to 0 here, and to more by the paper's table."""
    judged = group(correct("CC"), incorrect("UM"), incorrect("UM"), incorrect("UM"))
    mirrored, table = MirroredThoughtCredit(**EXACT)(judged), ThoughtCredit(**EXACT)(judged)
    assert sum(c.advantages[0].item() for c in mirrored) == pytest.approx(0.0, abs=1e-6)
    assert sum(c.advantages[0].item() for c in table) == pytest.approx(3**0.5)


def test_settings():
    assert MirroredThoughtCredit(kappa=0.5).kappa == 0.5
    with pytest.raises(
        ConfigError, match=r"kappa must be finite and not be negative, got -1.0; -1 would be .*OutcomeCredit"
    ):
        MirroredThoughtCredit(kappa=-1.0)
    with pytest.raises(ConfigError, match=r"ddof must be 0 .population. or 1"):
        MirroredThoughtCredit(ddof=2)


def test_other_rewards_are_not_turned_round():
    """A correct solution that is worse than its group by another term: its wrong thought is not rewarded for that."""
    reward = Reward(total=-1.0, outcome=1.0, terms={"outcome": 1.0, "length": -2.0})
    shaped = dataclasses.replace(correct("IC"), reward=reward)
    plain = dataclasses.replace(incorrect("M"), reward=Reward(-1.0, -1.0, {"outcome": -1.0, "length": 0.0}))
    best = dataclasses.replace(incorrect("M"), reward=Reward(2.0, -1.0, {"outcome": -1.0, "length": 3.0}))
    # Totals -1, -1, 2 (mean 0, std sqrt 2), outcome parts 1, -1, -1 (mean -1/3): o = (4/3) / sqrt 2.
    first, *_ = MirroredThoughtCredit(**EXACT)(group(shaped, plain, best))
    r, o = -1 / 2**0.5, 4 / 3 / 2**0.5
    assert first.advantages.tolist() == pytest.approx([r - 2 * o, r, r])
