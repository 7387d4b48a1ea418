"""The embedded arithmetic domain: chains of modular arithmetic with exact step labels, and a tiny policy trained on them.

``ArithmeticProblems`` is its problem source, ``ArithmeticAudit`` the labelled solutions by which ``JudgeRefresh`` audits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.datamodules.arithmetic.audit import ArithmeticAudit
    from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "audit": "ArithmeticAudit",
            "source": "ArithmeticProblems",
        },
    )

__all__ = [
    "ArithmeticAudit",
    "ArithmeticProblems",
]
