"""Clients of chat models, which the generative judge asks.

``OpenAIChat`` talks to any OpenAI-compatible endpoint, ``LocalChat`` runs a model in this process (or the policy itself). A new
one implements ``ChatClient``: a ``ChatRequest`` in, a ``ChatReply`` out or a ``ChatError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.chat.base import ChatClient, ChatError, ChatReply, ChatRequest, PolicyChat
    from lit_tpgrpo.chat.local_chat import LocalChat
    from lit_tpgrpo.chat.openai_chat import OpenAIChat
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "base": "ChatClient ChatError ChatReply ChatRequest PolicyChat",
            "local_chat": "LocalChat",
            "openai_chat": "OpenAIChat",
        },
    )

__all__ = [
    "ChatClient",
    "ChatError",
    "ChatReply",
    "ChatRequest",
    "LocalChat",
    "OpenAIChat",
    "PolicyChat",
]
