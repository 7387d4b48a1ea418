"""Labelled solutions of the embedded domain, for ``JudgeRefresh`` to audit a judge on."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, written
from lit_tpgrpo.datamodules.arithmetic.problems import DEFAULT_LEVEL, LEVELS
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.records import StepLabel


@checked_arguments()
class ArithmeticAudit:
    """Solutions of the noisy writer with their exact step labels.

    Args:
        level: of the problems, ``1`` to ``5``.
        n: number of solutions.
        seed: which ones.
    """

    def __init__(self, level: str = DEFAULT_LEVEL, n: int = 200, seed: int = 0) -> None:
        if level not in LEVELS:
            raise ConfigError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
        if n < 1:
            raise ConfigError(f"n must be at least 1, got {n}")
        self.level, self.n, self.seed = level, n, seed

    def cases(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[tuple[JudgeCase, tuple[StepLabel, ...]]]:
        """The labelled cases, the same each time; the tokenizer has no say in labels of text."""
        return label_cases(written(self.level, self.n, self.seed))[0]
