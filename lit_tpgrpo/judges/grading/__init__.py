"""Graders: an LLM compares the solutions of one problem with one another; grades or preferences of each group out.

``PrinciplesGrader`` grades all solutions of a group at once (SPCT), ``PairwiseComparison`` compares them two by two (Think-RM).
They ask by the same path as ``GenerativeJudge``: its limits, retries, budget and reply store.
"""

from lit_tpgrpo.judges.grading.comparison import PairwiseComparison, PreferenceMatrix
from lit_tpgrpo.judges.grading.principles import GradingSample, GroupGrades, PrinciplesGrader, combine_grades
from lit_tpgrpo.judges.grading.questions import GroupPrompts, SolutionGroup

__all__ = [
    "GradingSample",
    "GroupGrades",
    "GroupPrompts",
    "PairwiseComparison",
    "PreferenceMatrix",
    "PrinciplesGrader",
    "SolutionGroup",
    "combine_grades",
]
