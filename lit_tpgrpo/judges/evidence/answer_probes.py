"""GoldAnswerProbes: what the policy knows of the answer after each step (SPAE)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lit_tpgrpo.arguments import check_positive, checked_arguments
from lit_tpgrpo.engines.base import Engine, SamplingParams, ScoringEngine
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import AnswerProbes, Evidence
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools, Probe
from lit_tpgrpo.judges.evidence.missing import still_missing

log = logging.getLogger(__name__)
COUNTERS = ("probes", "probes_reused", "probes_lost", "probe_tokens")


@checked_arguments()
class GoldAnswerProbes(EvidenceProvider):
    """Make the policy answer at once after each step, and measure how likely it finds the gold answer and how sure it is.

    After a step's last token the text ``lead_in`` opens an answer. With p_t the probability of token t of the gold answer, each
    after the right ones before it, and h_n the mean entropy of the tokens of answer n that is sampled there:

        accuracy = mean_t p_t,   confidence = mean_n exp(-h_n)

    both of the policy's distribution at temperature 1 (unpublished; ours). Source: SPAE (arXiv 2601.03823), second-hand; its
    public code (cii030/SPAE-RL@ed529f8a) holds a probe alone, with summed entropies. The answer block is not probed, and
    neither is a step after which the run's ``max_new_tokens`` leave no room. Needs an engine that scores given completions:
    ``HFEngine``.

    Each batch is stored when it is scored. Equal prefixes are probed once for all solutions of a rank's problem; it costs about
    ``samples + 1`` forward passes of the prefix for each step.

    Args:
        samples: answers after each step; 5 in the source (second-hand), and in its public probe.
        tokens: most tokens of each; 10 in the source (second-hand), and in its public probe.
        temperature: of these answers; 0.6 in the source (second-hand), and in its public probe.
        max_steps: steps of a solution that are probed, the first ones; ours.
        lead_in: text that opens the answer; that of training is unpublished. The public probe's is ``**Final Answer**``, a line
            break and an opened box, within the think block; the default, ours, closes the block before the box.

    Raises:
        ConfigError: a number is too small, the temperature is not positive, or lead_in is empty.
    """

    def __init__(
        self,
        samples: int = 5,
        tokens: int = 10,
        temperature: float = 0.6,
        max_steps: int = 20,
        lead_in: str = "\n</think>\n\n\\boxed{",
    ) -> None:
        check_positive(samples=samples, tokens=tokens, max_steps=max_steps)
        if not temperature > 0:
            raise ConfigError(f"temperature must be positive, got {temperature}: greedy answers would all be the same")
        if not lead_in:
            raise ConfigError("lead_in is empty: it must be the text that opens an answer, such as \\boxed{")
        self.samples, self.tokens, self.temperature = samples, tokens, temperature
        self.max_steps, self.lead_in = max_steps, lead_in
        self._counts: Counter[str] = Counter()

    @property
    def gives(self) -> type[Evidence]:
        return AnswerProbes

    def check_engine(self, engine: Engine) -> None:
        """Check that the engine scores given completions.

        Raises:
            ConfigError: it does not.
        """
        if not isinstance(engine, ScoringEngine):
            raise ConfigError(
                f"GoldAnswerProbes needs an engine that scores given completions, and {type(engine).__name__} does not; use "
                "HFEngine"
            )

    def metrics(self) -> dict[str, float]:
        """Return and reset the cost: probes made now, those shared or stored, those lost, tokens sampled.

        ``probes_lost`` have no values: the store lacks them, and the policy that sampled the round has moved on.
        """
        counts = {name: float(self._counts[name]) for name in COUNTERS}
        self._counts.clear()
        return counts

    def provide(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> Sequence[Evidence | None]:
        lead_in = tools.encode(self.lead_in)
        rows = [self._probes(case, lead_in, tools) for case in cases]
        values = _readable(tools.stored({probe.key for row in rows for probe in row if probe is not None}))
        lost = "%d steps were not probed, and the policy that sampled them has moved on: they have no values"
        missing = still_missing(rows, values, tools.current, self._counts, "probes", lost)
        params = SamplingParams(max_new_tokens=self.tokens, temperature=self.temperature)
        for batch in tools.probe(missing, self.samples, params) if missing else ():
            found = {probed.key: (probed.accuracy, probed.confidence) for probed in batch}
            tools.store({key: list(pair) for key, pair in found.items()})
            values |= found
            self._counts["probes"] += len(batch)
            self._counts["probe_tokens"] += sum(probed.tokens for probed in batch)
        return [AnswerProbes(tuple(None if p is None else values.get(p.key) for p in row)) for row in rows]

    def _probes(self, case: EvidenceCase, lead_in: tuple[int, ...], tools: EvidenceTools) -> list[Probe | None]:
        """Return the probe after each step, None where there is none."""
        solution, gold = case.judged.solution, tools.encode(case.problem.answer)
        room = tools.sampling.max_new_tokens - len(lead_in) - max(self.tokens, len(gold))
        settings = (self.samples, self.tokens, self.temperature, lead_in, gold)
        row: list[Probe | None] = []
        for j, step in enumerate(case.judged.verdict.steps):
            if step.is_answer or j >= self.max_steps or step.token_end > room or not gold:
                row.append(None)
                continue
            ids = (*solution.prompt_ids.tolist(), *solution.completion_ids[: step.token_end].tolist())
            row.append(Probe(tools.key("probe", settings, ids), case, step.token_end, lead_in, gold))
        return row


def _readable(stored: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the stored values; leave out what is something else, which is then probed again, with a warning."""
    read: dict[str, tuple[float, float]] = {}
    for key, plain in stored.items():
        if isinstance(plain, list) and len(plain) == 2 and all(type(v) in (int, float) and 0 <= v <= 1 for v in plain):
            read[key] = (float(plain[0]), float(plain[1]))
    if len(read) < len(stored):
        log.warning("%d stored probes cannot be read; they are made again", len(stored) - len(read))
    return read
