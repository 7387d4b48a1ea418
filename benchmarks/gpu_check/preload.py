"""Imported once by the fork server: what nearly every part needs, and nothing that would initialise CUDA.

What cannot be imported costs the parts that import it themselves; the fork server goes on, and its output shows the error.
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
