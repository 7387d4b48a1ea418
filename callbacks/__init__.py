"""Lightning callbacks: each works in any Trainer whose DataModule makes rollouts."""

from lit_tpgrpo.callbacks.capability import CapabilityEstimator
from lit_tpgrpo.callbacks.checkpoint import SafeCheckpoint
from lit_tpgrpo.callbacks.evaluation import MathEvaluation
from lit_tpgrpo.callbacks.export_hf import ExportHF
from lit_tpgrpo.callbacks.judge_refresh import AuditSet, JudgeRefresh
from lit_tpgrpo.callbacks.predictions import JudgedSolutionWriter
from lit_tpgrpo.callbacks.samples import SolutionSamples
from lit_tpgrpo.rollout.hooks import RoundCallback

__all__ = [
    "AuditSet",
    "CapabilityEstimator",
    "ExportHF",
    "JudgeRefresh",
    "JudgedSolutionWriter",
    "MathEvaluation",
    "RoundCallback",
    "SafeCheckpoint",
    "SolutionSamples",
]
