"""How hard a judge may be pressed, how long it is waited for, and what a round of judging may use."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.engines.chat import ChatError, Fault
from lit_tpgrpo.errors import ConfigError, JudgeDownError

log = logging.getLogger(__name__)


@checked_arguments()
@dataclass(frozen=True)
class RequestLimits:
    """Requests in flight, their rate, and how they are sent again.

    Args:
        concurrency: requests in flight at once.
        requests_per_minute: of this process, evenly spaced; 0 sets no rate.
        attempts: how often a request is sent before its question goes unanswered, while others are answered.
        backoff_s: mean wait before the second attempt; it doubles each time, with full jitter. A longer ``Retry-After``
            is obeyed.
        max_backoff_s: longest such wait.
        patience_s: how long nothing at all may be answered before the judge counts as down.
    """

    concurrency: int = 64
    requests_per_minute: float = 0.0
    attempts: int = 6
    backoff_s: float = 1.0
    max_backoff_s: float = 30.0
    patience_s: float = 300.0

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
    """What one round of judging may use, on each process. Solutions that it does not suffice for keep their outcome alone.

    Args:
        max_tokens: prompt and completion tokens; requests in flight when they are used up still finish. 0: no limit.
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
class Spending:
    """One round's budget while it is used."""

    budget: RoundBudget
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """None where time has no limit."""
        if not self.budget.max_seconds:
            return None
        return max(0.0, self.started + self.budget.max_seconds - time.monotonic())

    @property
    def exhausted(self) -> bool:
        return bool(self.budget.max_tokens and self.tokens >= self.budget.max_tokens) or self.seconds_left == 0.0


class Endpoint:
    """Whether the judge answers at all: one request that fails again and again must not pass for a judge that is down.

    ``probe`` asks for anything. It is used when a request has run out of attempts and nothing else was answered
    meanwhile, by one request at a time.
    """

    def __init__(
        self, limits: RequestLimits, probe: Callable[[], Awaitable[object]], ever_answered: bool = False
    ) -> None:
        self.limits = limits
        self.answered = time.monotonic()  # when something was answered last; the session's start at first
        self.ever_answered = ever_answered
        self.refused = 0
        self._recovered = -math.inf  # when the last silence was seen to end
        self.down: str | None = None
        self._probe = probe
        self._lock = asyncio.Lock()

    def answers(self) -> None:
        """Note that something was answered."""
        self.answered = time.monotonic()
        self.ever_answered = True

    async def recover(self, since: float, reason: str) -> bool:
        """Wait until the judge answers, if nothing was answered after ``since``, a request's first failure.

        Returns whether there was such a silence: then the request failed with all others, and deserves a fresh start.

        Raises:
            JudgeDownError: nothing was answered for ``patience_s``.
        """
        waits = 0
        async with self._lock:
            silence = self.answered <= since
            while self.down is None and self.answered <= since:
                try:
                    await self._probe()
                    self.answers()
                except ChatError as error:
                    if error.fault is Fault.REFUSED:  # an answer, if no kind one
                        self.answers()
                        break
                    reason = str(error)
                    silent = time.monotonic() - self.answered
                    if silent >= self.limits.patience_s:
                        self.down = f"the judge has answered nothing for {silent:.0f} s: {reason}"
                        break
                    if not waits:
                        log.warning(
                            "the judge answers nothing (%s); waiting up to %g s for it", reason, self.limits.patience_s
                        )
                    waits += 1
                    await asyncio.sleep(min(self.limits.max_backoff_s, self.limits.backoff_s * 2.0 ** min(waits, 30)))
            if self.down is not None:
                raise JudgeDownError(self.down)
            if silence:
                self._recovered = time.monotonic()
            # Those who waited for the lock meanwhile failed in the same silence.
            return since <= self._recovered
