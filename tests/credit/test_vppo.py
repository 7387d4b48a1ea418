"""VPPO: the worked numbers, margins, and solutions without usable labels."""

import re

import pytest

from lit_tpgrpo.credit.vppo import FixedMargin, LengthMargin, PromptMargin, VPPOCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import StopReason
from tests.credit.credit_cases import correct, group, incorrect


def advantages(credited):
    return [c.advantages.tolist() for c in credited]


RIGHT = correct("CC", lengths=[3, 2])
WRONG = incorrect("UMM", lengths=[6, 2, 2])  # the seventh of ten tokens is the first wrong one


def test_worked_numbers():
    # Means 1 and .5 * 4 / 10: baseline .6; the prompt has two tokens, so that the prefix has four.
    right, wrong = VPPOCredit()(group(RIGHT, WRONG))
    assert right.advantages.tolist() == pytest.approx([0.4] * 5)
    assert wrong.advantages.tolist() == pytest.approx([-0.1] * 4 + [-0.6] * 6)
    assert (right.outcome_advantage, wrong.outcome_advantage) == (pytest.approx(0.4), pytest.approx(-0.6))
    assert wrong.process_rewards == pytest.approx((0.5, 0.0))
    assert advantages(VPPOCredit(margin=FixedMargin(2))(group(RIGHT, WRONG))) == advantages([right, wrong])
    floored = VPPOCredit(floor=True)(group(RIGHT, WRONG))[1]
    assert floored.advantages.tolist() == pytest.approx([0.0] * 4 + [-0.6] * 6)
    assert floored.process_rewards == pytest.approx((0.6, 0.0))


def test_an_all_wrong_group_teaches():
    # Means .2 and .1: baseline .15.
    other = incorrect("UM", lengths=[4, 6])
    one, two = VPPOCredit()(group(WRONG, other))
    assert one.advantages.tolist() == pytest.approx([0.35] * 4 + [-0.15] * 6)
    assert two.advantages.tolist() == pytest.approx([0.35] * 2 + [-0.15] * 8)


def test_an_all_correct_group_does_not():
    assert not any(map(any, advantages(VPPOCredit()(group(correct("CIC"), correct("C"))))))


def test_the_baseline_weighs_solutions_alike():
    """Lengths 1 and 9: the mean over solutions is .5, that over tokens would be .1."""
    short, long = VPPOCredit()(group(correct("C", lengths=[1]), incorrect("M", lengths=[9])))
    assert short.advantages.tolist() == pytest.approx([0.5])
    assert long.advantages.tolist() == pytest.approx([-0.5] * 9)


def test_a_solution_without_tokens_counts_by_its_outcome():
    """Means 1, .2 and 0: baseline .4. The mean of no values would make the whole group NaN."""
    nothing = [correct("C", lengths=[0]), incorrect("M", lengths=[0])]
    right, wrong, other = VPPOCredit()(group(nothing[0], WRONG, nothing[1]))
    assert wrong.advantages.tolist() == pytest.approx([0.1] * 4 + [-0.4] * 6)
    assert [len(c.advantages) for c in (right, other)] == [0, 0]
    assert [c.outcome_advantage for c in (right, other)] == pytest.approx([0.6, -0.4])


@pytest.mark.parametrize(
    ("margin", "tokens"),
    [(FixedMargin(0), 6), (FixedMargin(6), 0), (FixedMargin(200), 0), (PromptMargin(), 4), (LengthMargin(0.1), 5)],
)
def test_margins(margin, tokens):
    _, wrong = VPPOCredit(margin=margin)(group(RIGHT, WRONG))
    low = wrong.advantages[-1]
    assert [a - low for a in wrong.advantages] == pytest.approx([0.5] * tokens + [0.0] * (10 - tokens))


@pytest.mark.parametrize("tokens", [3, 3.9], ids=str)
def test_a_function_is_a_margin(tokens):
    def margin(solution):
        return tokens

    credit = VPPOCredit(margin=margin)
    assert advantages(credit(group(RIGHT, WRONG))) == advantages(VPPOCredit(margin=FixedMargin(3))(group(RIGHT, WRONG)))
    assert re.fullmatch(
        r"tests\.credit\.test_vppo\.test_a_function_is_a_margin\.<locals>\.margin#\w{8}", credit.settings["margin"]
    )


@pytest.mark.parametrize(
    "judged",
    [incorrect("AAA"), incorrect("UUM", stop=StopReason.LENGTH), incorrect("UUU", answer_step=False)],
    ids=["abstained", "truncated", "no answer block"],
)
def test_without_usable_labels_there_is_no_good_prefix(judged):
    _, one = VPPOCredit(margin=FixedMargin(0))(group(correct("CC"), judged))
    assert one.advantages.tolist() == [-0.5] * 4
    assert not any(one.process_rewards)


def test_settings():
    assert VPPOCredit(margin=LengthMargin(0.2)).settings == {
        "alpha": 0.5,
        "margin": "LengthMargin(share=0.2)",
        "floor": False,
    }
    for alpha in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"alpha must be in \(0, 1\]"):
            VPPOCredit(alpha=alpha)
    with pytest.raises(ConfigError, match="tokens must be at least 0"):
        FixedMargin(-1)
    with pytest.raises(ConfigError, match=r"share must be in \[0, 1\]"):
        LengthMargin(1.5)
