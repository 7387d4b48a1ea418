"""SearchingEngine: an engine whose completions are the results of searches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lit_tpgrpo.arguments import check_positive, checked_arguments
from lit_tpgrpo.engines.base import Completion, Engine, Policy, SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.judges.base import Counts, Tally, sums_of
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.search.base import PreparedScorer, Search, StepScorer
from lit_tpgrpo.search.loop import run_searches
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.token_arrays import token_floats, token_ints


@dataclass(frozen=True, slots=True)
class SearchTally:
    """What searches cost: ``search_tokens``, those of solutions that were not chosen included, for ``search_solutions``.

    The counters of the scorer's judge have ``search_judge_`` before their names.
    """

    own: Counts
    scored: Tally

    def __add__(self, other: SearchTally) -> SearchTally:
        return SearchTally(self.own + other.own, self.scored + other.scored)

    def metrics(self) -> dict[str, float]:
        """Return all of them by name."""
        return self.own.metrics() | _of_judge(self.scored.metrics())

    def sums(self) -> Counts:
        """Return those that may be added up, see ``Summable``."""
        return self.own + Counts(_of_judge(sums_of(self.scored)))


def _of_judge(counters: Mapping[str, float]) -> dict[str, float]:
    return {f"search_judge_{name}": value for name, value in counters.items()}


@checked_arguments()
class SearchingEngine(Engine):
    """Engine for ``predict``, ``test`` and ``validate`` whose solutions are found by a search with another engine.

    Each of a problem's n solutions is the result of a search of its own. Its log-probs are those of the sampled tokens, and say
    nothing of the choice among them, so that nothing can be trained on it: the DataModule refuses ``fit``. What searches cost
    is logged, see ``SearchTally``.

    Attributes:
        tokens: tokens sampled so far, those of solutions that were not chosen included.

    Args:
        engine: samples the continuations.
        search: ``BestOfN``, ``WeightedVoting``, ``GreedyStepSearch`` or ``BeamSearch``.
        scorer: scores of steps, see ``StepScorer``.
        step_tokens: most tokens of one step.

    Raises:
        ConfigError: step_tokens is not positive. From ``sample``: at temperature 0 there is nothing to choose among.
    """

    def __init__(self, engine: Engine, search: Search, scorer: StepScorer, step_tokens: int = 256) -> None:
        check_positive("SearchingEngine: ", step_tokens=step_tokens)
        self.engine = engine
        self.search = search
        self.scorer = scorer
        self.step_tokens = step_tokens
        self.tokens = 0
        self._counts, self._totals = Counts(), Counts()
        self._untold: SearchTally | None = None  # what ``totals`` has taken and ``tally`` has not returned
        self._tokenizer: Any = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its solutions depend on besides the policy: stored ones are reused only where they are equal."""
        return {
            "engine": {"class": type(self.engine).__qualname__},
            "search": settings_of(self.search),
            "scorer": settings_of(self.scorer),
            "step_tokens": self.step_tokens,
        }

    def load_weights(self, policy: Policy) -> None:
        """Load the policy's weights, after a scorer that is the policy itself has taken them."""
        self._tokenizer = policy.tokenizer
        if isinstance(self.scorer, PreparedScorer):
            self.scorer.prepare(policy)
        self.engine.load_weights(policy)

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seeds: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Yield ``(prompt index, n completions)`` as the searches of a prompt end.

        Raises:
            ConfigError: the temperature is 0.
        """
        if params.temperature == 0:
            raise ConfigError(
                "SearchingEngine chooses among samples, and at temperature 0 they are all the same; give data.eval_sampling a "
                "positive temperature (in predict data.sampling), or leave the search out"
            )
        if self._tokenizer is None:
            raise RuntimeError("SearchingEngine.sample was called before load_weights: it has no policy to sample from")
        rows = [(i, k) for i in range(len(prompts)) for k in range(n)]
        found: defaultdict[int, dict[int, Completion]] = defaultdict(dict)
        results = run_searches(
            self.engine,
            self.scorer,
            self._decode,
            [prompts[i] for i, _ in rows],
            [self.search] * len(rows),
            params,
            [derived_seed(seeds[i], "solution", k) for i, k in rows],
            self.step_tokens,
        )
        for row, result in results:
            i, k = rows[row]
            self.tokens += result.tokens
            self._counts += Counts(search_tokens=result.tokens, search_solutions=1)
            chosen = result.partial
            ids, logprobs = token_ints(chosen.token_ids, "tokens"), token_floats(chosen.logprobs, "log-probs")
            found[i][k] = Completion(ids, logprobs, chosen.stop or StopReason.LENGTH)
            if len(found[i]) == n:
                solutions = found.pop(i)
                yield i, tuple(solutions[k] for k in range(n))

    def _decode(self, ids: Sequence[int]) -> str:
        # A clean-up of spaces would rewrite text before the new step, and special tokens may be the tags of an answer block.
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self) -> None:
        self.engine.wake()

    def tally(self) -> SearchTally:
        """Return what searches cost since the last call, and reset it, see ``CountingEngine``."""
        taken, self._untold = self._take(), None
        return taken

    def totals(self) -> Mapping[str, float]:
        """Return what searches cost since the engine was built, see ``TotallingEngine``."""
        self._untold = self._take()
        return self._totals

    def _take(self) -> SearchTally:
        """Add what was counted since the last call to the totals; return it with what ``tally`` has not returned yet."""
        counts, self._counts = Counts(search_tokens=0.0, search_solutions=0.0) + self._counts, Counts()
        scored = self.scorer.tally() if isinstance(self.scorer, PreparedScorer) else Counts()
        new = SearchTally(counts, scored)
        self._totals += new.sums()
        return new if self._untold is None else self._untold + new

    def close(self) -> None:
        """Close the engine and the scorer, each also where the other fails."""
        with ExitStack() as parts:
            parts.callback(self.engine.close)
            if isinstance(self.scorer, PreparedScorer):
                parts.callback(self.scorer.close)
