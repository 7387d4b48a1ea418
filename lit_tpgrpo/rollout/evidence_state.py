"""The state of providers of evidence that learn, in the DataModule's part of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.distributed import rank
from lit_tpgrpo.judges.evidence.base import EvidenceProvider, LearningProvider

_KEY = "evidence"


def evidence_state(providers: Sequence[EvidenceProvider]) -> dict[str, Any]:
    """Return the states of the providers that learn, by class name, under one key; nothing if none learns.

    Nothing on ranks other than 0, either: Lightning asks every rank for the state and writes that of rank 0, and elsewhere the
    copy of a model in host memory would be made for nothing.
    """
    return learnt(providers) if rank() == 0 else {}


def learnt(providers: Sequence[EvidenceProvider]) -> dict[str, Any]:
    """Return what ``evidence_state`` does, on any rank."""
    states = {type(p).__name__: p.state_dict() for p in providers if isinstance(p, LearningProvider)}
    return {_KEY: states} if states else {}


def load_evidence_state(providers: Sequence[EvidenceProvider], state: Mapping[str, Any]) -> None:
    """Restore the states of the providers that learn; one that the checkpoint does not have keeps its own, with a warning."""
    saved = state.get(_KEY, {})
    for provider in providers:
        if not isinstance(provider, LearningProvider):
            continue
        name = type(provider).__name__
        if name in saved:
            provider.load_state_dict(saved[name])
        else:
            rank_zero_warn(
                f"the checkpoint has no state of {name} (data.evidence): it begins with the model that its arguments name"
            )
