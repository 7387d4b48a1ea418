"""TP-GRPO and its ablation without adaptation on groups worked by hand."""

import pytest
import torch

from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.credit.outcome import OutcomeCredit
from lit_tpgrpo.credit.step import StepCredit
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.credit.unadapted import UnadaptedThoughtCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome, StepLabel, StopReason
from tests.credit.credit_cases import correct, group, incorrect, retold, solution, undecided

EXACT = {"ddof": 0, "eps": 0.0}


def advantages(credited):
    assert credited.advantages.dtype == torch.float32
    assert len(credited.advantages) == len(credited.judged.solution.completion_ids)
    return credited.advantages.tolist()


def test_mixed_group():
    # acc 1/2, so r = +-1 and r_c = 0.5
    right, wrong = ThoughtCredit(**EXACT)(group(correct("CICC"), incorrect("MUUM")))
    assert (right.outcome_advantage, wrong.outcome_advantage) == (1.0, -1.0)
    assert advantages(right) == [1.0, 0.5, 1.0, 1.0, 1.0]
    assert right.process_rewards == (0.5, -0.5, 0.0)
    assert [t.label for t in right.thoughts] == [StepLabel.CORRECT, StepLabel.INCORRECT, StepLabel.CORRECT]
    assert advantages(wrong) == [-1.0, 0.0, 0.0, -1.0, -1.0]
    assert wrong.process_rewards == (-1.0, 1.0, 0.0)


def test_uneven_group_at_sample_std():
    # 1 of 4 correct: mean -0.5, sample std 1, r = 1.5 and -0.5, r_c = 2 * 0.25
    credited = ThoughtCredit(alpha=2.0, ddof=1, eps=0.0)(
        group(incorrect("UM"), correct("IC"), incorrect("M"), incorrect("MM"))
    )
    assert [advantages(c) for c in credited] == [
        [0.0, -0.5, -0.5],
        [1.0, 1.5, 1.5],
        [-0.5, -0.5],
        [-0.5, -0.5, -0.5],
    ]
    assert [c.process_rewards for c in credited] == [(0.5, 0.0), (-0.5, 0.0), (0.0,), (0.0,)]


def test_all_correct_group_still_teaches_through_wrong_thoughts():
    first, second = ThoughtCredit(alpha=0.75, **EXACT)(group(correct("CIC"), correct("CC")))
    assert advantages(first) == [0.0, -0.75, 0.0, 0.0]
    assert advantages(second) == [0.0, 0.0, 0.0]


def test_all_wrong_group_teaches_nothing():
    for credited in ThoughtCredit()(group(incorrect("UMUM"), incorrect("MM"))):
        assert credited.advantages.eq(0).all()
        assert not any(credited.process_rewards)


@pytest.mark.parametrize(
    "judged",
    [incorrect("AAA"), incorrect("UMM", stop=StopReason.LENGTH), incorrect("UUU", answer_step=False)],
    ids=["abstained", "truncated", "no answer block"],
)
def test_outcome_alone_where_labels_do_not_apply(judged):
    _, credited = ThoughtCredit(**EXACT)(group(correct("C"), judged))
    assert advantages(credited) == [-1.0] * 4
    assert not any(credited.process_rewards)


@pytest.mark.parametrize("kind", [ThoughtCredit, UnadaptedThoughtCredit, StepCredit, OutcomeCredit])
def test_undecided_solutions_get_no_credit_and_the_others_as_if_they_were_not_there(kind):
    others = [correct("CICC"), incorrect("MUUM"), correct("CC")]
    alone = [advantages(c) for c in kind(**EXACT)(group(*others))]
    credited = kind(**EXACT)(group(undecided("AAA"), *others, undecided("AA")))
    assert [advantages(c) for c in credited] == [[0.0] * 4, *alone, [0.0] * 3]
    assert any(map(any, alone))
    assert not any(credited[0].process_rewards)
    assert credited[0].outcome_advantage == 0.0


@pytest.mark.parametrize("kind", [ThoughtCredit, UnadaptedThoughtCredit, StepCredit, OutcomeCredit])
def test_a_solution_that_is_decided_alone_teaches_nothing(kind):
    for credited in kind(**EXACT)(group(correct("IC"), undecided("AA"), undecided("A"))):
        assert not credited.advantages.any()
        assert not any(credited.process_rewards)


