"""Counters of a round of judging, and the metrics computed from them for the loggers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean, quantiles

from lit_tpgrpo.chat.base import ChatReply, Fault
from lit_tpgrpo.judges.base import Counts

COUNTS = (
    "cases",
    "abstained",
    "abstained_no_answer",
    "abstained_invalid",
    "abstained_faults",
    "abstained_refused",
    "abstained_budget",
    "abstained_undecided",
    "abstained_down",
    "steps",
    "steps_incorrect",
    "steps_matched",
    "reflections",
    "reflections_confirmed",
    "segmentations",
    "segmentations_rule",
    "questions",
    "requests",
    "requests_stored",
    "retries",
    "probes",
    *(f"faults_{fault.value}" for fault in Fault),
    "replies_invalid",
    "replies_oversized",
    "replies_cut",
    "replies_repaired",
    "tokens_prompt",
    "tokens_cached",
    "tokens_completion",
    "tokens_thinking",
)


@dataclass
class Counters:
    """Counts by name, and the latency of each successful request in seconds; prices are per million tokens."""

    counts: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    price_in: float = 0.0
    price_out: float = 0.0

    def add(self, name: str, n: int = 1) -> None:
        assert name in COUNTS, name
        self.counts[name] += n

    def add_reply(self, reply: ChatReply, seconds: float) -> None:
        """Count a reply of the LLM (not one from the store)."""
        self.latencies.append(seconds)
        self.add("tokens_prompt", reply.prompt_tokens)
        self.add("tokens_cached", reply.cached_tokens)
        self.add("tokens_completion", reply.completion_tokens)
        self.add("tokens_thinking", reply.thinking_tokens)
        self.add("replies_cut", reply.cut)

    def take(self, price_in: float, price_out: float) -> Counters:
        """Return the counts so far, with these prices, and reset them."""
        snapshot = Counters(Counter(self.counts), list(self.latencies), price_in, price_out)
        self.counts.clear()
        self.latencies.clear()
        return snapshot

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            Counter({name: self.counts[name] + other.counts[name] for name in COUNTS}),
            self.latencies + other.latencies,
            self.price_in,
            self.price_out,
        )

    def sums(self) -> Counts:
        """Return the counts and the cost, see ``lit_tpgrpo.judges.base.Summable``."""
        return Counts({name: float(self.counts[name]) for name in COUNTS}, cost=self._cost())

    def metrics(self) -> dict[str, float]:
        """Return all counts, shares and rates, latencies in seconds, and the cost in the currency of the prices."""
        c = {name: float(self.counts[name]) for name in COUNTS}
        cuts = quantiles(self.latencies, n=20) if len(self.latencies) > 1 else [*self.latencies * 19] or [0.0] * 19
        cases = c["cases"] or 1.0
        return c | {
            "abstained_share": c["abstained"] / cases,
            "down": float(c["abstained_down"] > 0),
            "requests_per_case": c["requests"] / cases,
            "tokens_per_case": (c["tokens_prompt"] + c["tokens_completion"]) / cases,
            "latency_mean_s": fmean(self.latencies) if self.latencies else 0.0,
            "latency_p50_s": cuts[9],
            "latency_p95_s": cuts[18],
            "cost": self._cost(),
        }

    def _cost(self) -> float:
        counts = self.counts
        return (counts["tokens_prompt"] * self.price_in + counts["tokens_completion"] * self.price_out) / 1e6
