"""Lightning callbacks: each works in any Trainer whose DataModule makes rollouts.

``MathEvaluation`` evaluates before the first step and after the last, ``EvaluationTable`` prints the table of ``test``,
``SafeCheckpoint`` writes checkpoints, ``SolutionSamples`` shows judged solutions, ``RunReport`` writes the report of the run,
``CapabilityEstimator`` keeps an accuracy per problem, ``JudgeRefresh`` renews and audits the judge, ``ExportHF`` writes Hugging
Face folders, ``JudgedSolutionWriter`` what ``predict`` returns. A new one derives from ``RoundCallback``, which adds the hooks
of a round to Lightning's own.
"""

from lit_tpgrpo.callbacks.capability import CapabilityEstimator
from lit_tpgrpo.callbacks.checkpoint import SafeCheckpoint
from lit_tpgrpo.callbacks.evaluation import MathEvaluation
from lit_tpgrpo.callbacks.evaluation_table import EvaluationTable
from lit_tpgrpo.callbacks.export_hf import ExportHF
from lit_tpgrpo.callbacks.judge_refresh import AuditSet, JudgeRefresh
from lit_tpgrpo.callbacks.predictions import JudgedSolutionWriter
from lit_tpgrpo.callbacks.run_report import RunReport
from lit_tpgrpo.callbacks.samples import SolutionSamples
from lit_tpgrpo.rollout.hooks import RoundCallback

__all__ = [
    "AuditSet",
    "CapabilityEstimator",
    "EvaluationTable",
    "ExportHF",
    "JudgeRefresh",
    "JudgedSolutionWriter",
    "MathEvaluation",
    "RoundCallback",
    "RunReport",
    "SafeCheckpoint",
    "SolutionSamples",
]

if __name__ == "callbacks":  # imported without the package, in a checkout
    from lit_tpgrpo.checkout import import_as_part_of_package

    import_as_part_of_package(__name__)
