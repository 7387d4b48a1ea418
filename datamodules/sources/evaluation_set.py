"""An evaluation set with its own number of samples, or its own sampling parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_tpgrpo.arguments import checked_arguments, shown
from lit_tpgrpo.datamodules.sources.base import ProblemSource
from lit_tpgrpo.datamodules.sources.memory import Problems, as_source
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evaluation.scores import AVERAGE
from lit_tpgrpo.records import Problem

if TYPE_CHECKING:
    HeldoutProblems = Problems | Mapping[str, Problems]
else:  # the types that the command line accepts
    HeldoutProblems = ProblemSource | dict[str, ProblemSource]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@checked_arguments(source=as_source)
class EvaluationSet:
    """Problems of ``data.val`` or ``data.test`` that are not sampled as ``data.eval_samples`` and ``data.eval_sampling`` say.

    Args:
        source: the problems.
        samples: solutions of each problem; by default ``data.eval_samples``.
        sampling: how they are sampled; by default ``data.eval_sampling``.
    """

    def __init__(self, source: Problems, samples: int | None = None, sampling: SamplingParams | None = None) -> None:
        if samples is not None and samples < 1:
            raise ConfigError(f"EvaluationSet: samples must be at least 1, got {samples}")
        self.source: ProblemSource = source  # pyright: ignore[reportAttributeAccessIssue]  # as_source converts
        self.samples, self.sampling = samples, sampling
        self.name = self.source.name

    def load(self) -> Sequence[Problem]:
        """Return the problems of the source."""
        return self.source.load()

    def __repr__(self) -> str:
        return f"EvaluationSet({self.source!r})"


def as_heldout(value: Any, where: str) -> Any:
    """Return None for None, a dict of sources for a mapping from names, otherwise like ``as_source``.

    Raises:
        ConfigError: a name cannot be part of a metric's name; a value is no problem source.
    """
    # A DatasetDict's splits are seldom meant to be evaluated all: as_source says what to do with it.
    if not isinstance(value, Mapping) or type(value).__module__.partition(".")[0] == "datasets":
        return None if value is None else as_source(value, where)
    if not value:
        raise ConfigError(f"{where}: expected at least one evaluation set, got an empty mapping")
    for name, source in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (AVERAGE, "problems"):
            raise ConfigError(
                f"{where}: a set's name becomes part of its metrics, as in eval/aime24/avg@32: expected letters, digits, "
                f"_, - and ., and not {AVERAGE} or problems; got {name!r}"
            )
        if isinstance(source, list | tuple) and source and not isinstance(source[0], Problem | Mapping):
            raise ConfigError(
                f"{where}: expected a list of problems or a dict of evaluation sets, got a dict whose {name!r} is a list of "
                f"{type(source[0]).__name__}; give one dict a problem, or a source for each set"
            )
        if source is None or isinstance(source, int | float | bool):
            raise ConfigError(f"{where}[{name!r}]: expected a problem source, got {shown(source)}")
    return {name: as_source(source, f"{where}[{name!r}]") for name, source in value.items()}
