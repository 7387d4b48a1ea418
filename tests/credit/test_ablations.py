"""The paper's ablations: process rewards in correct solutions only, and in incorrect ones only."""

import pytest

from lit_tpgrpo.credit.correct_only import CorrectOnlyCredit
from lit_tpgrpo.credit.incorrect_only import IncorrectOnlyCredit
from lit_tpgrpo.credit.outcome import OutcomeCredit
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome
from tests.credit.credit_cases import correct, group, incorrect, solution

EXACT = {"ddof": 0, "eps": 0.0}


def advantages(credited):
    return [c.advantages.tolist() for c in credited]


def test_correct_only_by_hand():
    # acc 1/2, so r = +-1 and r_c = 2 * 0.5
    right, wrong = CorrectOnlyCredit(alpha=2.0, **EXACT)(group(correct("CICC"), incorrect("MUUM")))
    assert advantages([right, wrong]) == [[1.0, 0.0, 1.0, 1.0, 1.0], [-1.0] * 5]
    assert right.process_rewards == (1.0, -1.0, 0.0)
    assert wrong.process_rewards == (0.0, 0.0, 0.0)


def test_incorrect_only_by_hand():
    right, wrong = IncorrectOnlyCredit(**EXACT)(group(correct("CICC"), incorrect("MUUM")))
    assert advantages([right, wrong]) == [[1.0] * 5, [-1.0, 0.0, 0.0, -1.0, -1.0]]
    assert right.process_rewards == (0.0, 0.0, 0.0)
    assert wrong.process_rewards == (-1.0, 1.0, 0.0)


def test_an_unverifiable_solution_counts_as_incorrect():
    judged = group(correct("IC"), solution("UM", Outcome.UNVERIFIABLE))
    assert advantages(CorrectOnlyCredit(**EXACT)(judged))[1] == [-1.0] * 3
    assert advantages(IncorrectOnlyCredit(**EXACT)(judged))[1] == [0.0, -1.0, -1.0]


def test_each_side_is_that_of_the_whole_method_and_the_other_plain_grpo():
    judged = group(correct("ICIC"), incorrect("UMUM"), correct("CC"), incorrect("MM"))
    whole, plain = advantages(ThoughtCredit(alpha=0.7)(judged)), advantages(OutcomeCredit()(judged))
    assert advantages(CorrectOnlyCredit(alpha=0.7)(judged)) == [whole[0], plain[1], whole[2], plain[3]]
    assert advantages(IncorrectOnlyCredit()(judged)) == [plain[0], whole[1], plain[2], whole[3]]
    assert whole[:2] != plain[:2]


def test_settings():
    assert CorrectOnlyCredit(alpha=0.5).alpha == 0.5
    with pytest.raises(ConfigError, match="alpha must be positive"):
        CorrectOnlyCredit(alpha=0)
    with pytest.raises(ConfigError, match="IncorrectOnlyCredit has no argument 'alpha'"):
        IncorrectOnlyCredit(alpha=1.0)
