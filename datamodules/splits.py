"""Load the problems of each split once, without those whose prompts are too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.datamodules.sources.base import ProblemSource
from lit_tpgrpo.datamodules.sources.evaluation_set import EvaluationSet
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.evaluation.sets import HeldoutSet, SetSampling
from lit_tpgrpo.records import Problem
from lit_tpgrpo.rollout.by_source import has_few_sources
from lit_tpgrpo.rollout.prompts import RolloutPrompt, filter_long_prompts

SplitSource = ProblemSource | Mapping[str, ProblemSource] | None


def split_sources(train: Any, val: Any, test: Any, predict: Any) -> dict[str, SplitSource]:
    """Return the sources by split; test and predict have those of val unless others are given.

    None alone means the default: an object of the user's may be false, such as a source of length 0.
    """
    sources = {"train": train, "val": val, "test": test, "predict": predict}
    return {
        split: val if source is None and split in ("test", "predict") else source for split, source in sources.items()
    }


class ProblemSplits:
    """The problems of ``train``, ``val``, ``test`` and ``predict``.

    Args:
        sources: by split; a mapping of several sources where its sets have names, None where none is configured.
        template: how a problem becomes a prompt.
        max_tokens: longest prompt, in tokens.
        on_long: ``skip`` longer prompts, or ``stop``.
    """

    def __init__(
        self,
        sources: Mapping[str, SplitSource],
        template: RolloutPrompt,
        max_tokens: int,
        on_long: Literal["skip", "stop"],
    ) -> None:
        self._sources = sources
        self._template, self._max_tokens = template, max_tokens
        self._on_long: Literal["skip", "stop"] = on_long
        self._loaded: dict[str, dict[str, list[Problem]]] = {}

    def load(self, split: str, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, list[Problem]], dict[str, float]]:
        """Return the problems of each set of a split by its name, and metrics of the loading if this call did it, else none.

        The only set of a split without names has the name "".

        Raises:
            ConfigError: no source is configured for the split.
            InputError: a source has no usable problem.
        """
        if split in self._loaded:
            return self._loaded[split], {}
        given = self._sources[split]
        if given is None:
            without = "; trainer.limit_val_batches 0 trains without held-out problems" if split == "val" else ""
            raise ConfigError(f"no {split} problems: set data.{split} to a problem source{without}")
        loaded, counts = {}, {}
        for name, own in named(given).items():
            what = f"{split}_{name}" if name else split
            problems = own.load()
            if not problems:
                raise InputError(f"the {what} source is empty: {own!r}; expected at least one problem")
            loaded[name], skipped = filter_long_prompts(
                problems, tokenizer, self._template, self._max_tokens, self._on_long
            )
            counts |= {f"data/{what}_problems": len(problems) - skipped, f"data/{what}_skipped_long": skipped}
            if has_few_sources(loaded[name]):
                by_source = Counter(problem.source for problem in loaded[name])
                counts |= {f"data/{what}_problems/{source}": count for source, count in sorted(by_source.items())}
        self._loaded[split] = loaded
        return loaded, {name: float(count) for name, count in counts.items()}

    def sampling(self, split: str, default: SetSampling) -> dict[str, SetSampling]:
        """Return how each set of a split is sampled, {} where no source is configured. Loads nothing."""
        given = self._sources[split]
        return {} if given is None else {name: _sampling(source, default) for name, source in named(given).items()}

    def sets(self, split: str, tokenizer: PreTrainedTokenizerBase, default: SetSampling) -> list[HeldoutSet]:
        """Return the evaluation sets of a split."""
        loaded, sampling = self.load(split, tokenizer)[0], self.sampling(split, default)
        return [HeldoutSet(name, problems, sampling[name]) for name, problems in loaded.items()]


def named(given: ProblemSource | Mapping[str, ProblemSource]) -> Mapping[str, ProblemSource]:
    """Return sources by name, "" for a single one."""
    return given if isinstance(given, Mapping) else {"": given}


def _sampling(source: ProblemSource, default: SetSampling) -> SetSampling:
    if not isinstance(source, EvaluationSet):
        return default
    return SetSampling(source.samples or default.samples, source.sampling or default.params)


def without_copies(problems: Mapping[str, list[Problem]]) -> list[Problem]:
    """Return the problems of all sets in order, each once: two sets may share a source."""
    return list({(p.uid, p.prompt, p.answer): p for part in problems.values() for p in part}.values())
