"""vLLM as the sampling engine: in this process (``VLLMEngine``) or on remote servers (``VLLMServer``).

vLLM is imported when an engine is first used, never by importing this package.
"""

from lit_tpgrpo.engines.vllm.engine import VLLMEngine
from lit_tpgrpo.engines.vllm.server import VLLMServer

__all__ = ["VLLMEngine", "VLLMServer"]
