"""Judges: verified solutions in, a label for each step out (paper, Stage I).

``RuleJudge`` reads the intrinsic signals by rule, without a model; ``lit_tpgrpo.judges.generative`` asks a language model;
``NoisyJudge`` flips a set share of another judge's labels, ``VotingJudge`` combines several of its verdicts. A new one
implements ``Judge``: a ``Verdict`` for each ``JudgeCase``. ``ErrorDetectionReport`` and ``count_labels`` score a judge on steps
whose truth is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.judges.base import (
        Judge,
        JudgeCase,
        RefreshableJudge,
        RepeatableJudge,
        StoringJudge,
        StreamingJudge,
        TallyingJudge,
        abstain,
    )
    from lit_tpgrpo.judges.error_detection import ErrorDetectionReport, ErrorScores, WrongSteps
    from lit_tpgrpo.judges.labelled_chains import LabelledChain, LabelledChainsReport
    from lit_tpgrpo.judges.noisy import NoisyJudge
    from lit_tpgrpo.judges.rule import RuleJudge
    from lit_tpgrpo.judges.scoring import LabelCounts, count_labels
    from lit_tpgrpo.judges.voting import VotingJudge
    from lit_tpgrpo.judges.wrapped import WrappedJudge
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "base": "Judge JudgeCase RefreshableJudge RepeatableJudge StoringJudge StreamingJudge TallyingJudge abstain",
            "error_detection": "ErrorDetectionReport ErrorScores WrongSteps",
            "labelled_chains": "LabelledChain LabelledChainsReport",
            "noisy": "NoisyJudge",
            "rule": "RuleJudge",
            "scoring": "LabelCounts count_labels",
            "voting": "VotingJudge",
            "wrapped": "WrappedJudge",
        },
    )

__all__ = [
    "ErrorDetectionReport",
    "ErrorScores",
    "Judge",
    "JudgeCase",
    "LabelCounts",
    "LabelledChain",
    "LabelledChainsReport",
    "NoisyJudge",
    "RefreshableJudge",
    "RepeatableJudge",
    "RuleJudge",
    "StoringJudge",
    "StreamingJudge",
    "TallyingJudge",
    "VotingJudge",
    "WrappedJudge",
    "WrongSteps",
    "abstain",
    "count_labels",
]
