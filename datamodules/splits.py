"""Load the problems of each split once, without those whose prompts are too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.datamodules.sources.base import ProblemSource
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.rollout.by_source import has_few_sources
from lit_tpgrpo.rollout.prompts import PromptTemplate, filter_long_prompts


class ProblemSplits:
    """The problems of ``train``, ``val``, ``test`` and ``predict``.

    Args:
        sources: by split; None where none is configured.
        template: how a problem becomes a prompt.
        max_tokens: longest prompt, in tokens.
        on_long: ``skip`` longer prompts, or ``stop``.
    """

    def __init__(
        self,
        sources: Mapping[str, ProblemSource | None],
        template: PromptTemplate,
        max_tokens: int,
        on_long: Literal["skip", "stop"],
    ) -> None:
        self._sources = sources
        self._template, self._max_tokens = template, max_tokens
        self._on_long: Literal["skip", "stop"] = on_long
        self._loaded: dict[str, list[Problem]] = {}

    def load(self, split: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Problem], dict[str, float]]:
        """Return the problems of a split, and metrics of the loading if this call did it, else none.

        Raises:
            ConfigError: no source is configured for the split.
            InputError: the source has no usable problem.
        """
        if split in self._loaded:
            return self._loaded[split], {}
        source = self._sources[split]
        if source is None:
            raise ConfigError(f"no {split} problems: set data.{split} to a problem source")
        problems = source.load()
        if not problems:
            raise InputError(f"the {split} source is empty: {source!r}; expected at least one problem")
        self._loaded[split], skipped = filter_long_prompts(
            problems, tokenizer, self._template, self._max_tokens, self._on_long
        )
        counts = {f"data/{split}_problems": len(problems) - skipped, f"data/{split}_skipped_long": skipped}
        if has_few_sources(self._loaded[split]):
            by_source = Counter(problem.source for problem in self._loaded[split])
            counts |= {f"data/{split}_problems/{name}": count for name, count in sorted(by_source.items())}
        return self._loaded[split], {name: float(count) for name, count in counts.items()}
