"""What holds for every published credit assignment, those that need evidence and those around others too."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lit_tpgrpo.credit
import lit_tpgrpo.credit.batch
from lit_tpgrpo.credit import (
    CAPOCredit,
    FixedMargin,
    GroupCredit,
    LeaveOneOutBaseline,
    LengthMargin,
    MeanBaseline,
    OutcomeCredit,
    ProcessSupervisedCredit,
    PURECredit,
    ReturnCredit,
    ScorePURECredit,
    SuccessRateBaseline,
    VPPOCredit,
)
from lit_tpgrpo.credit.reward_kl import RewardKL
from tests.credit.credit_cases import correct, evidenced, group, incorrect, labelled, solution, undecided


def published(package, *kinds):
    """The classes of a package that are of these kinds, and can be built."""
    members = [getattr(package, name) for name in package.__all__]
    return [m for m in members if inspect.isclass(m) and issubclass(m, kinds) and not inspect.isabstract(m)]


def built(kind):
    return kind(OutcomeCredit(baseline=LeaveOneOutBaseline())) if issubclass(kind, RewardKL) else kind()


CREDITS = [built(kind) for kind in published(lit_tpgrpo.credit, GroupCredit, RewardKL)]
FORMS = [  # settings with arithmetic of their own
    *(OutcomeCredit(baseline=baseline) for baseline in (MeanBaseline(), LeaveOneOutBaseline(), SuccessRateBaseline())),
    *(kind(baseline="token") for kind in (PURECredit, ScorePURECredit)),
    PURECredit(unmatched=None),
    CAPOCredit(ddof=1),
    *(VPPOCredit(margin=margin, floor=True) for margin in (FixedMargin(0), LengthMargin())),
    ReturnCredit(gamma=0.9),
    ProcessSupervisedCredit(unmatched=None, outcome_if_unlabelled=True, ddof=0),
]
STAGES = [
    getattr(lit_tpgrpo.credit.batch, name)()
    for name in ("MaxScaling", "PRIMENorm", "PotentialGain", "StdScaling", "Whitening")
]
each_credit = pytest.mark.parametrize("credit", [*CREDITS, *FORMS], ids=lambda credit: type(credit).__name__)


def test_none_is_left_out():
    assert {type(stage).__name__ for stage in STAGES} | {"BatchStage"} == set(lit_tpgrpo.credit.batch.__all__)
    needed = {kind for credit in CREDITS for kind in getattr(credit, "needs", ())}
    assert needed == {type(record) for record in evidenced(correct("C"))[0].evidence}


with_few_tokens = labelled.flatmap(
    lambda one: st.lists(st.sampled_from([0, 0, 1, 9]), min_size=len(one[1]), max_size=len(one[1])).map(
        lambda lengths: solution(one[1], one[0], lengths=lengths)
    )
)
nothing = st.sampled_from(
    [
        correct("C", lengths=[0]),
        incorrect("M", lengths=[0]),
        incorrect("UM", lengths=[0, 0]),
        incorrect("A", lengths=[0]),
    ]
)


@each_credit
@settings(max_examples=40)
@given(judged=st.lists(st.one_of(with_few_tokens, nothing), min_size=1, max_size=4), without=nothing)
def test_a_solution_without_tokens_makes_nothing_infinite(credit, judged, without):
    """The model may end at once. All others have finite advantages, and so they have after each batch stage."""
    credited = credit(group(*evidenced(without, *judged, undecided("A"))))
    for one in credited:
        assert one.advantages.shape == (len(one.judged.solution.completion_ids),)
        assert one.advantages.isfinite().all()
        assert all(map(math.isfinite, (one.outcome_advantage, *one.process_rewards)))
    for stage in STAGES:
        for rescaled in stage.rescale(credited, [stage.summarise(one) for one in credited]):
            assert rescaled.isfinite().all()


@each_credit
def test_solutions_without_tokens_alone_are_credited_with_nothing(credit):
    for one in credit(group(*evidenced(correct("C", lengths=[0]), incorrect("UM", lengths=[0, 0])))):
        assert torch.equal(one.advantages, torch.zeros(0))
