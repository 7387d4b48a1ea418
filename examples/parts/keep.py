"""A keep rule: ``--data.keep examples.parts.keep.keep_closed``, in Python ``keep=keep_closed``."""

from lit_tpgrpo import CreditedSolution, StopReason


def keep_closed(solution: CreditedSolution) -> bool:
    """Keep solutions that ended by themselves and have a nonzero token advantage."""
    return solution.judged.solution.stop is StopReason.EOS and bool(solution.advantages.any())
