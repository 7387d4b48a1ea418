"""Rate limits, retry policy and round budget of a judge."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError


@checked_arguments()
@dataclass(frozen=True)
class RequestLimits:
    """Concurrency, rate and retries of requests.

    Args:
        concurrency: most requests in flight at once.
        requests_per_minute: rate of this process, evenly spaced; 0 sets no limit.
        attempts: how often a request is sent before its question counts as unanswered, while other requests succeed.
        backoff_s: mean wait before the second attempt; it doubles each time, with full jitter. A longer ``Retry-After``
            is obeyed, up to ``patience_s``.
        max_backoff_s: longest such wait.
        patience_s: seconds without any reply, over all waiting questions of a round, after which the judge counts as
            down. Requests in flight are cancelled then, so it should not be shorter than the chat's ``timeout_s``. With 0
            the judge is down once a request has failed all its attempts and a probe fails too.
    """

    concurrency: int = 64
    requests_per_minute: float = 0.0
    attempts: int = 6
    backoff_s: float = 1.0
    max_backoff_s: float = 30.0
    patience_s: float = 600.0

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1:
            raise ConfigError(
                f"judge limits: concurrency and attempts must be at least 1, got {self.concurrency} and {self.attempts}"
            )
        for name in ("requests_per_minute", "backoff_s", "max_backoff_s", "patience_s"):
            if not getattr(self, name) >= 0:  # written so that nan is refused as well
                raise ConfigError(f"judge limits: {name} must be 0 or positive, got {getattr(self, name)}")


@checked_arguments()
@dataclass(frozen=True)
class RoundBudget:
    """Budget of one round of judging, per process. Solutions beyond it are not judged: they keep their outcome reward only.

    Args:
        max_tokens: prompt and completion tokens; requests in flight when they are used up still complete. 0: no limit.
        max_seconds: wall time; requests in flight at its end are cancelled. 0: no limit.
    """

    max_tokens: int = 0
    max_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not (self.max_tokens >= 0 and self.max_seconds >= 0):
            raise ConfigError(
                f"judge budget: max_tokens and max_seconds must be 0 (no limit) or positive, got {self.max_tokens} and "
                f"{self.max_seconds}"
            )


@dataclass
class BudgetTracker:
    """Usage of one round's budget."""

    budget: RoundBudget
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """None if time is not limited."""
        if not self.budget.max_seconds:
            return None
        return max(0.0, self.started + self.budget.max_seconds - time.monotonic())

    @property
    def exhausted(self) -> bool:
        return bool(self.budget.max_tokens and self.tokens >= self.budget.max_tokens) or self.seconds_left == 0.0
