"""Credit assignment: a judged group in, one advantage per token out (paper, Stage II).

``ThoughtCredit`` is TP-GRPO; the others are what the paper compares it with and rivals (``docs/credit.md`` lists them). A new
one implements ``CreditAssignment``. ``GroupCredit`` has the part that all share, ``GroupRelativeCredit`` that of those that
start from each solution's standardised reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.credit.base import CreditAssignment
    from lit_tpgrpo.credit.baselines import (
        Baseline,
        LeaveOneOutBaseline,
        MeanBaseline,
        StandardisedBaseline,
        SuccessRateBaseline,
    )
    from lit_tpgrpo.credit.capo import CAPOCredit
    from lit_tpgrpo.credit.correct_only import CorrectOnlyCredit
    from lit_tpgrpo.credit.dense_rewards import DenseRewardCredit
    from lit_tpgrpo.credit.gdpo import GDPOCredit
    from lit_tpgrpo.credit.graded import GradeCredit
    from lit_tpgrpo.credit.group_credit import GroupCredit
    from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, RewardAdvantage
    from lit_tpgrpo.credit.incorrect_only import IncorrectOnlyCredit
    from lit_tpgrpo.credit.mirrored import MirroredThoughtCredit
    from lit_tpgrpo.credit.outcome import OutcomeCredit
    from lit_tpgrpo.credit.prime import PRIMECredit
    from lit_tpgrpo.credit.process_supervised import ProcessSupervisedCredit
    from lit_tpgrpo.credit.pure import PURECredit
    from lit_tpgrpo.credit.q_rm import QRMCredit
    from lit_tpgrpo.credit.returns import ReturnCredit
    from lit_tpgrpo.credit.reward_kl import RewardKL, SequenceRewardKL, TokenRewardKL
    from lit_tpgrpo.credit.rlsp import RLSPCredit
    from lit_tpgrpo.credit.score_pure import ScorePURECredit
    from lit_tpgrpo.credit.score_supervised import ScoreSupervisedCredit
    from lit_tpgrpo.credit.spae import SPAECredit
    from lit_tpgrpo.credit.step import StepCredit
    from lit_tpgrpo.credit.think_rm import ThinkRMCredit
    from lit_tpgrpo.credit.thought import ThoughtCredit
    from lit_tpgrpo.credit.unadapted import UnadaptedThoughtCredit
    from lit_tpgrpo.credit.vineppo import VinePPOCredit
    from lit_tpgrpo.credit.vppo import FixedMargin, LengthMargin, PrefixMargin, PromptMargin, VPPOCredit
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "base": "CreditAssignment",
            "baselines": "Baseline LeaveOneOutBaseline MeanBaseline StandardisedBaseline SuccessRateBaseline",
            "capo": "CAPOCredit",
            "correct_only": "CorrectOnlyCredit",
            "dense_rewards": "DenseRewardCredit",
            "gdpo": "GDPOCredit",
            "graded": "GradeCredit",
            "group_credit": "GroupCredit",
            "group_relative": "GroupRelativeCredit RewardAdvantage",
            "incorrect_only": "IncorrectOnlyCredit",
            "mirrored": "MirroredThoughtCredit",
            "outcome": "OutcomeCredit",
            "prime": "PRIMECredit",
            "process_supervised": "ProcessSupervisedCredit",
            "pure": "PURECredit",
            "q_rm": "QRMCredit",
            "returns": "ReturnCredit",
            "reward_kl": "RewardKL SequenceRewardKL TokenRewardKL",
            "rlsp": "RLSPCredit",
            "score_pure": "ScorePURECredit",
            "score_supervised": "ScoreSupervisedCredit",
            "spae": "SPAECredit",
            "step": "StepCredit",
            "think_rm": "ThinkRMCredit",
            "thought": "ThoughtCredit",
            "unadapted": "UnadaptedThoughtCredit",
            "vineppo": "VinePPOCredit",
            "vppo": "FixedMargin LengthMargin PrefixMargin PromptMargin VPPOCredit",
        },
    )

__all__ = [
    "Baseline",
    "CAPOCredit",
    "CorrectOnlyCredit",
    "CreditAssignment",
    "DenseRewardCredit",
    "FixedMargin",
    "GDPOCredit",
    "GradeCredit",
    "GroupCredit",
    "GroupRelativeCredit",
    "IncorrectOnlyCredit",
    "LeaveOneOutBaseline",
    "LengthMargin",
    "MeanBaseline",
    "MirroredThoughtCredit",
    "OutcomeCredit",
    "PRIMECredit",
    "PURECredit",
    "PrefixMargin",
    "ProcessSupervisedCredit",
    "PromptMargin",
    "QRMCredit",
    "RLSPCredit",
    "ReturnCredit",
    "RewardAdvantage",
    "RewardKL",
    "SPAECredit",
    "ScorePURECredit",
    "ScoreSupervisedCredit",
    "SequenceRewardKL",
    "StandardisedBaseline",
    "StepCredit",
    "SuccessRateBaseline",
    "ThinkRMCredit",
    "ThoughtCredit",
    "TokenRewardKL",
    "UnadaptedThoughtCredit",
    "VPPOCredit",
    "VinePPOCredit",
]
