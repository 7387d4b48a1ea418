"""Batch stages: rescale the advantages of a round by statistics over all its tokens, after credit.

A stage of your own implements ``BatchStage``. ``Whitening`` is that of REINFORCE++, ``StdScaling`` and ``MaxScaling`` keep
the sign of every advantage, ``PotentialGain`` is SPAE's, ``PRIMENorm`` that of PRIME's recipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.credit.batch.base import BatchStage
    from lit_tpgrpo.credit.batch.max_scaling import MaxScaling
    from lit_tpgrpo.credit.batch.potential_gain import PotentialGain
    from lit_tpgrpo.credit.batch.prime_norm import PRIMENorm
    from lit_tpgrpo.credit.batch.std_scaling import StdScaling
    from lit_tpgrpo.credit.batch.whitening import Whitening
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "base": "BatchStage",
            "max_scaling": "MaxScaling",
            "potential_gain": "PotentialGain",
            "prime_norm": "PRIMENorm",
            "std_scaling": "StdScaling",
            "whitening": "Whitening",
        },
    )

__all__ = ["BatchStage", "MaxScaling", "PRIMENorm", "PotentialGain", "StdScaling", "Whitening"]
