"""PRIME's credit: the worked numbers of both sources and both batch stages, lengths 1 and 9, what is missing."""

import dataclasses

import pytest
import torch

from lit_tpgrpo.credit import CreditAssignment, OutcomeCredit, PRIMECredit
from lit_tpgrpo.credit.baselines import LeaveOneOutBaseline
from lit_tpgrpo.credit.batch import BatchStage, MaxScaling, PRIMENorm, Whitening
from lit_tpgrpo.datamodules.settings_checks import checked_evidence
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import TokenRewards
from lit_tpgrpo.functional.implicit_rewards import implicit_reward_loss, leave_one_out_by_means
from lit_tpgrpo.records import Reward
from tests.credit.credit_cases import correct, group, incorrect, undecided


def rewarded(judged, *values):
    return dataclasses.replace(judged, evidence=(TokenRewards(values),))


TWO = (rewarded(correct("C"), 0.4, -0.2), rewarded(incorrect("UM"), 0.1, 0.3, -0.1))


def advantages(credited):
    return [c.advantages.tolist() for c in credited]


def rescaled(stage, solutions):
    return [a.tolist() for a in stage.rescale(solutions, [stage.summarise(s) for s in solutions])]


def test_worked_numbers():
    """m = .1 and .1; compared .6, -.6 and 0, .4, -.4, summed to the end 0, -.6 and 0, 0, -.4; the outcomes are 1 and -1."""
    compared = leave_one_out_by_means([torch.tensor(q) for q in ((0.4, -0.2), (0.1, 0.3, -0.1))])
    assert [x.tolist() for x in compared] == [pytest.approx([0.6, -0.6]), pytest.approx([0.0, 0.4, -0.4], abs=1e-6)]
    one, two = advantages(PRIMECredit(outcome_weight=0.0)(group(*TWO)))
    assert one == pytest.approx([0.0, -0.6], abs=1e-6)
    assert two == pytest.approx([0.0, 0.0, -0.4], abs=1e-6)
    credited = PRIMECredit()(group(*TWO))
    one, two = advantages(credited)
    assert one == pytest.approx([1.0, 0.4])
    assert two == pytest.approx([-1.0, -1.0, -1.4])
    one, two = rescaled(Whitening(), credited)
    assert one == pytest.approx([1.3472, 0.7698], abs=1e-4)
    assert two == pytest.approx([-0.5774, -0.5774, -0.9623], abs=1e-4)


def test_worked_numbers_of_the_models_loss():
    losses = implicit_reward_loss(torch.tensor([0.2, 0.3]), torch.tensor([1.0, 0.0]), beta=0.05)
    assert losses.tolist() == pytest.approx([0.6882, 0.7007], abs=1e-4)
    assert torch.sigmoid(0.05 * torch.tensor([0.2, 0.3])).tolist() == pytest.approx([0.5025, 0.50375], abs=1e-5)


SUFFIXES = ([0.2, -0.2], [0.3, 0.2, -0.1])


