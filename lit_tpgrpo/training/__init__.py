"""The optimizer step and what it needs: policy, reference, adapters, shards, micro-batches, schedules, checkpoints.

``PolicyModel`` gives log-probs of given tokens. Settings of ``TPGRPOModule`` are ``LoRA`` (adapter), ``Sharding`` (FSDP2),
``FrozenCopy``, ``OffloadedCopy`` and ``AdapterOff`` (reference of the KL term), ``TransformersLR`` and ``SequenceLR`` (learning
rate schedules). ``RunCard`` and ``write_folder`` write Hugging Face folders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.training.adapters import LoRA
    from lit_tpgrpo.training.huggingface import write_folder
    from lit_tpgrpo.training.model_card import RunCard
    from lit_tpgrpo.training.policy import PolicyModel
    from lit_tpgrpo.training.reference import AdapterOff, FrozenCopy, OffloadedCopy, Reference
    from lit_tpgrpo.training.schedules import SequenceLR, TransformersLR
    from lit_tpgrpo.training.sharding import Sharding
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "adapters": "LoRA",
            "huggingface": "write_folder",
            "model_card": "RunCard",
            "policy": "PolicyModel",
            "reference": "AdapterOff FrozenCopy OffloadedCopy Reference",
            "schedules": "SequenceLR TransformersLR",
            "sharding": "Sharding",
        },
    )

__all__ = [
    "AdapterOff",
    "FrozenCopy",
    "LoRA",
    "OffloadedCopy",
    "PolicyModel",
    "Reference",
    "RunCard",
    "SequenceLR",
    "Sharding",
    "TransformersLR",
    "write_folder",
]
