"""Imports for the fork server: libraries that most parts need, and that do not initialise CUDA.

A module that cannot be imported here is imported by each part that needs it; the fork server's output shows the error.
"""

from benchmarks.gpu_check.bench import preload

MODULES = (
    "lightning.pytorch.strategies",
    "transformers.models.qwen2.modeling_qwen2",
    "lit_tpgrpo.callbacks",
    "lit_tpgrpo.datamodules",
    "lit_tpgrpo.module",
    "train",
)


preload(MODULES)
