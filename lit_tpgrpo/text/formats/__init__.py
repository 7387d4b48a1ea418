"""Solution formats: how a completion divides into thinking and answer block.

A run has one, ``data.format``. ``ThinkTags`` reads tags around the thinking (DeepSeek-R1, Qwen3, Magistral),
``PlainChain`` texts without tags (base and instruct models), ``Harmony`` the channels of gpt-oss. A new one implements
``SolutionFormat``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.text.formats.base import Division, SolutionFormat
    from lit_tpgrpo.text.formats.harmony import Harmony
    from lit_tpgrpo.text.formats.plain_chain import PlainChain
    from lit_tpgrpo.text.formats.think_tags import ThinkTags
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "base": "Division SolutionFormat",
            "harmony": "Harmony",
            "plain_chain": "PlainChain",
            "think_tags": "ThinkTags",
        },
    )

__all__ = [
    "Division",
    "Harmony",
    "PlainChain",
    "SolutionFormat",
    "ThinkTags",
]