def test_worked_numbers_of_the_recipes_norm():
    """Suffix sums .2, -.2 and .3, .2, -.1: divisor .3. Process parts 0, -2 and 0, 0, -1.3333; with the outcomes 1, -1 and -1,
    -1, -2.3333: mean -.8667, deviation 1.1926. Dividing the rewards first gives the same."""
    credited = PRIMECredit()(group(*TWO))
    assert max(PRIMENorm().summarise(c)[0] for c in credited) == pytest.approx(0.3)
    found = rescaled(PRIMENorm(), credited)
    assert found[0] == pytest.approx([1.5652, -0.1118], abs=1e-4)
    assert found[1] == pytest.approx([-0.1118, -0.1118, -1.2298], abs=1e-4)
    first = [rewarded(s, *(v / 0.3 for v in s.evidence[0].values)) for s in TWO]
    for one, other in zip(found, rescaled(Whitening(), PRIMECredit()(group(*first))), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    # MaxScaling on the raw suffix sums is that divisor alone.
    raw = [dataclasses.replace(c, advantages=torch.tensor(s)) for c, s in zip(credited, SUFFIXES, strict=True)]
    assert rescaled(MaxScaling(), raw)[1] == pytest.approx([1.0, 2 / 3, -1 / 3])


def test_lengths_of_one_and_nine_have_one_mean_each():
    """m = .9 and .1, sum 1: 2 x .9 - 1 = .8; of the long one 2 x .1 - 1 = -.8 a token. Outcomes 1 and -1."""
    short, long = rewarded(correct("C", lengths=[1]), 0.9), rewarded(incorrect("M", lengths=[9]), *[0.1] * 9)
    one, two = advantages(PRIMECredit()(group(short, long)))
    assert one == pytest.approx([1.8])
    assert two == pytest.approx([-0.8 * n - 1 for n in range(9, 0, -1)])


def test_weights_scale_their_source():
    plain, outcome = (advantages(PRIMECredit(process_weight=p)(group(*TWO))) for p in (1.0, 0.0))
    assert outcome == [[1.0, 1.0], [-1.0] * 3]
    for weighted, a, o in zip(advantages(PRIMECredit(0.25, 5.0)(group(*TWO))), plain, outcome, strict=True):
        assert weighted == pytest.approx([0.25 * (x - y) + 5 * y for x, y in zip(a, o, strict=True)])


def test_a_source_that_is_not_there_is_left_out():
    """Without rewards a solution has its outcome, and one that is alone in having rewards likewise."""
    none, one, two, left = advantages(PRIMECredit()(group(correct("CC"), *TWO, undecided("A"))))
    assert none == pytest.approx([0.5] * 3)
    assert one == pytest.approx([0.5, -0.1])
    assert two == pytest.approx([-1.0, -1.0, -1.4])
    assert not any(left)
    lacking = group(TWO[0], correct("CC"), incorrect("M"))
    outcomes = advantages(PRIMECredit()(lacking))
    for found, want in zip(outcomes, advantages(OutcomeCredit(baseline=LeaveOneOutBaseline())(lacking)), strict=True):
        assert found == pytest.approx([a / 2 for a in want])  # rewards of +1 and -1 there, of 1 and 0 here


def test_a_solution_without_tokens_is_in_no_mean():
    """Its mean is none, and n is 2 as without it; its outcome counts: 1 less the mean of 1 and 0, 0 less that of 1 and 1."""
    empty, one, two = PRIMECredit()(group(rewarded(correct("C", lengths=[0])), *TWO))
    assert (empty.outcome_advantage, empty.advantages.tolist()) == (0.5, [])
    assert one.advantages.tolist() == pytest.approx([0.5, -0.1])
    assert two.advantages.tolist() == pytest.approx([-1.0, -1.0, -1.4])
    # Beside it alone there is no other with rewards.
    _, left = PRIMECredit()(group(rewarded(correct("C", lengths=[0])), TWO[1]))
    assert left.advantages.tolist() == [-1.0] * 3


def test_equal_tokens_have_no_credit_after_the_batch_stage():
    same = [rewarded(correct("C"), 0.0, 0.0)] * 2
    credited = PRIMECredit()(group(*same))
    assert advantages(credited) == [[0.0, 0.0]] * 2
    assert rescaled(PRIMENorm(), credited) == rescaled(Whitening(), credited) == [[0.0, 0.0]] * 2
    assert PRIMENorm().rescale([], []) == []


def test_what_all_credit_assignments_keep_to():
    assert isinstance(PRIMECredit(), CreditAssignment)
    assert isinstance(PRIMENorm(), BatchStage)
    straight = advantages(PRIMECredit()(group(*TWO)))
    for one, other in zip(advantages(PRIMECredit()(group(*reversed(TWO)))), straight[::-1], strict=True):
        assert one == pytest.approx(other)
    with pytest.raises(ConfigError, match="'p' has 1 solution"):
        PRIMECredit()(group(TWO[0]))
    shaped = dataclasses.replace(TWO[0], reward=Reward(0.5, 1.0, {"outcome": 1.0, "overlong": -0.5}))
    with pytest.warns(UserWarning, match="PRIMECredit uses outcomes and token rewards alone"):
        PRIMECredit()(group(shaped, TWO[1]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PRIMECredit(process_weight=-1.0), "process_weight must be finite and not be negative, got -1.0"),
        (lambda: PRIMECredit(0.0, 0.0), "both 0: no solution would get credit"),
        (lambda: PRIMENorm(ddof=2), "ddof must be 0"),
        (lambda: checked_evidence(None, PRIMECredit()), r"PRIMECredit needs TokenRewards .*ImplicitRewards"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_rewards_are_those_of_the_tokens():
    with pytest.raises(ValueError, match="has 1 token rewards for 2 tokens"):
        PRIMECredit()(group(rewarded(correct("C"), 1.0), TWO[1]))
    with pytest.raises(ValueError, match="two solutions or more, none empty"):
        leave_one_out_by_means([torch.ones(2), torch.ones(0)])
