"""Problem sources: files, the Hugging Face Hub, memory, mixtures of them; presets for common data sets; decontamination."""

from lit_tpgrpo.datamodules.sources.base import FieldMap, MalformedRow, ProblemSource, RowFormat
from lit_tpgrpo.datamodules.sources.decontaminate import Decontaminated, RemovedProblem
from lit_tpgrpo.datamodules.sources.evaluation_set import EvaluationSet
from lit_tpgrpo.datamodules.sources.files import FileProblems
from lit_tpgrpo.datamodules.sources.hub import HubProblems, StreamedProblems
from lit_tpgrpo.datamodules.sources.memory import MemoryProblems
from lit_tpgrpo.datamodules.sources.mixture import MixtureProblems
from lit_tpgrpo.datamodules.sources.presets import PRESETS, DatasetPreset

__all__ = [
    "PRESETS",
    "DatasetPreset",
    "Decontaminated",
    "EvaluationSet",
    "FieldMap",
    "FileProblems",
    "HubProblems",
    "MalformedRow",
    "MemoryProblems",
    "MixtureProblems",
    "ProblemSource",
    "RemovedProblem",
    "RowFormat",
    "StreamedProblems",
]
