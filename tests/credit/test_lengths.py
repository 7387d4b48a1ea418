"""Lengths 1 and 9 in one group for the credits that go by outcomes and labels alone: each token by hand.

Of four solutions the first is correct. Rewards are 1, -1, -1, -1: mean -.5, squared deviations 2.25 + 3 * .25 = 3, so
deviation 1 with ddof 1 and sqrt(3 / 4) = .8660 with ddof 0. acc_G is 1 / 4. No advantage depends on a length but those that
are whitened over tokens. The other credits have these lengths in their own files.
"""

import pytest

from lit_tpgrpo.credit import (
    CorrectOnlyCredit,
    GDPOCredit,
    IncorrectOnlyCredit,
    LeaveOneOutBaseline,
    MeanBaseline,
    MirroredThoughtCredit,
    OutcomeCredit,
    ReturnCredit,
    StepCredit,
    SuccessRateBaseline,
    ThoughtCredit,
    UnadaptedThoughtCredit,
)
from lit_tpgrpo.credit.batch import Whitening
from tests.credit.credit_cases import correct, group, incorrect

FOUR = group(
    correct("CIIC", lengths=[3, 2, 2, 2]),
    incorrect("M", lengths=[1]),
    incorrect("UUM", lengths=[2, 3, 4]),
    incorrect("UM", lengths=[1, 8]),
)


def tokens(*runs):
    """A value for each of the tokens of runs (value, length)."""
    return [value for value, length in runs for _ in range(length)]


PLAIN = [tokens((-0.5, 1)), tokens((-0.5, 9)), tokens((-0.5, 9))]
ADOPTED = [tokens((-0.5, 1)), tokens((0.0, 5), (-0.5, 4)), tokens((0.0, 1), (-0.5, 8))]
TABLE = [
    # r_c = 1 / 4 off the wrong thought; of the incorrect ones r on what the answer uses, 0 elsewhere
    (ThoughtCredit(eps=0.0), [tokens((1.5, 3), (1.25, 4), (1.5, 2)), *ADOPTED]),
    (ThoughtCredit(alpha=4.0, eps=0.0), [tokens((1.5, 3), (0.5, 4), (1.5, 2)), *ADOPTED]),
    # +-1 whatever acc_G
    (UnadaptedThoughtCredit(eps=0.0), [tokens((1.5, 3), (0.5, 4), (1.5, 2)), *ADOPTED]),
    # Steps add up: rewards .25, -.25, -.25, then 1.5; of the incorrect ones .5 for each unmatched step, then -.5
    (
        StepCredit(eps=0.0),
        [
            tokens((1.25, 3), (1.0, 2), (1.25, 2), (1.5, 2)),
            tokens((-0.5, 1)),
            tokens((0.5, 2), (0.0, 3), (-0.5, 4)),
            tokens((0.0, 1), (-0.5, 8)),
        ],
    ),
    (CorrectOnlyCredit(eps=0.0), [tokens((1.5, 3), (1.25, 4), (1.5, 2)), *PLAIN]),
    (IncorrectOnlyCredit(eps=0.0), [tokens((1.5, 9)), *ADOPTED]),
    (MirroredThoughtCredit(eps=0.0), [tokens((1.5, 3), (-1.5, 4), (1.5, 2)), *PLAIN]),
    (MirroredThoughtCredit(kappa=0.5, eps=0.0), [tokens((1.5, 3), (-0.75, 4), (1.5, 2)), *PLAIN]),
    # GRPO: 1.5 / .8660 and -.5 / .8660
    (
        OutcomeCredit(ddof=0, eps=0.0),
        [tokens((1.7321, 9)), tokens((-0.5774, 1)), tokens((-0.5774, 9)), tokens((-0.5774, 9))],
    ),
    (GDPOCredit(eps=0.0), [tokens((1.5, 9)), *PLAIN]),
    # Dr.GRPO: less the mean
    (OutcomeCredit(baseline=MeanBaseline()), [tokens((1.5, 9)), *PLAIN]),
    # RLOO: 1 - (-1), and -1 less the mean of 1, -1, -1
    (
        OutcomeCredit(baseline=LeaveOneOutBaseline()),
        [tokens((2.0, 9)), tokens((-2 / 3, 1)), tokens((-2 / 3, 9)), tokens((-2 / 3, 9))],
    ),
    # MaxRL: of 1 and 0, less the mean 1 / 4 and divided by it
    (
        OutcomeCredit(baseline=SuccessRateBaseline()),
        [tokens((3.0, 9)), tokens((-1.0, 1)), tokens((-1.0, 9)), tokens((-1.0, 9))],
    ),
    # REINFORCE++ before it whitens
    (ReturnCredit(), [tokens((1.0, 9)), tokens((-1.0, 1)), tokens((-1.0, 9)), tokens((-1.0, 9))]),
    (
        ReturnCredit(gamma=0.5),
        [
            [0.00390625, 0.0078125, 0.015625, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0],
            [-1.0],
            [-0.00390625, -0.0078125, -0.015625, -0.03125, -0.0625, -0.125, -0.25, -0.5, -1.0],
            [-0.00390625, -0.0078125, -0.015625, -0.03125, -0.0625, -0.125, -0.25, -0.5, -1.0],
        ],
    ),
]


@pytest.mark.parametrize(("credit", "expected"), TABLE, ids=[type(credit).__name__ for credit, _ in TABLE])
def test_each_token_by_hand(credit, expected):
    assert [len(row) for row in expected] == [9, 1, 9, 9]
    for one, row in zip(credit(FOUR), expected, strict=True):
        assert one.advantages.tolist() == pytest.approx(row, abs=1e-4)


TWO = group(correct("C", lengths=[1]), incorrect("M", lengths=[9]))


@pytest.mark.parametrize(
    ("credit", "right", "wrong", "short", "long"),
    [
        # 1 on 9 + 1 tokens, -1 on 19 + 9: mean -18 / 38, variance (38 - 18^2 / 38) / 37 = .7966
        (ReturnCredit(), 1.6512, -0.5897, 1.6512, -0.5897),
        # 1.5 on 9 tokens, -.5 on 19, 1 on one, -1 on 9: mean -4 / 38, squares 20.25 + 4.75 + 1 + 9 = 35, variance .9346
        (OutcomeCredit(baseline=MeanBaseline()), 1.6605, -0.4083, 1.1433, -0.9255),
    ],
    ids=["REINFORCE++", "with the mean of the group as baseline"],
)
def test_reinforce_plus_plus_whitens_the_tokens_of_all_groups(credit, right, wrong, short, long):
    credited = [*credit(FOUR), *credit(TWO)]
    stage = Whitening()
    rescaled = stage.rescale(credited, [stage.summarise(one) for one in credited])
    expected = [[right] * 9, [wrong], [wrong] * 9, [wrong] * 9, [short], [long] * 9]
    for one, row in zip(rescaled, expected, strict=True):
        assert one.tolist() == pytest.approx(row, abs=1e-4)
