"""Labelled solutions of the embedded domain, with which ``JudgeRefresh`` audits a judge."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, writer_samples
from lit_tpgrpo.datamodules.arithmetic.problems import DEFAULT_LEVEL, LEVELS
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.records import StepLabel


@checked_arguments()
class ArithmeticAudit:
    """Source of audit cases: solutions of the noisy writer with their exact step labels.

    Args:
        level: level of the problems, ``1`` to ``6``.
        n: number of solutions.
        seed: seed of the problems and the writer.
    """

    def __init__(self, level: str = DEFAULT_LEVEL, n: int = 200, seed: int = 0) -> None:
        if level not in LEVELS:
            raise ConfigError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
        if n < 1:
            raise ConfigError(f"n must be at least 1, got {n}")
        self.level, self.n, self.seed = level, n, seed

    def cases(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[tuple[JudgeCase, tuple[StepLabel, ...]]]:
        """Return the labelled cases, the same at each call. The labels are of text and do not depend on the tokenizer."""
        return label_cases(writer_samples(self.level, self.n, self.seed))[0]
