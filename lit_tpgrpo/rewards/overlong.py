"""The soft overlong punishment of DAPO (arXiv 2503.14476, eq. 13)."""

from __future__ import annotations

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.rewards.base import RewardCase


@checked_arguments()
class OverlongPenalty:
    """Penalty of long solutions: 0 up to a length, then falling linearly to -1, whatever the outcome.

        R(y) = 0                               if |y| <= L_max - L_cache
               (L_max - L_cache - |y|) / L_cache   if L_max - L_cache < |y| <= L_max
               -1                              if |y| > L_max

    DAPO has L_max 20,480 (which is also its token limit) and L_cache 4,096. |y| counts the completion's tokens, its EOS
    included.

    Args:
        max_tokens: L_max; ``sampling.max_new_tokens``, or less. Above it the full penalty is never reached.
        cache_tokens: L_cache, the length over which the penalty grows.

    Raises:
        ConfigError: ``cache_tokens`` is not between 1 and ``max_tokens``.
    """

    def __init__(self, max_tokens: int, cache_tokens: int) -> None:
        if not 1 <= cache_tokens <= max_tokens:
            raise ConfigError(
                f"cache_tokens must lie between 1 and max_tokens, got cache_tokens {cache_tokens}, max_tokens {max_tokens}"
            )
        self.max_tokens = max_tokens
        self.cache_tokens = cache_tokens

    def __call__(self, case: RewardCase) -> float:
        spare = self.max_tokens - self.cache_tokens - len(case.solution.completion_ids)
        return max(-1.0, min(0.0, spare / self.cache_tokens))
