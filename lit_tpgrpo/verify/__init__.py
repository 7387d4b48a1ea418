"""Verification: gold and sampled answer in, an ``Outcome`` out.

``MathVerifier`` compares them with math-verify in worker processes that can be killed; ``MultipleChoiceVerifier`` reads letters
and options; ``CodeVerifier`` runs programs in sandboxed processes; ``FunctionVerifier`` wraps a function of yours. A new one
implements ``Verifier``. The workers import this package, so it loads nothing before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.verify.base import Verifier
    from lit_tpgrpo.verify.choice import MultipleChoiceVerifier
    from lit_tpgrpo.verify.code.verifier import CodeVerifier
    from lit_tpgrpo.verify.function import FunctionVerifier, as_verifier
    from lit_tpgrpo.verify.verifier import MathVerifier
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "base": "Verifier",
            "choice": "MultipleChoiceVerifier",
            "code.verifier": "CodeVerifier",
            "function": "FunctionVerifier as_verifier",
            "verifier": "MathVerifier",
        },
    )

__all__ = [
    "CodeVerifier",
    "FunctionVerifier",
    "MathVerifier",
    "MultipleChoiceVerifier",
    "Verifier",
    "as_verifier",
]