def test_unverifiable_is_rewarded_as_incorrect():
    _, credited = ThoughtCredit(**EXACT)(group(correct("C"), solution("UM", Outcome.UNVERIFIABLE)))
    assert advantages(credited) == [0.0, -1.0, -1.0]


def test_capability_scales_the_reward_not_the_accuracy():
    right, _ = ThoughtCredit(**EXACT)(group(correct("IC"), incorrect("M"), capability=0.25))
    assert advantages(right) == [0.75, 1.0, 1.0]


@pytest.mark.parametrize(("n_correct", "alpha"), [(4, 2.0), (5, 1.2393), (6, 0.7698), (7, 0.4321)])
def test_wrong_thoughts_turn_negative_at_the_papers_alphas(n_correct, alpha):
    judged = group(*[correct("IC")] * n_correct, *[incorrect("M")] * (8 - n_correct))

    def wrong(a):
        return ThoughtCredit(a, **EXACT)(judged)[0].advantages[0].item()

    assert wrong(alpha - 1e-3) > 0 > wrong(alpha + 1e-3)


def test_without_adaptation_the_reward_is_fixed_and_incorrect_solutions_are_paid_as_before():
    judged = group(correct("ICIC"), incorrect("UM"))
    right, wrong = UnadaptedThoughtCredit(**EXACT)(judged)
    assert advantages(right) == [0.0, 1.0, 0.0, 1.0, 1.0]
    assert right.process_rewards == (-1.0, 1.0, -1.0, 0.0)
    assert advantages(wrong) == advantages(ThoughtCredit(**EXACT)(judged)[1]) == [0.0, -1.0, -1.0]
    assert advantages(UnadaptedThoughtCredit(2.0, **EXACT)(judged)[0])[0] == -1.0


def test_verdict_errors_surface():
    with pytest.raises(ValueError, match="labels a correct solution"):
        ThoughtCredit()(group(correct("MM"), incorrect("M")))


TILES = [(0, 1), (1, 2), (2, 4)]
BROKEN = [
    (retold(TILES, "CICIC"), "has 5 labels for 3 steps; expected one each"),
    (retold(TILES, "CC"), "has 2 labels for 3 steps; expected one each"),
    (retold([], ""), "has 0 labels for 0 steps; expected one each"),
    (retold([(0, 1), (2, 3), (3, 4)]), "has steps that do not cover its 4 tokens once and in order"),
]


@pytest.mark.parametrize("kind", [ThoughtCredit, UnadaptedThoughtCredit, StepCredit, OutcomeCredit])
@pytest.mark.parametrize(("judged", "message"), BROKEN)
def test_verdicts_are_checked_before_their_steps_are_merged(kind, judged, message):
    with pytest.raises(ValueError, match=f"the verdict on sample 0 of problem 'p' {message}"):
        kind()(group(incorrect("M"), judged))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_settings_are_refused_with_a_remedy(value):
    with pytest.raises(ConfigError, match=r"alpha must be positive.*OutcomeCredit"):
        ThoughtCredit(alpha=value)
    with pytest.raises(ConfigError, match=r"magnitude must be positive.*OutcomeCredit"):
        UnadaptedThoughtCredit(magnitude=value)


@pytest.mark.parametrize("kind", [ThoughtCredit, UnadaptedThoughtCredit])
def test_standardisation_settings_are_refused(kind):
    with pytest.raises(ConfigError, match="ddof must be 0"):
        kind(ddof=2)
    with pytest.raises(ConfigError, match="eps must be finite and not be negative"):
        kind(eps=-1e-6)


@pytest.mark.parametrize("capability", [-0.1, float("nan"), float("inf")])
def test_capability_must_be_a_scale(capability):
    with pytest.raises(ValueError, match=r"'p' has capability .*expected a finite number >= 0, such as acc_G"):
        ThoughtCredit()(group(correct("C"), incorrect("M"), capability=capability))


@pytest.mark.parametrize("kind", [ThoughtCredit, UnadaptedThoughtCredit])
def test_interface_and_group_of_one(kind):
    assert isinstance(kind(), CreditAssignment)
    with pytest.raises(ConfigError, match="has 1 solution"):
        kind()(group(correct("C")))
