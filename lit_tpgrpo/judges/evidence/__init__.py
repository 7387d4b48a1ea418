"""Providers of evidence: what some credit assignments and filters need of a solution besides outcome and labels.

A provider of your own implements ``EvidenceProvider``. ``MonteCarloContinuations`` continues solutions from their steps with
the policy, ``ContinuationScores`` scores steps by such continuations, ``FeasiblePrefixScores`` by a binary search with few of
them, ``LabelScores`` by the judge's labels.
``PairwisePreferences`` and ``PrinciplesGrades`` have an LLM compare or grade the solutions of a group, ``ChosenTokenLogits``
takes token rewards from another model, ``ImplicitRewards`` from one that learns outcomes beside the policy,
``GoldAnswerProbes`` makes the policy answer after each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.judges.evidence.answer_probes import GoldAnswerProbes
    from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools
    from lit_tpgrpo.judges.evidence.continuation_scores import ContinuationScores
    from lit_tpgrpo.judges.evidence.continuations import MonteCarloContinuations
    from lit_tpgrpo.judges.evidence.feasible_prefixes import FeasiblePrefixScores
    from lit_tpgrpo.judges.evidence.implicit_rewards import ImplicitRewards
    from lit_tpgrpo.judges.evidence.label_scores import LabelScores
    from lit_tpgrpo.judges.evidence.preferences import PairwisePreferences
    from lit_tpgrpo.judges.evidence.principles_grades import PrinciplesGrades
    from lit_tpgrpo.judges.evidence.token_logits import ChosenTokenLogits
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "answer_probes": "GoldAnswerProbes",
            "base": "EvidenceCase EvidenceProvider EvidenceTools",
            "continuation_scores": "ContinuationScores",
            "continuations": "MonteCarloContinuations",
            "feasible_prefixes": "FeasiblePrefixScores",
            "implicit_rewards": "ImplicitRewards",
            "label_scores": "LabelScores",
            "preferences": "PairwisePreferences",
            "principles_grades": "PrinciplesGrades",
            "token_logits": "ChosenTokenLogits",
        },
    )

__all__ = [
    "ChosenTokenLogits",
    "ContinuationScores",
    "EvidenceCase",
    "EvidenceProvider",
    "EvidenceTools",
    "FeasiblePrefixScores",
    "GoldAnswerProbes",
    "ImplicitRewards",
    "LabelScores",
    "MonteCarloContinuations",
    "PairwisePreferences",
    "PrinciplesGrades",
]
