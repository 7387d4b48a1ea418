"""Sampling engines: token-id prompts in, token-id completions with their log-probs out.

``HFEngine`` samples with transformers on the policy's own weights, ``VLLMEngine`` with vLLM in this process, ``VLLMServer``
with vLLM servers. A new one implements ``Engine`` and takes ``SamplingParams``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.engines.base import Completion, Engine, Policy, SamplingParams
    from lit_tpgrpo.engines.hf import HFEngine
    from lit_tpgrpo.engines.schema_constraint import SchemaConstraint
    from lit_tpgrpo.engines.vllm import VLLMEngine, VLLMServer
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "base": "Completion Engine Policy SamplingParams",
            "hf": "HFEngine",
            "schema_constraint": "SchemaConstraint",
            "vllm": "VLLMEngine VLLMServer",
        },
    )

__all__ = [
    "Completion",
    "Engine",
    "HFEngine",
    "Policy",
    "SamplingParams",
    "SchemaConstraint",
    "VLLMEngine",
    "VLLMServer",
]
