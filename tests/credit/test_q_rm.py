"""Q-RM: token rewards as advantages, normalised over the round; the worked numbers."""

import dataclasses
import math

import pytest

from lit_tpgrpo.credit import CreditAssignment, QRMCredit
from lit_tpgrpo.credit.batch import StdScaling, Whitening
from lit_tpgrpo.credit.batch.token_moments import merge_moments
from lit_tpgrpo.datamodules.settings_checks import checked_evidence
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import TokenRewards
from lit_tpgrpo.records import Reward
from tests.credit.credit_cases import correct, group, incorrect, undecided


def rewarded(judged, *values):
    return dataclasses.replace(judged, evidence=(TokenRewards(values),))


TWO = (rewarded(correct("C"), 1.0, 2.0), rewarded(incorrect("UM"), -1.0, 0.0, 4.0))


def rescaled(stage, solutions):
    return [a.tolist() for a in stage.rescale(solutions, [stage.summarise(s) for s in solutions])]


def test_worked_numbers():
    """Z = 1, 2 and -1, 0, 4: deviation 1.7205, mean 1.2, over the tokens of both."""
    credited = QRMCredit()(group(*TWO))
    assert [c.advantages.tolist() for c in credited] == [[1.0, 2.0], [-1.0, 0.0, 4.0]]
    moments = merge_moments([StdScaling().summarise(c) for c in credited], ddof=0)
    assert (moments.std, moments.mean) == (pytest.approx(1.7205, abs=1e-4), pytest.approx(1.2))
    one, two = rescaled(StdScaling(), credited)
    assert one == pytest.approx([0.5812, 1.1625], abs=1e-4)
    assert two == pytest.approx([-0.5812, 0.0, 2.3250], abs=1e-4)
    one, two = rescaled(Whitening(ddof=0), credited)
    assert one == pytest.approx([-0.1162, 0.4650], abs=1e-4)
    assert two == pytest.approx([-1.2787, -0.6975, 1.6275], abs=1e-4)


def test_tokens_count_once_whatever_their_solution():
    """Lengths 1 and 9: 3 and nine zeros have mean .3 and variance 9 / 10 - .09 = .81."""
    judged = [rewarded(correct("C", lengths=[1]), 3.0), rewarded(incorrect("M", lengths=[9]), *[0.0] * 9)]
    short, long = rescaled(Whitening(ddof=0), QRMCredit()(group(*judged)))
    assert short == pytest.approx([3.0])
    assert long == pytest.approx([-1 / 3] * 9)


def test_a_solution_without_token_rewards_has_no_credit():
    none, one, two, left = QRMCredit()(group(correct("CC"), *TWO, undecided("A")))
    assert not none.advantages.any()
    assert not none.is_compared
    assert not left.advantages.any()
    assert one.is_compared
    assert two.advantages.tolist() == [-1.0, 0.0, 4.0]


def test_what_all_credit_assignments_keep_to():
    assert isinstance(QRMCredit(), CreditAssignment)
    straight = [c.advantages.tolist() for c in QRMCredit()(group(*TWO))]
    assert [c.advantages.tolist() for c in QRMCredit()(group(*reversed(TWO)))] == straight[::-1]
    with pytest.raises(ConfigError, match="'p' has 1 solution"):
        QRMCredit()(group(TWO[0]))
    shaped = dataclasses.replace(TWO[0], reward=Reward(0.5, 1.0, {"outcome": 1.0, "overlong": -0.5}))
    with pytest.warns(UserWarning, match="QRMCredit uses token rewards alone"):
        QRMCredit()(group(shaped, TWO[1]))


def test_records_are_checked():
    with pytest.raises(ConfigError, match=r"QRMCredit needs TokenRewards .*lit_tpgrpo\.ChosenTokenLogits"):
        checked_evidence(None, QRMCredit())
    with pytest.raises(ValueError, match="finite token rewards"):
        TokenRewards((0.0, math.nan))
    with pytest.raises(ValueError, match="has 1 token rewards for 2 tokens"):
        QRMCredit()(group(rewarded(correct("C"), 1.0), TWO[1]))
