"""Group filters: which solutions of a group its statistics and credit see.

A filter of your own implements ``GroupFilter``. ``PROFFilter`` drops solutions whose step scores contradict their outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.credit.filters.base import ChecksGroupSize, GroupFilter
    from lit_tpgrpo.credit.filters.prof import PROFFilter
else:
    __getattr__, __dir__ = lazy_attributes(__name__, {"base": "ChecksGroupSize GroupFilter", "prof": "PROFFilter"})

__all__ = ["ChecksGroupSize", "GroupFilter", "PROFFilter"]
