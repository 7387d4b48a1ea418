"""What was not read at its source says so where it is given: in the docstring of the argument itself."""

import docstring_parser
import pytest

import lit_tpgrpo
from lit_tpgrpo.credit import (
    CAPOCredit,
    DenseRewardCredit,
    GroupRelativeCredit,
    ProcessSupervisedCredit,
    ScoreSupervisedCredit,
    SPAECredit,
    StepCredit,
    ThoughtCredit,
    UnadaptedThoughtCredit,
    VPPOCredit,
)
from lit_tpgrpo.credit.batch import PotentialGain
from lit_tpgrpo.functional.pair_losses import rebel_loss
from lit_tpgrpo.judges.evidence import ContinuationScores, FeasiblePrefixScores, GoldAnswerProbes
from lit_tpgrpo.judges.grading.principles import PrinciplesGrader
from lit_tpgrpo.judges.voting import VotingJudge
from lit_tpgrpo.losses import ClippedSurrogate, DualClip, MiniRL, StaleNegatives
from lit_tpgrpo.rollout.correction import Correction
from lit_tpgrpo.search.steps import GreedyStepSearch

SECOND_HAND = {
    CAPOCredit: ["outcome_weight", "process_weight"],
    ContinuationScores: ["samples"],
    Correction: ["cap", "floor"],
    DualClip: ["delta"],
    GoldAnswerProbes: ["samples", "tokens", "temperature"],
    MiniRL: ["cap"],
    PrinciplesGrader: ["samples", "keep", "query"],
    PotentialGain: ["xi"],
    SPAECredit: ["alpha", "epsilon"],
    VPPOCredit: ["alpha", "floor"],
    VotingJudge: ["votes", "rule"],
}
UNPUBLISHED = {
    CAPOCredit: ["ddof", "eps"],
    ClippedSurrogate: ["clip_low", "clip_high", "kl_beta", "kl_estimator"],
    DenseRewardCredit: ["weight_correct", "weight_incorrect"],
    FeasiblePrefixScores: ["samples"],
    GoldAnswerProbes: ["lead_in"],
    GreedyStepSearch: ["children", "positive", "negative", "max_expansions"],
    GroupRelativeCredit: ["ddof", "eps"],
    PotentialGain: ["ddof", "eps"],
    ProcessSupervisedCredit: ["ddof", "eps"],
    ScoreSupervisedCredit: ["ddof", "eps"],
    StaleNegatives: ["threshold"],
    StepCredit: ["alpha", "ddof", "eps"],
    ThoughtCredit: ["alpha", "ddof", "eps"],
    UnadaptedThoughtCredit: ["ddof", "eps"],
    lit_tpgrpo.MathRolloutDataModule: ["keep", "sampling", "prompt_template"],
    rebel_loss: ["weight"],
}
MARKS = [
    pytest.param(part, argument, mark, id=f"{part.__name__}.{argument}")
    for mark, table in (("second-hand", SECOND_HAND), ("unpublished", UNPUBLISHED))
    for part, arguments in table.items()
    for argument in arguments
]


@pytest.mark.parametrize(("part", "argument", "mark"), MARKS)
def test_an_argument_says_what_its_source_is(part, argument, mark):
    described = {p.arg_name: p.description for p in docstring_parser.parse(part.__doc__).params}
    assert mark in described[argument]
