"""The generative judge (paper, Stage I): an LLM that reads and compares, and does not solve the problem itself."""

from lit_tpgrpo.judges.generative.baselines import DirectLabels, StepByStep
from lit_tpgrpo.judges.generative.intrinsic import IntrinsicSignals
from lit_tpgrpo.judges.generative.judge import GenerativeJudge
from lit_tpgrpo.judges.generative.limits import RequestLimits, RoundBudget
from lit_tpgrpo.judges.generative.queries import QueryConfig
from lit_tpgrpo.judges.generative.segmentation import LLMSegmentation, RuleSegmentation
from lit_tpgrpo.judges.generative.voting import Vote

__all__ = [
    "DirectLabels",
    "GenerativeJudge",
    "IntrinsicSignals",
    "LLMSegmentation",
    "QueryConfig",
    "RequestLimits",
    "RoundBudget",
    "RuleSegmentation",
    "StepByStep",
    "Vote",
]
