"""Credit assignment: a judged group in, one advantage per token out (paper, Stage II).

``ThoughtCredit`` is TP-GRPO; ``OutcomeCredit`` (plain GRPO), ``StepCredit`` and ``UnadaptedThoughtCredit`` are what the paper
compares it with. A new one implements ``CreditAssignment``; ``GroupRelativeCredit`` has the part that all share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.credit.base import CreditAssignment
    from lit_tpgrpo.credit.group_relative import GroupRelativeCredit
    from lit_tpgrpo.credit.outcome import OutcomeCredit
    from lit_tpgrpo.credit.step import StepCredit
    from lit_tpgrpo.credit.thought import ThoughtCredit
    from lit_tpgrpo.credit.unadapted import UnadaptedThoughtCredit
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "base": "CreditAssignment",
            "group_relative": "GroupRelativeCredit",
            "outcome": "OutcomeCredit",
            "step": "StepCredit",
            "thought": "ThoughtCredit",
            "unadapted": "UnadaptedThoughtCredit",
        },
    )

__all__ = [
    "CreditAssignment",
    "GroupRelativeCredit",
    "OutcomeCredit",
    "StepCredit",
    "ThoughtCredit",
    "UnadaptedThoughtCredit",
]
